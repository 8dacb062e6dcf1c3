//! Clients: they submit until they are acknowledged, follow by cursor, and come
//! back to whichever replica answers.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::plan::{Ask, Talk};
use crate::support::Chance;
use crate::support::client::{Receipt, receipt};
use crate::support::http::{Answer, request_within};
use crate::support::stream::{End, Event, EventExt, Events};
use crate::verdict::{Asked, Talked};

/// A server that is silent for so long is left for another one. Longer than a
/// healthy one takes to say that its store does not answer (`deadlines.store_s`).
const SILENCE: Duration = Duration::from_secs(7);
/// Between two attempts, so that a house in ruins is not stormed.
const BREATH: Duration = Duration::from_millis(40);
/// After so long the client reports what it has; the judge says what is missing.
const LONGEST: Duration = Duration::from_secs(180);

/// A turn that has been acknowledged, for whoever kills.
#[derive(Clone, Debug, Default)]
pub(crate) struct OnItsWay {
    /// Kills since the acknowledgement, and those that met it in a stream or tool.
    pub(crate) kills: u32,
    pub(crate) hits: u32,
    pub(crate) end: Option<String>,
}

/// What clients and killers share.
#[derive(Default)]
pub(crate) struct Field {
    /// The run has failed: clients need not wait for anything any more.
    is_given_up: AtomicBool,
    /// Where the replicas are, or were.
    pub(crate) addrs: Mutex<Vec<SocketAddr>>,
    /// Acknowledged turns by their tag.
    pub(crate) turns: Mutex<BTreeMap<String, OnItsWay>>,
    pub(crate) events: AtomicU64,
    pub(crate) ended: AtomicUsize,
    pub(crate) resubmits: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    /// Refusals by status and code.
    pub(crate) refusals: Mutex<BTreeMap<String, u64>>,
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Sends the clients home when whoever attacks has failed: a scope that
/// panics waits for its threads.
pub(crate) struct GiveUp<'f>(pub(crate) &'f Field);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.is_given_up.store(true, Ordering::Relaxed);
        }
    }
}

/// One client with one conversation.
pub(crate) struct Caller<'f> {
    field: &'f Field,
    chance: Chance,
    talked: Talked,
    at: usize,
    until: Instant,
}

impl<'f> Caller<'f> {
    /// Has the whole conversation.
    pub(crate) fn talk(field: &'f Field, seed: u64, talk: &Talk) -> Talked {
        let mut chance = Chance::new(seed);
        let mut caller = Caller {
            field,
            at: chance.below(16),
            chance,
            talked: Talked {
                name: talk.name.clone(),
                ..Talked::default()
            },
            until: Instant::now() + LONGEST,
        };
        if talk.is_eager {
            for ask in &talk.asks {
                caller.submit(ask, true);
            }
        }
        for (n, ask) in talk.asks.iter().enumerate() {
            if !talk.is_eager {
                caller.submit(ask, ask.detach);
            }
            caller.see_through(n);
        }
        caller.talked
    }

    fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let addr = {
            let addrs = locked(&self.field.addrs);
            addrs[self.at % addrs.len()]
        };
        request_within(SILENCE, addr, method, path, headers, body)
    }

    fn has_patience(&self) -> bool {
        !self.field.is_given_up.load(Ordering::Relaxed) && Instant::now() < self.until
    }

    /// Tries elsewhere.
    fn turn_away(&mut self) {
        self.at = self.at.wrapping_add(1 + self.chance.below(2));
        std::thread::sleep(BREATH);
    }

    fn complain(&mut self, what: String) {
        self.talked.complaints.push(what);
    }

    /// Until it is acknowledged, always with the same key.
    fn submit(&mut self, ask: &Ask, detach: bool) {
        let mut body = json!({ "conversationId": self.talked.name, "message": ask.message });
        if detach {
            body["detach"] = Value::from(true);
        }
        let body = body.to_string();
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", ask.tag.as_str()),
        ];
        self.talked.asked.push(Asked {
            ask: ask.clone(),
            receipt: None,
        });
        let mut attempts = 0;
        while self.has_patience() {
            attempts += 1;
            if attempts > 1 {
                self.field.resubmits.fetch_add(1, Ordering::Relaxed);
            }
            match self.ask("POST", "/chat", &headers, body.as_bytes()) {
                Ok(answer) if answer.status == 202 => {
                    // Cut before its end, it is no acknowledgement.
                    if let Ok(reply) = answer.read() {
                        return self.acknowledged(ask, receipt(&reply.json()));
                    }
                }
                Ok(answer) if answer.status == 200 => {
                    self.watch(answer, Some(ask), None);
                    if self.is_acknowledged() {
                        return;
                    }
                }
                Ok(answer) => self.refused(answer),
                Err(_) => {}
            }
            self.turn_away();
        }
    }

    fn is_acknowledged(&self) -> bool {
        let last = self.talked.asked.last();
        last.is_some_and(|asked| asked.receipt.is_some())
    }

    fn acknowledged(&mut self, ask: &Ask, receipt: Receipt) {
        locked(&self.field.turns).insert(ask.tag.clone(), OnItsWay::default());
        if let Some(asked) = self.talked.asked.last_mut() {
            asked.receipt = Some(receipt);
        }
    }

    /// 503 and 429 ask for patience; anything else is a fault of the server's.
    fn refused(&mut self, answer: Answer) {
        let status = answer.status;
        let Ok(reply) = answer.read() else { return };
        let code = serde_json::from_slice::<Value>(&reply.body).unwrap_or_default();
        let name = format!("{status} {}", code["code"].as_str().unwrap_or("?"));
        *locked(&self.field.refusals).entry(name).or_default() += 1;
        if !matches!(status, 429 | 503) {
            self.complain(format!("refused with {status}: {}", reply.text()));
        }
    }

    /// Follows a turn to its end, over as many connections as that takes.
    fn see_through(&mut self, n: usize) {
        let asked = self.talked.asked.get(n);
        let Some((tag, at)) = asked.and_then(|a| Some((a.ask.tag.clone(), a.receipt.clone()?)))
        else {
            return;
        };
        while !self.talked.page.has_ended(&at.turn) && self.has_patience() {
            let cursor = self.talked.page.cursor();
            let path = format!(
                "/conversations/{}/events?after={cursor}&turnId={}",
                at.conversation, at.turn
            );
            self.field.reconnects.fetch_add(1, Ordering::Relaxed);
            match self.ask("GET", &path, &[], b"") {
                Ok(answer) if answer.status == 200 => {
                    let leave = self.chance.one_in(4).then(|| 1 + self.chance.below(30));
                    self.watch(answer, None, leave);
                }
                Ok(answer) => self.refused(answer),
                Err(_) => {}
            }
            if !self.talked.page.has_ended(&at.turn) {
                self.turn_away();
            }
        }
        if let Some(turn) = locked(&self.field.turns).get_mut(&tag) {
            let log = self.talked.page.log.iter();
            let mut ends = log.filter(|event| event.is_terminal() && event.turn() == at.turn);
            turn.end = ends.next().map(named);
        }
        self.field.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Shows what one connection tells, until it ends, or `leave` events are seen.
    fn watch(&mut self, answer: Answer, submitted: Option<&Ask>, leave: Option<usize>) {
        self.talked.page.reconnected();
        let mut events = Events::of(answer);
        let mut seen = 0;
        loop {
            let event = match events.take() {
                Ok(event) => event,
                Err(End::Garbled(what)) => return self.complain(what),
                Err(End::Clean | End::Cut(_)) => return,
            };
            self.field.events.fetch_add(1, Ordering::Relaxed);
            if event.kind() == "synced" {
                continue;
            }
            if let Some(ask) = submitted
                && event.kind() == "turn-start"
            {
                self.acknowledged(ask, started(&event));
            }
            if let Err(what) = self.talked.page.show(&event) {
                self.complain(what);
            }
            seen += 1;
            if leave == Some(seen) {
                return;
            }
        }
    }
}

fn started(event: &Event) -> Receipt {
    Receipt {
        conversation: event.text("conversationId").to_owned(),
        turn: event.turn().to_owned(),
        seq: event.number("seq"),
    }
}

/// `done`, or the error's code.
fn named(end: &Event) -> String {
    match end.kind() {
        "error" => format!("error({}, {})", end.text("code"), end.text("cause")),
        kind => kind.to_owned(),
    }
}

/// A conversation's whole log, from whoever answers.
pub(crate) fn read_log(field: &Field, conversation: &str) -> Option<Vec<Event>> {
    let mut log: Vec<Event> = Vec::new();
    let addrs = locked(&field.addrs).clone();
    loop {
        let since = log.last().and_then(EventExt::seq).unwrap_or(0);
        let path = format!("/conversations/{conversation}?sinceSeq={since}");
        let answers = addrs.iter().filter_map(|addr| {
            let answer = request_within(SILENCE, *addr, "GET", &path, &[], b"").ok()?;
            answer.read().ok()
        });
        let reply = answers.into_iter().find(|reply| reply.status != 503)?;
        // Nothing of it was ever accepted.
        if reply.status == 404 {
            return Some(log);
        }
        let page = reply.expect(200);
        let events = page["events"].as_array()?;
        if events.is_empty() {
            return Some(log);
        }
        log.extend(events.iter().cloned());
    }
}
