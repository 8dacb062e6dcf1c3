//! Event streams, read on a thread of their own: NDJSON and SSE.

use std::io::{self, BufRead, BufReader};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;
use super::http::{Answer, Body, Hangup};

pub(crate) type Event = Value;

/// What of an event the tests ask for most.
pub(crate) trait EventExt {
    fn kind(&self) -> &str;
    fn seq(&self) -> Option<u64>;
    fn turn(&self) -> &str;
    fn is_terminal(&self) -> bool;
    fn text(&self, field: &str) -> &str;
    fn number(&self, field: &str) -> u64;
}

impl EventExt for Event {
    fn kind(&self) -> &str {
        self.text("type")
    }
    fn seq(&self) -> Option<u64> {
        // `synced` tells a position, it has none.
        (self.kind() != "synced").then(|| self["seq"].as_u64())?
    }
    fn turn(&self) -> &str {
        self.text("turnId")
    }
    fn is_terminal(&self) -> bool {
        matches!(self.kind(), "done" | "error" | "aborted")
    }
    #[track_caller]
    fn text(&self, field: &str) -> &str {
        self[field]
            .as_str()
            .unwrap_or_else(|| panic!("no text {field} in {self}"))
    }
    #[track_caller]
    fn number(&self, field: &str) -> u64 {
        self[field]
            .as_u64()
            .unwrap_or_else(|| panic!("no number {field} in {self}"))
    }
}

/// How a stream came to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The server ended the body.
    Clean,
    /// The connection broke off.
    Cut(String),
    /// What came was no event stream.
    Garbled(String),
}

#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    end: Option<End>,
}

/// A stream of events under way.
pub(crate) struct Stream {
    seen: Arc<(Mutex<Seen>, Condvar)>,
    hangup: Hangup,
    reader: Option<JoinHandle<()>>,
}

impl Stream {
    /// Reads `answer` in the format that its content type names.
    pub(crate) fn read(answer: Answer) -> Stream {
        let is_sse = answer
            .header("content-type")
            .is_some_and(|v| v.starts_with("text/event-stream"));
        let hangup = answer.body.hangup().unwrap();
        let seen: Arc<(Mutex<Seen>, Condvar)> = Arc::default();
        let shared = seen.clone();
        let reader = std::thread::spawn(move || {
            let end = take_all(answer.body, is_sse, &shared);
            lock(&shared.0).end = Some(end);
            shared.1.notify_all();
        });
        Stream {
            seen,
            hangup,
            reader: Some(reader),
        }
    }

    /// What has come so far.
    pub(crate) fn so_far(&self) -> Vec<Event> {
        lock(&self.seen.0).events.clone()
    }

    /// Waits until what has come satisfies `probe`.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, probe: impl Fn(&[Event]) -> bool) -> Vec<Event> {
        let since = Instant::now();
        let mut seen = lock(&self.seen.0);
        loop {
            if probe(&seen.events) {
                return seen.events.clone();
            }
            let left = PATIENCE.saturating_sub(since.elapsed());
            assert!(
                seen.end.is_none() && !left.is_zero(),
                "waited in vain: {what}; the stream ({:?}) had {:#?}",
                seen.end,
                seen.events
            );
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
    }

    /// Waits for an event of this type, and hands out the last one of it.
    #[track_caller]
    pub(crate) fn wait_for(&self, kind: &str) -> Event {
        let events = self.wait(kind, |events| events.iter().any(|e| e.kind() == kind));
        events.into_iter().rfind(|e| e.kind() == kind).unwrap()
    }

    /// Waits for the end of the stream.
    #[track_caller]
    pub(crate) fn finish(mut self) -> (Vec<Event>, End) {
        let since = Instant::now();
        let mut seen = lock(&self.seen.0);
        while seen.end.is_none() {
            let left = PATIENCE.saturating_sub(since.elapsed());
            assert!(
                !left.is_zero(),
                "the stream does not end: {:#?}",
                seen.events
            );
            seen = self.seen.1.wait_timeout(seen, left).unwrap().0;
        }
        let whole = (seen.events.clone(), seen.end.clone().unwrap());
        drop(seen);
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
        whole
    }

