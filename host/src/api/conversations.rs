use axum::extract::State;
use axum::response::{IntoResponse, Response};
use dispatch_core::ids::{ComputerId, ConversationId, TurnId};
use dispatch_core::store::TurnState;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::chat::must_exist;
use super::request::{Id, Params, count};
use super::stream::{Framing, Manner, respond};
use super::{Api, ApiError, json as answer, shown};
use crate::hub::{Follow, Scope};
use crate::store::TurnView;

/// Events of one page of history.
const PAGE: usize = 500;
/// Bytes after which a page of history ends early.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// `GET /conversations/{id}?sinceSeq=`: the conversation and a page of its log (C2).
pub(super) async fn get(
    State(api): State<Api>,
    Id(id): Id<ConversationId>,
    params: Params,
) -> Result<Response, ApiError> {
    let since = params.count("sinceSeq")?.unwrap_or(0);
    let row = api
        .store
        .conversation(&id)
        .await?
        .ok_or_else(|| ApiError::ConversationNotFound(id.to_string()))?;
    let open = api.store.open_turns_of(&id).await?;
    let events = api.store.events(&id, since, PAGE).await?;
    let mut shown_events = Vec::new();
    let (mut bytes, mut last) = (0, since);
    for event in &events {
        if bytes > PAGE_BYTES {
            break;
        }
        bytes += event.to_json().len();
        last = event.seq.unwrap_or(last);
        shown_events.push(shown(event));
    }
    let has_more = shown_events.len() < events.len() || events.len() == PAGE;
    let conversation = json!({
        "id": row.id.as_str(),
        "createdAt": row.created_at.0,
        "lastActivityAt": row.last_activity_at.0,
        "title": row.title,
        "status": status(&open),
        "workspaceId": row.workspace.as_str(),
        "compactedFrom": null,
        "model": format!("{}/{}", row.provider, row.model),
        "cwd": row.cwd,
        "computer": row.computer.as_ref().map(ComputerId::as_str),
        "lastSeq": row.last_seq,
        "openTurns": open.iter().map(|view| view.row.turn.to_string()).collect::<Vec<_>>(),
        "events": shown_events,
        "nextSeq": has_more.then_some(last),
    });
    Ok(answer(StatusCode::OK, &conversation))
}

/// A6: `queued | active | idle`.
fn status(open: &[TurnView]) -> &'static str {
    match open.first().map(|view| view.row.state) {
        None | Some(TurnState::Ended) => "idle",
        Some(TurnState::Blocked | TurnState::Parked) => "queued",
        Some(TurnState::Streaming | TurnState::Tools) => "active",
    }
}

/// `GET /conversations/{id}/events?after=&turnId=` (C5).
pub(super) async fn events(
    State(api): State<Api>,
    Id(id): Id<ConversationId>,
    params: Params,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let after = match headers.get("last-event-id") {
        Some(value) if !value.is_empty() => {
            count("Last-Event-ID", value.to_str().unwrap_or_default())?
        }
        Some(_) | None => params.count("after")?.unwrap_or(0),
    };
    let last = must_exist(&api, &id).await?;
    if after > last {
        return Err(ApiError::CursorAhead { after, last });
    }
    let scope = match params.text("turnId") {
        None => Scope::Conversation,
        Some(text) => {
            let turn = TurnId::try_from(text).map_err(|bad| ApiError::InvalidParameter {
                name: "turnId",
                reason: format!("is not usable: {bad}"),
            })?;
            let view = api.store.turn(turn).await?;
            let view = view
                .filter(|view| view.row.conversation == id)
                .ok_or_else(|| ApiError::TurnNotFound(text.to_owned()))?;
            let end = view.terminal.and_then(|event| event.seq);
            if end.is_some_and(|end| end <= after) {
                return Ok(StatusCode::NO_CONTENT.into_response());
            }
            Scope::Until(turn)
        }
    };
    let follow = Follow::new(
        &api.hub,
        api.hub.reserve()?,
        api.store.clone(),
        api.clock.clone(),
        id.clone(),
        after,
        scope,
    );
    let manner = Manner {
        framing: Framing::of(&headers, Framing::Sse),
        synced: Some(id),
        closing: api.closing.clone(),
    };
    Ok(respond(follow, manner))
}

/// JSON `null` for an absent value.
pub(super) fn or_null<T: Into<Value>>(value: Option<T>) -> Value {
    value.map_or(Value::Null, Into::into)
}
