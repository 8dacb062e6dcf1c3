//! What a client does over HTTP, and what it may believe of what it reads.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::http::{self, Answer, Reply};
use super::process::Server;
use super::stream::{Event, EventExt, Stream};
use super::until;

/// Where a turn is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Receipt {
    pub(crate) conversation: String,
    pub(crate) turn: String,
    pub(crate) seq: u64,
}

impl Server {
    #[track_caller]
    pub(crate) fn open(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Answer {
        http::request(self.addr, method, path, headers, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.stderr()))
    }

    #[track_caller]
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        self.open(method, path, headers, body)
            .read()
            .unwrap_or_else(|error| panic!("{method} {path}: {error}\n{}", self.stderr()))
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[], b"")
    }

    /// A write with a JSON body.
    #[track_caller]
    pub(crate) fn write(&self, method: &str, path: &str, body: &Value) -> Reply {
        let json = [("content-type", "application/json")];
        self.ask(method, path, &json, body.to_string().as_bytes())
    }

    /// `POST /chat`, answered with the turn's events.
    #[track_caller]
    pub(crate) fn chat(&self, body: &Value) -> Stream {
        let json = [("content-type", "application/json")];
        let answer = self.open("POST", "/chat", &json, body.to_string().as_bytes());
        if answer.status != 200 {
            let refusal = answer.read().unwrap();
            panic!("{}: {}", refusal.status, refusal.text());
        }
        assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
        Stream::read(answer)
    }

    /// `POST /chat` to its end.
    #[track_caller]
    pub(crate) fn says(&self, conversation: &str, message: &str) -> Vec<Event> {
        self.chat(&json!({ "conversationId": conversation, "message": message }))
            .all()
    }

    /// `POST /chat` with `detach`.
    #[track_caller]
    pub(crate) fn submit(&self, body: &Value) -> Receipt {
        let mut body = body.clone();
        body["detach"] = true.into();
        receipt(&self.write("POST", "/chat", &body).expect(202))
    }

    /// `GET /conversations/{id}/events`, with what `query` says.
    #[track_caller]
    pub(crate) fn events(&self, conversation: &str, query: &str, last_id: Option<u64>) -> Answer {
        let last_id = last_id.map(|id| id.to_string());
        let headers: Vec<(&str, &str)> = last_id
            .iter()
            .map(|id| ("last-event-id", id.as_str()))
            .collect();
        let path = format!("/conversations/{conversation}/events?{query}");
        self.open("GET", &path, &headers, b"")
    }

    /// Follows one turn from after `last_id` to its end.
    #[track_caller]
    pub(crate) fn follow(&self, at: &Receipt, last_id: u64) -> Stream {
        let answer = self.events(
            &at.conversation,
            &format!("turnId={}", at.turn),
            Some(last_id),
        );
        assert_eq!(answer.status, 200);
        Stream::read(answer)
    }

    /// A turn's events to its end, without the provisional ones.
    #[track_caller]
    pub(crate) fn outcome(&self, at: &Receipt) -> Vec<Event> {
        let mut events = self.follow(at, at.seq - 1).all();
        events.retain(|event| event.seq().is_some() && event.turn() == at.turn);
        events
    }

    /// Everything that the conversation has logged.
    #[track_caller]
    pub(crate) fn log(&self, conversation: &str) -> Vec<Event> {
        let mut log: Vec<Event> = Vec::new();
        loop {
            let since = log.last().and_then(EventExt::seq).unwrap_or(0);
            let path = format!("/conversations/{conversation}?sinceSeq={since}");
            let page = self.get(&path).expect(200);
            let events = page["events"]
                .as_array()
                .unwrap_or_else(|| panic!("no events in {page}"));
            if events.is_empty() {
                return log;
            }
            log.extend(events.iter().cloned());
        }
    }

    #[track_caller]
    pub(crate) fn turn(&self, turn: &str) -> Value {
        self.get(&format!("/turns/{turn}")).expect(200)
    }

    /// Waits until the turn is in this state.
    #[track_caller]
    pub(crate) fn turn_is(&self, turn: &str, state: &str) -> Value {
        until(&format!("turn {turn} is {state}"), || {
            Some(self.turn(turn)).filter(|turn| turn["state"] == state)
        })
    }

    #[track_caller]
    pub(crate) fn abort(&self, at: &Receipt) -> Reply {
        let path = format!("/conversations/{}/abort", at.conversation);
        self.write(
            "POST",
            &path,
            &json!({ "turnId": at.turn, "reason": "a test says so" }),
        )
    }

    /// Turns that hold a slot, over all providers.
    #[track_caller]
    pub(crate) fn streaming(&self) -> u64 {
        let providers = self.get("/providers").expect(200);
        let rows = providers["providers"].as_array().or(providers.as_array());
        let rows = rows.unwrap_or_else(|| panic!("no providers in {providers}"));
        rows.iter().map(|row| row.number("streaming")).sum()
    }
}

