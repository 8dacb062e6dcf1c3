//! The tool `bash`: starts a supervisor and watches its run directory.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use dispatch_core::planted;
use dispatch_core::reconcile::OUTCOME_UNKNOWN;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::format::{Exit, Reason, now_ms};
use super::input::Bash;
use super::local::{Shared, blocking};
use super::preview::Preview;
use super::proc::{self, Leftovers, ProcessName};
use super::rundir::{NewRun, RunDir, RunDirError};
use super::settle::{self, SettleError};
use super::supervisor::DEATH_PATIENCE;
use super::{PREVIEW_BYTES, ToolDone, ToolEvent, ToolRequest, Wishes};

/// How often the run directory is looked at, at first and in the long run.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MOST: Duration = Duration::from_millis(100);
/// How long after its deadline, or after a kill, a supervisor may be silent
/// before it is taken for wedged: more than all its own grace together.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(super) enum BashError {
    #[error(
        "the working directory {0} is not there, or is no directory; create it or choose another cwd"
    )]
    NoCwd(String),
    #[error("this call is running already")]
    Running,
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error(transparent)]
    Settle(#[from] SettleError),
    /// The command had been started, so the model must not take it for undone.
    #[error("{OUTCOME_UNKNOWN}: {0}")]
    Lost(Box<BashError>),
}

