//! `slot-has-stream` (A1, D02): a slot is held by a turn that streams. Where
//! nothing hinders its owner, a turn is not `streaming` for a minute without a
//! request that some provider answers.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Replicas that do not run as they should.
    unwell: BTreeSet<usize>,
}

/// A lapsed lease is found by a sweep, a renewal later.
const AFTERMATH_US: Us = 120_000_000;

impl SlotHasStream {
    fn look(&mut self, at: Us, streaming: &[(TurnId, bool)]) -> Result<(), Breach> {
        if !self.unwell.is_empty() {
            self.trouble_at = at + AFTERMATH_US;
        }
        let before = std::mem::take(&mut self.idle_since);
        for (turn, _) in streaming.iter().filter(|(_, has_request)| !has_request) {
            let since = before.get(turn).copied().unwrap_or(at).max(self.trouble_at);
            if at.saturating_sub(since) > WITHOUT_STREAM_US {
                return Breach::new(
                    "a streaming turn has a request at its provider",
                    format!(
                        "turn {turn} has had none for {} s",
                        (at - since) / 1_000_000
                    ),
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
            Fact::Lives { replica, state, .. } => {
                match state {
                    Life::Up => self.unwell.remove(replica),
                    Life::Paused | Life::Down | Life::Draining => self.unwell.insert(*replica),
                };
                self.trouble_at = moment.at + AFTERMATH_US;
                Ok(())
            }
            Fact::Trouble { .. } => {
                self.trouble_at = moment.at + AFTERMATH_US;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
