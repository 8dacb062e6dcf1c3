use axum::extract::State;
use axum::response::Response;
use dispatch_core::event::EventBody;
use dispatch_core::ids::TurnId;
use dispatch_core::store::TurnState;
use dispatch_core::time::Timestamp;
use http::StatusCode;
use serde_json::{Value, json};

use super::conversations::or_null;
use super::request::Id;
use super::{Api, ApiError, json as answer, shown};
use crate::hub::status;
use crate::store::{ProviderView, ReplicaView, TurnView};

/// `GET /turns/{id}`: everything that is known of a turn (T2, T13).
pub(super) async fn get(State(api): State<Api>, Id(id): Id<TurnId>) -> Result<Response, ApiError> {
    let view = find(&api, id).await?;
    Ok(answer(
        StatusCode::OK,
        &describe(&view, api.clock.now().wall),
    ))
}

/// `GET /turns/{id}/why`: where it is and why, for a person (T13).
pub(super) async fn why(State(api): State<Api>, Id(id): Id<TurnId>) -> Result<Response, ApiError> {
    let view = find(&api, id).await?;
    let now = api.clock.now().wall;
    let lines = api.store.providers().await?;
    let line = lines.iter().find(|line| line.row.id == view.row.provider);
    let before = match view.row.state {
        TurnState::Blocked => {
            let open = api.store.open_turns_of(&view.row.conversation).await?;
            let before = open
                .into_iter()
                .take_while(|other| other.row.turn != id)
                .last();
            before.map(|other| other.row.turn)
        }
        TurnState::Parked | TurnState::Streaming | TurnState::Tools | TurnState::Ended => None,
    };
    let mut described = describe(&view, now);
    described["why"] = match absence(&api, &view).await? {
        Some(why) => why.into(),
        None => sentence(&view, line, before, now).into(),
    };
    described["behind"] = or_null(before.map(|turn| turn.to_string()));
    described["line"] = line.map_or(Value::Null, |line| {
        json!({
            "limit": line.row.limit,
            "streaming": line.streaming,
            "parked": line.parked,
        })
    });
    Ok(answer(StatusCode::OK, &described))
}

/// Nothing moves, because the one that would move it is not there (L9).
async fn absence(api: &Api, view: &TurnView) -> Result<Option<String>, ApiError> {
    let row = &view.row;
    let node = match row.state {
        TurnState::Parked => row.bound.as_ref(),
        TurnState::Streaming | TurnState::Tools => row.owner.as_ref().map(|owner| &owner.node),
        TurnState::Blocked | TurnState::Ended => None,
    };
    let Some(node) = node else {
        return Ok(None);
    };
    let replicas = api.store.replicas().await?;
    let seen = replicas.iter().find(|seen| seen.row.owner.node == *node);
    // One that shuts down still runs what it owns.
    let is_away = |seen: &&ReplicaView| match row.state {
        TurnState::Parked => !seen.row.is_live(seen.now, api.lease_ms),
        _ => seen.now.since_ms(seen.row.seen_at) > api.lease_ms,
    };
    let Some(seen) = seen.filter(is_away) else {
        return Ok(None);
    };
    let silent_s = seen.now.since_ms(seen.row.seen_at) / 1_000;
    Ok(Some(match row.state {
        TurnState::Parked => format!(
            "It waits for node `{node}`, where its tools have run and their files are; that node was last heard of {silent_s} s ago: start it again, or the turn will be given up."
        ),
        _ => format!(
            "Node `{node}`, which runs it, was last heard of {silent_s} s ago; as soon as its lease has ended, the turn is taken from it."
        ),
    }))
}

async fn find(api: &Api, id: TurnId) -> Result<TurnView, ApiError> {
    let found = api.store.turn(id).await?;
    found.ok_or_else(|| ApiError::TurnNotFound(id.to_string()))
}

