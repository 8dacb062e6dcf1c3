//! Follows a run on another computer to its end, by looking at its directory.

use std::time::Duration;

use dispatch_core::reconcile::OUTCOME_UNKNOWN;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::far::{Far, Fault, SILENCE_PATIENCE};
use super::over::Session;
use super::question::AskError;
use super::run::{Ending, RemoteExit, Run};
use crate::exec::preview::Preview;
use crate::exec::{PREVIEW_BYTES, ToolDone, ToolEvent, Wishes};
use crate::ssh::LinkError;

/// How often the run directory is looked at, at first and in the long run.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_MOST: Duration = Duration::from_millis(500);
/// How often it is looked whether the guard is alive, which shows it every 5 s,
/// and after how long without a sign it is asked for.
const PULSE: Duration = Duration::from_secs(4);
const PULSE_PATIENCE: Duration = Duration::from_secs(16);
/// How long looks may fail in a row: a server that is short of something for a
/// moment says no more than "failure", and what runs is worth another look.
const FAILURE_PATIENCE: Duration = Duration::from_secs(10);

/// How following a run came to its end.
#[derive(Debug)]
pub(super) enum Followed {
    Done(ToolDone),
    Left,
    LinkLost(String),
    /// A command may run on, and cannot be watched.
    Unknown(String),
}

impl Followed {
    /// Nothing was started: what stands in the way is the answer, unless the
    /// pool can mend it by another link.
    pub(super) fn not_begun(fault: Fault) -> Followed {
        match (fault.end_of_link(), fault) {
            (Some(cause), _) => Followed::LinkLost(cause),
            (None, Fault::Link(e)) => Followed::Done(ToolDone::failed(e.to_string())),
            (None, fault) => Followed::Done(ToolDone::failed(format!(
                "the runs of this server on that computer cannot be looked at: {fault}; check the permissions of ~/.cache/dispatch"
            ))),
        }
    }

    /// Something may have been started.
    pub(super) fn in_doubt(fault: &Fault) -> Followed {
        match fault.end_of_link() {
            Some(cause) => Followed::LinkLost(cause),
            None => Followed::Unknown(fault.to_string()),
        }
    }
}

/// Sees a run to its end, unless it is left or the link is lost before.
pub(super) async fn follow(
    far: &mut Far,
    run: &Run,
    preview: Preview,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Followed {
    let shared = far.over.shared.clone();
    let _watched = shared.watch(run);
    let watch = Watch {
        run,
        preview,
        pulse: Pulse::new(),
        kill: None,
    };
    let followed = tokio::select! {
        biased;
        () = left(wishes) => return Followed::Left,
        followed = watch.until_over(far, events, wishes) => followed,
    };
    match followed {
        Ok(followed) => followed,
        Err(fault) if fault.is_of_the_link() => Followed::LinkLost(fault.to_string()),
        Err(fault) => in_the_dark(run, &fault.to_string()),
    }
}

/// Who was told to stop it first sees it through.
async fn left(wishes: &Wishes) {
    wishes.leave.cancelled().await;
    if wishes.kill.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

/// Nothing tells any more how it ended. The command had been started, so the
/// model must not take it for undone.
fn lost(run: &Run, cause: &str) -> Followed {
    Followed::Done(ToolDone::failed(format!(
        "{OUTCOME_UNKNOWN}: {}",
        unusable(run, cause)
    )))
}

/// The same of one that may be running: somebody has to see to its end.
fn in_the_dark(run: &Run, cause: &str) -> Followed {
    Followed::Unknown(unusable(run, cause))
}

fn unusable(run: &Run, cause: &str) -> String {
    format!(
        "the run directory {} on that computer cannot be used: {cause}; check its space and permissions",
        run.path
    )
}

type Answers = Result<Vec<String>, AskError>;

/// Only what the script over there says ends a run; `None`: it could not be asked.
fn may_tell(answers: Answers) -> Result<Option<Vec<String>>, Fault> {
    match answers {
        Ok(answers) => Ok(Some(answers)),
        Err(AskError::Link(LinkError::Down(fault))) => Err(Fault::Lost(fault.message)),
        Err(
            AskError::Link(_)
            | AskError::Silent
            | AskError::Garbled(_)
            | AskError::NoRandomness(_)
            | AskError::Files(_),
        ) => Ok(None),
    }
}

struct Watch<'r> {
    run: &'r Run,
    preview: Preview,
    pulse: Pulse,
    kill: Option<JoinHandle<Answers>>,
}

impl Watch<'_> {
    async fn until_over(
        mut self,
        far: &mut Far,
        events: &mpsc::Sender<ToolEvent>,
        wishes: &Wishes,
    ) -> Result<Followed, Fault> {
        let mut pause = LOOK_FIRST;
        let mut asked_to_stop = false;
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                biased;
                () = wishes.kill.cancelled(), if !asked_to_stop => {
                    asked_to_stop = true;
                    pause = LOOK_FIRST;
                    self.ask_to_stop(far);
                }
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LOOK_MOST),
            }
            let session = far.clone();
            match session.unless_lost(self.look(&session, events)).await {
                Ok(Some(followed)) => return Ok(followed),
                Ok(None) => heard = Instant::now(),
                Err(Fault::Silent) if heard.elapsed() < SILENCE_PATIENCE => continue,
                Err(fault) if fault.is_of_the_link() => {
                    reopened(far, fault).await?;
                    continue;
                }
                Err(_) if heard.elapsed() < FAILURE_PATIENCE => continue,
                Err(fault) => return Err(fault),
            }
            if let Some(followed) = self.heard_of_kill(far).await? {
                return Ok(followed);
            }
            if self.pulse.is_missed(far, self.run).await?
                && let Some(followed) = self.look_after(far).await?
            {
                return Ok(followed);
            }
        }
    }

    async fn look(
        &mut self,
        far: &Far,
        events: &mpsc::Sender<ToolEvent>,
    ) -> Result<Option<Followed>, Fault> {
        let wanted = self.preview.wants();
        let output = self.run.file("output");
        let shown = async {
            match wanted {
                Some(from) => peek(far, &output, from).await,
                None => Ok(Vec::new()),
            }
        };
        let (ending, bytes) = tokio::try_join!(self.run.ending(far), shown)?;
        match ending {
            Some(Ending::Over(over)) => self.told(far, &over).await,
            // It was started: this is not its directory any more.
            Some(Ending::Claimed) => Ok(Some(lost(self.run, "it was removed"))),
            None => {
                self.preview.send(&bytes, events);
                Ok(None)
            }
        }
    }

    async fn told(&self, far: &Far, over: &RemoteExit) -> Result<Option<Followed>, Fault> {
        let done = self.run.result(far, over).await?;
        Ok(Some(Followed::Done(done)))
    }

    fn ask_to_stop(&mut self, far: &Far) {
        let question = far.question(&self.run.call);
        let link = far.over.link.clone();
        self.kill = Some(tokio::spawn(async move {
            question?.ask(&link, "kill_call").await
        }));
    }

    /// What has become of the request to stop, once that is known: when it was
    /// heard, the run's `exit` is there.
    async fn heard_of_kill(&mut self, far: &Far) -> Result<Option<Followed>, Fault> {
        let Some(kill) = self.kill.take_if(|kill| kill.is_finished()) else {
            return Ok(None);
        };
        let answers = kill.await.unwrap_or_else(|e| {
            let cause = format!("the request to stop it broke off: {e}");
            Err(AskError::Garbled(cause))
        });
        match may_tell(answers)? {
            Some(answers) => self.settled(far, &answers).await,
            // It may run on, so it is asked again: who waits for it has a limit.
            None => {
                self.ask_to_stop(far);
                Ok(None)
            }
        }
    }

    /// Asks after a run whose guard gives no sign, which ends it if it is dead.
    async fn look_after(&mut self, far: &Far) -> Result<Option<Followed>, Fault> {
        // While others ask, it is watched on, and asked after at the next look.
        let Ok(_one_of_few) = far.over.asking.try_acquire() else {
            return Ok(None);
        };
        let answers = match far.question_of_run(self.run) {
            Ok(question) => question.ask(&far.over.link, "settle_run").await,
            Err(e) => Err(e),
        };
        self.pulse = Pulse::new();
        match may_tell(answers)? {
            Some(answers) if answers.iter().any(|answer| answer == "alive") => Ok(None),
            Some(answers) => self.settled(far, &answers).await,
            // It is asked again after a while.
            None => Ok(None),
        }
    }

    async fn settled(&self, far: &Far, answers: &[String]) -> Result<Option<Followed>, Fault> {
        let said = answers.last().cloned().unwrap_or_default();
        // It may be there since the last look.
        match self.run.ending(far).await? {
            Some(Ending::Over(over)) => self.told(far, &over).await,
            Some(Ending::Claimed) => Ok(None),
            None if said == "over" => Ok(Some(lost(self.run, "it holds no exit"))),
            None => Ok(Some(in_the_dark(self.run, &said))),
        }
    }
}

