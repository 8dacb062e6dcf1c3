//! `converged` (V3): once nothing is made to fail any more, everything comes
//! to rest: no open turn, marker, owner, stream, command or question is left.

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct Converged;

impl Oracle for Converged {
    fn name(&self) -> &'static str {
        "converged"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Finished { leftovers, .. } if !leftovers.is_clean() => {
                Breach::new("everything has come to rest", format!("{leftovers:?}"))
            }
            _ => Ok(()),
        }
    }
}
