//! The [`Builder`]: takes what happens, event by event, and remembers what each
//! of them changed. Bounded: what a page could not show anyway is dropped on
//! the way.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::ids::{ConversationId, EffectId, TurnId};

use super::MOST_EVENTS;
use super::model::{Dropped, Field, Kind, LaneKind, Shown, SpanKind};
use super::strings::{TITLE_CHARS, cut};
use crate::clock::{EPOCH_MS, Us};
use crate::run::Violation;

/// See the module's page.
#[derive(Debug, Default)]
pub struct Builder {
    pub(super) title: String,
    pub(super) command: String,
    /// Wall time of moment 0.
    pub(super) epoch_ms: u64,
    /// The world tells of turns' rows and of what reaches a provider; without
    /// it both are concluded from what replicas ask and hear.
    pub(super) is_told: bool,
    pub(super) violation: Option<Shown>,
    pub(super) remarks: Vec<String>,
    pub(super) lanes: Vec<Lane>,
    lane_of: BTreeMap<(LaneKind, String), u32>,
    pub(super) events: Vec<Event>,
    /// The number of the next event; numbers are never given twice.
    next: u64,
    pub(super) state: BTreeMap<(u32, Field), String>,
    /// The state before the first event that is kept.
    pub(super) base: BTreeMap<(u32, Field), String>,
    pub(super) spans: Vec<Span>,
    /// Where those stand that have no end yet, by name.
    lasting: BTreeMap<(SpanKind, String), usize>,
    pub(super) dropped: Dropped,
    pub(super) replicas: Vec<Place>,
    pub(super) flights: BTreeMap<(usize, u32, EffectId), Flight>,
    /// Open turns of a conversation, in order.
    pub(super) talks: BTreeMap<ConversationId, BTreeSet<TurnId>>,
    /// The verb that is landing right now.
    pub(super) landing: Option<u64>,
    /// The latest due time that a look can have been for, by turn.
    pub(super) due: BTreeMap<TurnId, Us>,
    /// Lane and turn of the requests that are in flight at a provider.
    pub(super) arrived: BTreeMap<u32, (u32, u32)>,
}

/// One lane.
#[derive(Clone, Debug)]
pub(super) struct Lane {
    pub(super) kind: LaneKind,
    pub(super) label: String,
    pub(super) name: String,
    pub(super) about: String,
}

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) n: u64,
    pub(super) at: Us,
    pub(super) kind: Kind,
    /// What hides it unless something comes of it.
    pub(super) quiet: Option<Kind>,
    pub(super) lane: u32,
    pub(super) from: Option<u32>,
    pub(super) turn: Option<u32>,
    pub(super) cause: Option<u64>,
    pub(super) wake: Option<String>,
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) deltas: Vec<(u32, Field, String)>,
}

impl Event {
    pub(super) fn is_chatter(&self) -> bool {
        self.quiet.is_some()
    }
}

/// What lasts.
#[derive(Clone, Debug)]
pub(super) struct Span {
    pub(super) kind: SpanKind,
    pub(super) lane: u32,
    pub(super) turn: Option<u32>,
    pub(super) from: Us,
    /// `None`: it still lasts.
    pub(super) to: Option<Us>,
    pub(super) label: String,
    pub(super) result: String,
}

/// What is known of a replica.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) lane: u32,
    pub(super) node: String,
    pub(super) life: u32,
    /// The input that it is working on.
    pub(super) input: Option<u64>,
}

/// What an effect in flight is for.
#[derive(Clone, Debug)]
pub(super) struct Flight {
    /// The effect's event.
    pub(super) event: u64,
    pub(super) turn: Option<TurnId>,
    /// The lane where it is carried out.
    pub(super) lane: u32,
    pub(super) what: Going,
}

/// What becomes of an effect's completion.
#[derive(Clone, Debug)]
pub(super) enum Going {
    /// A verb, and what of it tells of a turn.
    Verb(&'static str, super::rows::Step),
    /// A request.
    Stream,
    /// A command, by its call.
    Tool(String),
    /// A terminal event on its way to an endpoint.
    Post,
    /// A link to a computer.
    Link,
}

/// An event to be added; what is not set is nothing.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) at: Us,
    pub(super) kind: Kind,
    pub(super) lane: u32,
    pub(super) title: String,
    pub(super) from: Option<u32>,
    pub(super) turn: Option<u32>,
    pub(super) cause: Option<u64>,
    pub(super) quiet: Option<Kind>,
    pub(super) wake: Option<String>,
    pub(super) detail: String,
}

