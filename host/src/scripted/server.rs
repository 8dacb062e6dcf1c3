use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Path, Query, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response as HttpResponse};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Duration;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::ledger::MAX_LOG;
use super::render::error_body;
use super::{
    LogEntry, Output, RequestState, Response, Script, ScriptError, ScriptedProvider, Stats,
};
use crate::net::{CutConnection, Net, ServeLimits, TokioNet, serve_with};

/// `dispatch provider`: the scripted provider as a process of its own.
#[derive(Clone, Debug, clap::Args)]
pub struct ProviderArgs {
    /// Where to listen; port 0 picks one.
    #[arg(long, default_value = "127.0.0.1:4748")]
    pub listen: SocketAddr,
    /// The script, JSON; without one the user messages carry it.
    #[arg(long)]
    pub script: Option<PathBuf>,
}

/// Why the scripted provider could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The script cannot be read.
    #[error("cannot read the script {path:?}: {source}; check --script")]
    Read {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The script cannot be followed.
    #[error("cannot follow the script {path:?}: {source}")]
    Script {
        /// As given.
        path: PathBuf,
        /// The place and the reason.
        source: ScriptError,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {addr}: {source}; choose another --listen, port 0 picks a free one")]
    Listen {
        /// As given.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Standard output or the signals are not to be had.
    #[error("cannot announce the address or wait for signals: {0}")]
    Process(#[source] io::Error),
}

/// Runs `dispatch provider` until SIGINT or SIGTERM. Prints
/// `listening on http://ADDR` on stdout once requests are answered.
///
/// # Errors
/// [`ServeError`], before anything is served.
pub async fn serve(args: ProviderArgs) -> Result<(), ServeError> {
    let script = match &args.script {
        Some(path) => Some(read_script(path)?),
        None => None,
    };
    let listener = TokioNet
        .bind(args.listen)
        .await
        .map_err(|source| ServeError::Listen {
            addr: args.listen,
            source,
        })?;
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Process)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Process)?;
    let addr = listener.local_addr().map_err(ServeError::Process)?;
    announce(addr).map_err(ServeError::Process)?;
    let shutdown = CancellationToken::new();
    let serving = serve_on(ScriptedProvider::new(script), listener, shutdown);
    tokio::select! {
        () = serving => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Serves `provider` on any listener until `shutdown`; then responses that
/// hang are dropped after a second.
pub async fn serve_on<L>(provider: ScriptedProvider, listener: L, shutdown: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let control = control(provider.clone());
    let handler = move |request: Request| {
        let (provider, control) = (provider.clone(), control.clone());
        async move {
            let is_completion = request.method() == Method::POST
                && request.uri().path().ends_with("/chat/completions");
            if is_completion {
                return complete(&provider, request).await;
            }
            control
                .oneshot(request)
                .await
                .map_err(|never: std::convert::Infallible| match never {})
        }
    };
    let limits = ServeLimits {
        drain_ms: 1_000,
        connections: 16_384,
        ..ServeLimits::default()
    };
    serve_with(listener, handler, limits, shutdown).await;
}

const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
const MAX_STORM_MS: u64 = 24 * 3_600_000;

fn read_script(path: &PathBuf) -> Result<Script, ServeError> {
    let text = std::fs::read_to_string(path).map_err(|source| ServeError::Read {
        path: path.clone(),
        source,
    })?;
    Script::parse(&text).map_err(|source| ServeError::Script {
        path: path.clone(),
        source,
    })
}

fn announce(addr: SocketAddr) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "listening on http://{addr}")?;
    out.flush()
}

async fn complete(
    provider: &ScriptedProvider,
    request: Request,
) -> Result<HttpResponse, CutConnection> {
    let mut ticket = provider.ledger.arrive();
    let Ok(body) = to_bytes(request.into_body(), MAX_BODY_BYTES).await else {
        let reason = "the body is cut short or above 64 MiB";
        ticket.explain(reason);
        ticket.close(RequestState::Invalid);
        return Ok(refuse(StatusCode::PAYLOAD_TOO_LARGE, reason));
    };
    let mut response = provider.answer(ticket, &body);
    drop(body);
    let (status, headers) = match response.next_output().await {
        Some(Output::Head { status, headers }) => (status, headers),
        Some(Output::Bytes(_) | Output::Cut) | None => return Err(CutConnection),
    };
    let mut answer = HttpResponse::builder().status(status);
    let is_json = headers.iter().any(|(_, value)| value == "application/json");
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    let body = if is_json {
        // Nothing waits between a JSON head and its end; sent in one piece it
        // has a length, as vendors' JSON has.
        let mut whole = BytesMut::new();
        while let Some(Output::Bytes(piece)) = response.next_output().await {
            whole.extend_from_slice(&piece);
        }
        Body::from(whole.freeze())
    } else {
        Body::from_stream(stream::unfold(Some(response), next_piece))
    };
    // Names and values were checked when the script was parsed.
    Ok(answer
        .body(body)
        .unwrap_or_else(|error| refuse(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string())))
}

async fn next_piece(
    response: Option<Response>,
) -> Option<(Result<Bytes, CutConnection>, Option<Response>)> {
    let mut response = response?;
    match response.next_output().await? {
        Output::Bytes(piece) => Some((Ok(piece), Some(response))),
        Output::Head { .. } | Output::Cut => {
            // hyper drops what it has not flushed when a body fails: it must
            // see the body pending once, so that what was said goes out.
            tokio::task::yield_now().await;
            Some((Err(CutConnection), None))
        }
    }
}

fn control(provider: ScriptedProvider) -> Router {
    Router::new()
        .route("/log", get(log))
        .route("/stats", get(stats))
        .route("/release/{name}", post(release))
        .route("/release-all", post(release_all))
        .route("/storm", post(storm))
        .route("/reset", post(reset))
        .layer(middleware::from_fn(loopback_only))
        .route("/models", get(models))
        .route("/v1/models", get(models))
        .fallback(unknown)
        .with_state(provider)
}

async fn loopback_only(request: Request, next: Next) -> HttpResponse {
    let is_local = request
        .extensions()
        .get::<ConnectInfo<SocketAddr>>()
        .is_some_and(|ConnectInfo(peer)| peer.ip().to_canonical().is_loopback());
    if is_local {
        next.run(request).await
    } else {
        refuse(
            StatusCode::FORBIDDEN,
            "the control endpoints answer loopback clients only",
        )
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogQuery {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn log(
    State(provider): State<ScriptedProvider>,
    Query(query): Query<LogQuery>,
) -> Json<Vec<LogEntry>> {
    Json(provider.log(query.after, query.limit.unwrap_or(MAX_LOG)))
}

async fn stats(State(provider): State<ScriptedProvider>) -> Json<Stats> {
    Json(provider.stats())
}

async fn release(
    State(provider): State<ScriptedProvider>,
    Path(name): Path<String>,
) -> HttpResponse {
    match provider.release(&name) {
        Ok(()) => Json(json!({ "released": name })).into_response(),
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

async fn release_all(State(provider): State<ScriptedProvider>) -> Json<Value> {
    provider.release_all();
    Json(json!({ "released": "all" }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StormRequest {
    status: u16,
    for_ms: u64,
    retry_after: Option<Value>,
}

async fn storm(State(provider): State<ScriptedProvider>, body: Bytes) -> HttpResponse {
    let storm: StormRequest = match serde_json::from_slice(&body) {
        Ok(storm) => storm,
        Err(error) => {
            let reason = format!(
                "a storm is {{\"status\": 429, \"for_ms\": 5000, \"retry_after\": 2}}: {error}"
            );
            return refuse(StatusCode::BAD_REQUEST, &reason);
        }
    };
    let retry_after = match storm.retry_after {
        None | Some(Value::Null) => None,
        Some(Value::String(text)) => Some(text),
        Some(other @ (Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_))) => {
            Some(other.to_string())
        }
    };
    let is_valid = (400..=599).contains(&storm.status)
        && storm.for_ms <= MAX_STORM_MS
        && retry_after
            .as_ref()
            .is_none_or(|text| http::HeaderValue::from_str(text).is_ok());
    if !is_valid {
        let reason = "a storm has a status from 400 to 599, lasts at most a day, and its retry_after is a header's value";
        return refuse(StatusCode::BAD_REQUEST, reason);
    }
    provider.storm(
        storm.status,
        retry_after,
        Duration::from_millis(storm.for_ms),
    );
    Json(json!({ "status": storm.status, "for_ms": storm.for_ms })).into_response()
}

async fn reset(State(provider): State<ScriptedProvider>) -> Json<Value> {
    provider.reset();
    Json(json!({ "reset": true }))
}

async fn models() -> Json<Value> {
    Json(json!({
        "object": "list",
        "data": [{ "id": "scripted", "object": "model", "created": 0, "owned_by": "dispatch" }],
    }))
}

async fn unknown(request: Request) -> HttpResponse {
    let reason = format!(
        "no {} {} here; there are POST /v1/chat/completions, GET /v1/models, GET /log, GET /stats, POST /release/NAME, /release-all, /storm and /reset",
        request.method(),
        request.uri().path(),
    );
    refuse(StatusCode::NOT_FOUND, &reason)
}

fn refuse(status: StatusCode, reason: &str) -> HttpResponse {
    let body = error_body(status.as_u16(), "invalid_request_error", reason);
    (
        status,
        [(http::header::CONTENT_TYPE, "application/json")],
        body,
    )
        .into_response()
}

#[cfg(test)]
mod tests;