/// Runs a command to its end, its deadline or its kill; `None` when it was left
/// before.
pub(super) async fn run(
    shared: &Shared,
    request: &ToolRequest,
    input: Bash,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Option<ToolDone>, BashError> {
    let deadline_ms = input
        .timeout_ms
        .map_or(request.deadline_ms, |ms| ms.min(request.deadline_ms));
    let place = RunDir::for_call(&shared.runs, request.turn, &request.call_id, request.epoch);
    let live = shared.hold(&place).ok_or(BashError::Running)?;
    let run = NewRun {
        turn: request.turn,
        call_id: request.call_id.clone(),
        epoch: request.epoch,
        command: input.command,
        cwd: request.cwd.clone(),
        deadline_ms,
        output_limit_bytes: shared.config.output_limit_bytes,
    };
    let runs = shared.runs.clone();
    let (dir, mark) = blocking(move || prepare(&runs, run)).await?;
    let exit = match start_supervisor(shared, &dir) {
        Ok(child) => {
            #[cfg(planted)]
            crate::points::reach(crate::points::Point::ToolStarted, crate::points::TURN);
            let deadline = Duration::from_millis(deadline_ms);
            let supervisor = child.id().and_then(|pid| proc::name_of(pid).ok());
            match follow(&dir, Supervised::Child(child), deadline, events, wishes).await {
                Ok(None) => {
                    drop(live);
                    shared.left(dir);
                    return Ok(None);
                }
                Err(BashError::Lost(e)) => {
                    blocking(move || abandon(&mark, supervisor)).await;
                    return Err(BashError::Lost(e));
                }
                done => return done,
            }
        }
        Err(e) => {
            let mut exit = Exit::new(Reason::SpawnFailed, now_ms());
            exit.message = Some(format!(
                "cannot start the supervisor {}: {e}",
                shared.config.supervisor_binary.display()
            ));
            exit
        }
    };
    let done = blocking(move || {
        dir.write_exit(&exit)?;
        Ok::<_, BashError>(settle::result_of(&dir, &exit)?)
    });
    done.await.map(Some)
}

/// Sees a run that was started to its end; `None` when it is to be left. An
/// error is always [`BashError::Lost`].
pub(super) async fn follow(
    dir: &RunDir,
    supervised: Supervised,
    deadline: Duration,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Option<ToolDone>, BashError> {
    let lost = |e: BashError| BashError::Lost(Box::new(e));
    let exit = watch(dir, supervised, deadline, events, wishes)
        .await
        .map_err(lost)?;
    let Some(exit) = exit else {
        return Ok(None);
    };
    let dir = dir.clone();
    let result = blocking(move || settle::result_of(&dir, &exit)).await;
    result.map(Some).map_err(|e| lost(e.into()))
}

/// Ends a run whose directory can no longer be used.
fn abandon(mark: &str, supervisor: Option<ProcessName>) {
    let leftovers = Leftovers {
        mark,
        known: supervisor.into_iter().collect(),
    };
    let _the_error_at_hand_is_told = proc::kill_leftovers(&leftovers, DEATH_PATIENCE);
}

fn prepare(runs: &Path, mut run: NewRun) -> Result<(RunDir, String), BashError> {
    let no_cwd = || BashError::NoCwd(run.cwd.display().to_string());
    let cwd = std::path::absolute(&run.cwd).map_err(|_| no_cwd())?;
    if !cwd.is_dir() {
        return Err(no_cwd());
    }
    run.cwd = cwd;
    Ok(RunDir::create(runs, run)?)
}

fn start_supervisor(shared: &Shared, dir: &RunDir) -> std::io::Result<Child> {
    let mut command = std::process::Command::new(&shared.config.supervisor_binary);
    command
        .arg0("dispatch")
        .arg(super::SUPERVISE)
        .arg(dir.root())
        // Pins no directory that somebody may want to unmount.
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(dir.path("supervisor.log"))?);
    super::env::scrub(&mut command, &shared.config.secret_env);
    Command::from(command).kill_on_drop(false).spawn()
}

/// How a supervisor's death is noticed.
#[derive(Debug)]
pub(super) enum Supervised {
    /// It is our child.
    Child(Child),
    /// It is another server's: its end of `control` closes.
    Adopted,
}

impl Supervised {
    /// Comes back when a child has died; what was adopted is looked at.
    async fn gone(&mut self) {
        match self {
            Supervised::Child(child) => {
                let _status_is_in_exit = child.wait().await;
            }
            Supervised::Adopted => std::future::pending().await,
        }
    }
}

/// Follows a run until its `exit` is there, whoever has to write it.
async fn watch(
    dir: &RunDir,
    mut supervised: Supervised,
    deadline: Duration,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Option<Exit>, BashError> {
    let started = Instant::now();
    let mut preview = Preview::default();
    let mut give_up_after = deadline.saturating_add(SUPERVISOR_PATIENCE);
    let (mut supervisor_gone, mut stopping) = (false, false);
    let mut pause = LOOK_FIRST;
    loop {
        tokio::select! {
            () = supervised.gone(), if !supervisor_gone => supervisor_gone = true,
            () = wishes.kill.cancelled(), if !stopping => {
                stopping = true;
                pause = LOOK_FIRST;
                give_up_after = give_up_after.min(started.elapsed() + SUPERVISOR_PATIENCE);
            }
            // Who was told to stop it first sees it through.
            () = wishes.leave.cancelled(), if !stopping => return Ok(None),
            () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK_MOST),
        }
        let looked_at = dir.clone();
        let (from, asks) = (preview.wants(), matches!(supervised, Supervised::Adopted));
        let look = blocking(move || look(&looked_at, stopping, from, asks)).await?;
        if let Some(exit) = look.exit {
            // The supervisor stays for as long as anybody holds the output.
            if planted!("D28") && !supervisor_gone && !look.is_deserted {
                continue;
            }
            if planted!("D19") && exit.signal.is_some() {
                let reason = Reason::SpawnFailed;
                return Ok(Some(Exit { reason, ..exit }));
            }
            return Ok(Some(exit));
        }
        preview.send(&look.output, events);
        if supervisor_gone || look.is_deserted || started.elapsed() > give_up_after {
            let dir = dir.clone();
            return Ok(Some(blocking(move || settle::bury(&dir)).await?));
        }
    }
}

struct Look {
    exit: Option<Exit>,
    output: Vec<u8>,
    is_deserted: bool,
}

fn look(
    dir: &RunDir,
    stopping: bool,
    from: Option<u64>,
    asks_for_supervisor: bool,
) -> Result<Look, BashError> {
    if stopping {
        dir.revoke()?;
        // Nobody there yet: the supervisor will see `revoked` when it comes.
        let _heard = dir.poke();
    }
    // In this order: one that has ended wrote `exit` before it went.
    let is_deserted = asks_for_supervisor && !dir.is_supervised();
    let exit = dir.exit()?;
    let output = from.map_or_else(Vec::new, |from| peek(dir, from));
    Ok(Look {
        exit,
        output,
        is_deserted,
    })
}

/// The next bytes of the output; none if they cannot be read, since a preview
/// is not worth failing for.
fn peek(dir: &RunDir, from: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(dir.output_path()).and_then(|mut file| {
        file.seek(SeekFrom::Start(from))?;
        file.take(PREVIEW_BYTES as u64).read_to_end(&mut bytes)
    });
    match read {
        Ok(_) => bytes,
        Err(_) => Vec::new(),
    }
}