impl Draft {
    pub(super) fn new(at: Us, kind: Kind, lane: u32, title: impl Into<String>) -> Draft {
        Draft {
            at,
            kind,
            lane,
            title: title.into(),
            from: None,
            turn: None,
            cause: None,
            quiet: None,
            wake: None,
            detail: String::new(),
        }
    }
}

/// Spans beyond this are told as a remark instead of being kept.
const MOST_SPANS: usize = MOST_EVENTS;

impl Builder {
    /// For a run; `arguments` are those of `show` that draw it again.
    pub fn simulation(title: &str, arguments: &str) -> Builder {
        Builder {
            title: cut(title, TITLE_CHARS),
            command: format!("cargo run --release -p dispatch-sim -- show {arguments}"),
            epoch_ms: EPOCH_MS,
            is_told: true,
            ..Builder::default()
        }
    }

    /// For something else that only tells what replicas hear and want. `command`
    /// is what to type to see it again, `epoch_ms` the wall time of moment 0.
    pub fn recorded(title: &str, command: &str, epoch_ms: u64) -> Builder {
        Builder {
            title: cut(title, TITLE_CHARS),
            command: command.to_owned(),
            epoch_ms,
            ..Builder::default()
        }
    }

    /// A promise was found broken.
    pub fn violation(&mut self, violation: &Violation) {
        self.broken(
            violation.what.name(),
            violation.at_us,
            &violation.expected,
            &violation.seen,
        );
    }

    /// As [`Builder::violation`], for promises that no oracle of the
    /// simulation judges. `at_us` is a moment in microseconds.
    pub fn broken(&mut self, oracle: &str, at_us: u64, expected: &str, seen: &str) {
        const TEXT_CHARS: usize = 4_000;
        self.violation = Some(Shown {
            oracle: oracle.to_owned(),
            at_us,
            expected: cut(expected, TEXT_CHARS),
            seen: cut(seen, TEXT_CHARS),
        });
    }

    /// Something that a reader should know of the picture.
    pub fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    /// The lane of this kind with this full name; it comes to be when it is
    /// first asked for.
    pub(super) fn lane(&mut self, kind: LaneKind, name: &str) -> u32 {
        if let Some(lane) = self.lane_of.get(&(kind, name.to_owned())) {
            return *lane;
        }
        let lane = u32::try_from(self.lanes.len()).unwrap_or(u32::MAX);
        let label = match kind {
            LaneKind::Turn => {
                let turns = self.lanes.iter().filter(|l| l.kind == kind).count();
                format!("t{}", turns + 1)
            }
            LaneKind::Clients
            | LaneKind::Replica
            | LaneKind::Store
            | LaneKind::Provider
            | LaneKind::Computer => cut(name, TITLE_CHARS),
        };
        self.lanes.push(Lane {
            kind,
            label,
            name: name.to_owned(),
            about: String::new(),
        });
        self.lane_of.insert((kind, name.to_owned()), lane);
        lane
    }

    pub(super) fn turn_lane(&mut self, turn: TurnId) -> u32 {
        self.lane(LaneKind::Turn, &turn.to_string())
    }

    /// The lane of a turn that has been heard of.
    pub(super) fn known_turn(&self, turn: TurnId) -> Option<u32> {
        let key = (LaneKind::Turn, turn.to_string());
        self.lane_of.get(&key).copied()
    }

    /// An event, and what caused it, turn out to be about a turn that was not
    /// known by then.
    pub(super) fn claim(&mut self, event: Option<u64>, lane: u32) {
        let mut next = event;
        for _ in 0..3 {
            let Some(at) = next.and_then(|n| self.position(n)) else {
                return;
            };
            let event = &mut self.events[at];
            if event.turn.is_some() {
                return;
            }
            event.turn = Some(lane);
            next = event.cause;
        }
    }

    pub(super) fn clients(&mut self) -> u32 {
        self.lane(LaneKind::Clients, "clients")
    }

    pub(super) fn store(&mut self) -> u32 {
        self.lane(LaneKind::Store, "store")
    }

    /// The replica with this index, which must follow those before it.
    pub(super) fn replica(&mut self, index: usize) -> Place {
        while self.replicas.len() <= index {
            let node = format!("node-{}", self.replicas.len());
            self.name_replica(self.replicas.len(), &node);
        }
        self.replicas[index].clone()
    }

    /// Tells by which name a replica goes.
    pub(super) fn name_replica(&mut self, index: usize, node: &str) {
        if self.replicas.get(index).is_some() {
            return;
        }
        let lane = self.lane(LaneKind::Replica, node);
        self.replicas.push(Place {
            lane,
            node: node.to_owned(),
            life: 0,
            input: None,
        });
    }

