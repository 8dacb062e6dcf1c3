//! What the disk may hold of finished runs (O5), and the end of one that broke off.

use std::sync::Arc;

use dispatch_core::ids::TurnId;

use super::format::{Exit, now_ms};
use super::local::{Shared, blocking};
use super::rundir::RunDir;
use super::settle::{self, SettleError};
use super::{RunBounds, SweepReport};

/// Ends every run of a call that broke off in this process.
pub(super) async fn put_down(shared: Arc<Shared>, turn: TurnId, call_id: String) -> String {
    let ended = blocking(move || -> Result<(), SettleError> {
        for dir in RunDir::of_call(&shared.runs, turn, &call_id)? {
            settle::settle(&dir)?;
        }
        Ok(())
    });
    match ended.await {
        Ok(()) => "what it had started is gone".to_owned(),
        Err(e) => e.to_string(),
    }
}

/// Removes what is beyond the bounds; a run that has not ended stays.
pub(super) async fn sweep(shared: Arc<Shared>, bounds: RunBounds) -> SweepReport {
    blocking(move || {
        let mut report = SweepReport::default();
        let dirs = RunDir::all(&shared.runs).unwrap_or_else(|e| {
            report.failures.push(e.to_string());
            Vec::new()
        });
        let dirs = dirs.into_iter().filter(|dir| !shared.is_live(dir));
        let finished = finished_of(dirs, &mut report);
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

fn finished_of(dirs: impl Iterator<Item = RunDir>, report: &mut SweepReport) -> Vec<Finished> {
    dirs.filter_map(|dir| match dir.exit() {
        Ok(exit) => finished(&dir, exit),
        Err(e) => {
            report.failures.push(e.to_string());
            Some(unreadable(&dir))
        }
    })
    .collect()
}

/// `None` for one that runs, or that could not be ended: it is evidence.
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
