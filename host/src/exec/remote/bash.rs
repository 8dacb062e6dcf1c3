//! The tool `bash` on another computer.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::Shared;
use super::adopt::{self, Found};
use super::far::{Far, Fault};
use super::question::AskError;
use super::run::{Ending, RemoteCall, Run};
use super::watch::{Followed, follow};
use crate::exec::input::Bash;
use crate::exec::preview::Preview;
use crate::exec::{Adoption, ToolDone, ToolEvent, ToolRequest, Wishes};
use crate::ssh::{Link, LinkError};

/// Starts a command and follows it.
pub(super) async fn run(
    shared: &Shared,
    link: Arc<dyn Link>,
    request: &ToolRequest,
    call: RemoteCall,
    input: Bash,
    events: &mpsc::Sender<ToolEvent>,
    wishes: &Wishes,
) -> Result<Followed, Fault> {
    // Before anything is started: it could not be watched without.
    let mut far = Far::open(link).await?;
    let run = Run::new(&far, &shared.installation, &call, call.dir_name());
    let _watched = shared.watch(&run);
    let run = match start(shared, &far, request, &call, input).await? {
        Started::Yes => run,
        Started::No(done) => return Ok(Followed::Done(done)),
        Started::Ended => match run.ending(&far).await? {
            Some(Ending::Claimed) => {
                let stopped = "stopped before the command was started";
                return Ok(Followed::Done(ToolDone::failed(stopped)));
            }
            Some(Ending::Over(_)) | None => run,
        },
        Started::Unknown(cause) => match adopt::find(&far, &shared.installation, &call).await? {
            Found::Running(run) | Found::Over(run, _) => run,
            Found::Nothing => {
                return Ok(Followed::Done(ToolDone::failed(format!(
                    "the command was not started: {cause}"
                ))));
            }
        },
    };
    let _nobody_listens = events.send(ToolEvent::Adopted(Adoption::Running)).await;
    Ok(follow(shared, &mut far, &run, Preview::default(), events, wishes).await)
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
    shared: &Shared,
    far: &Far,
    request: &ToolRequest,
    call: &RemoteCall,
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
    let question = shared.question(call).map(|question| {
        let mark = question.mark();
        question
            .with_supervisor()
            .with("mark", &mark)
            .with("deadline_ms", &deadline_ms.to_string())
            .with("limit_bytes", &shared.output_limit_bytes.to_string())
            .with("cwd", &far.absolute(&cwd, ""))
            .with("command", &input.command)
    });
    let answers = match question {
        Ok(question) => question.ask(&far.link, "start").await,
        Err(e) => Err(e),
    };
    let said = match answers {
        Ok(answers) => answers.last().cloned().unwrap_or_default(),
        Err(AskError::Link(LinkError::Down(fault))) => return Err(Fault::Lost(fault.message)),
        Err(AskError::Link(e)) => return Ok(Started::No(not_started(&e.to_string()))),
        Err(e @ (AskError::Silent | AskError::Garbled(_))) => return Ok(Started::Unknown(e)),
        Err(e @ AskError::NoRandomness(_)) => {
            return Ok(Started::No(not_started(&e.to_string())));
        }
    };
    Ok(match said.split_once(' ').unwrap_or((&said, "")) {
        ("started", "") => Started::Yes,
        ("ended", "") => Started::Ended,
        ("no-cwd", "") => Started::No(ToolDone::failed(no_cwd)),
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
