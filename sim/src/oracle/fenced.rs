//! `fenced` (L2): in a conversation's log epochs never fall, every ownership
//! has an epoch of its own, a write changes a turn only while its writer owns
//! it, and a replica whose lease has lapsed says and starts nothing any more.

use std::collections::BTreeMap;

use dispatch_core::ids::{ConversationId, Epoch, TurnId};
use dispatch_core::store::TurnRow;
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct Fenced {
    epochs: BTreeMap<ConversationId, Epoch>,
    /// Until when an ownership was last extended.
    leases: BTreeMap<(TurnId, Epoch), Timestamp>,
    /// Who owns a turn right now.
    owners: BTreeMap<TurnId, Epoch>,
    /// The epoch of a conversation's latest ownership.
    latest: BTreeMap<ConversationId, Epoch>,
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

impl Fenced {
    fn moved(&mut self, before: Option<&TurnRow>, after: &TurnRow) -> Result<(), Breach> {
        if !after.state.is_owned() {
            self.owners.remove(&after.turn);
            return Ok(());
        }
        self.leases
            .insert((after.turn, after.epoch), after.lease_until);
        self.owners.insert(after.turn, after.epoch);
        if before.is_some_and(|row| row.state.is_owned()) {
            return Ok(());
        }
        let latest = self.latest.insert(after.conversation.clone(), after.epoch);
        match latest {
            Some(latest) if after.epoch <= latest => Breach::new(
                format!(
                    "an ownership of {} above epoch {}",
                    after.conversation, latest.0
                ),
                format!("turn {} is owned under epoch {}", after.turn, after.epoch.0),
            ),
            Some(_) | None => Ok(()),
        }
    }

    fn written(&self, turn: TurnId, epoch: Epoch) -> Result<(), Breach> {
        let owner = self.owners.get(&turn);
        if owner == Some(&epoch) {
            return Ok(());
        }
        Breach::new(
            format!("turn {turn}, owned under {owner:?}, is changed by its owner"),
            format!("a write under epoch {} has changed it", epoch.0),
        )
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
            Fact::Moved { before, after } => self.moved(*before, after),
            Fact::Written { turn, epoch } => self.written(*turn, *epoch),
            Fact::Published {
                event, decided_at, ..
            } if event.seq.is_none() && !event.is_terminal() => {
                self.holds(*decided_at, event.turn, event.epoch, "provisional event")
            }
            Fact::Opened { turn, epoch, .. } => {
                self.holds(moment.store_now, *turn, *epoch, "request")
            }
            // Over there a command is also found in order to be killed, by whoever
            // could not kill it while it was its owner.
            Fact::ToolAdopted {
                computer: Some(_), ..
            } => Ok(()),
            Fact::ToolStarted { turn, epoch, .. } | Fact::ToolAdopted { turn, epoch, .. } => {
                self.holds(moment.store_now, *turn, *epoch, "command")
            }
            _ => Ok(()),
        }
    }
}
