//! What earlier ownerships and boots left (L10, D37), and what disk may hold.

use std::sync::Arc;

use dispatch_core::ids::TurnId;

use super::format::{Exit, Reason, now_ms};
use super::local::{Shared, blocking};
use super::rundir::RunDir;
use super::settle::{self, SettleError};
use super::{ReapOutcome, RunBounds, SweepReport};

/// Ends every run of a call and tells what became of the last one.
pub(super) async fn reap(shared: Arc<Shared>, turn: TurnId, call_id: String) -> ReapOutcome {
    blocking(move || {
        reap_blocking(&shared, turn, &call_id).unwrap_or_else(|e| ReapOutcome::Stuck {
            cause: e.to_string(),
        })
    })
    .await
}

fn reap_blocking(shared: &Shared, turn: TurnId, call_id: &str) -> Result<ReapOutcome, SettleError> {
    let mut outcome = ReapOutcome::NotFound;
    for dir in RunDir::of_call(&shared.runs, turn, call_id)? {
        let exit = settle::settle(&dir)?;
        // A directory without its meta.json never had a supervisor.
        if dir.meta()?.is_none() {
            continue;
        }
        let done = settle::result_of(&dir, &exit)?;
        outcome = match exit.reason {
            Reason::Exited | Reason::Deadline | Reason::SpawnFailed => {
                ReapOutcome::AlreadyFinished(done)
            }
            Reason::Killed | Reason::SupervisorLost => ReapOutcome::Killed(done),
        };
    }
    Ok(outcome)
}

/// Ends every unfinished run that is not this process's own, then removes what
/// is beyond the bounds.
pub(super) async fn sweep(shared: Arc<Shared>, bounds: RunBounds) -> SweepReport {
    blocking(move || {
        let mut report = SweepReport::default();
        let dirs = RunDir::all(&shared.runs).unwrap_or_else(|e| {
            report.failures.push(e.to_string());
            Vec::new()
        });
        let dirs: Vec<RunDir> = dirs
            .into_iter()
            .filter(|dir| !shared.is_live(dir))
            .collect();
        let finished = end_all(&dirs, &mut report);
        remove_beyond(finished, bounds, &mut report);
        report
    })
    .await
}

struct Finished {
    ended_ms: u64,
    bytes: u64,
    dir: RunDir,
}

fn end_all(dirs: &[RunDir], report: &mut SweepReport) -> Vec<Finished> {
    let unfinished = |dir: &&RunDir| matches!(dir.exit(), Ok(None));
    let to_end: Vec<&RunDir> = dirs.iter().filter(unfinished).collect();
    // All are asked first, so that their grace runs side by side.
    for dir in &to_end {
        match dir.revoke() {
            Ok(()) => {
                let _heard = dir.poke();
            }
            Err(e) => report.failures.push(e.to_string()),
        }
    }
    for dir in &to_end {
        match settle::settle(dir) {
            Ok(_) => report.killed += 1,
            Err(e) => report.failures.push(e.to_string()),
        }
    }
    dirs.iter()
        .filter_map(|dir| match dir.exit() {
            Ok(exit) => finished(dir, exit),
            Err(e) => {
                report.failures.push(e.to_string());
                Some(unreadable(dir))
            }
        })
        .collect()
}

/// `None` for a run that could not be ended: it is evidence, and stays.
fn finished(dir: &RunDir, exit: Option<Exit>) -> Option<Finished> {
    exit.map(|exit| Finished {
        ended_ms: exit.ended_ms,
        bytes: dir.output_bytes(),
        dir: dir.clone(),
    })
}

/// A damaged run ages by its directory's own time.
fn unreadable(dir: &RunDir) -> Finished {
    let modified = std::fs::metadata(dir.root()).and_then(|meta| meta.modified());
    let ended_ms = modified
        .ok()
        .and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok())
        .and_then(|since| u64::try_from(since.as_millis()).ok());
    Finished {
        ended_ms: ended_ms.unwrap_or(0),
        bytes: dir.output_bytes(),
        dir: dir.clone(),
    }
}

fn remove_beyond(mut finished: Vec<Finished>, bounds: RunBounds, report: &mut SweepReport) {
    finished.sort_by_key(|run| std::cmp::Reverse(run.ended_ms));
    let oldest_ms = now_ms().saturating_sub(bounds.max_age_ms);
    let (mut bytes, mut full) = (0u64, false);
    for run in finished {
        bytes = bytes.saturating_add(run.bytes);
        full |= report.kept >= bounds.max_runs || bytes > bounds.max_bytes;
        if !full && run.ended_ms >= oldest_ms {
            report.kept += 1;
            continue;
        }
        match run.dir.remove() {
            Ok(()) => report.removed += 1,
            Err(e) => report.failures.push(e.to_string()),
        }
    }
}
