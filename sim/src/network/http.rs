//! HTTP as a client speaks it: the host's own client over the simulated
//! network, with deadlines, and streams of events in both framings.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use dispatch::net::{HttpClient, http_client};
use dispatch_core::event::AgentEvent;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use serde_json::Value;

use super::net::SimNet;
use super::server::{PORT, TOKEN};

/// To a connection.
const CONNECT: Duration = Duration::from_secs(10);
/// To the head of an answer.
const HEAD: Duration = Duration::from_secs(40);
/// Between two pieces of a stream. Longer than a heartbeat.
const IDLE: Duration = Duration::from_secs(40);

/// Nothing more will come of it; whoever wants more asks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost;

/// Speaks to the server.
#[derive(Clone)]
pub(super) struct Http {
    client: HttpClient<SimNet>,
}

/// An answer, its body still to come.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    body: Body,
}

impl Http {
    pub(super) fn new() -> Http {
        Http {
            client: http_client(SimNet::new(), CONNECT),
        }
    }

    pub(super) async fn get(&self, path: &str, accept: &str) -> Result<Answer, Lost> {
        let request = request(Method::GET, path).header(header::ACCEPT, accept);
        self.send(request.body(Full::default())).await
    }

    pub(super) async fn post(
        &self,
        path: &str,
        accept: &str,
        key: Option<&str>,
        body: &Value,
    ) -> Result<Answer, Lost> {
        let mut request = request(Method::POST, path)
            .header(header::ACCEPT, accept)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(Full::from(body.to_string()))).await
    }

    async fn send(&self, request: http::Result<Request<Full<Bytes>>>) -> Result<Answer, Lost> {
        let request = request.map_err(|_| Lost)?;
        let response = tokio::time::timeout(HEAD, self.client.request(request)).await;
        let response: Response<_> = response.map_err(|_| Lost)?.map_err(|_| Lost)?;
        Ok(Answer {
            status: response.status(),
            body: Body::new(response.into_body()),
        })
    }
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(format!("http://server:{PORT}{path}"))
        .header(header::AUTHORIZATION, format!("Bearer {TOKEN}"))
}

impl Answer {
    /// The whole body as text.
    pub(super) async fn text(self) -> Result<String, Lost> {
        let whole = tokio::time::timeout(IDLE, self.body.collect()).await;
        let whole = whole.map_err(|_| Lost)?.map_err(|_| Lost)?;
        Ok(String::from_utf8_lossy(&whole.to_bytes()).into_owned())
    }

    pub(super) async fn json(self) -> Result<Value, Lost> {
        serde_json::from_str(&self.text().await?).map_err(|_| Lost)
    }

    pub(super) fn events(self, sse: bool) -> Events {
        Events {
            body: self.body,
            sse,
            buffer: BytesMut::new(),
        }
    }
}

/// A stream of events.
pub(super) struct Events {
    body: Body,
    sse: bool,
    buffer: BytesMut,
}

/// One frame of it.
#[derive(Debug)]
pub(super) enum Frame {
    Event(Box<AgentEvent>),
    /// The replay has caught up.
    Synced,
    /// Something that should not be there.
    Odd(String),
}

impl Events {
    /// `None` at the clean end.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Lost> {
        loop {
            if let Some(text) = self.cut() {
                match self.read(&text) {
                    Some(frame) => return Ok(Some(frame)),
                    None => continue,
                }
            }
            let piece = tokio::time::timeout(IDLE, self.body.frame()).await;
            match piece.map_err(|_| Lost)? {
                None if self.buffer.is_empty() => return Ok(None),
                None => return Ok(Some(Frame::Odd("half a frame at the end".to_owned()))),
                Some(Err(_)) => return Err(Lost),
                Some(Ok(piece)) => {
                    if let Ok(data) = piece.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
            }
        }
    }

    /// The next whole frame's text.
    fn cut(&mut self) -> Option<String> {
        let end: &[u8] = if self.sse { b"\n\n" } else { b"\n" };
        let at = self.buffer.windows(end.len()).position(|w| w == end)?;
        let text = self.buffer.split_to(at + end.len());
        Some(String::from_utf8_lossy(&text[..at]).into_owned())
    }

    /// What it says; `None` for a heartbeat.
    fn read(&self, text: &str) -> Option<Frame> {
        let mut id = None;
        let mut data = None;
        if self.sse {
            for line in text.lines() {
                match line.split_once(':') {
                    Some(("", _)) | None => {}
                    Some(("id", value)) => id = value.trim().parse::<u64>().ok(),
                    Some(("data", value)) => data = Some(value.trim()),
                    Some(_) => {}
                }
            }
        } else {
            data = Some(text);
        }
        let data = data?;
        if data.contains(r#""type":"synced""#) {
            return Some(Frame::Synced);
        }
        Some(match AgentEvent::from_json(data) {
            Ok(event) if self.sse && event.seq != id => {
                Frame::Odd(format!("the id is {id:?} of {data}"))
            }
            Ok(event) => Frame::Event(Box::new(event)),
            Err(bad) => Frame::Odd(format!("{bad}: {data}")),
        })
    }
}
