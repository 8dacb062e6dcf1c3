//! Takes over a command that another life of this server started (L10): the
//! run directory tells whether it has ended, runs, or was lost.

use std::sync::Arc;
use std::time::Duration;

use dispatch_core::ids::TurnId;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::bash::{self, Supervised};
use super::format::{Exit, Reason, now_ms};
use super::local::{Live, Shared, blocking};
use super::rundir::RunDir;
use super::settle::{self, SettleError};
use super::{Adoption, ToolDone, ToolEvent, Wishes};

/// How long an earlier watcher in this very process may take to let go: one
/// that was told to kill first has a supervisor to wait for.
const LET_GO: Duration = Duration::from_secs(15);
const LOOK: Duration = Duration::from_millis(20);

/// Says what was found, and, where the command runs, sees it through.
pub(super) async fn adopt(
    shared: Arc<Shared>,
    turn: TurnId,
    call_id: String,
    events: mpsc::Sender<ToolEvent>,
    wishes: Wishes,
) {
    let found = match find(&shared, turn, &call_id).await {
        Ok(found) => found,
        Err(e) => Found::Told(Adoption::Stuck {
            cause: e.to_string(),
        }),
    };
    match found {
        Found::Told(adoption) => {
            let _nobody_listens = events.send(ToolEvent::Adopted(adoption)).await;
        }
        Found::Running(run) => {
            let _nobody_listens = events.send(ToolEvent::Adopted(Adoption::Running)).await;
            let live = run.live;
            let watched = bash::follow(&run.dir, Supervised::Adopted, run.left, &events, &wishes);
            let done = match watched.await {
                Ok(done) => done,
                Err(e) => Some(ToolDone::failed(e.to_string())),
            };
            drop(live);
            let last = match done {
                Some(done) => ToolEvent::Done(done),
                None => {
                    shared.left(run.dir);
                    ToolEvent::Left
                }
            };
            let _nobody_listens = events.send(last).await;
        }
    }
}

enum Found<'s> {
    Told(Adoption),
    Running(Run<'s>),
}

struct Run<'s> {
    dir: RunDir,
    live: Live<'s>,
    /// Until its deadline, by what it says of its start.
    left: Duration,
}

async fn find<'s>(
    shared: &'s Shared,
    turn: TurnId,
    call_id: &str,
) -> Result<Found<'s>, SettleError> {
    let (runs, call) = (shared.runs.clone(), call_id.to_owned());
    let mut dirs = blocking(move || RunDir::of_call(&runs, turn, &call)).await?;
    let Some(dir) = dirs.pop() else {
        return Ok(Found::Told(Adoption::NotFound));
    };
    let Some(live) = hold(shared, &dir).await else {
        let cause = format!(
            "the run in {} is still being watched or stopped by this server",
            dir.root().display()
        );
        return Ok(Found::Told(Adoption::Stuck { cause }));
    };
    let at = dir.clone();
    let state = blocking(move || {
        // A call is started once: older directories hold nothing that runs, or
        // were given up for this one.
        for older in dirs {
            settle::settle(&older)?;
        }
        look(&at)
    });
    Ok(match state.await? {
        State::Told(adoption) => Found::Told(adoption),
        State::Running { left } => Found::Running(Run { dir, live, left }),
    })
}

/// Waits until no earlier watcher has the run.
async fn hold<'s>(shared: &'s Shared, dir: &RunDir) -> Option<Live<'s>> {
    let give_up = Instant::now() + LET_GO;
    loop {
        if let Some(live) = shared.hold(dir) {
            return Some(live);
        }
        if Instant::now() >= give_up {
            return None;
        }
        tokio::time::sleep(LOOK).await;
    }
}

enum State {
    Told(Adoption),
    Running { left: Duration },
}

fn look(dir: &RunDir) -> Result<State, SettleError> {
    // A directory without its meta.json never had a supervisor.
    let Some(meta) = dir.meta()? else {
        settle::settle(dir)?;
        return Ok(State::Told(Adoption::NotFound));
    };
    // Without a supervisor, or told to stop, it is only seen to its end. One
    // that comes up this very moment finds its run revoked.
    let may_run = dir.exit()?.is_none() && !dir.is_revoked() && dir.is_supervised();
    if may_run {
        let ends_at = meta.started_ms.saturating_add(meta.deadline_ms);
        let left = Duration::from_millis(ends_at.saturating_sub(now_ms()));
        return Ok(State::Running { left });
    }
    let exit = settle::settle(dir)?;
    told(dir, &exit).map(State::Told)
}

fn told(dir: &RunDir, exit: &Exit) -> Result<Adoption, SettleError> {
    let done = settle::result_of(dir, exit)?;
    Ok(match exit.reason {
        Reason::Exited | Reason::Deadline | Reason::SpawnFailed => Adoption::AlreadyFinished(done),
        Reason::Killed | Reason::SupervisorLost => Adoption::Killed(done),
    })
}
