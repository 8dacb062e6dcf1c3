//! Commands that run here and that nobody watches: a dead server's, until they
//! are adopted or ended, and those that this one let go of.

use std::collections::BTreeSet;
use std::sync::{Arc, MutexGuard};

use dispatch_core::ids::TurnId;

use super::EndReport;
use super::local::{Shared, blocking};
use super::rundir::RunDir;
use super::settle;
use crate::panics::locked;

/// Run directories that may hold one; `None` until the disk was looked at.
pub(super) type Unattended = Option<BTreeSet<RunDir>>;

/// Whose they are, each turn once.
pub(super) async fn turns(shared: Arc<Shared>) -> Vec<TurnId> {
    blocking(move || {
        let runs = shared.unattended();
        let turns: BTreeSet<TurnId> = runs.iter().filter_map(RunDir::turn).collect();
        turns.into_iter().collect()
    })
    .await
}

/// Ends those of `turns`.
pub(super) async fn end(shared: Arc<Shared>, turns: Vec<TurnId>) -> EndReport {
    blocking(move || {
        let mut runs = shared.unattended();
        runs.retain(|dir| dir.turn().is_some_and(|turn| turns.contains(&turn)));
        end_all(&shared, &runs)
    })
    .await
}

fn end_all(shared: &Shared, runs: &[RunDir]) -> EndReport {
    let mut report = EndReport::default();
    // Nobody may begin to watch what is being ended.
    let held: Vec<_> = runs
        .iter()
        .filter_map(|dir| Some((dir, shared.hold(dir)?)))
        .collect();
    // All are asked first, so that their grace runs side by side.
    for (dir, _) in &held {
        match dir.revoke() {
            Ok(()) => {
                let _heard = dir.poke();
            }
            Err(e) => report.failures.push(e.to_string()),
        }
    }
    for (dir, _) in &held {
        match settle::settle(dir) {
            Ok(_) => report.killed += 1,
            Err(e) => report.failures.push(e.to_string()),
        }
    }
    report
}

impl Shared {
    /// A run that this process has let go of.
    pub(super) fn left(&self, dir: RunDir) {
        if let Some(runs) = &mut *self.lock_unattended() {
            runs.insert(dir);
        }
    }

    /// Those that have not ended and that nobody watches. The disk is listed
    /// once: what comes later comes by [`Shared::left`].
    fn unattended(&self) -> Vec<RunDir> {
        let mut known = self.lock_unattended();
        let runs = known.get_or_insert_with(|| {
            let all = RunDir::all(&self.runs).unwrap_or_default();
            all.into_iter().filter(|dir| !self.is_live(dir)).collect()
        });
        runs.retain(|dir| matches!(dir.exit(), Ok(None)) && dir.root().exists());
        let unwatched = runs.iter().filter(|dir| !self.is_live(dir));
        unwatched.cloned().collect()
    }

    fn lock_unattended(&self) -> MutexGuard<'_, Unattended> {
        locked(&self.unattended)
    }
}
