use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, TurnId};
use dispatch_core::io::{Answer, Command};
use http::{HeaderMap, StatusCode};
use serde_json::json;

use super::computers::must_be_possible;
use super::problem::bad_field;
use super::request::{ChatRequest, Id, Json, known, text};
use super::stream::{Framing, Manner, respond};
use super::{Api, ApiError, json as answer, shown, unexpected};
use crate::hub::{Follow, Scope};

/// How long an abort waits for the terminal event before it answers 202 (T5).
const ABORT_WAIT: Duration = Duration::from_secs(2);

/// `POST /chat`: a message; its turn's events, or 202 with `detach`.
pub(super) async fn chat(
    State(api): State<Api>,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, ApiError> {
    let request = ChatRequest::parse(body, &headers, None)?;
    submit(api, request, &headers).await
}

/// `POST /conversations/{id}/queue`: a message for a conversation that exists.
pub(super) async fn queue(
    State(api): State<Api>,
    Id(id): Id<ConversationId>,
    headers: HeaderMap,
    Json(body): Json,
) -> Result<Response, ApiError> {
    let mut request = ChatRequest::parse(body, &headers, Some(id.clone()))?;
    must_exist(&api, &id).await?;
    request.detach = true;
    submit(api, request, &headers).await
}

async fn submit(api: Api, request: ChatRequest, headers: &HeaderMap) -> Result<Response, ApiError> {
    // What is sent again gets the answer of the first time, also when its
    // computer has been taken out of the configuration since.
    if request.submit.idempotency.is_none() {
        must_be_possible(&api, "computerId", request.submit.computer.as_ref()).await?;
    }
    // A place to follow from comes first: once accepted, a turn must be shown.
    let place = match request.detach {
        true => None,
        false => Some(api.hub.reserve()?),
    };
    let receipt = match api.ask(Command::Submit(Box::new(request.submit))).await? {
        Answer::Accepted(receipt) => receipt,
        other => return Err(unexpected(&other)),
    };
    let Some(place) = place else {
        return Ok(answer(
            StatusCode::ACCEPTED,
            &json!({
                "conversationId": receipt.conversation.as_str(),
                "turnId": receipt.turn.to_string(),
                "seq": receipt.seq,
                "replayed": receipt.replayed,
            }),
        ));
    };
    let follow = Follow::new(
        &api.hub,
        place,
        api.store.clone(),
        api.clock.clone(),
        receipt.conversation,
        receipt.seq.saturating_sub(1),
        Scope::Turn(receipt.turn),
    );
    let manner = Manner {
        framing: Framing::of(headers, Framing::Ndjson),
        synced: None,
        closing: api.closing.clone(),
    };
    Ok(respond(follow, manner))
}

/// `POST /conversations/{id}/abort {turnId?, reason?}`: the terminal event, or
/// 202 when it takes longer.
pub(super) async fn abort(
    State(api): State<Api>,
    Id(id): Id<ConversationId>,
    Json(body): Json,
) -> Result<Response, ApiError> {
    let body = body.unwrap_or_default();
    known(&body, &["turnId", "reason"])?;
    let named = text(&body, "turnId")?;
    let turn = named
        .map(TurnId::try_from)
        .transpose()
        .map_err(bad_field("turnId"))?;
    let reason = text(&body, "reason")?.map(str::to_owned);
    let before = must_exist(&api, &id).await?;
    let command = Command::Abort {
        turn,
        conversation: Some(id.clone()),
        by: "client".to_owned(),
        reason,
    };
    match api.ask(command).await? {
        Answer::Ended(event) => Ok(answer(StatusCode::OK, &shown(&event))),
        Answer::AbortRequested { turn, .. } => {
            let end = tokio::time::timeout(ABORT_WAIT, end_of(&api, &id, turn, before)).await;
            Ok(match end.ok().flatten() {
                Some(event) => answer(StatusCode::OK, &shown(&event)),
                None => answer(
                    StatusCode::ACCEPTED,
                    &json!({ "conversationId": id.as_str(), "turnId": turn.to_string() }),
                ),
            })
        }
        Answer::NotFound => Err(match named {
            Some(named) => ApiError::TurnNotFound(named.to_owned()),
            None => ApiError::NoOpenTurn(id.to_string()),
        }),
        other => Err(unexpected(&other)),
    }
}

/// Waits for a turn's terminal event; `None` when it cannot be followed.
async fn end_of(
    api: &Api,
    conversation: &ConversationId,
    turn: TurnId,
    after: Seq,
) -> Option<AgentEvent> {
    let mut follow = Follow::new(
        &api.hub,
        api.hub.reserve().ok()?,
        api.store.clone(),
        api.clock.clone(),
        conversation.clone(),
        after,
        Scope::Turn(turn),
    );
    while let Ok(Some(_)) = follow.next().await {}
    api.store.turn(turn).await.ok()??.terminal
}

/// The last sequence number of a conversation that exists.
pub(super) async fn must_exist(api: &Api, id: &ConversationId) -> Result<Seq, ApiError> {
    match api.store.conversation(id).await? {
        Some(row) => Ok(row.last_seq),
        None => Err(ApiError::ConversationNotFound(id.to_string())),
    }
}
