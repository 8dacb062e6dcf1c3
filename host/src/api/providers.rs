use axum::extract::State;
use axum::response::Response;
use dispatch_core::ids::ProviderId;
use dispatch_core::io::{Answer, Command};
use http::StatusCode;
use serde_json::{Value, json};

use super::request::{Id, Json, known, wrong};
use super::{Api, ApiError, json as answer, unexpected};
use crate::config::Dialect;
use crate::panics::resident_kib;
use crate::store::ProviderView;

/// `GET /providers`: every line, with what is in it (A1).
pub(super) async fn list(State(api): State<Api>) -> Result<Response, ApiError> {
    let lines = api.store.providers().await?;
    let lines: Vec<_> = lines.iter().map(|line| shown(&api, line)).collect();
    Ok(answer(StatusCode::OK, &json!({ "providers": lines })))
}

/// `PUT /providers/{id}/limit {limit}`: also below what is in flight (A1).
pub(super) async fn set_limit(
    State(api): State<Api>,
    Id(provider): Id<ProviderId>,
    Json(body): Json,
) -> Result<Response, ApiError> {
    let body = body.ok_or(ApiError::EmptyBody)?;
    known(&body, &["limit"])?;
    let limit = body
        .get("limit")
        .and_then(Value::as_u64)
        .and_then(|limit| u32::try_from(limit).ok())
        .ok_or_else(|| wrong("limit", "must be a whole number of streams, at least 1"))?;
    let command = Command::SetLimit {
        provider: provider.clone(),
        limit,
    };
    match api.ask(command).await? {
        Answer::Set => {}
        Answer::NotFound => return Err(ApiError::ProviderNotFound(provider.to_string())),
        other => return Err(unexpected(&other)),
    }
    let lines = api.store.providers().await?;
    let line = lines.iter().find(|line| line.row.id == provider);
    let line = line.ok_or_else(|| ApiError::ProviderNotFound(provider.to_string()))?;
    Ok(answer(StatusCode::OK, &shown(&api, line)))
}

fn shown(api: &Api, line: &ProviderView) -> Value {
    let settings = api.providers.iter().find(|p| p.id == line.row.id);
    let dialect = settings.map(|settings| match settings.dialect {
        Dialect::Chat { .. } => "chat",
        Dialect::Scripted { .. } => "scripted",
    });
    json!({
        "id": line.row.id.as_str(),
        "isConfigured": settings.is_some(),
        "dialect": dialect,
        "models": settings.map(|settings| settings.models.clone()),
        "limit": line.row.limit,
        "configuredLimit": line.row.configured_limit,
        "cooldownMs": line.row.cooldown_ms,
        "streaming": line.streaming,
        "parked": line.parked,
    })
}

/// `GET /health`: what this process is doing (O4).
pub(super) async fn health(State(api): State<Api>) -> Response {
    let providers: Vec<_> = api.providers.iter().map(|p| p.id.as_str()).collect();
    let unwell = api.handle.unwell();
    let status = match (api.handle.is_booted(), api.handle.is_draining()) {
        (_, true) => "shutting-down",
        (true, false) if unwell.is_some() => "store-failing",
        (true, false) => "ok",
        (false, false) => "starting",
    };
    let health = json!({
        "status": status,
        "store": unwell.as_deref(),
        "version": env!("CARGO_PKG_VERSION"),
        "providers": providers,
        "followedConversations": api.hub.topics(),
        "residentKib": resident_kib(),
    });
    answer(StatusCode::OK, &health)
}

/// `GET /readyz`: 200 while turns are accepted.
pub(super) async fn ready(State(api): State<Api>) -> Result<&'static str, ApiError> {
    if api.closing.is_cancelled() || api.handle.is_draining() {
        Err(ApiError::ShuttingDown)
    } else if let Some(why) = api.handle.unwell() {
        Err(ApiError::StoreUnavailable(format!(
            "the store takes nothing at the moment: {why}"
        )))
    } else if api.handle.is_booted() {
        Ok("ready\n")
    } else {
        Err(ApiError::Starting)
    }
}
