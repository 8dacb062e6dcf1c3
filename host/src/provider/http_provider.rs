use std::error::Error;
use std::fmt::Write as _;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{
    Ended, FailKind, ProviderConfig, ProviderConfigError, ProviderInput, Secrets, StreamHandle,
};
use crate::net::{ConnectError, HttpClient, Net, http_client, with_connect_limit};

/// Speaks to one OpenAI-compatible server (P1). Cheap to clone; clones share
/// the pool of connections.
#[derive(Clone, Debug)]
pub struct HttpProvider<N: Net>(Arc<Inner<N>>);

#[derive(Debug)]
struct Inner<N: Net> {
    completions: Uri,
    authorization: Option<HeaderValue>,
    secrets: Secrets,
    client: HttpClient<N>,
}

impl<N: Net> HttpProvider<N> {
    /// Prepares a provider; connects to nothing yet.
    ///
    /// # Errors
    /// [`ProviderConfigError`] when it could never be called as configured.
    pub fn new(config: &ProviderConfig, net: N) -> Result<HttpProvider<N>, ProviderConfigError> {
        Ok(HttpProvider(Arc::new(Inner {
            completions: config.base_url.join("chat/completions")?,
            authorization: config.authorization()?,
            secrets: config.secrets(),
            client: http_client(net, DEFAULT_CONNECT_LIMIT),
        })))
    }

    /// Posts `body` to `chat/completions` and reports what comes back.
    ///
    /// `connect_ms` bounds name lookup, TCP and TLS (T10); the other deadlines
    /// are the core's, which cancels. The channel's capacity is the
    /// back-pressure: while it is full nothing is read from the socket.
    pub fn open(
        &self,
        body: Bytes,
        connect_ms: u64,
        sink: mpsc::Sender<ProviderInput>,
    ) -> StreamHandle {
        let provider = self.0.clone();
        let limit = Duration::from_millis(connect_ms);
        StreamHandle::spawn(sink.clone(), async move {
            match provider.exchange(body, limit, &sink).await {
                Ok(()) => Ended::Clean,
                Err(Broken::Unwatched) => Ended::Unwatched,
                Err(Broken::Failed { kind, error }) => Ended::Failed {
                    kind,
                    message: bounded(provider.secrets.mask(&chain(error.as_ref()))),
                },
            }
        })
    }

    /// `text` with the key and every other configured secret masked (T3, P4).
    pub fn mask(&self, text: &str) -> String {
        self.0.secrets.mask(text)
    }
}

impl<N: Net> Inner<N> {
    async fn exchange(
        &self,
        body: Bytes,
        limit: Duration,
        sink: &mpsc::Sender<ProviderInput>,
    ) -> Result<(), Broken> {
        let request = self.request(body).map_err(|error| Broken::Failed {
            kind: FailKind::Transport,
            error: error.into(),
        })?;
        let response = tokio::select! {
            biased;
            () = sink.closed() => return Err(Broken::Unwatched),
            response = with_connect_limit(limit, self.client.request(request)) => {
                response.map_err(|error| Broken::Failed {
                    kind: kind_before_head(&error),
                    error: error.into(),
                })?
            }
        };
        let (head, body) = response.into_parts();
        let status = head.status.as_u16();
        let headers = self.filter(&head.headers);
        send(sink, ProviderInput::Head { status, headers }).await?;
        self.copy_body(head.status.is_success(), body, sink).await
    }

    fn request(&self, body: Bytes) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request = Request::post(self.completions.clone())
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "text/event-stream")
            .header(USER_AGENT, concat!("dispatch/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        request.body(Full::new(body))
    }

    fn filter(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        PASSED_HEADERS
            .iter()
            .filter_map(|name| {
                let value = headers.get(*name)?;
                let value = self
                    .secrets
                    .mask(&String::from_utf8_lossy(value.as_bytes()));
                Some(((*name).to_owned(), bounded(value)))
            })
            .collect()
    }

    async fn copy_body(
        &self,
        is_answer: bool,
        mut body: Incoming,
        sink: &mpsc::Sender<ProviderInput>,
    ) -> Result<(), Broken> {
        let mut mask = if is_answer {
            self.secrets.answer_stream()
        } else {
            self.secrets.refusal_stream()
        };
        loop {
            let frame = tokio::select! {
                biased;
                () = sink.closed() => return Err(Broken::Unwatched),
                frame = body.frame() => frame,
            };
            let failed = match frame {
                None => None,
                Some(Err(error)) => Some(error),
                Some(Ok(frame)) => {
                    // Trailers say nothing that anybody here reads.
                    if let Ok(piece) = frame.into_data() {
                        send_bytes(sink, mask.push(piece)).await?;
                    }
                    continue;
                }
            };
            send_bytes(sink, mask.finish()).await?;
            return match failed {
                None => Ok(()),
                Some(error) => Err(Broken::Failed {
                    kind: FailKind::Body,
                    error: error.into(),
                }),
            };
        }
    }
}

enum Broken {
    Failed {
        kind: FailKind,
        error: Box<dyn Error + Send + Sync>,
    },
    Unwatched,
}

/// Holds where [`HttpProvider::open`]'s own limit does not: for a connection
/// that goes on in the background because an idle one came first.
const DEFAULT_CONNECT_LIMIT: Duration = Duration::from_secs(10);
const PASSED_HEADERS: [&str; 5] = [
    "content-type",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "x-request-id",
];
const MAX_TEXT_BYTES: usize = 1_024;

async fn send(sink: &mpsc::Sender<ProviderInput>, input: ProviderInput) -> Result<(), Broken> {
    sink.send(input).await.map_err(|_| Broken::Unwatched)
}

async fn send_bytes(sink: &mpsc::Sender<ProviderInput>, piece: Bytes) -> Result<(), Broken> {
    if piece.is_empty() {
        return Ok(());
    }
    send(sink, ProviderInput::Bytes(piece)).await
}

fn kind_before_head(error: &hyper_util::client::legacy::Error) -> FailKind {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            return match connect {
                ConnectError::Timeout { .. } => FailKind::ConnectTimeout,
                ConnectError::Refused { .. } => FailKind::Refused,
                ConnectError::Dns { .. } => FailKind::Dns,
                ConnectError::Tls { .. } => FailKind::Tls,
                ConnectError::Io { .. } => FailKind::Connect,
            };
        }
        let is_closed = error.downcast_ref::<hyper::Error>().is_some_and(|error| {
            error.is_incomplete_message() || error.is_canceled() || error.is_closed()
        });
        let is_reset = error.downcast_ref::<io::Error>().is_some_and(|error| {
            matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::UnexpectedEof
            )
        });
        if is_closed || is_reset {
            return FailKind::Reset;
        }
        cause = error.source();
    }
    FailKind::Transport
}

/// The whole chain of causes: the outer errors alone say only "client error".
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

fn bounded(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_TEXT_BYTES));
    text
}

#[cfg(test)]
mod tests;
