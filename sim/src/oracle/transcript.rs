//! `valid-transcript` (T12): no request leaves that a strict vendor would
//! reject, or that is about another turn than its own.

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct ValidTranscript;

impl Oracle for ValidTranscript {
    fn name(&self) -> &'static str {
        "valid-transcript"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Requested(request) => match &request.verdict {
                Ok(()) => Ok(()),
                Err(why) => Breach::new(
                    "a transcript that every vendor accepts",
                    format!("turn {}: {why}", request.turn),
                ),
            },
            _ => Ok(()),
        }
    }
}
