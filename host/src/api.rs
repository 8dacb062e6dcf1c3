//! HTTP: requests become commands and reads, conversations become streams.
//!
//! Nothing is decided here. What a client may send is checked at the edge
//! ([`ApiError`] names cause and remedy); what it is shown comes from the store
//! and the [`Hub`].

mod chat;
mod computers;
mod conversations;
mod guard;
mod problem;
mod providers;
mod replicas;
mod request;
mod stall;
mod stream;
mod turns;
mod workspaces;

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use dispatch_core::event::AgentEvent;
use dispatch_core::io::{Answer, Command};
use http::{HeaderValue, StatusCode, header};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::computers::Computers;
use crate::config::ProviderSettings;
use crate::driver::Handle;
use crate::hub::Hub;
use crate::provider::Secret;
use crate::store::Store;

pub use problem::ApiError;
pub use stall::{PATIENCE, StallListener};

/// What the handlers work with; cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

struct Inner {
    parts: Parts,
    flips: workspaces::Bucket,
}

/// The pieces of an [`Api`].
#[allow(missing_debug_implementations)]
pub struct Parts {
    /// Commands.
    pub handle: Handle,
    /// Reads.
    pub store: Arc<dyn Store>,
    /// Streams.
    pub hub: Hub,
    /// Time for `status` and `why`.
    pub clock: Arc<dyn Clock>,
    /// Computers that tools can run on.
    pub computers: Arc<dyn Computers>,
    /// The configured providers.
    pub providers: Vec<ProviderSettings>,
    /// `DISPATCH_TOKEN` (O6).
    pub token: Option<Secret>,
    /// Largest request body (O5).
    pub max_body_bytes: usize,
    /// A replica that was silent for so long is away (L9).
    pub lease_ms: u64,
    /// Every stream ends cleanly when this is cancelled (L8).
    pub closing: CancellationToken,
}

impl Deref for Api {
    type Target = Parts;
    fn deref(&self) -> &Parts {
        &self.0.parts
    }
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Api").finish_non_exhaustive()
    }
}

impl Api {
    /// Puts the pieces together.
    pub fn new(parts: Parts) -> Api {
        Api(Arc::new(Inner {
            parts,
            flips: workspaces::Bucket::default(),
        }))
    }

    /// Every path that this server answers.
    pub fn router(self) -> Router {
        Router::new()
            .route("/chat", post(chat::chat))
            .route("/conversations/{id}", get(conversations::get))
            .route("/conversations/{id}/events", get(conversations::events))
            .route("/conversations/{id}/queue", post(chat::queue))
            .route("/conversations/{id}/abort", post(chat::abort))
            .route("/turns/{id}", get(turns::get))
            .route("/turns/{id}/why", get(turns::why))
            .route(
                "/workspaces/{id}",
                get(workspaces::get).put(workspaces::put),
            )
            .route(
                "/workspaces/{id}/star",
                put(workspaces::star).delete(workspaces::unstar),
            )
            .route("/providers", get(providers::list))
            .route("/replicas", get(replicas::list))
            .route("/computers", get(computers::list))
            .route("/computers/{alias}", get(computers::get))
            .route("/computers/{alias}/test", post(computers::test))
            .route("/providers/{id}/limit", put(providers::set_limit))
            .route("/health", get(providers::health))
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(providers::ready))
            .fallback(no_such_path)
            .method_not_allowed_fallback(method_not_allowed)
            .layer(from_fn_with_state(self.clone(), guard::guard))
            .with_state(self)
    }

    async fn ask(&self, command: Command) -> Result<Answer, ApiError> {
        match self.handle.ask(command).await {
            Answer::Rejected(rejection) => Err(rejection.into()),
            Answer::Invalid(invalid) => Err(invalid.into()),
            Answer::Unconfirmed => {
                let why = self.handle.unwell();
                Err(ApiError::Unconfirmed(why.map(|why| why.to_string())))
            }
            Answer::ShuttingDown => Err(ApiError::ShuttingDown),
            answer @ (Answer::Accepted(_)
            | Answer::Ended(_)
            | Answer::AbortRequested { .. }
            | Answer::NotFound
            | Answer::Workspace(_)
            | Answer::Set
            | Answer::Tested(_)) => Ok(answer),
        }
    }
}

/// An answer of another kind than the command's.
fn unexpected(answer: &Answer) -> ApiError {
    let kind = match answer {
        Answer::Accepted(_) => "accepted",
        Answer::Rejected(_) => "rejected",
        Answer::Invalid(_) => "invalid",
        Answer::Ended(_) => "ended",
        Answer::AbortRequested { .. } => "abort-requested",
        Answer::NotFound => "not-found",
        Answer::Workspace(_) => "workspace",
        Answer::Set => "set",
        Answer::Tested(_) => "tested",
        Answer::Unconfirmed => "unconfirmed",
        Answer::ShuttingDown => "shutting-down",
    };
    ApiError::Internal(format!("the core answered `{kind}` to another question"))
}

fn json(status: StatusCode, value: &Value) -> Response {
    let mut response = (status, value.to_string()).into_response();
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// An event as its clients know it.
fn shown(event: &AgentEvent) -> Value {
    serde_json::from_str(&event.to_json()).expect("an event's JSON is JSON")
}

async fn no_such_path(request: Request) -> ApiError {
    ApiError::NoSuchPath(request.uri().path().to_owned())
}

async fn method_not_allowed(request: Request) -> ApiError {
    ApiError::MethodNotAllowed(request.method().to_string())
}

#[cfg(test)]
mod tests;
