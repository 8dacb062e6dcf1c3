//! What a page is made from: columns of numbers around one table of texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

macro_rules! numbered {
    ($(#[$doc:meta])* $name:ident { $( $(#[$vdoc:meta])* $variant:ident = $text:literal ),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum $name { $( $(#[$vdoc])* $variant ),* }

        impl $name {
            /// Every one, in the order of their numbers.
            pub const ALL: &[$name] = &[$( $name::$variant ),*];

            /// Stable, kebab case.
            pub fn name(self) -> &'static str {
                match self { $( $name::$variant => $text ),* }
            }

            pub(super) fn names() -> Vec<String> {
                Self::ALL.iter().map(|one| one.name().to_owned()).collect()
            }
        }
    };
}

numbered! {
    /// What an event is about.
    Kind {
        /// A client asks, or is answered.
        Client = "client",
        /// A verb goes to the store, or comes back.
        Store = "store",
        /// A request and what is answered.
        Provider = "provider",
        /// A command.
        Tool = "tool",
        /// The log has grown.
        Log = "log",
        /// A turn's row has changed.
        State = "state",
        /// A process begins, stops, ends.
        Life = "life",
        /// Something breaks or is broken.
        Fault = "fault",
        /// A timer fires.
        Timer = "timer",
        /// What is shown to clients, and pieces of streams.
        Stream = "stream",
        /// A look that found nothing to do.
        Poll = "poll",
    }
}

numbered! {
    /// What a lane belongs to.
    LaneKind {
        /// All clients.
        Clients = "clients",
        /// One place where processes live.
        Replica = "replica",
        /// The store.
        Store = "store",
        /// One provider.
        Provider = "provider",
        /// Where commands run.
        Computer = "computer",
        /// One turn.
        Turn = "turn",
    }
}

numbered! {
    /// What a lane's state consists of.
    Field {
        /// A turn's, as its row has it; a replica's life.
        State = "state",
        /// Completed steps.
        Step = "step",
        /// Refusals of the open step.
        Attempt = "attempt",
        /// Who runs it.
        Owner = "owner",
        /// Not granted before: simulated microseconds.
        Due = "due",
        /// The ownership.
        Epoch = "epoch",
        /// Takeovers since the last completed step.
        Resumes = "resumes",
        /// Somebody wants it stopped.
        Abort = "abort",
        /// Its terminal event.
        Terminal = "terminal",
        /// Which life of a replica.
        Boot = "boot",
        /// Streams allowed in flight.
        Limit = "limit",
        /// Requests in flight at a provider; commands that run on a computer.
        Running = "running",
        /// Its provider.
        Provider = "provider",
    }
}

numbered! {
    /// What lasts for a while.
    SpanKind {
        /// A request at a provider.
        Request = "request",
        /// A command.
        Command = "command",
        /// Every request is refused.
        Storm = "storm",
        /// A replica cannot reach the store.
        Partition = "partition",
    }
}

/// A broken promise as a page shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// Which.
    pub oracle: String,
    /// Microseconds.
    pub at_us: u64,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

/// What was left out to stay below [`super::MOST_EVENTS`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Dropped {
    /// Polling and deltas.
    pub chatter: u64,
    /// Other events, from the beginning on.
    pub oldest: u64,
    /// Journals, wholly or from some byte on.
    #[serde(default)]
    pub journals: u64,
}

/// Lanes, a column each. Texts are numbers into [`Timeline::strings`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Lanes {
    pub(super) kind: Vec<u8>,
    pub(super) label: Vec<u32>,
    pub(super) name: Vec<u32>,
    pub(super) about: Vec<u32>,
}

/// Events in order. Lanes and causes are numbers, -1 where there is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Events {
    /// Microseconds since the event before.
    pub(super) after: Vec<u64>,
    pub(super) kind: Vec<u8>,
    pub(super) lane: Vec<i64>,
    pub(super) from: Vec<i64>,
    pub(super) turn: Vec<i64>,
    pub(super) cause: Vec<i64>,
    pub(super) title: Vec<u32>,
    pub(super) detail: Vec<u32>,
    /// Why the clock stood still until then, for timers.
    pub(super) wake: Vec<i64>,
}

