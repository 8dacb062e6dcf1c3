//! Tools on another computer, over a link: what `LocalExec` is here.
//!
//! A command belongs to its run directory over there. A small script starts it
//! detached, keeps its deadline and writes down how it ended, so that neither a
//! lost link nor this server's death loses anything: whoever has a link again
//! watches on from where it was (S5, L10).
//!
//! ```text
//! ~/.cache/dispatch/runs/<installation>/<turn>/<call>-e<epoch>[.<attempt>]/
//!   meta command cwd   what was asked; written before anything is started
//!   script             the supervisor, while it runs
//!   pid                who runs: supervisor and guard
//!   revoked            from now on nothing may be started here
//!   alive              touched every 5 s while the guard lives
//!   output             standard output and error as they came, bounded (D27)
//!   exit               how it ended; written last, atomically, once
//! ```
//!
//! Whoever makes the directory owns it: a start that finds it does nothing, and
//! a look that finds nothing makes it, and so forbids every start before it.
//! Starting and stopping are short commands; watching is SFTP alone, so that a
//! hundred commands need few channels.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use dispatch_core::ids::TurnId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, mpsc};

use self::adopt::Found;
use self::far::{Far, Fault};
use self::files::FarFileError;
use self::question::{AskError, Question};
use self::run::Run;
use self::watch::{Followed, follow};
use super::input::Input;
use super::preview::Preview;
use super::rundir::call_name;
use super::{
    Adoption, EndReport, RunBounds, SweepReport, ToolDone, ToolEvent, ToolHandle, ToolRequest,
    Wishes,
};
use crate::panics::locked;
use crate::ssh::Link;

mod adopt;
mod bash;
mod far;
mod files;
mod question;
mod run;
mod upkeep;
mod watch;

pub use run::RemoteCall;

/// Questions asked on a watcher's own account at the same time: the channels of
/// a link are the pool's, but for these.
const ASKING: usize = 2;

/// Why a computer could not be asked about its runs.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask for the commands on that computer: {0}")]
pub struct RemoteError(String);

/// Runs tools on other computers. Cheap to clone; knows no computer, only what
/// it watches. Must be used within a tokio runtime.
#[derive(Clone, Debug)]
pub struct RemoteExec {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    installation: String,
    output_limit_bytes: u64,
    /// Runs by how many watch them: over a link that is dying, and over the
    /// next one.
    watched: Mutex<BTreeMap<String, usize>>,
    asking: Semaphore,
}

impl RemoteExec {
    /// `installation` tells this server's runs from another one's on the same
    /// computer; `output_limit_bytes` bounds one command's output on its disk
    /// (D27, O5), some 32 KB more come on top.
    pub fn new(installation: &str, output_limit_bytes: u64) -> RemoteExec {
        RemoteExec {
            shared: Arc::new(Shared {
                installation: call_name(installation),
                output_limit_bytes,
                watched: Mutex::default(),
                asking: Semaphore::new(ASKING),
            }),
        }
    }

