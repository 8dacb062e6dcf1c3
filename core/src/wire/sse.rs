//! Server-sent events as WHATWG HTML section 9.2.6, "Interpreting an event
//! stream", has them, for bytes in chunks of any size.

use alloc::{string::String, vec::Vec};
use memchr::{memchr, memchr2};
use serde::{Deserialize, Serialize};

/// Why a stream cannot be decoded any further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum SseError {
    /// One event, or one line, is longer than the decoder may hold.
    #[error(
        "an event of the stream is larger than {limit_bytes} bytes: raise the limit or have the sender split it"
    )]
    TooLarge {
        /// The limit that was set, in bytes.
        limit_bytes: usize,
    },
}

/// One dispatched event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SseEvent<'a> {
    /// The event type; `message` where the stream names none.
    pub event: &'a str,
    /// The data lines, joined by line feeds.
    pub data: &'a str,
    /// The last event id as of this event; empty where none was sent.
    pub id: &'a str,
}

/// Decodes an event stream (WHATWG HTML section 9.2.6).
///
/// An event that lacks its blank line at the end of the stream is never
/// dispatched, as the section demands; whether a stream that ends so is whole
/// is for its consumer to say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SseDecoder {
    limit_bytes: usize,
    /// How much of a byte order mark was seen; its length once that is settled.
    bom_seen: u8,
    /// The last line ended in CR: an LF that follows belongs to it.
    skip_lf: bool,
    too_large: bool,
    /// The start of a line whose end has not come yet.
    line: Vec<u8>,
    /// Raw bytes of the open event's field lines.
    held_bytes: usize,
    has_data: bool,
    data: String,
    event: String,
    id_pending: Option<String>,
    last_event_id: String,
    retry_ms: Option<u64>,
}

const BOM: [u8; 3] = [0xEF, 0xBB, 0xBF];

impl SseDecoder {
    /// A decoder at the start of a stream. `limit_bytes` bounds the raw bytes
    /// of one event's field lines and of any single line, comments included.
    pub fn new(limit_bytes: usize) -> Self {
        SseDecoder {
            limit_bytes,
            bom_seen: 0,
            skip_lf: false,
            too_large: false,
            line: Vec::new(),
            held_bytes: 0,
            has_data: false,
            data: String::new(),
            event: String::new(),
            id_pending: None,
            last_event_id: String::new(),
            retry_ms: None,
        }
    }

