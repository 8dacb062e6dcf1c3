//! `slot-has-stream` (A1, D02): a slot is held by a turn that streams. Where
//! nothing hinders its owner, a turn is not `streaming` for a minute without a
//! request that some provider answers.

use std::collections::BTreeMap;

use dispatch_core::ids::TurnId;

use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

const WITHOUT_STREAM_US: Us = 60_000_000;

#[derive(Debug, Default)]
pub(crate) struct SlotHasStream {
    idle_since: BTreeMap<TurnId, Us>,
    /// The last time that a process or the store was in trouble.
    trouble_at: Us,
}

impl SlotHasStream {
    fn look(&mut self, at: Us, streaming: &[(TurnId, bool)]) -> Result<(), Breach> {
        let before = std::mem::take(&mut self.idle_since);
        for (turn, _) in streaming.iter().filter(|(_, has_request)| !has_request) {
            let since = before.get(turn).copied().unwrap_or(at).max(self.trouble_at);
            if at.saturating_sub(since) > WITHOUT_STREAM_US {
                return Breach::new(
                    "a streaming turn has a request at its provider",
                    format!("turn {turn} has had none for {} s", (at - since) / 1_000_000),
                );
            }
            self.idle_since.insert(*turn, since);
        }
        Ok(())
    }
}

impl Oracle for SlotHasStream {
    fn name(&self) -> &'static str {
        "slot-has-stream"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Slots { streaming } => self.look(moment.at, streaming),
            Fact::Lives {
                state: Life::Up, ..
            }
            | Fact::Lives {
                state: Life::Paused | Life::Down | Life::Draining,
                ..
            }
            | Fact::Trouble { .. } => {
                // A lapsed lease is found by a sweep, a renewal later.
                self.trouble_at = moment.at + 120_000_000;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
