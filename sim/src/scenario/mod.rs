//! What a run consists of: drawn from its seed before it begins. Swarm style:
//! most seeds leave most kinds of trouble out, so that each kind is also met
//! alone.

mod computers;
mod draw;
mod listed;

use dispatch_core::ids::{ConversationId, Slug};
use serde::{Deserialize, Serialize};

use crate::clock::Us;
use crate::script::Script;
pub(crate) use computers::Trouble;

pub(crate) const SECOND: Us = 1_000_000;
pub(crate) const MINUTE: Us = 60 * SECOND;
pub(crate) const HOUR: Us = 60 * MINUTE;

/// From which family of scenarios seeds draw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Anything, most kinds of trouble left out of most seeds.
    #[default]
    Swarm,
    /// Three replicas, an hour with a storm in it, at least a hundred turns: the
    /// measure of the simulator's speed.
    Storm,
}

/// The plan of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Scenario {
    pub(crate) replicas: usize,
    /// Streams in flight, by provider.
    pub(crate) limits: Vec<u32>,
    pub(crate) ask_ms: u64,
    pub(crate) requests_ms: u64,
    pub(crate) seals: bool,
    pub(crate) repeats_cuts: bool,
    // What came after the first recipes, as it was without it.
    #[serde(default = "documented_budget_ms")]
    pub(crate) retry_budget_ms: u64,
    /// Streams and commands say something after they were closed or have ended.
    #[serde(default)]
    pub(crate) lingers: bool,
    /// Most commands run for minutes.
    #[serde(default)]
    pub(crate) slow_tools: bool,
    #[serde(default = "documented_step_bytes")]
    pub(crate) step_limit_bytes: usize,
    /// 0: none.
    #[serde(default)]
    pub(crate) step_limit: u32,
    /// Who is told of terminal events.
    #[serde(default)]
    pub(crate) webhooks: Vec<Hook>,
    /// Computers that tools run on over links.
    #[serde(default)]
    pub(crate) computers: usize,
    /// When the calm begins.
    pub(crate) calm_at: Us,
    pub(crate) conversations: Vec<Conversation>,
    #[serde(with = "listed")]
    pub(crate) messages: Vec<Message>,
    pub(crate) acts: Vec<(Us, Act)>,
    pub(crate) chaos: Vec<(Us, Chaos)>,
    pub(crate) faults: Faults,
}

/// An endpoint that is told of terminal events (C7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hook {
    /// Tries that go wrong until the calm, in 10,000.
    pub(crate) trouble: u64,
    /// It never takes anything, not even in the calm.
    pub(crate) is_dead: bool,
    /// It wants `done` alone.
    pub(crate) done_only: bool,
}

/// A conversation that a client holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Conversation {
    /// `None`: the server names it.
    pub(crate) id: Option<ConversationId>,
    pub(crate) workspace: Slug,
    pub(crate) provider: usize,
    /// Where its tools run; `None`: at the server.
    #[serde(default)]
    pub(crate) computer: Option<usize>,
}

/// A message to be sent; its token is its index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Message {
    pub(crate) conversation: usize,
    pub(crate) keyed: bool,
    /// Sent to two replicas at once.
    pub(crate) doubled: bool,
    /// What the model says to it. Without steps: nobody sends this message, it
    /// only keeps the tokens of those after it.
    pub(crate) script: Script,
}

impl Message {
    /// A place that nobody's message takes.
    pub(crate) fn blank(token: u32) -> Message {
        let steps = Vec::new();
        Message {
            conversation: 0,
            keyed: false,
            doubled: false,
            script: Script { token, steps },
        }
    }

    pub(crate) fn is_blank(&self) -> bool {
        self.script.steps.is_empty()
    }
}

/// Something that a client does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Act {
    Submit {
        token: u32,
    },
    /// A client that has no answer asks again.
    SubmitAgain {
        token: u32,
    },
    Abort {
        token: u32,
        by_conversation: bool,
    },
    Star {
        slug: Slug,
        starred: bool,
    },
    Limit {
        provider: usize,
        limit: u32,
    },
    /// Somebody wants to know whether a computer can be reached.
    Test {
        computer: usize,
    },
}