    /// Takes the next bytes and hands over every event that they complete.
    ///
    /// # Errors
    /// [`SseError::TooLarge`] once an event passes the limit, and on every
    /// call from then on; the events before it have been handed over.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut on_event: impl FnMut(SseEvent<'_>),
    ) -> Result<(), SseError> {
        if self.too_large {
            return Err(self.refusal());
        }
        let taken = self.take(bytes, &mut on_event);
        if taken.is_err() {
            self.too_large = true;
            self.line = Vec::new();
            self.data = String::new();
        }
        taken
    }

    /// The last event id to ask a reconnect from; empty where none was sent.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnection time that the stream asked for, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    fn take(
        &mut self,
        bytes: &[u8],
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) -> Result<(), SseError> {
        let mut rest = self.without_bom(bytes);
        loop {
            if self.skip_lf {
                match rest.first() {
                    None => return Ok(()),
                    Some(b'\n') => rest = &rest[1..],
                    Some(_) => {}
                }
                self.skip_lf = false;
            }
            let Some(end) = memchr2(b'\n', b'\r', rest) else {
                return self.keep(rest);
            };
            let line = &rest[..end];
            self.skip_lf = rest[end] == b'\r';
            rest = &rest[end + 1..];
            if !self.line.is_empty() {
                self.keep(line)?;
                let mut whole = core::mem::take(&mut self.line);
                self.line_ended(&whole, on_event)?;
                whole.clear();
                self.line = whole;
            } else if let Some(after) = self.lone_data_line(line, rest, on_event)? {
                rest = after;
            } else {
                self.line_ended(line, on_event)?;
            }
        }
    }

    fn without_bom<'b>(&mut self, bytes: &'b [u8]) -> &'b [u8] {
        let mut rest = bytes;
        while let Some(&expected) = BOM.get(usize::from(self.bom_seen)) {
            match rest.first() {
                None => break,
                Some(&byte) if byte == expected => {
                    self.bom_seen += 1;
                    rest = &rest[1..];
                }
                Some(_) => {
                    self.line
                        .extend_from_slice(&BOM[..usize::from(self.bom_seen)]);
                    self.bom_seen = BOM.len() as u8;
                }
            }
        }
        rest
    }

    /// The shape of nearly every event of a model stream, one `data` line and
    /// its blank line in the same chunk, without a copy. Gives what follows, or
    /// nothing where the line has to go the long way.
    fn lone_data_line<'b>(
        &mut self,
        line: &[u8],
        after_line: &'b [u8],
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) -> Result<Option<&'b [u8]>, SseError> {
        if self.has_data {
            return Ok(None);
        }
        let Some(value) = line.strip_prefix(b"data:") else {
            return Ok(None);
        };
        let after_end = match (self.skip_lf, after_line) {
            (true, [b'\n', more @ ..]) => more,
            (true, more) | (false, more) => more,
        };
        let (after_blank, blank_is_cr) = match after_end {
            [b'\n', more @ ..] => (more, false),
            [b'\r', more @ ..] => (more, true),
            _ => return Ok(None),
        };
        let Ok(data) = core::str::from_utf8(without_space(value)) else {
            return Ok(None);
        };
        self.fits(line.len())?;
        self.skip_lf = blank_is_cr;
        self.commit_id();
        on_event(SseEvent {
            event: event_type(&self.event),
            data,
            id: &self.last_event_id,
        });
        self.event.clear();
        self.held_bytes = 0;
        Ok(Some(after_blank))
    }

    fn keep(&mut self, part: &[u8]) -> Result<(), SseError> {
        self.fits(self.line.len().saturating_add(part.len()))?;
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line_ended(
        &mut self,
        line: &[u8],
        on_event: &mut impl FnMut(SseEvent<'_>),
    ) -> Result<(), SseError> {
        match line.first() {
            None => {
                self.dispatch(on_event);
                return Ok(());
            }
            Some(b':') => return self.fits(line.len()),
            Some(_) => self.fits(line.len())?,
        }
        self.held_bytes = self.held_bytes.saturating_add(line.len());
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], without_space(&line[colon + 1..])),
            None => (line, &[][..]),
        };
        match field {
            b"data" => {
                if self.has_data {
                    self.data.push('\n');
                }
                self.has_data = true;
                self.data.push_str(&String::from_utf8_lossy(value));
            }
            b"event" => self.event = String::from_utf8_lossy(value).into_owned(),
            b"id" if memchr(0, value).is_none() => {
                self.id_pending = Some(String::from_utf8_lossy(value).into_owned());
            }
            b"retry" if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
                self.retry_ms = Some(saturating_decimal(value));
            }
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(SseEvent<'_>)) {
        self.commit_id();
        if self.has_data {
            on_event(SseEvent {
                event: event_type(&self.event),
                data: &self.data,
                id: &self.last_event_id,
            });
        }
        self.has_data = false;
        self.data.clear();
        self.event.clear();
        self.held_bytes = 0;
    }

    fn commit_id(&mut self) {
        if let Some(id) = self.id_pending.take() {
            self.last_event_id = id;
        }
    }

    fn fits(&self, line_bytes: usize) -> Result<(), SseError> {
        if self.held_bytes.saturating_add(line_bytes) > self.limit_bytes {
            return Err(self.refusal());
        }
        Ok(())
    }

    fn refusal(&self) -> SseError {
        SseError::TooLarge {
            limit_bytes: self.limit_bytes,
        }
    }
}

fn event_type(named: &str) -> &str {
    if named.is_empty() { "message" } else { named }
}

fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

fn saturating_decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0u64, |sum, digit| {
        sum.saturating_mul(10)
            .saturating_add(u64::from(digit.wrapping_sub(b'0')))
    })
}
