//! Fault points: places at which a build with `--cfg planted` dies or loses an
//! outcome on request. In any other build there is no trace of them.
//!
//! `DISPATCH_DIE_AT=POINT:WHAT:N` kills the process, as `kill -9` would, when
//! it comes to that point for the N-th time; WHAT is a verb's name, or `turn`
//! at the points that belong to none. `tests/kill_points.rs` tries them all.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{LazyLock, Mutex};

use dispatch_core::ids::EffectId;
use dispatch_core::io::Input;
use dispatch_core::store::{Outcome, Verb};

use crate::panics::locked;
use rustix::process::{Signal, getpid, kill_process};

/// Where to die.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Point {
    /// The core has asked for a verb, and the store has not heard of it.
    BeforeSubmit,
    /// The verb is in its transaction, all but the commit.
    BeforeCommit,
    /// The store has answered, and the core has not heard it.
    AfterCommit,
    /// The core has heard the answer, and nothing of what it wants done is done.
    BeforeEffects,
    /// A tool's supervisor runs, and nobody was told.
    ToolStarted,
    /// A tool has ended, and the core has not heard it.
    ToolEnded,
    /// A provider's answer has begun, and the core has seen nothing of it.
    BeforeFirstByte,
    /// The core has, or is about to.
    AfterFirstByte,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 8] = [
        Point::BeforeSubmit,
        Point::BeforeCommit,
        Point::AfterCommit,
        Point::BeforeEffects,
        Point::ToolStarted,
        Point::ToolEnded,
        Point::BeforeFirstByte,
        Point::AfterFirstByte,
    ];

    /// As `DISPATCH_DIE_AT` has it.
    pub fn name(self) -> &'static str {
        match self {
            Point::BeforeSubmit => "before-submit",
            Point::BeforeCommit => "before-commit",
            Point::AfterCommit => "after-commit",
            Point::BeforeEffects => "before-effects",
            Point::ToolStarted => "tool-started",
            Point::ToolEnded => "tool-ended",
            Point::BeforeFirstByte => "before-first-byte",
            Point::AfterFirstByte => "after-first-byte",
        }
    }

    /// Whether every verb comes by.
    pub fn is_of_verbs(self) -> bool {
        match self {
            Point::BeforeSubmit
            | Point::BeforeCommit
            | Point::AfterCommit
            | Point::BeforeEffects => true,
            Point::ToolStarted
            | Point::ToolEnded
            | Point::BeforeFirstByte
            | Point::AfterFirstByte => false,
        }
    }
}

/// What `WHAT` is at the points that belong to no verb.
pub const TURN: &str = "turn";

/// What a process says on stderr that dies at a point, before what it was asked.
pub const DYING: &str = "dying at ";

struct Aim {
    text: String,
    point: Point,
    what: String,
    /// How often the point is still passed.
    left: AtomicU64,
}

impl Aim {
    fn parse(text: &str) -> Option<Aim> {
        let mut parts = text.split(':');
        let name = parts.next()?;
        let point = *Point::ALL.iter().find(|point| point.name() == name)?;
        let what = parts.next()?.to_owned();
        let n: u64 = parts.next()?.parse().ok()?;
        parts.next().is_none().then(|| Aim {
            text: text.to_owned(),
            point,
            what,
            left: AtomicU64::new(n),
        })
    }
}

static AIM: LazyLock<Option<Aim>> = LazyLock::new(|| {
    let text = std::env::var("DISPATCH_DIE_AT").ok()?;
    let aim = Aim::parse(&text);
    if aim.is_none() {
        tracing::error!(text, "DISPATCH_DIE_AT is no POINT:WHAT:N; nothing dies");
    }
    aim
});

/// Dies here, if that was asked for.
pub(crate) fn reach(point: Point, what: &str) {
    let is_aim = |aim: &&Aim| aim.point == point && aim.what == what;
    let Some(aim) = AIM.as_ref().filter(is_aim) else {
        return;
    };
    if aim.left.fetch_sub(1, Ordering::Relaxed) != 1 {
        return;
    }
    // Whoever waits for this death tells it from others by this line.
    let _ = writeln!(std::io::stderr(), "{DYING}{}", aim.text);
    loop {
        // It does not return, but for a moment it may.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}

static ASKED: Mutex<BTreeMap<EffectId, &'static str>> = Mutex::new(BTreeMap::new());

/// A verb is about to be asked; its name is kept until its answer is there.
pub(crate) fn submitting(id: EffectId, verb: &Verb) -> &'static str {
    // Who adds a verb adds it here: nothing of it is tried else.
    assert!(
        Verb::NAMES.contains(&verb.name()),
        "no fault points are known for {}",
        verb.name()
    );
    reach(Point::BeforeSubmit, verb.name());
    locked(&ASKED).insert(id, verb.name());
    verb.name()
}

/// The store has answered.
pub(crate) fn committed(verb: &str, outcome: &Outcome) {
    if outcome.is_ok() {
        reach(Point::AfterCommit, verb);
    }
}

/// The verb that this answers.
pub(crate) fn answered(input: &Input) -> Option<&'static str> {
    let Input::Stored { id, outcome: Ok(_) } = input else {
        return None;
    };
    locked(&ASKED).remove(id)
}

/// What becomes of the next commit on this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The transaction is gone.
    Before,
    /// It has landed, and nobody hears of it.
    After,
}

std::thread_local! {
    static NEXT_COMMIT: std::cell::Cell<Option<CommitFault>> = const { std::cell::Cell::new(None) };
}

/// Lets the next commit of a store without threads fail, or (`None`) not.
pub fn fail_next_commit(fault: Option<CommitFault>) {
    NEXT_COMMIT.set(fault);
}

/// Whether this commit fails so; it is the last one that does.
pub(crate) fn commit_fails(when: CommitFault) -> bool {
    let fails = NEXT_COMMIT.get() == Some(when);
    if fails {
        NEXT_COMMIT.set(None);
    }
    fails
}
