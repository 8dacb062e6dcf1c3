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
use std::time::{Duration, Instant};

use dispatch_core::ids::TurnId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use self::adopt::Found;
use self::far::{Far, Fault};
use self::over::{Over, Session};
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
use crate::ssh::{Link, LinkError, SshFault};

mod adopt;
mod bash;
mod clock;
mod far;
mod files;
mod over;
mod question;
mod run;
mod upkeep;
mod watch;

pub use run::RemoteCall;

/// Why a computer could not be asked about its runs.
#[derive(Debug, thiserror::Error)]
#[error("cannot ask for the commands on that computer: {0}")]
pub struct RemoteError(String);

/// Runs tools on other computers. Cheap to clone; knows no computer, only what
/// it watches.
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
}

/// The same over one link, which it keeps. Cheap to clone. Must be used within
/// a tokio runtime.
#[derive(Clone)]
pub struct RemoteTools {
    over: Arc<Over>,
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
            }),
        }
    }

    /// Tools over this link; once for each link, so that what runs over it
    /// shares its channels.
    pub fn over(&self, link: Arc<dyn Link>) -> RemoteTools {
        RemoteTools {
            over: Arc::new(Over::new(self.shared.clone(), link)),
        }
    }
}

impl RemoteTools {
    /// Opens the file transfer by which commands are watched, so that a computer
    /// without one is told of before anything is to run there.
    ///
    /// # Errors
    /// What the computer lacks. A link that is lost meanwhile tells so itself.
    pub async fn prepare(&self) -> Result<(), SshFault> {
        match self.over.files(Session::Runs).await {
            Err(Fault::Link(LinkError::NoFiles(fault))) => Err(fault),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Starts a call. A command is told of by `Adopted(Running)` once it runs
    /// and needs no channel any more. `Done` comes last, or `LinkLost` or
    /// `Unknown`; then the call may have been started. Nothing is begun later than
    /// `within` from now, however long what was sent is on its way. A relative
    /// `cwd` begins at the home directory.
    pub fn start(
        &self,
        request: ToolRequest,
        attempt: u32,
        within: Duration,
        events: mpsc::Sender<ToolEvent>,
    ) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let begun = Instant::now();
        let when = When {
            attempt,
            until: clock::after(within),
        };
        let work = carry_out(self.over.clone(), request, when, events.clone(), wishes);
        see_to_its_end(work, Some(begun), events);
        handle
    }

    /// Watches on over what was started for a call, or tells what became of it,
    /// by [`ToolEvent::Adopted`]; `NotFound` means that nothing of it that was
    /// sent until now will ever start. The preview goes on behind
    /// `shown_bytes`.
    pub fn adopt(
        &self,
        call: RemoteCall,
        shown_bytes: u64,
        events: mpsc::Sender<ToolEvent>,
    ) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let (over, told) = (self.over.clone(), events.clone());
        let work = async move {
            let adopting = adopt_call(&over, &call, shown_bytes, &told, &wishes);
            adopting
                .await
                .unwrap_or_else(|fault| Some(Followed::in_doubt(&fault)))
        };
        see_to_its_end(work, None, events);
        handle
    }

    /// Ends whatever runs of a call, and lets nothing of it start any more; for
    /// calls that nobody watches. Comes back when it is gone.
    pub fn kill(&self, call: RemoteCall) -> BoxFuture<'static, Result<(), RemoteError>> {
        let over = self.over.clone();
        async move {
            let far = Far::open(&over, Session::Runs).await;
            let far = far.map_err(|fault| RemoteError(fault.to_string()))?;
            let question = far.question(&call).map_err(told)?;
            let answers = question.ask(&over.link, "kill_call").await.map_err(told)?;
            match answers.last().map(String::as_str) {
                Some("over") => Ok(()),
                said => Err(RemoteError(said.unwrap_or_default().to_owned())),
            }
        }
        .boxed()
    }

    /// The turns of commands that run there and that nobody watches, each once.
    pub fn unattended(&self) -> BoxFuture<'static, Result<Vec<TurnId>, RemoteError>> {
        let over = self.over.clone();
        async move {
            let found = over.in_turn(upkeep::unattended(&over)).await;
            found.map_err(told)
        }
        .boxed()
    }

    /// Ends what nobody watches of these turns, and comes back when it is gone
    /// (L10, D37).
    pub fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        let over = self.over.clone();
        async move { over.in_turn(upkeep::end(&over, &turns)).await }.boxed()
    }

    /// Removes finished runs beyond `bounds` (O5).
    pub fn sweep_runs(&self, bounds: RunBounds) -> BoxFuture<'static, SweepReport> {
        let over = self.over.clone();
        async move { over.in_turn(upkeep::sweep(&over, bounds)).await }.boxed()
    }
}