/// Something that befalls a process or the provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Chaos {
    /// `kill -9`.
    Kill {
        replica: usize,
        when: When,
        down: Us,
    },
    /// SIGTERM; and SIGKILL so long after it where whoever sent it is impatient.
    Shutdown {
        replica: usize,
        down: Us,
        killed_after: Option<Us>,
    },
    /// SIGSTOP, SIGCONT.
    Pause {
        replica: usize,
        when: When,
        during: Us,
    },
    /// The store cannot be reached.
    Partition { replica: usize, during: Us },
    /// Every request is refused.
    Storm { during: Us, kind: StormKind },
    /// The core panics over the input after so many more (L7).
    Panic { replica: usize, after_inputs: u32 },
    /// What its owners write about their turns waits for a lock that nobody
    /// releases; all else goes through.
    Wedge { replica: usize, during: Us },
    /// Somebody sets the clock.
    WallJump { replica: usize, by_ms: i64 },
    /// A part of what was said in it cannot be read back from the store any more.
    Rot { conversation: usize },
    /// Something is wrong with a computer, or with the way to it.
    Computer {
        computer: usize,
        trouble: Trouble,
        during: Us,
    },
}

impl Chaos {
    /// How long it goes on by itself; 0 for what is done at once.
    pub(crate) fn lasts(&self) -> Us {
        match self {
            Chaos::Pause { during, .. }
            | Chaos::Partition { during, .. }
            | Chaos::Wedge { during, .. }
            | Chaos::Computer { during, .. }
            | Chaos::Storm { during, .. } => *during,
            Chaos::Kill { .. }
            | Chaos::Shutdown { .. }
            | Chaos::Panic { .. }
            | Chaos::WallJump { .. }
            | Chaos::Rot { .. } => 0,
        }
    }
}

/// The moment at which a process is hit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum When {
    Now,
    /// Having carried out so many more effects.
    AfterEffects(u32),
    /// A kill: with the next effect of this name still to be carried out. A pause:
    /// having carried it out.
    At(String),
}

/// Effects at which processes are hit: those that leave something half done.
pub(crate) const HIT_AT: [&str; 15] = [
    "accept",
    "adopt-tool",
    "apply-grants",
    "checkpoint",
    "commit-step",
    "elect",
    "load",
    "park",
    "schedule-retry",
    "tools-finished",
    "tools-started",
    "answer",
    "open-provider",
    "publish",
    "start-tool",
];

/// Those that leave a delivery half done.
pub(super) const HIT_DELIVERY_AT: [&str; 4] =
    ["take-deliveries", "deliver", "settle-delivery", "elect"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum StormKind {
    RateLimited,
    RateLimitedWithRetryAfter,
    Unavailable,
    Unreachable,
}

/// How a request can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    RateLimited,
    RetryAfter,
    Unavailable,
    Unauthorized,
    Quota,
    Refused,
    ConnectTimeout,
    Hang,
    CutBefore,
    CutAfter,
    EndAfter,
    StallBefore,
    StallAfter,
    OverloadedBefore,
    OverloadedAfter,
    MalformedBefore,
    MalformedAfter,
    Empty,
    NoTerminator,
    CutAtEnd,
    /// Cut after a finish reason before which nothing was said.
    EmptyCut,
    /// The step outgrows its bound.
    Flood,
    /// All is well, but slow: minutes for a step.
    Drip,
}

/// A step's bound where nothing is said of it.
pub(crate) const DOCUMENTED_STEP_BYTES: usize = 4 * 1024 * 1024;

/// A step's bound where floods are met.
pub(crate) const FLOOD_LIMIT_BYTES: usize = 16 * 1024;

/// Rates, each in 10,000.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Faults {
    pub(crate) provider: u64,
    pub(crate) provider_kinds: Vec<(Fault, u64)>,
    pub(crate) store_unknown: u64,
    pub(crate) store_failed: u64,
    pub(crate) store_stall: u64,
    pub(crate) store_twice: u64,
    /// A write of an owner that a layer below sends once more, much later.
    #[serde(default)]
    pub(crate) store_echo: u64,
    pub(crate) tool_hang: u64,
    pub(crate) tool_end_lost: u64,
    pub(crate) tool_fails: u64,
    /// The slowest answer of the store, in microseconds.
    pub(crate) store_slowest: Us,
}

fn documented_budget_ms() -> u64 {
    8 * 3_600_000
}

fn documented_step_bytes() -> usize {
    DOCUMENTED_STEP_BYTES
}