fn describe(view: &TurnView, now: Timestamp) -> Value {
    let row = &view.row;
    let (shown_status, due_at) = match status(view, now) {
        EventBody::Status { state, due_at, .. } => (Some(state), due_at),
        _ => (None, None),
    };
    let shown_status = match row.state {
        TurnState::Ended => json!("ended"),
        TurnState::Blocked | TurnState::Parked | TurnState::Streaming | TurnState::Tools => {
            json!(shown_status)
        }
    };
    json!({
        "turnId": row.turn.to_string(),
        "conversationId": row.conversation.as_str(),
        "state": state(row.state),
        "node": row.owner.as_ref().map(|owner| &*owner.node).or(row.bound.as_deref()),
        "status": shown_status,
        "provider": row.provider.as_str(),
        "model": format!("{}/{}", row.provider, row.model),
        "position": view.position,
        "dueAt": or_null(due_at.map(|at| at.0)),
        "step": row.step,
        "attempt": row.retry.attempt,
        "retryMs": row.retry.sum_ms,
        "resumes": row.resumes,
        "usage": row.usage,
        "timing": row.timing_at(now),
        "acceptedAt": row.accepted_at.0,
        "since": row.since.0,
        "abort": row.abort.as_ref().map(|abort| json!({
            "by": abort.by, "reason": abort.reason, "at": abort.at.0,
        })),
        "lastFailure": row.retry.last.as_ref().map(|failure| json!({
            "message": failure.message, "code": failure.code, "cause": failure.cause,
        })),
        "terminal": view.terminal.as_ref().map(shown),
    })
}

fn state(state: TurnState) -> &'static str {
    match state {
        TurnState::Blocked => "blocked",
        TurnState::Parked => "parked",
        TurnState::Streaming => "streaming",
        TurnState::Tools => "tools",
        TurnState::Ended => "ended",
    }
}

fn sentence(
    view: &TurnView,
    line: Option<&ProviderView>,
    before: Option<TurnId>,
    now: Timestamp,
) -> String {
    let row = &view.row;
    let for_s = now.since_ms(row.since) / 1_000;
    match row.state {
        TurnState::Blocked => match before {
            Some(before) => format!(
                "It waits for turn {before} of the same conversation, which came first ({for_s} s so far)."
            ),
            None => "Its predecessor has just ended; it takes its place in line.".to_owned(),
        },
        TurnState::Parked if row.due_at > now => {
            let wait_s = row.due_at.since_ms(now).div_ceil(1_000);
            match &row.retry.last {
                Some(failure) => format!(
                    "Provider `{}` refused attempt {} of step {} ({}: {}); it is tried again in {wait_s} s.",
                    row.provider, row.retry.attempt, row.step, failure.cause, failure.message
                ),
                None => format!("It is due in {wait_s} s."),
            }
        }
        TurnState::Parked => {
            let place = view
                .position
                .map_or_else(String::new, |position| format!(" at place {position}"));
            match line {
                Some(line) => format!(
                    "It waits in the line of provider `{}`{place}: {} of {} streams are taken ({for_s} s so far).",
                    row.provider, line.streaming, line.row.limit
                ),
                None => format!(
                    "It waits in the line of provider `{}`{place}.",
                    row.provider
                ),
            }
        }
        TurnState::Streaming => format!(
            "Step {} has been streaming from `{}/{}` for {for_s} s.",
            row.step, row.provider, row.model
        ),
        TurnState::Tools => format!(
            "The tools of step {} have been running for {for_s} s.",
            row.step.saturating_sub(1)
        ),
        TurnState::Ended => match view.terminal.as_ref().map(|event| &event.body) {
            Some(EventBody::Error {
                code,
                message,
                cause,
                ..
            }) => format!("It ended with error `{code}`, caused by {cause}: {message}"),
            Some(EventBody::Aborted { by, reason }) => match reason {
                Some(reason) => format!("It was aborted by {by}: {reason}"),
                None => format!("It was aborted by {by}."),
            },
            Some(EventBody::Done { finish_reason, .. }) => {
                format!("It is done ({finish_reason}).")
            }
            Some(_) | None => "It has ended.".to_owned(),
        },
    }
}