    /// Starts a call. A command is told of by `Adopted(Running)` once it runs
    /// and needs no channel any more. `Done` comes last, or `LinkLost`; then
    /// the call may have been started. A relative `cwd` begins at the home
    /// directory.
    pub fn start(
        &self,
        link: Arc<dyn Link>,
        request: ToolRequest,
        attempt: u32,
        events: mpsc::Sender<ToolEvent>,
    ) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let begun = Instant::now();
            let work = carry_out(shared, link, request, attempt, events.clone(), wishes);
            let followed = match tokio::spawn(work).await {
                Ok(followed) => followed,
                // A panic is one call's failure (L7).
                Err(e) => Followed::Done(ToolDone::failed(format!("the tool broke off: {e}"))),
            };
            send_last(followed, Some(begun), &events).await;
        });
        handle
    }

    /// Watches on over what was started for a call, or tells what became of it,
    /// by [`ToolEvent::Adopted`]; `NotFound` means that nothing of it that was
    /// sent until now will ever start. The preview goes on behind
    /// `shown_bytes`.
    pub fn adopt(
        &self,
        link: Arc<dyn Link>,
        call: RemoteCall,
        shown_bytes: u64,
        events: mpsc::Sender<ToolEvent>,
    ) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let adopting = adopt_call(&shared, link, &call, shown_bytes, &events, &wishes);
            match adopting.await {
                Ok(Some(followed)) => send_last(followed, None, &events).await,
                Ok(None) => {}
                Err(fault) if fault.is_of_the_link() => {
                    send_last(Followed::LinkLost(fault.to_string()), None, &events).await;
                }
                Err(fault) => {
                    let cause = format!("the run of {} cannot be asked: {fault}", call.call_id);
                    let stuck = ToolEvent::Adopted(Adoption::Stuck { cause });
                    let _nobody_listens = events.send(stuck).await;
                }
            }
        });
        handle
    }

    /// Ends whatever runs of a call, and lets nothing of it start any more; for
    /// calls that nobody watches. Comes back when it is gone.
    pub fn kill(
        &self,
        link: Arc<dyn Link>,
        call: RemoteCall,
    ) -> BoxFuture<'static, Result<(), RemoteError>> {
        let shared = self.shared.clone();
        async move {
            let answers = shared.question(&call).map_err(told)?;
            let answers = answers.ask(&link, "kill_call").await.map_err(told)?;
            match answers.last().map(String::as_str) {
                Some("over") => Ok(()),
                said => Err(RemoteError(said.unwrap_or_default().to_owned())),
            }
        }
        .boxed()
    }

    /// The turns of commands that run there and that nobody watches, each once.
    pub fn unattended(
        &self,
        link: Arc<dyn Link>,
    ) -> BoxFuture<'static, Result<Vec<TurnId>, RemoteError>> {
        let shared = self.shared.clone();
        async move { upkeep::unattended(&shared, &link).await.map_err(told) }.boxed()
    }

    /// Ends what nobody watches of these turns, and comes back when it is gone
    /// (L10, D37).
    pub fn end_unattended(
        &self,
        link: Arc<dyn Link>,
        turns: Vec<TurnId>,
    ) -> BoxFuture<'static, EndReport> {
        let shared = self.shared.clone();
        async move { upkeep::end(&shared, &link, &turns).await }.boxed()
    }

    /// Removes finished runs beyond `bounds` (O5).
    pub fn sweep_runs(
        &self,
        link: Arc<dyn Link>,
        bounds: RunBounds,
    ) -> BoxFuture<'static, SweepReport> {
        let shared = self.shared.clone();
        async move { upkeep::sweep(&shared, &link, bounds).await }.boxed()
    }
}

fn told(e: AskError) -> RemoteError {
    RemoteError(e.to_string())
}

async fn send_last(followed: Followed, begun: Option<Instant>, events: &mpsc::Sender<ToolEvent>) {
    let last = match followed {
        Followed::Done(mut done) => {
            if let Some(begun) = begun {
                done.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            }
            ToolEvent::Done(done)
        }
        Followed::Left => ToolEvent::Left,
        Followed::LinkLost(cause) => ToolEvent::LinkLost { cause },
    };
    let _nobody_listens = events.send(last).await;
}