    pub(super) fn label(&self, lane: u32) -> &str {
        self.lanes
            .get(lane as usize)
            .map_or("", |lane| lane.label.as_str())
    }

    /// Adds an event; its number.
    pub(super) fn add(&mut self, draft: Draft) -> u64 {
        let n = self.next;
        self.next += 1;
        // Replicas' clocks may differ; what is told later is not earlier.
        let at = self.events.last().map_or(0, |last| last.at).max(draft.at);
        self.events.push(Event {
            n,
            at,
            kind: draft.kind,
            quiet: draft.quiet,
            lane: draft.lane,
            from: draft.from,
            turn: draft.turn,
            cause: draft.cause,
            wake: draft.wake,
            title: cut(&draft.title, TITLE_CHARS),
            detail: draft.detail,
            deltas: Vec::new(),
        });
        if draft.quiet.is_none() {
            self.promote(draft.cause);
        }
        if self.events.len() >= 2 * MOST_EVENTS {
            self.shrink();
        }
        n
    }

    /// The last event has changed something.
    pub(super) fn set(&mut self, lane: u32, field: Field, value: impl Into<String>) {
        let value = value.into();
        let known = self.state.get(&(lane, field));
        if known.map_or("", String::as_str) == value {
            return;
        }
        self.state.insert((lane, field), value.clone());
        let Some(last) = self.events.last_mut() else {
            self.base.insert((lane, field), value);
            return;
        };
        last.deltas.push((lane, field, value));
        let cause = last.cause;
        if last.quiet.take().is_some() {
            self.promote(cause);
        }
    }

    pub(super) fn value(&self, lane: u32, field: Field) -> &str {
        self.state.get(&(lane, field)).map_or("", String::as_str)
    }

    /// Counts up or down.
    pub(super) fn count(&mut self, lane: u32, field: Field, by: i64) {
        let now = self.value(lane, field).parse().unwrap_or(0i64) + by;
        self.set(lane, field, now.max(0).to_string());
    }

    /// Something came of a quiet event after all, and so of its own causes.
    fn promote(&mut self, mut cause: Option<u64>) {
        while let Some(n) = cause {
            let Some(at) = self.position(n) else { return };
            let event = &mut self.events[at];
            if event.quiet.take().is_none() {
                return;
            }
            cause = event.cause;
        }
    }

    pub(super) fn position(&self, n: u64) -> Option<usize> {
        self.events.binary_search_by_key(&n, |event| event.n).ok()
    }

    /// Something begins to last; one that has no end yet is ended by its name.
    pub(super) fn begin(&mut self, name: String, span: Span) {
        if self.spans.len() >= MOST_SPANS {
            let text = format!("only the first {MOST_SPANS} requests and commands have bars");
            if !self.remarks.contains(&text) {
                self.remark(text);
            }
            return;
        }
        if span.to.is_none() {
            self.lasting.insert((span.kind, name), self.spans.len());
        }
        self.spans.push(span);
    }

    /// Ends what is so named; its lane, if it was there and had no end.
    pub(super) fn end(&mut self, kind: SpanKind, name: &str, at: Us, how: &str) -> Option<u32> {
        let place = self.lasting.remove(&(kind, name.to_owned()))?;
        let span = self.spans.get_mut(place)?;
        span.to = Some(at);
        span.result = cut(how, TITLE_CHARS);
        Some(span.lane)
    }

    /// Ends all requests of a replica; their lanes.
    pub(super) fn end_requests(&mut self, replica: usize, at: Us, how: &str) -> Vec<u32> {
        let prefix = format!("{replica}/");
        let is_its = |(kind, name): &&(SpanKind, String)| {
            *kind == SpanKind::Request && name.starts_with(&prefix)
        };
        let names: Vec<String> = self
            .lasting
            .keys()
            .filter(is_its)
            .map(|(_, name)| name.clone())
            .collect();
        names
            .iter()
            .filter_map(|name| self.end(SpanKind::Request, name, at, how))
            .collect()
    }

    /// Back to [`MOST_EVENTS`]: chatter goes first, then what is oldest.
    pub(super) fn shrink(&mut self) {
        let mut over = self.events.len().saturating_sub(MOST_EVENTS);
        let dropped = &mut self.dropped;
        self.events.retain(|event| {
            let goes = over > 0 && event.is_chatter();
            if goes {
                over -= 1;
                dropped.chatter += 1;
            }
            !goes
        });
        for event in self.events.drain(..over) {
            dropped.oldest += 1;
            for (lane, field, value) in event.deltas {
                self.base.insert((lane, field), value);
            }
        }
    }
}