/// The SFTP server alone may have died: then the link has another session.
async fn reopened(far: &mut Far, fault: Fault) -> Result<(), Fault> {
    let again = Far::open(&far.over, Session::Runs).await;
    match again {
        Ok(again) if !std::sync::Arc::ptr_eq(&again.sftp, &far.sftp) => {
            *far = again;
            Ok(())
        }
        Ok(_) | Err(_) => Err(fault),
    }
}

/// The next bytes of the output; none if they cannot be read, since a preview
/// is not worth failing for.
async fn peek(far: &Far, output: &str, from: u64) -> Result<Vec<u8>, Fault> {
    let more = match far.stat(output).await {
        Ok(Some(stat)) => stat.len() > from,
        Ok(None) => false,
        Err(fault) if fault.is_of_the_link() => return Err(fault),
        Err(_) => false,
    };
    if !more {
        return Ok(Vec::new());
    }
    match far.read_at(output, from, PREVIEW_BYTES).await {
        Err(fault) if fault.is_of_the_link() => Err(fault),
        bytes => Ok(bytes.ok().flatten().unwrap_or_default()),
    }
}

/// Whether the guard of a run gives a sign now and then. Times over there are
/// only compared with each other: clocks differ.
#[derive(Debug)]
struct Pulse {
    seen: Option<u32>,
    seen_at: Instant,
    looked_at: Instant,
}

impl Pulse {
    fn new() -> Pulse {
        let now = Instant::now();
        Pulse {
            seen: None,
            seen_at: now,
            looked_at: now,
        }
    }

    async fn is_missed(&mut self, far: &Far, run: &Run) -> Result<bool, Fault> {
        if self.looked_at.elapsed() < PULSE {
            return Ok(false);
        }
        self.looked_at = Instant::now();
        let sign = match far.stat(&run.file("alive")).await {
            Ok(stat) => stat.and_then(|stat| stat.mtime),
            Err(Fault::Silent) => self.seen,
            Err(fault) if fault.is_of_the_link() => return Err(fault),
            Err(_) => None,
        };
        if sign != self.seen {
            self.seen = sign;
            self.seen_at = Instant::now();
        }
        Ok(self.seen_at.elapsed() >= PULSE_PATIENCE)
    }
}
