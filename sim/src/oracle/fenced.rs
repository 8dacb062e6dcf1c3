//! `fenced` (L2): in a conversation's log epochs never fall, and a replica
//! whose lease has lapsed says and starts nothing any more.

use std::collections::BTreeMap;

use dispatch_core::ids::{ConversationId, Epoch, TurnId};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct Fenced {
    epochs: BTreeMap<ConversationId, Epoch>,
    /// Until when an ownership was last extended.
    leases: BTreeMap<(TurnId, Epoch), Timestamp>,
}

impl Fenced {
    fn holds(&self, at: Timestamp, turn: TurnId, epoch: Epoch, what: &str) -> Result<(), Breach> {
        match self.leases.get(&(turn, epoch)) {
            Some(until) if *until >= at => Ok(()),
            Some(until) => Breach::new(
                format!("no {what} after the lease has lapsed at {}", until.0),
                format!("{what} for turn {turn}, epoch {}, at {}", epoch.0, at.0),
            ),
            None => Breach::new(
                format!("{what} only by an owner"),
                format!(
                    "{what} for turn {turn} under epoch {}, which nobody was granted",
                    epoch.0
                ),
            ),
        }
    }
}

impl Oracle for Fenced {
    fn name(&self) -> &'static str {
        "fenced"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => {
                let highest = self.epochs.entry(event.conversation.clone()).or_default();
                if event.epoch < *highest {
                    return Breach::new(
                        format!("no epoch below {} in {}", highest.0, event.conversation),
                        event.to_json(),
                    );
                }
                *highest = event.epoch;
                Ok(())
            }
            Fact::Moved { after, .. } => {
                if after.state.is_owned() {
                    self.leases
                        .insert((after.turn, after.epoch), after.lease_until);
                }
                Ok(())
            }
            Fact::Published {
                event, decided_at, ..
            } if event.seq.is_none() && !event.is_terminal() => {
                self.holds(*decided_at, event.turn, event.epoch, "provisional event")
            }
            Fact::Opened { turn, epoch } => self.holds(moment.store_now, *turn, *epoch, "request"),
            Fact::ToolStarted { turn, epoch, .. } => {
                self.holds(moment.store_now, *turn, *epoch, "command")
            }
            _ => Ok(()),
        }
    }
}