async fn carry_out(
    shared: Arc<Shared>,
    link: Arc<dyn Link>,
    request: ToolRequest,
    attempt: u32,
    events: mpsc::Sender<ToolEvent>,
    wishes: Wishes,
) -> Followed {
    let done = match Input::parse(&request.name, &request.input) {
        Ok(Input::Bash(input)) => {
            let call = RemoteCall {
                turn: request.turn,
                call_id: request.call_id.clone(),
                epoch: request.epoch,
                attempt,
            };
            let run = bash::run(&shared, link, &request, call, input, &events, &wishes);
            return run.await.unwrap_or_else(ended_by);
        }
        Ok(Input::Read(input)) => {
            let cwd = request.cwd.to_string_lossy().into_owned();
            let begin = |stop| {
                tokio::spawn(async move {
                    let far = Far::open(link).await?;
                    far.unless_lost(files::read(&far, &cwd, &input, &stop))
                        .await
                })
            };
            super::files::limited(&request, &wishes.kill, begin).await
        }
        Ok(Input::Write(input)) => {
            let cwd = request.cwd.to_string_lossy().into_owned();
            let begin = |stop| {
                tokio::spawn(async move {
                    let far = Far::open(link).await?;
                    far.unless_lost(files::write(&far, &cwd, &input, &stop))
                        .await
                })
            };
            super::files::limited(&request, &wishes.kill, begin).await
        }
        Err(e) => Ok(ToolDone::failed(e.to_string())),
    };
    match done {
        Ok(done) => Followed::Done(done),
        Err(FarFileError::File(e)) => Followed::Done(ToolDone::failed(e.to_string())),
        Err(FarFileError::Link(fault)) => ended_by(fault),
    }
}

/// A link that is lost is the pool's to mend; all else is an answer.
fn ended_by(fault: Fault) -> Followed {
    match fault {
        Fault::Lost(_) | Fault::Silent => Followed::LinkLost(fault.to_string()),
        Fault::Link(crate::ssh::LinkError::Down(fault)) => Followed::LinkLost(fault.message),
        Fault::Link(e) => Followed::Done(ToolDone::failed(e.to_string())),
        Fault::Missing | Fault::Denied | Fault::Failed(_) => {
            Followed::Done(ToolDone::failed(format!(
                "the runs of this server on that computer cannot be looked at: {fault}; check the permissions of ~/.cache/dispatch"
            )))
        }
    }
}

/// `None` when what was found has been told and nothing follows.
async fn adopt_call(
    shared: &Shared,
    link: Arc<dyn Link>,
    call: &RemoteCall,
    shown_bytes: u64,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Option<Followed>, Fault> {
    let mut far = Far::open(link).await?;
    let found = adopt::find(&far, &shared.installation, call);
    let (adoption, run) = match far.unless_lost(found).await? {
        Found::Nothing => (Adoption::NotFound, None),
        Found::Over(run, over) => (adopt::adoption(&far, &run, &over).await?, None),
        Found::Running(run) => (Adoption::Running, Some(run)),
    };
    let _nobody_listens = events.send(ToolEvent::Adopted(adoption)).await;
    let Some(run) = run else {
        return Ok(None);
    };
    let preview = Preview::continued(shown_bytes);
    Ok(Some(
        follow(shared, &mut far, &run, preview, events, wishes).await,
    ))
}

impl Shared {
    fn empty_question(&self) -> Result<Question, AskError> {
        Ok(Question::new()?.with("installation", &self.installation))
    }

    /// A question about a call.
    fn question(&self, call: &run::RemoteCall) -> Result<Question, AskError> {
        Ok(self
            .empty_question()?
            .with("turn", &call.turn.to_string())
            .with("call", &call.plain_name())
            .with("name", &call.dir_name())
            .with("epoch", &call.epoch.0.to_string())
            .with("attempt", &call.attempt.to_string()))
    }

    /// A question about one directory of a call.
    fn question_of_run(&self, run: &Run) -> Result<Question, AskError> {
        Ok(self.question(&run.call)?.with("name", &run.name))
    }

    fn watch(&self, run: &Run) -> Watched<'_> {
        let name = format!("{}/{}", run.call.turn, run.name);
        *locked(&self.watched).entry(name.clone()).or_default() += 1;
        Watched { shared: self, name }
    }

    fn is_watched(&self, run: &str) -> bool {
        locked(&self.watched).contains_key(run)
    }

    fn watched(&self) -> Vec<String> {
        locked(&self.watched).keys().cloned().collect()
    }
}

/// A run that is watched here.
struct Watched<'s> {
    shared: &'s Shared,
    name: String,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        let mut watched = locked(&self.shared.watched);
        if let Some(count) = watched.get_mut(&self.name) {
            *count -= 1;
            if *count == 0 {
                watched.remove(&self.name);
            }
        }
    }
}
