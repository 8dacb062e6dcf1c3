//! [`Exec`] on this computer.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dispatch_core::ids::TurnId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::input::Input;
use super::rundir::RunDir;
use super::unattended::{self, Unattended};
use super::{
    EndReport, Exec, RunBounds, SweepReport, ToolDone, ToolEvent, ToolHandle, ToolRequest, Wishes,
    adopt, bash, files, sweep,
};
use crate::panics::locked;

/// Where and how commands run.
#[derive(Clone, Debug)]
pub struct LocalExecConfig {
    /// The data directory; `runs` in it belongs to the commands.
    pub data_dir: PathBuf,
    /// The binary that becomes a supervisor when its first argument is
    /// [`SUPERVISE`](super::SUPERVISE).
    pub supervisor_binary: PathBuf,
    /// Most bytes of one command's output on disk (D27, O5); about 32 KB of
    /// its end come on top. Default 64 MB.
    pub output_limit_bytes: u64,
    /// Names of further variables that hold credentials (`key_env`) and are
    /// kept from commands (P4).
    pub secret_env: Vec<String>,
}

impl LocalExecConfig {
    /// The defaults, with this very binary as supervisor.
    pub fn new(data_dir: PathBuf) -> LocalExecConfig {
        LocalExecConfig {
            data_dir,
            // Means the running binary even after an upgrade has replaced it
            // on disk, so that server and supervisor are always of one build.
            supervisor_binary: PathBuf::from("/proc/self/exe"),
            output_limit_bytes: 64 << 20,
            secret_env: Vec::new(),
        }
    }
}

/// Runs tools here: commands under supervisors, files in blocking threads.
///
/// Dropping it stops nothing: commands belong to their run directories.
#[derive(Clone, Debug)]
pub struct LocalExec {
    shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) runs: PathBuf,
    pub(super) config: LocalExecConfig,
    live: Mutex<BTreeSet<RunDir>>,
    pub(super) unattended: Mutex<Unattended>,
}

impl LocalExec {
    /// Errors when the data directory's path cannot be made absolute.
    pub fn new(config: LocalExecConfig) -> io::Result<LocalExec> {
        let runs = std::path::absolute(&config.data_dir)?.join("runs");
        Ok(LocalExec {
            shared: Arc::new(Shared {
                runs,
                config,
                live: Mutex::default(),
                unattended: Mutex::default(),
            }),
        })
    }
}

impl Exec for LocalExec {
    /// Must be called within a tokio runtime.
    fn start(&self, request: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let started = Instant::now();
            let (turn, call_id) = (request.turn, request.call_id.clone());
            let work = tokio::spawn(carry_out(shared.clone(), request, events.clone(), wishes));
            let mut done = match work.await {
                Ok(Some(done)) => done,
                Ok(None) => {
                    let _nobody_listens = events.send(ToolEvent::Left).await;
                    return;
                }
                // A panic is one call's failure (L7), and leaves no command behind.
                Err(e) => {
                    let left = sweep::put_down(shared, turn, call_id).await;
                    ToolDone::failed(format!("the tool broke off: {e}; {left}"))
                }
            };
            done.duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            let _nobody_listens = events.send(ToolEvent::Done(done)).await;
        });
        handle
    }

    /// Must be called within a tokio runtime.
    fn adopt(&self, turn: TurnId, call_id: &str, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let adopting = adopt::adopt(
            self.shared.clone(),
            turn,
            call_id.to_owned(),
            events,
            wishes,
        );
        tokio::spawn(adopting);
        handle
    }

    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>> {
        unattended::turns(self.shared.clone()).boxed()
    }

    fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        unattended::end(self.shared.clone(), turns).boxed()
    }

    fn sweep_runs(&self, bounds: RunBounds) -> BoxFuture<'static, SweepReport> {
        sweep::sweep(self.shared.clone(), bounds).boxed()
    }
}

/// `None` for a call that was left.
async fn carry_out(
    shared: Arc<Shared>,
    request: ToolRequest,
    events: mpsc::Sender<ToolEvent>,
    wishes: Wishes,
) -> Option<ToolDone> {
    let done = match Input::parse(&request.name, &request.input) {
        Ok(Input::Bash(input)) => {
            return bash::run(&shared, &request, input, &events, &wishes)
                .await
                .unwrap_or_else(|e| Some(ToolDone::failed(e.to_string())));
        }
        Ok(Input::Read(input)) => {
            files::run(&request, &wishes.kill, move |cwd, stop| {
                files::read(cwd, &input, stop)
            })
            .await
        }
        Ok(Input::Write(input)) => {
            files::run(&request, &wishes.kill, move |cwd, stop| {
                files::write(cwd, &input, stop)
            })
            .await
        }
        Err(e) => ToolDone::failed(e.to_string()),
    };
    Some(done)
}

impl Shared {
    /// Marks a run as this process's own until the guard is dropped; `None` if
    /// it is already.
    pub(super) fn hold(&self, dir: &RunDir) -> Option<Live<'_>> {
        let mut live = locked(&self.live);
        live.insert(dir.clone()).then(|| Live {
            shared: self,
            dir: dir.clone(),
        })
    }

    pub(super) fn is_live(&self, dir: &RunDir) -> bool {
        locked(&self.live).contains(dir)
    }
}

/// A run that this process watches.
#[derive(Debug)]
pub(super) struct Live<'s> {
    shared: &'s Shared,
    dir: RunDir,
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        locked(&self.shared.live).remove(&self.dir);
    }
}

/// Runs file I/O away from the runtime's threads; a panic in it goes on here.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work, and it
            // polls nobody who could wait for this.
            Err(_) => std::future::pending().await,
        },
    }
}
