//! The tool `bash` on another computer.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::adopt::{self, Found};
use super::far::{Far, Fault};
use super::over::{Over, Session};
use super::question::AskError;
use super::run::{Ending, RemoteCall, Run};
use super::watch::{Followed, follow};
use crate::exec::input::Bash;
use crate::exec::preview::Preview;
use crate::exec::{Adoption, ToolDone, ToolEvent, ToolRequest, Wishes};
use crate::ssh::LinkError;

/// What is seen by SFTP is not what commands see: nothing could be watched.
const TWO_VIEWS: &str = "file transfer and commands see different files on that computer (a chroot for one of them?), so that commands could not be watched; let both begin in the home directory, as sshd does where nothing is set";

/// Starts a command and follows it.
pub(super) async fn run(
    over: &Arc<Over>,
    request: &ToolRequest,
    call: RemoteCall,
    until: Instant,
    input: Bash,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Followed {
    // Before anything is started: it could not be watched without.
    let mut far = match Far::open(over, Session::Runs).await {
        Ok(far) => far,
        Err(fault) => return Followed::not_begun(fault),
    };
    let run = Run::new(&far, &call, call.dir_name());
    let _watched = over.shared.watch(&run);
    let run = match begin(&far, request, run, until, input).await {
        Ok(Begun::Runs(run)) => run,
        Ok(Begun::Not(done)) => return Followed::Done(done),
        // The start has been sent: it may be running.
        Err(fault) => return Followed::in_doubt(&fault),
    };
    let _nobody_listens = events.send(ToolEvent::Adopted(Adoption::Running)).await;
    follow(&mut far, &run, Preview::default(), events, wishes).await
}

/// What a start has come to.
enum Begun {
    /// It was started in there, and may be over.
    Runs(Run),
    Not(ToolDone),
}

async fn begin(
    far: &Far,
    request: &ToolRequest,
    run: Run,
    until: Instant,
    input: Bash,
) -> Result<Begun, Fault> {
    let not = |why: String| Ok(Begun::Not(ToolDone::failed(why)));
    match start(far, request, &run.call, until, input).await? {
        Started::Yes if is_seen(far, &run).await? => Ok(Begun::Runs(run)),
        Started::Yes => stopped_unseen(far, &run).await.map(Begun::Not),
        Started::No(done) => Ok(Begun::Not(done)),
        Started::Ended => match run.ending(far).await? {
            Some(Ending::Claimed) => not("stopped before the command was started".to_owned()),
            Some(Ending::Over(_)) | None => Ok(Begun::Runs(run)),
        },
        Started::Unknown(cause) => match adopt::find(far, &run.call).await? {
            Found::Running(run) | Found::Over(run, _) => Ok(Begun::Runs(run)),
            Found::Nothing => not(format!("the command was not started: {cause}")),
        },
    }
}

/// Whether SFTP sees what a shell has made. Once it does, it always does.
async fn is_seen(far: &Far, run: &Run) -> Result<bool, Fault> {
    if !far.over.is_one_view() && far.stat(&run.file("meta")).await?.is_none() {
        return Ok(false);
    }
    far.over.found_one_view();
    Ok(true)
}

async fn stopped_unseen(far: &Far, run: &Run) -> Result<ToolDone, Fault> {
    let asked = match far.question(&run.call) {
        Ok(question) => question.ask(&far.over.link, "kill_call").await,
        Err(e) => Err(e),
    };
    match asked {
        Ok(answers) if answers.iter().any(|said| said == "over") => Ok(ToolDone::failed(format!(
            "the command was stopped as soon as it was started: {TWO_VIEWS}"
        ))),
        Ok(answers) => Err(Fault::Failed(format!("{TWO_VIEWS}; it said {answers:?}"))),
        Err(e) => Err(Fault::Failed(format!("{TWO_VIEWS}; {e}"))),
    }
}

/// Whether a command was started.
enum Started {
    Yes,
    /// Somebody stopped it as soon as it had begun, or it was that short.
    Ended,
    No(ToolDone),
    Unknown(AskError),
}

async fn start(
    far: &Far,
    request: &ToolRequest,
    call: &RemoteCall,
    until: Instant,
    input: Bash,
) -> Result<Started, Fault> {
    let cwd = request.cwd.to_string_lossy();
    let no_cwd = format!(
        "the working directory {cwd} is not there, or is no directory; create it or choose another cwd"
    );
    if cwd.contains('\0') {
        return Ok(Started::No(ToolDone::failed(no_cwd)));
    }
    let deadline_ms = input
        .timeout_ms
        .map_or(request.deadline_ms, |ms| ms.min(request.deadline_ms));
    let limit_bytes = far.over.shared.output_limit_bytes;
    let clock = match far.over.clock().await {
        Ok(clock) => clock,
        Err(AskError::Link(LinkError::Down(fault))) => return Err(Fault::Lost(fault.message)),
        Err(e) => return Ok(Started::No(not_started(&e.to_string()))),
    };
    let question = far.question(call).map(|question| {
        let mark = question.mark();
        question
            .with_supervisor()
            .with("mark", &mark)
            .with("deadline_ms", &deadline_ms.to_string())
            .with("limit_bytes", &limit_bytes.to_string())
            .with("not_after_ms", &clock.at(until).to_string())
            .with("cwd", &far.absolute(&cwd, ""))
            .with("command", &input.command)
    });
    let answers = match question {
        Ok(question) => question.ask(&far.over.link, "start").await,
        Err(e) => Err(e),
    };
    let said = match answers {
        Ok(answers) => answers.last().cloned().unwrap_or_default(),
        Err(AskError::Link(LinkError::Down(fault))) => return Err(Fault::Lost(fault.message)),
        Err(AskError::Link(e)) => return Ok(Started::No(not_started(&e.to_string()))),
        Err(e @ (AskError::Silent | AskError::Garbled(_))) => return Ok(Started::Unknown(e)),
        Err(e @ (AskError::NoRandomness(_) | AskError::Files(_))) => {
            return Ok(Started::No(not_started(&e.to_string())));
        }
    };
    Ok(match said.split_once(' ').unwrap_or((&said, "")) {
        ("started", "") => Started::Yes,
        ("ended", "") => Started::Ended,
        ("no-cwd", "") => Started::No(ToolDone::failed(no_cwd)),
        ("no-home", "") => Started::No(ToolDone::failed(format!(
            "the command was not started: {TWO_VIEWS}"
        ))),
        ("expired", "") => {
            far.over.forget_clock().await;
            Started::No(ToolDone::failed(
                "the command was not started: its start came too late over there, or the clock there was set; try again".to_owned(),
            ))
        }
        ("exists" | "late", "") => Started::No(ToolDone::failed(format!(
            "{} exists already on that computer, or a later one does: this call was started or given up before and is never repeated",
            call.dir_name()
        ))),
        ("refused", cause) => Started::No(not_started(cause.trim())),
        (_, _) => Started::Unknown(AskError::Garbled(format!("it said {said:?}"))),
    })
}

fn not_started(cause: &str) -> ToolDone {
    ToolDone::failed(format!(
        "the command was not started: {cause}; check the space and the permissions of ~/.cache/dispatch on that computer"
    ))
}
