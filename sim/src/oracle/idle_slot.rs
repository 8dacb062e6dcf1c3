//! `no-idle-slot` (A1): who is first in line gets a free slot soon, where
//! nothing hinders the replicas; a line that moves too slowly breaks no limit.

use std::collections::BTreeMap;

use dispatch_core::ids::TurnId;

use super::hindrance::Hindrance;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

/// A lost wake-up (1 s), a view and a plan on a slow way, each perhaps twice.
const SOON_US: Us = 45_000_000;

#[derive(Debug, Default)]
pub(crate) struct NoIdleSlot {
    /// First in line beside a free slot at every look since then.
    since: BTreeMap<TurnId, Us>,
    hindrance: Hindrance,
}

impl NoIdleSlot {
    fn look(&mut self, at: Us, idle: &[TurnId]) -> Result<(), Breach> {
        let before = std::mem::take(&mut self.since);
        for turn in idle {
            let since = before.get(turn).copied().unwrap_or(at);
            self.since.insert(*turn, since);
            let Some(since) = self.hindrance.clear_since(since) else {
                continue;
            };
            if at.saturating_sub(since) > SOON_US {
                return Breach::new(
                    format!("turn {turn}, first in line, is granted the free slot"),
                    format!(
                        "it has waited beside one for {} s",
                        (at - since) / 1_000_000
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Oracle for NoIdleSlot {
    fn name(&self) -> &'static str {
        "no-idle-slot"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.hindrance.see(moment, fact);
        match fact {
            Fact::Slots { idle, .. } => self.look(moment.at, idle),
            _ => Ok(()),
        }
    }
}
