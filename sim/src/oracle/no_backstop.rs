//! `no-backstop` (V3, D40): the hard limit never fires, and an ownership is
//! taken over only from a process that died, stood still or lost the store.

use std::collections::BTreeMap;
use std::rc::Rc;

use dispatch_core::event::EventBody;
use dispatch_core::ids::{Owner, TurnId};
use dispatch_core::store::{TurnRow, TurnState};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle, Terms};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// How long after trouble a lease may lapse by it: a write that does not come
/// back is waited for, with renewals, for a minute; the last of them, which may
/// itself be slow, is good for another one.
const AFTERMATH_US: Us = 170_000_000;

#[derive(Debug)]
pub(crate) struct NoBackstop {
    resume_limit: u32,
    boots: BTreeMap<usize, (u64, Life)>,
    trouble_at: BTreeMap<usize, Us>,
    /// Who owned a turn to its end.
    last_owners: BTreeMap<TurnId, (Owner, Timestamp)>,
}

impl NoBackstop {
    pub(crate) fn new(terms: &Rc<Terms>) -> NoBackstop {
        NoBackstop {
            resume_limit: terms.resume_limit,
            boots: BTreeMap::new(),
            trouble_at: BTreeMap::new(),
            last_owners: BTreeMap::new(),
        }
    }

    fn moved(&mut self, moment: &Moment, before: &TurnRow, after: &TurnRow) -> Result<(), Breach> {
        if after.resumes > self.resume_limit {
            return Breach::new(
                format!("at most {} takeovers in a row", self.resume_limit),
                format!("{} of turn {}", after.resumes, after.turn),
            );
        }
        let Some(owner) = &before.owner else {
            return Ok(());
        };
        if after.state == TurnState::Ended {
            let lease = (owner.clone(), before.lease_until);
            self.last_owners.insert(after.turn, lease);
        }
        if after.resumes > before.resumes {
            return self.taken_over(moment, after.turn, owner, before.lease_until);
        }
        Ok(())
    }

    fn taken_over(
        &self,
        moment: &Moment,
        turn: TurnId,
        owner: &Owner,
        lease_until: Timestamp,
    ) -> Result<(), Breach> {
        let lapsed_at = moment.at - 1_000 * moment.store_now.since_ms(lease_until);
        let current = self.boots.iter().find(|(_, (boot, _))| *boot == owner.boot);
        let excused = match current {
            // That life has ended.
            None => true,
            Some((_, (_, Life::Paused | Life::Down))) => true,
            Some((replica, (_, Life::Up | Life::Draining))) => self
                .trouble_at
                .get(replica)
                .is_some_and(|at| lapsed_at.saturating_sub(*at) <= AFTERMATH_US),
        };
        if excused {
            return Ok(());
        }
        Breach::new(
            format!("{} goes on with turn {turn}", owner.node),
            "it lost its lease without having had any trouble",
        )
    }
}

impl Oracle for NoBackstop {
    fn name(&self) -> &'static str {
        "no-backstop"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Lives {
                replica,
                boot,
                state,
                ..
            } => {
                if *state == Life::Down {
                    self.boots.remove(replica);
                } else {
                    self.boots.insert(*replica, (*boot, *state));
                }
                self.trouble_at.insert(*replica, moment.at);
                Ok(())
            }
            Fact::Trouble { replica } => {
                self.trouble_at.insert(*replica, moment.at);
                Ok(())
            }
            Fact::Moved {
                before: Some(before),
                after,
            } => self.moved(moment, before, after),
            Fact::Logged(event) => match &event.body {
                EventBody::Error { cause, .. } if cause == "hard-limit" => {
                    Breach::new("no turn needs the hard limit", event.to_json())
                }
                EventBody::Error { code, .. } if code == "replica-lost" => {
                    match self.last_owners.get(&event.turn) {
                        Some((owner, until)) => self.taken_over(moment, event.turn, owner, *until),
                        None => Breach::new("a lost replica has owned the turn", event.to_json()),
                    }
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