/// What events have changed, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deltas {
    pub(super) event: Vec<u32>,
    pub(super) lane: Vec<u32>,
    pub(super) field: Vec<u8>,
    pub(super) value: Vec<u32>,
}

/// What lasts, on one lane and for one turn, -1 where it is for none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Spans {
    pub(super) kind: Vec<u8>,
    pub(super) lane: Vec<u32>,
    pub(super) turn: Vec<i64>,
    pub(super) from: Vec<u64>,
    pub(super) to: Vec<u64>,
    pub(super) label: Vec<u32>,
    pub(super) result: Vec<u32>,
}

/// Everything that a page shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timeline {
    /// What it is a picture of.
    pub title: String,
    /// What to type to see it again.
    pub command: String,
    /// Wall time of moment 0, in milliseconds since the Unix epoch.
    pub epoch_ms: u64,
    /// The last moment, in microseconds.
    pub end_us: u64,
    /// The broken promise, if one was found.
    pub violation: Option<Shown>,
    /// What a reader should know of the picture.
    pub remarks: Vec<String>,
    /// What is missing.
    pub dropped: Dropped,
    pub(super) kinds: Vec<String>,
    pub(super) lane_kinds: Vec<String>,
    pub(super) fields: Vec<String>,
    pub(super) span_kinds: Vec<String>,
    pub(super) strings: Vec<String>,
    pub(super) lanes: Lanes,
    pub(super) events: Events,
    /// The state before the first event; `event` is empty.
    pub(super) base: Deltas,
    pub(super) deltas: Deltas,
    pub(super) spans: Spans,
}

/// One thing that an event has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The lane's full name.
    pub lane: String,
    /// What of it.
    pub field: Field,
    /// To what.
    pub value: String,
}

impl Timeline {
    /// How many events it has.
    pub fn events(&self) -> usize {
        self.events.kind.len()
    }

    /// How many events it has of this kind.
    pub fn events_of(&self, kind: Kind) -> usize {
        let kind = kind as u8;
        self.events.kind.iter().filter(|k| **k == kind).count()
    }

    /// The full names of all lanes of this kind.
    pub fn lanes_of(&self, kind: LaneKind) -> Vec<&str> {
        let lanes = self.lanes.kind.iter().zip(&self.lanes.name);
        lanes
            .filter(|(k, _)| **k == kind as u8)
            .map(|(_, name)| self.text(*name))
            .collect()
    }

    /// How many spans it has of this kind.
    pub fn spans_of(&self, kind: SpanKind) -> usize {
        let kind = kind as u8;
        self.spans.kind.iter().filter(|k| **k == kind).count()
    }

    /// Why time jumped to this event, if a timer was the reason.
    pub fn wake(&self, event: usize) -> Option<&str> {
        let wake = self.events.wake.get(event)?;
        Some(self.text(u32::try_from(*wake).ok()?))
    }

    /// What one event has changed.
    pub fn changes(&self, event: usize) -> Vec<Change> {
        let deltas = &self.deltas;
        (0..deltas.event.len())
            .filter(|n| deltas.event[*n] as usize == event)
            .filter_map(|n| self.change(deltas, n))
            .collect()
    }

    /// The state after an event: values by lane and field, empty ones left out.
    pub fn state_after(&self, event: usize) -> BTreeMap<(String, Field), String> {
        let mut state = BTreeMap::new();
        let base = (0..self.base.lane.len()).filter_map(|n| self.change(&self.base, n));
        let until = self.deltas.event.partition_point(|e| *e as usize <= event);
        let later = (0..until).filter_map(|n| self.change(&self.deltas, n));
        for change in base.chain(later) {
            state.insert((change.lane, change.field), change.value);
        }
        state.retain(|_, value| !value.is_empty());
        state
    }

    fn change(&self, deltas: &Deltas, n: usize) -> Option<Change> {
        let name = self.lanes.name.get(deltas.lane[n] as usize)?;
        Some(Change {
            lane: self.text(*name).to_owned(),
            field: *Field::ALL.get(usize::from(deltas.field[n]))?,
            value: self.text(deltas.value[n]).to_owned(),
        })
    }

    fn text(&self, number: u32) -> &str {
        self.strings.get(number as usize).map_or("", String::as_str)
    }
}
