//! How many turns are open, for the bound on them (O5): counting a hundred
//! thousand markers for every accepted turn would cost more than accepting it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::panics::locked;

/// What other replicas add may go unseen for so long.
const FRESH: Duration = Duration::from_secs(1);

/// The last count, with what this replica has changed since.
#[derive(Debug, Default)]
pub(super) struct Census(Mutex<Option<(u64, Instant)>>);

impl Census {
    /// The count, unless it is too old.
    pub(super) fn recent(&self) -> Option<u64> {
        let known = *locked(&self.0);
        known
            .filter(|(_, at)| at.elapsed() < FRESH)
            .map(|(count, _)| count)
    }

    /// Somebody has counted.
    pub(super) fn counted(&self, count: u64) {
        *locked(&self.0) = Some((count, Instant::now()));
    }

    /// Nobody knows any more: the next one who wants it counts.
    pub(super) fn forget(&self) {
        *locked(&self.0) = None;
    }

    /// A transaction has landed that armed so many markers more than it took.
    pub(super) fn add(&self, more: i64) {
        if let Some((count, _)) = locked(&self.0).as_mut() {
            *count = count.saturating_add_signed(more);
        }
    }
}
