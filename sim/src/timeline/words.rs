//! How inputs and effects are called.

use dispatch_core::Wake;
use dispatch_core::io::{Answer, Command, Found};
use dispatch_core::store::{Outcome, Reply, Verb};

use super::model::Kind;

pub(super) fn command(command: &Command) -> &'static str {
    match command {
        Command::Submit(_) => "submit",
        Command::Abort { .. } => "abort",
        Command::PutWorkspace { .. } => "put workspace",
        Command::Star { starred: true, .. } => "star",
        Command::Star { starred: false, .. } => "unstar",
        Command::SetLimit { .. } => "set limit",
        Command::TestComputer { .. } => "test computer",
    }
}

pub(super) fn answer(answer: &Answer) -> &'static str {
    match answer {
        Answer::Accepted(receipt) if receipt.replayed => "accepted before",
        Answer::Accepted(_) => "accepted",
        Answer::Rejected(_) => "rejected",
        Answer::Invalid(_) => "invalid",
        Answer::Ended(_) => "has ended",
        Answer::AbortRequested { .. } => "abort requested",
        Answer::NotFound => "not found",
        Answer::Workspace(_) => "workspace",
        Answer::Set => "set",
        Answer::Tested(Ok(())) => "reached",
        Answer::Tested(Err(_)) => "not reached",
        Answer::Unconfirmed => "unconfirmed",
        Answer::ShuttingDown => "shutting down",
    }
}

pub(super) fn outcome(outcome: &Outcome) -> String {
    match outcome {
        Ok(reply) => self::reply(reply),
        Err(fault) => fault.to_string(),
    }
}

fn reply(reply: &Reply) -> String {
    match reply {
        Reply::Booted { taken_over, .. } => format!("booted, {taken_over} taken over"),
        Reply::Accepted(receipt, _) if receipt.replayed => "accepted before".to_owned(),
        Reply::Accepted(..) => "accepted".to_owned(),
        Reply::Rejected(_) => "rejected".to_owned(),
        Reply::View(view) => format!(
            "{} of {} stream, {} wait",
            view.streaming,
            view.limit,
            view.starred.len() + view.unstarred.len()
        ),
        Reply::Granted(turns) => format!("granted {}", turns.len()),
        Reply::Conflict => "conflict".to_owned(),
        Reply::Loaded(_) => "loaded".to_owned(),
        Reply::Landed { .. } => "landed".to_owned(),
        Reply::Fenced => "fenced".to_owned(),
        Reply::AbortRequested { .. } => "abort requested".to_owned(),
        Reply::Ended { terminal, .. } => format!("ended: {}", terminal.kind()),
        Reply::NotFound => "not found".to_owned(),
        Reply::Renewed(fences) => format!("renewed {}", fences.len()),
        Reply::Requests { aborts, lost } => {
            format!("{} to abort, {} lost", aborts.len(), lost.len())
        }
        Reply::Audited { armed, taken } => format!("{} put right", armed.len() + taken.len()),
        Reply::AreEnded(turns) => format!("{} ended", turns.len()),
        Reply::Swept(None) => "nothing to sweep".to_owned(),
        Reply::Swept(Some(_)) => "swept one".to_owned(),
        Reply::Workspace(_) => "workspace".to_owned(),
        Reply::Deliveries { taken, .. } => format!("{} to deliver", taken.len()),
        Reply::Settled { row, .. } => format!("delivery {:?}", row.state).to_lowercase(),
    }
}

pub(super) fn found(found: &Found) -> &'static str {
    match found {
        Found::Nothing => "nothing",
        Found::Running => "running",
        Found::Killed { .. } => "killed",
        Found::Finished(_) => "finished",
    }
}

/// Why a Dispatcher wanted to be woken; effects are numbers of no interest.
pub(super) fn wake(wake: &Wake) -> &'static str {
    match wake {
        Wake::StreamDue(_) => "stream-due",
        Wake::ToolDue(..) => "tool-due",
        Wake::FenceDue(_) => "fence-due",
        Wake::HardLimitDue(_) => "hard-limit-due",
        Wake::VerbDue(_) => "verb-due",
        Wake::AskAgain(_) => "ask-again",
        Wake::LookDue(_) => "look-due",
        Wake::RenewDue => "renew-due",
        Wake::SweepDue => "sweep-due",
        Wake::RequestsDue => "requests-due",
        Wake::CheckpointDue => "checkpoint-due",
        Wake::DrainDue => "drain-due",
        Wake::AuditDue => "audit-due",
        Wake::OutboxDue => "outbox-due",
        Wake::DeliveryDue(..) => "delivery-due",
        Wake::LinkDue(_) => "link-due",
        Wake::JobDue(..) => "job-due",
        Wake::TestDue(..) => "test-due",
    }
}

/// What is asked again and again, and mostly for nothing.
pub(super) fn verb_quiet(verb: &Verb) -> Option<Kind> {
    match verb {
        Verb::AdmissionView { .. }
        | Verb::Checkpoint { .. }
        | Verb::Renew { .. }
        | Verb::Requests { .. }
        | Verb::SweepOne { .. }
        | Verb::Audit
        | Verb::Ended { .. }
        | Verb::TakeDeliveries(_) => Some(Kind::Poll),
        Verb::Boot(_)
        | Verb::Accept(_)
        | Verb::ApplyGrants(_)
        | Verb::Load { .. }
        | Verb::CommitStep { .. }
        | Verb::RestartStep { .. }
        | Verb::ToolsStarted { .. }
        | Verb::ToolsFinished { .. }
        | Verb::Park { .. }
        | Verb::ScheduleRetry { .. }
        | Verb::RequestAbort(_)
        | Verb::Elect(_)
        | Verb::PutWorkspace { .. }
        | Verb::Star { .. }
        | Verb::SetLimit { .. }
        | Verb::SettleDelivery { .. } => None,
    }
}

/// An outcome that changes nothing for the one who asked.
pub(super) fn outcome_quiet(verb: &str, outcome: &Outcome) -> Option<Kind> {
    let is_quiet = match outcome {
        Ok(Reply::View(_) | Reply::Renewed(_) | Reply::Swept(None) | Reply::AreEnded(_)) => true,
        Ok(Reply::Audited { armed, taken }) => armed.is_empty() && taken.is_empty(),
        Ok(Reply::Requests { aborts, lost }) => aborts.is_empty() && lost.is_empty(),
        Ok(Reply::Granted(turns)) => turns.is_empty(),
        Ok(Reply::Deliveries {
            taken, given_up, ..
        }) => taken.is_empty() && given_up.is_empty(),
        Ok(Reply::Landed { events }) => verb == "checkpoint" && events.is_empty(),
        Ok(
            Reply::Booted { .. }
            | Reply::Accepted(..)
            | Reply::Rejected(_)
            | Reply::Conflict
            | Reply::Loaded(_)
            | Reply::Fenced
            | Reply::AbortRequested { .. }
            | Reply::Settled { .. }
            | Reply::Ended { .. }
            | Reply::NotFound
            | Reply::Swept(Some(_))
            | Reply::Workspace(_),
        )
        | Err(_) => false,
    };
    is_quiet.then_some(Kind::Poll)
}
