//! An ordinary HTTP client of a Dispatch server: what the command line and the
//! demonstration talk through.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dispatch_core::wire::sse::SseDecoder;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use crate::net::{HttpClient, TokioNet, http_client};

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("{what}: no answer ({reason})")]
    Lost { what: String, reason: String },
    #[error("{what}: answered {status}: {detail}")]
    Refused {
        what: String,
        status: u16,
        detail: String,
    },
}

/// Talks to one address.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    token: Option<String>,
    http: HttpClient<TokioNet>,
}

const CONNECT: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(10);
const MAX_ANSWER_BYTES: usize = 16 * 1024 * 1024;
const MAX_EVENT_BYTES: usize = 8 * 1024 * 1024;

/// Where the server of a data directory answers, if one runs.
pub(crate) fn address(data_dir: &Path) -> Option<String> {
    let written = std::fs::read_to_string(data_dir.join("address")).ok()?;
    match written.trim() {
        "" => None,
        address if address.starts_with("http://") => Some(address.to_owned()),
        address => Some(format!("http://{address}")),
    }
}

/// The base of a server that somebody has named.
///
/// # Errors
/// It is named by a scheme that is not spoken here.
pub(crate) fn named(server: &str) -> Result<String, String> {
    match server.split_once("://") {
        None => Ok(format!("http://{server}")),
        Some(("http", _)) => Ok(server.to_owned()),
        Some((scheme, _)) => Err(format!(
            "--server {server}: {scheme} is not spoken here; name http://ADDR, or a tunnel's end on this machine"
        )),
    }
}

impl Client {
    /// `base` is `http://ADDR`.
    pub(crate) fn new(base: &str) -> Client {
        Client {
            base: base.trim_end_matches('/').to_owned(),
            token: None,
            http: http_client(TokioNet, CONNECT),
        }
    }

    /// Sends this token with every request (O6).
    pub(crate) fn with_token(mut self, token: Option<String>) -> Client {
        self.token = token;
        self
    }

    /// The same with the token of this process's environment.
    pub(crate) fn with_own_token(self) -> Client {
        let token = std::env::var("DISPATCH_TOKEN").ok();
        self.with_token(token.filter(|token| !token.is_empty()))
    }

    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    pub(crate) async fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.ask(Method::GET, path, None, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, Some(body), None).await
    }

    /// A write that may be sent again without happening twice (C6).
    pub(crate) async fn post_once(
        &self,
        path: &str,
        body: &Value,
        key: &str,
    ) -> Result<Value, ClientError> {
        self.ask(Method::POST, path, Some(body), Some(key)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Result<Value, ClientError> {
        self.ask(Method::PUT, path, Some(body), None).await
    }

    /// The events of a conversation after `after`, as server-sent events; with
    /// `turn` up to that turn's terminal event. `None`: there are no more.
    pub(crate) async fn events(
        &self,
        conversation: &str,
        turn: Option<&str>,
        after: u64,
    ) -> Result<Option<Events>, ClientError> {
        let path = match turn {
            Some(turn) => format!("/conversations/{conversation}/events?turnId={turn}"),
            None => format!("/conversations/{conversation}/events"),
        };
        let request = self
            .request(Method::GET, &path)
            .header(header::ACCEPT, "text/event-stream")
            .header("last-event-id", after);
        let response = self.send(&path, request, Bytes::new()).await?;
        if response.status() == StatusCode::NO_CONTENT {
            return Ok(None);
        }
        if !response.status().is_success() {
            return Err(refused(&path, response).await);
        }
        Ok(Some(Events {
            body: response.into_body(),
            decoder: SseDecoder::new(MAX_EVENT_BYTES),
            ready: VecDeque::new(),
        }))
    }

    fn request(&self, method: Method, path: &str) -> http::request::Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base));
        match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        }
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value, ClientError> {
        let what = format!("{method} {path}");
        let mut request = self.request(method, path);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let mut bytes = Bytes::new();
        if let Some(body) = body {
            request = request.header(header::CONTENT_TYPE, "application/json");
            bytes = body.to_string().into();
        }
        let response = self.send(&what, request, bytes).await?;
        if !response.status().is_success() {
            return Err(refused(&what, response).await);
        }
        let text = whole(response.into_body())
            .await
            .map_err(|reason| ClientError::Lost {
                what: what.clone(),
                reason,
            })?;
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&text).map_err(|error| ClientError::Lost {
            what,
            reason: format!("not JSON: {error}"),
        })
    }

    async fn send(
        &self,
        what: &str,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<http::Response<Incoming>, ClientError> {
        let lost = |reason: String| ClientError::Lost {
            what: what.to_owned(),
            reason,
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| lost(error.to_string()))?;
        match tokio::time::timeout(ANSWER, self.http.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(lost(error.to_string())),
            Err(_) => Err(lost(format!("silent for {} s", ANSWER.as_secs()))),
        }
    }
}

async fn whole(body: Incoming) -> Result<Bytes, String> {
    let collected = Limited::new(body, MAX_ANSWER_BYTES).collect();
    match tokio::time::timeout(ANSWER, collected).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the body stays incomplete".to_owned()),
    }
}

async fn refused(what: &str, response: http::Response<Incoming>) -> ClientError {
    let status = response.status().as_u16();
    let body = whole(response.into_body()).await.unwrap_or_default();
    let detail = match serde_json::from_slice::<Value>(&body) {
        Ok(problem) if problem["detail"].is_string() => {
            problem["detail"].as_str().unwrap_or_default().to_owned()
        }
        Ok(_) | Err(_) => String::from_utf8_lossy(&body).chars().take(300).collect(),
    };
    ClientError::Refused {
        what: what.to_owned(),
        status,
        detail,
    }
}

/// A stream of events.
pub(crate) struct Events {
    body: Incoming,
    decoder: SseDecoder,
    ready: VecDeque<Value>,
}

impl Events {
    /// The next event; `None` at a clean end.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, ClientError> {
        let lost = |reason: String| ClientError::Lost {
            what: "the event stream".to_owned(),
            reason,
        };
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|error| lost(error.to_string()))?;
            let Some(bytes) = frame.data_ref() else {
                continue;
            };
            let mut bad = None;
            let ready = &mut self.ready;
            self.decoder
                .push(bytes, |event| match serde_json::from_str(event.data) {
                    Ok(event) => ready.push_back(event),
                    Err(error) => bad = Some(format!("an event is not JSON: {error}")),
                })
                .map_err(|error| lost(error.to_string()))?;
            if let Some(reason) = bad {
                return Err(lost(reason));
            }
        }
    }
}