#[track_caller]
pub(crate) fn receipt(body: &Value) -> Receipt {
    Receipt {
        conversation: body.text("conversationId").to_owned(),
        turn: body.text("turnId").to_owned(),
        seq: body.number("seq"),
    }
}

/// The receipt that a stream's `turn-start` amounts to.
#[track_caller]
pub(crate) fn started(stream: &Stream) -> Receipt {
    let start = stream.wait_for("turn-start");
    Receipt {
        conversation: start.text("conversationId").to_owned(),
        turn: start.turn().to_owned(),
        seq: start.number("seq"),
    }
}

pub(crate) fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(EventExt::kind).collect()
}

/// The logged ones.
pub(crate) fn logged(events: &[Event]) -> Vec<Event> {
    events
        .iter()
        .filter(|event| event.seq().is_some())
        .cloned()
        .collect()
}

pub(crate) fn count(events: &[Event], kind: &str) -> usize {
    events.iter().filter(|event| event.kind() == kind).count()
}

/// What `step-complete` says of one step.
#[track_caller]
pub(crate) fn step_text(event: &Event) -> String {
    let chunks = event["chunks"].as_array().unwrap();
    chunks
        .iter()
        .filter(|chunk| chunk["type"] == "text")
        .map(|chunk| chunk.text("text"))
        .collect()
}

/// The text of a turn's finished steps, in order.
pub(crate) fn said(events: &[Event]) -> String {
    events
        .iter()
        .filter(|event| event.kind() == "step-complete")
        .map(step_text)
        .collect()
}

/// What a client shows of a turn; panics on anything that a client could not
/// make sense of: a hole, something shown twice or taken back unannounced.
#[derive(Default)]
pub(crate) struct Screen {
    last_seq: Option<u64>,
    open: BTreeMap<u64, String>,
    pub(crate) steps: BTreeMap<u64, String>,
    pub(crate) log: Vec<Event>,
}

impl Screen {
    #[track_caller]
    pub(crate) fn show(&mut self, event: &Event) {
        if let Some(seq) = event.seq() {
            let expected = self.last_seq.map_or(seq, |last| last + 1);
            assert_eq!(seq, expected, "missed or repeated: {event}");
            self.last_seq = Some(seq);
            self.log.push(event.clone());
        }
        match event.kind() {
            "text-delta" => {
                let step = event.number("step");
                assert!(
                    !self.steps.contains_key(&step),
                    "a delta after its step's end: {event}"
                );
                let open = self.open.entry(step).or_default();
                assert_eq!(
                    event.number("offset"),
                    open.len() as u64,
                    "{open:?} then {event}"
                );
                open.push_str(event.text("text"));
            }
            // Replaces what was shown.
            "snapshot" => {
                let step = event.number("step");
                assert!(
                    !self.steps.contains_key(&step),
                    "a snapshot after its step's end: {event}"
                );
                self.open.insert(step, event.text("text").to_owned());
            }
            "step-restart" => {
                self.open.remove(&event.number("step"));
            }
            "step-complete" => {
                let step = event.number("step");
                let whole = step_text(event);
                let shown = self.open.remove(&step).unwrap_or_default();
                assert!(whole.starts_with(&shown), "shown {shown:?}, then {event}");
                assert!(self.steps.insert(step, whole).is_none(), "twice: {event}");
            }
            _ => {}
        }
    }

    /// What is shown of a step that has not ended.
    pub(crate) fn open_text(&self, step: u64) -> &str {
        self.open.get(&step).map_or("", String::as_str)
    }

    /// The cursor to come back with.
    pub(crate) fn cursor(&self) -> u64 {
        self.last_seq.unwrap_or(0)
    }
}

/// What a client that has read all of `events` shows of a step that has not
/// ended, whether it came in deltas or in the snapshot for a late one.
#[track_caller]
pub(crate) fn open_text(events: &[Event], step: u64) -> String {
    let mut screen = Screen::default();
    events.iter().for_each(|event| screen.show(event));
    screen.open_text(step).to_owned()
}
