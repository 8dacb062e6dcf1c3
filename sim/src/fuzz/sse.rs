//! Server-sent events (WHATWG HTML section 9.2.6): any chunking gives what one
//! chunk gives; that is what a decoder of the whole buffer gives, written here
//! along the section's own steps; and what the crate `sseer` gives.
//!
//! Input: a byte that chooses cuts, a byte that chooses the limit, the stream.
//!
//! Where `sseer` 0.3 deliberately differs, streams are not compared with it:
//!
//! | stream | section 9.2.6, and here | `sseer` |
//! |---|---|---|
//! | bytes that are not UTF-8 | U+FFFD | an error |
//! | a line `event` without a colon | empties the event type | passed over |
//! | an event beyond the limit | an error | has no limit |
//!
//! Reconnection times are not compared with it: it gives them with events only.

use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use arbitrary::Unstructured;
use bytes::Bytes;
use dispatch_core::wire::sse::SseDecoder;
use futures_core::Stream;
use sseer::event_stream::EventStream;

use super::{cuts, rest};

const LIMITS: [usize; 4] = [64 * 1024, 4 * 1024, 256, 16];

#[derive(Debug, Default, PartialEq, Eq)]
struct Decoded {
    events: Vec<Event>,
    too_large: bool,
    last_event_id: String,
    retry_ms: Option<u64>,
}

#[derive(Debug, PartialEq, Eq)]
struct Event {
    event: String,
    data: String,
    id: String,
}

/// See the module's page.
///
/// # Errors
/// Never with two bytes or more.
pub fn target(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let choice: u8 = u.arbitrary()?;
    let limit: u8 = u.arbitrary()?;
    let limit_bytes = LIMITS[usize::from(limit) % LIMITS.len()];
    let stream = rest(u)?;

    let whole = decoded(&[stream], limit_bytes);
    for cut in cuts(choice) {
        let chunked = decoded(&cut.chunks(stream), limit_bytes);
        assert_eq!(chunked, whole, "{cut:?} differs from one chunk");
    }
    assert_eq!(whole, by_the_book(stream, limit_bytes), "the section's way");
    if is_comparable(stream) && !whole.too_large {
        assert_eq!(whole.events, by_sseer(stream), "sseer's way");
    }
    Ok(())
}

fn decoded(chunks: &[&[u8]], limit_bytes: usize) -> Decoded {
    let mut decoder = SseDecoder::new(limit_bytes);
    let mut decoded = Decoded::default();
    for chunk in chunks {
        let outcome = decoder.push(chunk, |event| {
            assert!(!decoded.too_large, "an event after a refusal");
            decoded.events.push(Event {
                event: event.event.to_owned(),
                data: event.data.to_owned(),
                id: event.id.to_owned(),
            });
        });
        decoded.too_large |= outcome.is_err();
        assert_eq!(outcome.is_err(), decoded.too_large, "a refusal is final");
    }
    decoded.last_event_id = decoder.last_event_id().to_owned();
    decoded.retry_ms = decoder.retry_ms();
    decoded
}

/// The section's steps over the whole buffer, in its own order: decode, cut
/// into lines, interpret.
fn by_the_book(stream: &[u8], limit_bytes: usize) -> Decoded {
    let bytes = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    let (lines, unfinished) = lines(bytes);
    let mut decoded = Decoded::default();
    let (mut data, mut event_type, mut id) = (String::new(), String::new(), String::new());
    let mut held_bytes = 0;
    for line in lines {
        if held_bytes + line.len() > limit_bytes {
            decoded.too_large = true;
            return decoded;
        }
        let text = String::from_utf8_lossy(line);
        if text.is_empty() {
            decoded.last_event_id.clone_from(&id);
            held_bytes = 0;
            let named = std::mem::take(&mut event_type);
            let Some(data) = std::mem::take(&mut data)
                .strip_suffix('\n')
                .map(str::to_owned)
            else {
                continue;
            };
            decoded.events.push(Event {
                event: if named.is_empty() {
                    "message".to_owned()
                } else {
                    named
                },
                data,
                id: id.clone(),
            });
            continue;
        }
        if text.starts_with(':') {
            continue;
        }
        held_bytes += line.len();
        let (field, value) = text.split_once(':').unwrap_or((&text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut event_type),
            "data" => data.extend([value, "\n"]),
            "id" if !value.contains('\0') => value.clone_into(&mut id),
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                // Digits only: what does not fit is too large.
                decoded.retry_ms = Some(value.parse().unwrap_or(u64::MAX));
            }
            _ => {}
        }
    }
    // A byte order mark that is cut off is no line yet.
    let is_bom_begun = bytes.len() == stream.len() && b"\xEF\xBB\xBF".starts_with(stream);
    decoded.too_large = !is_bom_begun && held_bytes + unfinished.len() > limit_bytes;
    decoded
}

/// Lines that end in CR LF, LF or CR, and what stands after the last of them.
fn lines(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut lines = Vec::new();
    let (mut from, mut at) = (0, 0);
    while at < bytes.len() {
        let end_bytes = match (bytes[at], bytes.get(at + 1)) {
            (b'\r', Some(b'\n')) => 2,
            (b'\r' | b'\n', _) => 1,
            _ => 0,
        };
        if end_bytes == 0 {
            at += 1;
            continue;
        }
        lines.push(&bytes[from..at]);
        at += end_bytes;
        from = at;
    }
    (lines, &bytes[from..])
}

fn is_comparable(stream: &[u8]) -> bool {
    let bytes = stream.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(stream);
    std::str::from_utf8(stream).is_ok() && !lines(bytes).0.contains(&&b"event"[..])
}

/// A body that is there all at once.
struct Once(Option<Bytes>);

impl Stream for Once {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(self.0.take().map(Ok))
    }
}

fn by_sseer(stream: &[u8]) -> Vec<Event> {
    let mut events = Vec::new();
    let mut decoder = pin!(EventStream::new(Once(Some(Bytes::copy_from_slice(stream)))));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match decoder.as_mut().poll_next(&mut context) {
            Poll::Ready(Some(Ok(event))) => events.push(Event {
                event: event.event.to_string(),
                data: event.data.to_string(),
                id: event.id.to_string(),
            }),
            Poll::Ready(Some(Err(refusal))) => panic!("sseer refuses UTF-8: {refusal}"),
            Poll::Ready(None) => return events,
            Poll::Pending => unreachable!("the body is there"),
        }
    }
}
