//! What was wrong with which computer: what oracles of commands that run there
//! must take into account.

use std::collections::BTreeMap;

use dispatch_core::ids::ComputerId;

use crate::clock::Us;
use crate::fact::Fact;

/// The last moment at which something may have been wrong with each.
#[derive(Debug, Default)]
pub(super) struct Troubles(BTreeMap<ComputerId, Us>);

impl Troubles {
    pub(super) fn see(&mut self, fact: &Fact<'_>) {
        if let Fact::ComputerTroubled { computer, until } = fact {
            let known = self.0.entry((*computer).clone()).or_default();
            *known = (*until).max(*known);
        }
    }

    /// `None`: nothing ever was.
    pub(super) fn until(&self, computer: &ComputerId) -> Option<Us> {
        self.0.get(computer).copied()
    }
}
