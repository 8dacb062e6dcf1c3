//! Events as SSE and as NDJSON: the same events in two framings (C5).

use std::io;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use dispatch_core::ids::ConversationId;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_util::sync::CancellationToken;

use crate::hub::{Follow, Shown};

/// An idle SSE stream says so this often, so that proxies keep it and the
/// death of a client is noticed.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How events are framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// WHATWG HTML, server-sent events.
    Sse,
    /// One JSON object a line.
    Ndjson,
}

impl Framing {
    /// What the client asked for; of several, the one named first.
    pub(super) fn of(headers: &HeaderMap, default: Framing) -> Framing {
        let accept = headers.get_all(header::ACCEPT).iter();
        let named = accept
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .find_map(
                |range| match range.split(';').next().unwrap_or_default().trim() {
                    "text/event-stream" => Some(Framing::Sse),
                    "application/x-ndjson"
                    | "application/ndjson"
                    | "application/jsonl"
                    | "application/json" => Some(Framing::Ndjson),
                    _ => None,
                },
            );
        named.unwrap_or(default)
    }

    fn media_type(self) -> &'static str {
        match self {
            Framing::Sse => "text/event-stream",
            Framing::Ndjson => "application/x-ndjson",
        }
    }

    fn frame(self, seq: Option<u64>, kind: &str, json: &str) -> Bytes {
        match (self, seq) {
            (Framing::Ndjson, _) => format!("{json}\n").into(),
            (Framing::Sse, Some(seq)) => {
                format!("id: {seq}\nevent: {kind}\ndata: {json}\n\n").into()
            }
            (Framing::Sse, None) => format!("event: {kind}\ndata: {json}\n\n").into(),
        }
    }
}

/// What a stream says beside the events.
#[derive(Clone, Debug)]
pub(super) struct Manner {
    pub(super) framing: Framing,
    /// `Some`: `synced` is said when the replay has caught up.
    pub(super) synced: Option<ConversationId>,
    /// The server's end.
    pub(super) closing: CancellationToken,
}

/// Answers with the events of `follow` until its scope or the server ends. A
/// log that cannot be read breaks the body off, so that nobody takes it for an end.
pub(super) fn respond(follow: Follow, manner: Manner) -> Response {
    let framing = manner.framing;
    let frames = stream::unfold(Some((follow, manner)), |state| async {
        let (mut follow, manner) = state?;
        let frame = next(&mut follow, &manner).await.transpose()?;
        match frame {
            Ok(frame) => Some((Ok(frame), Some((follow, manner)))),
            Err(error) => Some((Err(error), None)),
        }
    });
    let mut response = Response::new(Body::from_stream(frames));
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, framing.media_type()),
        (header::CACHE_CONTROL, "no-store"),
        (http::HeaderName::from_static("x-accel-buffering"), "no"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn next(follow: &mut Follow, manner: &Manner) -> io::Result<Option<Bytes>> {
    loop {
        let shown = tokio::select! {
            biased;
            shown = tokio::time::timeout(HEARTBEAT, follow.next()) => shown,
            () = manner.closing.cancelled() => return Ok(None),
        };
        let shown = match shown {
            Ok(shown) => shown.map_err(io::Error::other)?,
            Err(_) => match manner.framing {
                Framing::Sse => return Ok(Some(Bytes::from_static(b": still here\n\n"))),
                // NDJSON has no comments.
                Framing::Ndjson => continue,
            },
        };
        return Ok(match shown {
            None => None,
            Some(Shown::Event { seq, kind, json }) => Some(manner.framing.frame(seq, kind, &json)),
            Some(Shown::Synced(seq)) => {
                let Some(conversation) = &manner.synced else {
                    continue;
                };
                let json = serde_json::json!({
                    "type": "synced",
                    "seq": seq,
                    "conversationId": conversation.as_str(),
                });
                // Without an id: it is not an event of the log.
                Some(manner.framing.frame(None, "synced", &json.to_string()))
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accept(value: &'static str) -> Framing {
        let headers = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static(value))]);
        Framing::of(&headers, Framing::Ndjson)
    }

    #[test]
    fn the_framing_named_first_is_taken() {
        assert_eq!(accept("text/event-stream"), Framing::Sse);
        assert_eq!(accept("*/*"), Framing::Ndjson);
        assert_eq!(
            accept("application/x-ndjson, text/event-stream;q=0.1"),
            Framing::Ndjson
        );
        assert_eq!(accept("text/html, text/event-stream"), Framing::Sse);
    }

    #[test]
    fn only_logged_events_bear_an_id() {
        let logged = Framing::Sse.frame(Some(7), "done", "{}");
        assert_eq!(&logged[..], b"id: 7\nevent: done\ndata: {}\n\n");
        let passing = Framing::Sse.frame(None, "status", "{}");
        assert_eq!(&passing[..], b"event: status\ndata: {}\n\n");
        assert_eq!(&Framing::Ndjson.frame(Some(7), "done", "{}")[..], b"{}\n");
    }
}
