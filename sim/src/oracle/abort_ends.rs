//! `abort-ends` (T5, D09): a turn that waits in line ends at once when its
//! abort is asked for, also in a retry wait; an owned one ends soon, however
//! much of it has to be stopped first.

use std::collections::BTreeMap;

use dispatch_core::ids::TurnId;
use dispatch_core::io::Answer;
use dispatch_core::store::TurnState;

use super::hindrance::Hindrance;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

/// A look for requests (2 s in the slowest configuration), a kill that is not
/// confirmed (20 s), the verbs on the way, and room.
const SOON_US: Us = 40_000_000;

#[derive(Debug, Default)]
pub(crate) struct AbortEnds {
    /// Since when clients have been told that the end will come.
    promised: BTreeMap<TurnId, Us>,
    ended: std::collections::BTreeSet<TurnId>,
    hindrance: Hindrance,
}

impl Oracle for AbortEnds {
    fn name(&self) -> &'static str {
        "abort-ends"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.hindrance.see(moment, fact);
        match fact {
            Fact::Moved { after, .. } => match after.state {
                TurnState::Parked | TurnState::Blocked if after.abort.is_some() => Breach::new(
                    "a turn in line ends at once when its abort is asked for",
                    format!("turn {} waits on, due at {}", after.turn, after.due_at.0),
                ),
                TurnState::Ended => {
                    self.promised.remove(&after.turn);
                    self.ended.insert(after.turn);
                    Ok(())
                }
                TurnState::Parked
                | TurnState::Blocked
                | TurnState::Streaming
                | TurnState::Tools => Ok(()),
            },
            Fact::Answered {
                answer: Answer::AbortRequested { turn, .. },
                ..
            } => {
                if !self.ended.contains(turn) {
                    self.promised.entry(*turn).or_insert(moment.at);
                }
                Ok(())
            }
            Fact::Slots { .. } => {
                for (turn, since) in &self.promised {
                    let Some(since) = self.hindrance.clear_since(*since) else {
                        continue;
                    };
                    if moment.at.saturating_sub(since) > SOON_US {
                        return Breach::new(
                            format!("turn {turn} ends soon after its abort was confirmed"),
                            format!("it has not for {} s", (moment.at - since) / 1_000_000),
                        );
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
