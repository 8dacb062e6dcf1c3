//! `slot-has-stream` (A1, D02): a slot is held by a turn that streams. Where
//! nothing hinders its owner, a turn is not `streaming` for a minute without a
//! request that some provider answers.

use std::collections::BTreeMap;

use dispatch_core::ids::TurnId;

use super::hindrance::Hindrance;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

const WITHOUT_STREAM_US: Us = 60_000_000;

#[derive(Debug, Default)]
pub(crate) struct SlotHasStream {
    without_since: BTreeMap<TurnId, Us>,
    hindrance: Hindrance,
}

impl SlotHasStream {
    fn look(&mut self, at: Us, streaming: &[(TurnId, bool)]) -> Result<(), Breach> {
        let before = std::mem::take(&mut self.without_since);
        for (turn, _) in streaming.iter().filter(|(_, has_request)| !has_request) {
            let since = before.get(turn).copied().unwrap_or(at);
            self.without_since.insert(*turn, since);
            let Some(since) = self.hindrance.clear_since(since) else {
                continue;
            };
            if at.saturating_sub(since) > WITHOUT_STREAM_US {
                return Breach::new(
                    "a streaming turn has a request at its provider",
                    format!(
                        "turn {turn} has had none for {} s",
                        (at - since) / 1_000_000
                    ),
                );
            }
        }
        Ok(())
    }
}

impl Oracle for SlotHasStream {
    fn name(&self) -> &'static str {
        "slot-has-stream"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.hindrance.see(moment, fact);
        match fact {
            Fact::Slots { streaming, .. } => self.look(moment.at, streaming),
            _ => Ok(()),
        }
    }
}