impl std::fmt::Debug for RemoteTools {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let computer = self.over.link.computer();
        f.debug_tuple("RemoteTools").field(&computer).finish()
    }
}

fn told(e: AskError) -> RemoteError {
    RemoteError(e.to_string())
}

/// Tells the last of a call's events, also when `work` panics: that is one
/// call's failure (L7), and what it was about may run on.
fn see_to_its_end(
    work: impl Future<Output = Option<Followed>> + Send + 'static,
    begun: Option<Instant>,
    events: mpsc::Sender<ToolEvent>,
) {
    tokio::spawn(async move {
        let followed = tokio::spawn(work)
            .await
            .unwrap_or_else(|e| Some(Followed::Unknown(format!("the tool broke off: {e}"))));
        if let Some(followed) = followed {
            let _nobody_listens = events.send(last(followed, begun)).await;
        }
    });
}

fn last(followed: Followed, begun: Option<Instant>) -> ToolEvent {
    match followed {
        Followed::Done(mut done) => {
            if let Some(begun) = begun {
                done.duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            }
            ToolEvent::Done(done)
        }
        Followed::Left => ToolEvent::Left,
        Followed::LinkLost(cause) => ToolEvent::LinkLost { cause },
        Followed::Unknown(cause) => ToolEvent::Unknown { cause },
    }
}

/// Which try of a call it is, and until when it may begin.
struct When {
    attempt: u32,
    until: tokio::time::Instant,
}

async fn carry_out(
    over: Arc<Over>,
    request: ToolRequest,
    when: When,
    events: mpsc::Sender<ToolEvent>,
    wishes: Wishes,
) -> Option<Followed> {
    Some(match Input::parse(&request.name, &request.input) {
        Ok(Input::Bash(input)) => {
            let call = RemoteCall {
                turn: request.turn,
                call_id: request.call_id.clone(),
                epoch: request.epoch,
                attempt: when.attempt,
            };
            bash::run(&over, &request, call, when.until, input, &events, &wishes).await
        }
        Ok(Input::Read(input)) => files::run_read(&over, &request, &wishes.kill, input).await,
        Ok(Input::Write(input)) => files::run_write(&over, &request, &wishes.kill, input).await,
        Err(e) => Followed::Done(ToolDone::failed(e.to_string())),
    })
}

/// `None` when what was found has been told and nothing follows.
async fn adopt_call(
    over: &Arc<Over>,
    call: &RemoteCall,
    shown_bytes: u64,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Option<Followed>, Fault> {
    let mut far = Far::open(over, Session::Runs).await?;
    let (adoption, run) = match far.unless_lost(adopt::find(&far, call)).await? {
        Found::Nothing => (Adoption::NotFound, None),
        Found::Over(run, over) => (adopt::adoption(&far, &run, &over).await?, None),
        Found::Running(run) => (Adoption::Running, Some(run)),
    };
    let _nobody_listens = events.send(ToolEvent::Adopted(adoption)).await;
    let Some(run) = run else {
        return Ok(None);
    };
    let preview = Preview::continued(shown_bytes);
    Ok(Some(follow(&mut far, &run, preview, events, wishes).await))
}

impl Shared {
    /// A question about this server's runs below that home directory.
    fn question(&self, home: &str) -> Result<Question, AskError> {
        Ok(Question::new()?
            .with("installation", &self.installation)
            .with("home", home))
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
