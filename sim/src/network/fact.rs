//! What is seen of a run: by the world that does things to it, by providers,
//! commands and clients, and at the border of the core. The list of facts is
//! at the same time the log by which two runs of a seed are compared.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EffectId, TurnId};
use dispatch_core::io::{Effect, Input};
use dispatch_core::time::Now;
use xxhash_rust::xxh3::Xxh3;

use crate::fact::Cause;
use crate::request::Asked;

/// A host of the simulated network. Computers that are reached over SSH will
/// be one more kind: a host with a server of its own and links like the others'.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    Server,
    Provider(usize),
    Client(usize),
}

impl Role {
    /// The host's name in the simulated DNS.
    pub(super) fn host(self) -> String {
        match self {
            Role::Server => "server".to_owned(),
            Role::Provider(n) => format!("p{n}"),
            Role::Client(n) => format!("client-{n}"),
        }
    }
}

/// Something that the world does. Links are those between the server and another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Messages wait.
    Hold(Role),
    /// They go on.
    Release(Role),
    /// Messages are lost.
    Partition(Role),
    /// Some are.
    Lossy(Role),
    /// They arrive again; connections that have lost one are dead all the same.
    Repair(Role),
    /// The process is gone, its sockets are closed.
    Crash(Role),
    /// It is started again.
    Bounce(Role),
    /// The server is asked to end (L8).
    ShutDown,
    /// Everything is repaired and stays so.
    Calm,
}

/// One thing that was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    Changed(Change),
    /// A life of the server has begun.
    Booted {
        life: u32,
    },
    /// The core asks for a stream.
    Opened {
        life: u32,
        id: EffectId,
        provider: usize,
        asked: Asked,
        mono_ms: u64,
    },
    /// It is done with it, or has heard its end.
    Closed {
        life: u32,
        id: EffectId,
        mono_ms: u64,
    },
    /// L7: it has been rebuilt, but no seed should get there.
    Panicked {
        what: String,
    },
    /// The core's own invariants.
    Broken {
        what: String,
    },
    /// A request as a provider got it.
    Requested {
        stream: u32,
        provider: usize,
        asked: Asked,
        verdict: Result<(), String>,
    },
    /// What the provider does to it.
    Injected {
        asked: Asked,
        cause: Cause,
    },
    /// The provider has refused a request with a status.
    Refused {
        asked: Asked,
        status: u16,
    },
    /// The provider is done with it, or its client is gone.
    Gone {
        stream: u32,
    },
    /// A command is started.
    Ran {
        turn: TurnId,
        call_id: String,
        command: String,
    },
    /// A client sends a message.
    Submitted {
        token: u32,
        conversation: ConversationId,
    },
    /// The server has taken it.
    Acked {
        token: u32,
        turn: TurnId,
        conversation: ConversationId,
    },
    /// The server has answered what it should not have.
    Odd {
        asked: String,
        answer: String,
    },
    /// A client asks for an end.
    Aborting {
        conversation: ConversationId,
    },
    /// A stream of events begins; `turn`: only that turn's.
    Reading {
        reader: u32,
        conversation: ConversationId,
        turn: Option<TurnId>,
        after: u64,
    },
    /// An event on a stream.
    Showed {
        reader: u32,
        event: Box<AgentEvent>,
    },
    /// At the end: a conversation's whole log.
    Audited {
        conversation: ConversationId,
        events: Vec<AgentEvent>,
    },
    /// At the end: a turn's terminal event as `GET /turns/{id}` has it.
    Ended {
        turn: TurnId,
        terminal: Option<Box<AgentEvent>>,
    },
    /// After the server's graceful end: connections that are still open.
    Left {
        connections: usize,
    },
}

/// A fact and when it was seen, in simulated milliseconds, to the tick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) at_ms: u64,
    pub(super) fact: Fact,
}

/// Takes the facts of one run; clones share them.
#[derive(Clone)]
pub(super) struct Log(Arc<Mutex<Inner>>);

struct Inner {
    now_ms: u64,
    seen: Vec<Seen>,
    digest: Xxh3,
    events: u64,
    lines: Option<Vec<String>>,
    next_id: u32,
}

/// What a run leaves.
pub(super) struct Story {
    pub(super) seen: Vec<Seen>,
    pub(super) digest: u64,
    pub(super) events: u64,
    pub(super) lines: Vec<String>,
}

impl Log {
    pub(super) fn new(keeps_lines: bool) -> Log {
        Log(Arc::new(Mutex::new(Inner {
            now_ms: 0,
            seen: Vec::new(),
            digest: Xxh3::new(),
            events: 0,
            lines: keeps_lines.then(Vec::new),
            next_id: 0,
        })))
    }

    /// The world's clock moves.
    pub(super) fn set_now(&self, now_ms: u64) {
        self.lock().now_ms = now_ms;
    }

    /// Simulated milliseconds since the run's start, to the tick.
    pub(super) fn now_ms(&self) -> u64 {
        self.lock().now_ms
    }

    /// A number that the run has not used yet.
    pub(super) fn fresh_id(&self) -> u32 {
        let mut inner = self.lock();
        inner.next_id += 1;
        inner.next_id
    }

    pub(super) fn tell(&self, fact: Fact) {
        let mut inner = self.lock();
        let at_ms = inner.now_ms;
        inner.line(format!("{at_ms} {fact:?}"));
        inner.seen.push(Seen { at_ms, fact });
    }

    /// One input of the core with what came of it.
    pub(super) fn step(&self, life: u32, now: Now, input: &[u8], shown: impl FnOnce() -> String) {
        let mut inner = self.lock();
        inner.events += 1;
        inner.digest.update(&life.to_le_bytes());
        inner.digest.update(&now.mono.0.to_le_bytes());
        inner.digest.update(&now.wall.0.to_le_bytes());
        inner.digest.update(input);
        let at_ms = inner.now_ms;
        if let Some(lines) = &mut inner.lines {
            lines.push(format!("{at_ms} life {life} {} {}", now.mono.0, shown()));
        }
    }

    /// Everything so far; the log is empty afterwards.
    pub(super) fn finish(&self) -> Story {
        let mut inner = self.lock();
        Story {
            seen: std::mem::take(&mut inner.seen),
            digest: inner.digest.digest(),
            events: inner.events,
            lines: inner.lines.take().unwrap_or_default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere is the very thing to be told.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn line(&mut self, line: String) {
        self.events += 1;
        self.digest.update(line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(line);
        }
    }
}

const LINE_CHARS: usize = 600;

/// An input as a trace shows it.
pub(super) fn shown_input(input: &Input) -> String {
    bounded(&match input {
        Input::ProviderBytes { id, bytes } => {
            format!("<- bytes of {}: {:?}", id.n, String::from_utf8_lossy(bytes))
        }
        other => format!("<- {other:?}"),
    })
}

/// An effect as a trace shows it.
pub(super) fn shown_effect(effect: &Effect) -> String {
    bounded(&match effect {
        Effect::Publish { event } => format!("-> publish {}", event.to_json()),
        Effect::OpenProvider { id, turn, .. } => format!("-> open {} for {turn}", id.n),
        other => format!("-> {other:?}"),
    })
}

fn bounded(text: &str) -> String {
    text.chars().take(LINE_CHARS).collect()
}
