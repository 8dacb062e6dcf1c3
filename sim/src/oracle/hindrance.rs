//! When processes and store are in trouble: what oracles that bound a time must
//! take into account.

use std::collections::BTreeSet;

use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// A lease, its sweep, a verb whose answer never came, and some room.
const AFTERMATH_US: Us = 150_000_000;

/// The time since which nothing has hindered any replica.
#[derive(Debug, Default)]
pub(super) struct Hindrance {
    until: Us,
    /// Replicas that do not run as they should.
    unwell: BTreeSet<usize>,
}

impl Hindrance {
    pub(super) fn see(&mut self, moment: &Moment, fact: &Fact<'_>) {
        match fact {
            Fact::Lives { replica, state, .. } => {
                match state {
                    Life::Up => self.unwell.remove(replica),
                    Life::Paused | Life::Down | Life::Draining => self.unwell.insert(*replica),
                };
                self.until = moment.at + AFTERMATH_US;
            }
            Fact::Trouble { .. } => self.until = moment.at + AFTERMATH_US,
            _ => {}
        }
    }

    /// From when on a time may be measured that began at `since`; `None` while
    /// something is in the way.
    pub(super) fn clear_since(&self, since: Us) -> Option<Us> {
        self.unwell.is_empty().then(|| since.max(self.until))
    }
}