    /// The events of a stream that must have ended as it should.
    #[track_caller]
    pub(crate) fn all(self) -> Vec<Event> {
        let (events, end) = self.finish();
        assert_eq!(end, End::Clean, "{events:#?}");
        events
    }

    /// Hangs up and hands out what had come.
    pub(crate) fn cut(self) -> Vec<Event> {
        self.hangup.now();
        self.finish().0
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.hangup.now();
    }
}

/// A test that fails while it waits must not make its reader fail as well.
fn lock(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take_all(body: Body, is_sse: bool, seen: &(Mutex<Seen>, Condvar)) -> End {
    let mut from = Events::new(body, is_sse);
    loop {
        match from.take() {
            Ok(event) => {
                lock(&seen.0).events.push(event);
                seen.1.notify_all();
            }
            Err(end) => return end,
        }
    }
}

/// The events of a body, one after the other.
pub(crate) struct Events {
    from: BufReader<Body>,
    /// `None`: NDJSON.
    frame: Option<Frame>,
}

impl Events {
    /// Reads `answer` in the format that its content type names.
    pub(crate) fn of(answer: Answer) -> Events {
        let kind = answer.header("content-type").unwrap_or_default();
        let is_sse = kind.starts_with("text/event-stream");
        Events::new(answer.body, is_sse)
    }

    fn new(body: Body, is_sse: bool) -> Events {
        Events {
            from: BufReader::new(body),
            frame: is_sse.then(Frame::default),
        }
    }

    /// The next one, or how the body ended.
    pub(crate) fn take(&mut self) -> Result<Event, End> {
        loop {
            let mut line = String::new();
            match self.from.read_line(&mut line) {
                Ok(0) => return Err(End::Clean),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    return Err(End::Garbled(error.to_string()));
                }
                Err(error) => return Err(End::Cut(error.to_string())),
            }
            let line = line.trim_end_matches(['\r', '\n']);
            let event = match &mut self.frame {
                Some(frame) => frame.take(line),
                None => (!line.is_empty()).then(|| {
                    serde_json::from_str(line).map_err(|error| format!("{error}: {line}"))
                }),
            };
            if let Some(event) = event {
                return event.map_err(End::Garbled);
            }
        }
    }
}

/// One SSE frame in the making.
#[derive(Default)]
struct Frame {
    id: Option<String>,
    name: Option<String>,
    data: Option<String>,
}

impl Frame {
    /// An event, once the line that ends it has come. `id:` must be the
    /// sequence number of logged events, and only theirs; `event:` the type.
    fn take(&mut self, line: &str) -> Option<Result<Event, String>> {
        let value = |line: &str| line.strip_prefix(' ').unwrap_or(line).to_owned();
        if let Some(rest) = line.strip_prefix("id:") {
            self.id = Some(value(rest));
        } else if let Some(rest) = line.strip_prefix("event:") {
            self.name = Some(value(rest));
        } else if let Some(rest) = line.strip_prefix("data:") {
            self.data = Some(value(rest));
        } else if line.is_empty() {
            let frame = std::mem::take(self);
            let data = frame.data?;
            return Some(check(frame.id, frame.name, &data));
        }
        None
    }
}

fn check(id: Option<String>, name: Option<String>, data: &str) -> Result<Event, String> {
    let event: Event = serde_json::from_str(data).map_err(|error| format!("{error}: {data}"))?;
    if name.as_deref() != event["type"].as_str() {
        return Err(format!("event: {name:?} on {data}"));
    }
    if id != event.seq().map(|seq| seq.to_string()) {
        return Err(format!("id: {id:?} on {data}"));
    }
    Ok(event)
}
