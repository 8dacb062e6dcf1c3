//! Ends a run that somebody else began, and reads what became of it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use dispatch_core::output::{Bounded, HeadTail};

use super::ToolDone;
use super::format::{Exit, Meta, Reason};
use super::proc::{self, Leftovers};
use super::rundir::{Poke, RunDir, RunDirError};
use super::supervisor::DEATH_PATIENCE;

/// How long a supervisor may take to end its tree and say so; it needs its
/// grace, the patience for SIGKILL and the draining of the pipe.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(8);

/// Why a run cannot be brought to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SettleError {
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(
        "processes {pids:?} of the run in {run} do not die of SIGKILL; look at them with ps, they block in the kernel"
    )]
    Undead { run: String, pids: Vec<u32> },
    #[error("cannot read the boot id: {0}; is /proc mounted?")]
    NoBoot(io::Error),
}

/// Forbids the run, ends what is left of it, and returns how it ended: as its
/// supervisor wrote it, or, if that one is dead or silent, as found here.
/// Blocks for at most some 13 s.
pub(super) fn settle(dir: &RunDir) -> Result<Exit, SettleError> {
    if let Some(exit) = dir.exit()? {
        return Ok(exit);
    }
    dir.revoke()?;
    let give_up = Instant::now() + SUPERVISOR_PATIENCE;
    while Instant::now() < give_up && dir.poke() == Poke::Heard {
        if let Some(exit) = dir.exit()? {
            return Ok(exit);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    // It may have written this between the last look and its end.
    if let Some(exit) = dir.exit()? {
        return Ok(exit);
    }
    bury(dir)
}

/// Kills what a dead or silent supervisor left and writes its `exit` for it.
pub(super) fn bury(dir: &RunDir) -> Result<Exit, SettleError> {
    let meta = dir.meta()?;
    if let Some(meta) = &meta {
        kill_what_is_left(dir, meta)?;
    }
    let mut exit = Exit::new(
        Reason::SupervisorLost,
        meta.map_or(0, |meta| meta.started_ms),
    );
    exit.output_bytes = dir.output_bytes();
    dir.write_exit(&exit)?;
    Ok(exit)
}

fn kill_what_is_left(dir: &RunDir, meta: &Meta) -> Result<(), SettleError> {
    let boot_id = proc::boot_id().map_err(SettleError::NoBoot)?;
    let known = match dir.pids() {
        // Pids of another boot name nobody.
        Ok(Some(pids)) if pids.boot_id == boot_id => [Some(pids.supervisor), pids.command]
            .into_iter()
            .flatten()
            .collect(),
        // A pid file that cannot be read names nobody either; the mark does.
        Ok(Some(_) | None) | Err(_) => Vec::new(),
    };
    let leftovers = Leftovers {
        mark: &meta.mark,
        known,
    };
    let undead = proc::kill_leftovers(&leftovers, DEATH_PATIENCE);
    if undead.is_empty() {
        return Ok(());
    }
    Err(SettleError::Undead {
        run: dir.root().display().to_string(),
        pids: undead.iter().map(|name| name.pid).collect(),
    })
}

/// What the model reads of a run that is over.
pub(super) fn result_of(dir: &RunDir, exit: &Exit) -> Result<ToolDone, SettleError> {
    let path = dir.output_path();
    let spill = path.display().to_string();
    let bounded = read_bounded(&path, exit.output_bytes, &spill)?;
    let deadline_ms = match exit.reason {
        Reason::Deadline => dir.meta()?.map_or(0, |meta| meta.deadline_ms),
        Reason::Exited | Reason::Killed | Reason::SpawnFailed | Reason::SupervisorLost => 0,
    };
    Ok(done(bounded, exit, deadline_ms, spill))
}

/// The answer of a command that is over, wherever it ran (S1).
pub(super) fn done(bounded: Bounded, exit: &Exit, deadline_ms: u64, spill: String) -> ToolDone {
    let mut output = bounded.text;
    if let Some(ending) = ending(exit, deadline_ms) {
        if !output.is_empty() && !output.ends_with('\n') {
            output.push('\n');
        }
        output.push_str(&ending);
    }
    if output.is_empty() {
        output.push_str("(no output)");
    }
    ToolDone {
        ok: exit.reason == Reason::Exited && exit.code == Some(0),
        output,
        spilled: bounded.truncated.then_some(spill),
        truncated: bounded.truncated || exit.dropped_bytes > 0,
        duration_ms: exit.ended_ms.saturating_sub(exit.started_ms),
    }
}

fn read_bounded(path: &Path, most_bytes: u64, spill: &str) -> Result<Bounded, RunDirError> {
    let mut bound = HeadTail::default();
    let failed = |source| RunDirError::Io {
        verb: "read",
        path: path.to_owned(),
        source,
    };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(bound.finish(None)),
        Err(e) => return Err(failed(e)),
    };
    let mut file = file.take(most_bytes);
    let mut block = vec![0u8; 64 * 1024];
    loop {
        match file.read(&mut block) {
            Ok(0) => return Ok(bound.finish(Some(spill))),
            Ok(n) => bound.push(&block[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(failed(e)),
        }
    }
}

/// The line after the output that tells how the command ended, unless it ended
/// well.
fn ending(exit: &Exit, deadline_ms: u64) -> Option<String> {
    let mut lines = Vec::new();
    match exit.reason {
        Reason::Exited => match (exit.code, exit.signal) {
            (Some(0), _) => {}
            (Some(code), _) => lines.push(format!("[exit code {code}]")),
            (None, Some(signal)) => lines.push(format!("[ended by signal {signal}]")),
            (None, None) => lines.push("[ended in an unknown way]".to_owned()),
        },
        Reason::Deadline => lines.push(format!(
            "[stopped at its deadline: the command was still running after {deadline_ms} ms]"
        )),
        Reason::Killed => lines.push("[stopped on request, with all that it had started]".to_owned()),
        Reason::SpawnFailed => lines.push("[the command could not be started]".to_owned()),
        Reason::SupervisorLost => lines.push(
            "[the supervisor of this command died before it could tell how it ended; the outcome is unknown, and what was left of it has been stopped]"
                .to_owned(),
        ),
    }
    if let Some(message) = &exit.message {
        lines.push(format!("[{message}]"));
    }
    if exit.survivors > 0 {
        lines.push(format!(
            "[{} processes did not die of SIGKILL in time]",
            exit.survivors
        ));
    }
    (!lines.is_empty()).then(|| lines.join("\n"))
}
