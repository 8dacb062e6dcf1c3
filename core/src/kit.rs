//! What every child of the Dispatcher works with: effects out, timers, and the
//! register of what is in flight. Children see this, drivers never do.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::event::AgentEvent;
use crate::ids::{CommandId, ComputerId, EffectId, EndpointId, ProviderId, TurnId};
use crate::io::{Effect, ToolAdopt, ToolStart};
use crate::store::Verb;
use crate::time::{Instant, Now};

/// Why the core wants to be woken.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Wake {
    /// A stream may be silent for too long.
    StreamDue(TurnId),
    /// A tool call, by its place in the step, has run for too long, or was
    /// killed and has not ended.
    ToolDue(TurnId, u32),
    /// A turn's lease was not renewed in time.
    FenceDue(TurnId),
    /// A turn's hard limit is reached.
    HardLimitDue(TurnId),
    /// A store verb has not come back.
    VerbDue(EffectId),
    /// A store verb is to be asked again.
    AskAgain(u64),
    /// A provider's line is to be looked at.
    LookDue(ProviderId),
    /// Leases are to be renewed.
    RenewDue,
    /// Lapsed leases are to be swept.
    SweepDue,
    /// Markers and turns are to be compared.
    AuditDue,
    /// Abort requests are to be read.
    RequestsDue,
    /// Open steps are to be checkpointed.
    CheckpointDue,
    /// A shutdown has waited long enough.
    DrainDue,
    /// The outbox is to be looked at.
    OutboxDue,
    /// An endpoint has been silent for too long about this turn's end.
    DeliveryDue(EndpointId, TurnId),
    /// Something about the link to a computer is due.
    LinkDue(ComputerId),
    /// A call on a computer has waited for long enough.
    JobDue(ComputerId, EffectId),
    /// A client is to be told whether a computer can be reached.
    TestDue(ComputerId, CommandId),
}

/// At most one deadline for each reason, in order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Timers {
    queue: BTreeSet<(Instant, Wake)>,
    by_wake: BTreeMap<Wake, Instant>,
}

impl Timers {
    pub(crate) fn arm(&mut self, wake: Wake, at: Instant) {
        self.disarm(&wake);
        self.queue.insert((at, wake.clone()));
        self.by_wake.insert(wake, at);
    }

    /// Arms unless an earlier deadline stands.
    pub(crate) fn arm_by(&mut self, wake: Wake, at: Instant) {
        if self
            .by_wake
            .get(&wake)
            .is_none_or(|standing| *standing > at)
        {
            self.arm(wake, at);
        }
    }

    pub(crate) fn disarm(&mut self, wake: &Wake) {
        if let Some((wake, at)) = self.by_wake.remove_entry(wake) {
            self.queue.remove(&(at, wake));
        }
    }

    pub(crate) fn due(&self, wake: &Wake) -> Option<Instant> {
        self.by_wake.get(wake).copied()
    }

    pub(crate) fn is_armed(&self, wake: &Wake) -> bool {
        self.by_wake.contains_key(wake)
    }

    pub(crate) fn next(&self) -> Option<(Instant, Wake)> {
        self.queue.first().cloned()
    }

    pub(crate) fn pop_due(&mut self, now: Instant) -> Option<Wake> {
        let due = self.queue.first().is_some_and(|(at, _)| *at <= now);
        let (_, wake) = due.then(|| self.queue.pop_first())??;
        self.by_wake.remove(&wake);
        Some(wake)
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Wake> {
        self.by_wake.keys()
    }
}

/// Whom a store verb's outcome concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Purpose {
    Boot,
    Command(CommandId),
    View(ProviderId),
    Grants(ProviderId),
    Turn(TurnId),
    Renew,
    Requests,
    Sweep,
    Audit,
    Checkpoint,
    Runs,
    Outbox,
    Delivery(EndpointId, TurnId),
    /// Over this link.
    RunsOn(ComputerId, EffectId),
}

/// One store verb on its way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ask {
    pub(crate) verb: Verb,
    pub(crate) purpose: Purpose,
    /// Of the first asking.
    pub(crate) first_asked_at: Instant,
    /// Of the latest asking: a lease that the reply confirms counts from it.
    pub(crate) asked_at: Instant,
    pub(crate) tries: u32,
}

/// What an effect's completion is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Flight {
    Verb(Box<Ask>),
    Stream(TurnId),
    Tool(TurnId, u32),
    /// A call on another computer: the pool's, by way of attempts.
    Call(TurnId, u32),
    Runs,
    Delivery(EndpointId, TurnId),
    /// A link to a computer, on its way or open.
    Link(ComputerId),
    /// One try of a call on a computer, over one link.
    Attempt(ComputerId, EffectId),
    /// A look for commands over there that nobody watches.
    RunsOn(ComputerId),
}

/// What a turn wants of a call on another computer. The call is named by the
/// effect that the turn waits for; what goes over a link has names of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Wish {
    Start(EffectId, Box<ToolStart>),
    Adopt(EffectId, Box<ToolAdopt>),
    Kill(EffectId),
    /// Let it run; nobody here waits for it any more.
    Leave(EffectId),
    /// It was killed and has not ended in time; nobody waits for it any more.
    GiveUp(EffectId),
}

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kit {
    pub(crate) effects: VecDeque<Effect>,
    pub(crate) timers: Timers,
    pub(crate) flights: BTreeMap<EffectId, Flight>,
    /// Verbs that wait to be asked again.
    pub(crate) pausing: BTreeMap<u64, Ask>,
    /// Turns whose terminal event was published over the present input.
    pub(crate) ended: Vec<TurnId>,
    /// What turns want of other computers, until it is handed on.
    pub(crate) wishes: VecDeque<(ComputerId, Wish)>,
    incarnation: u32,
    next: u64,
    rng: ChaCha8Rng,
}

impl Kit {
    pub(crate) fn new(seed: [u8; 32], incarnation: u32) -> Kit {
        Kit {
            effects: VecDeque::new(),
            timers: Timers::default(),
            flights: BTreeMap::new(),
            pausing: BTreeMap::new(),
            ended: Vec::new(),
            wishes: VecDeque::new(),
            incarnation,
            next: 0,
            rng: ChaCha8Rng::from_seed(seed),
        }
    }

    pub(crate) fn random(&mut self) -> u128 {
        (u128::from(self.rng.next_u64()) << 64) | u128::from(self.rng.next_u64())
    }

    /// Uniform enough for pauses: 0 to `below` - 1.
    pub(crate) fn random_below(&mut self, below: u64) -> u64 {
        self.rng.next_u64() % below.max(1)
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A new name.
    pub(crate) fn name(&mut self) -> EffectId {
        EffectId {
            incarnation: self.incarnation,
            n: self.number(),
        }
    }

    /// Names a new effect and remembers whom it concerns.
    pub(crate) fn register(&mut self, flight: Flight) -> EffectId {
        let id = self.name();
        self.flights.insert(id, flight);
        id
    }

    pub(crate) fn emit(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Here, or on the computer that it names, by way of the pool.
    pub(crate) fn start_tool(&mut self, id: EffectId, start: Box<ToolStart>) {
        match start.computer.clone() {
            Some(computer) => self.wish(computer, Wish::Start(id, start)),
            None => self.emit(Effect::StartTool { id, start }),
        }
    }

    pub(crate) fn adopt_tool(&mut self, id: EffectId, adopt: Box<ToolAdopt>) {
        match adopt.computer.clone() {
            Some(computer) => self.wish(computer, Wish::Adopt(id, adopt)),
            None => self.emit(Effect::AdoptTool { id, adopt }),
        }
    }

    pub(crate) fn kill_tool(&mut self, computer: Option<&ComputerId>, id: EffectId) {
        match computer {
            Some(computer) => self.wish(computer.clone(), Wish::Kill(id)),
            None => self.emit(Effect::KillTool { id }),
        }
    }

    pub(crate) fn leave_tool(&mut self, computer: Option<&ComputerId>, id: EffectId) {
        match computer {
            Some(computer) => self.wish(computer.clone(), Wish::Leave(id)),
            None => self.emit(Effect::LeaveTool { id }),
        }
    }

    pub(crate) fn wish(&mut self, computer: ComputerId, wish: Wish) {
        self.wishes.push_back((computer, wish));
    }

    pub(crate) fn publish(&mut self, events: Vec<AgentEvent>) {
        for event in events {
            if event.is_terminal() {
                self.ended.push(event.turn);
            }
            self.emit(Effect::Publish {
                event: Box::new(event),
            });
        }
    }

    pub(crate) fn trace(&mut self, code: &str, message: String) {
        self.emit(Effect::Trace {
            code: code.to_string(),
            message,
        });
    }

    /// Asks the store; the outcome goes to `purpose`.
    pub(crate) fn ask(
        &mut self,
        now: Now,
        store_ms: u64,
        purpose: Purpose,
        verb: Verb,
    ) -> EffectId {
        self.send(
            now,
            store_ms,
            Ask {
                verb,
                purpose,
                first_asked_at: now.mono,
                asked_at: now.mono,
                tries: 0,
            },
        )
    }

    pub(crate) fn send(&mut self, now: Now, store_ms: u64, mut ask: Ask) -> EffectId {
        ask.asked_at = now.mono;
        let verb = ask.verb.clone();
        let id = self.register(Flight::Verb(Box::new(ask)));
        self.timers.arm(Wake::VerbDue(id), now.mono + store_ms);
        self.emit(Effect::Store { id, verb });
        id
    }

    /// Takes a verb's register entry when its outcome, or its deadline, comes.
    pub(crate) fn take_ask(&mut self, id: EffectId) -> Option<Ask> {
        match self.flights.remove(&id) {
            Some(Flight::Verb(ask)) => {
                self.timers.disarm(&Wake::VerbDue(id));
                Some(*ask)
            }
            Some(other) => {
                self.flights.insert(id, other);
                None
            }
            None => None,
        }
    }

    /// How many verbs for this are on their way.
    pub(crate) fn asking(&self, purpose: &Purpose) -> usize {
        let flights = self.flights.values();
        let asks = flights.filter(|flight| match flight {
            Flight::Verb(ask) => ask.purpose == *purpose,
            Flight::Stream(_)
            | Flight::Tool(..)
            | Flight::Call(..)
            | Flight::Runs
            | Flight::Delivery(..)
            | Flight::Link(_)
            | Flight::Attempt(..)
            | Flight::RunsOn(_) => false,
        });
        asks.count()
    }

    /// Asks the same verb again after a short, seeded pause that grows.
    pub(crate) fn ask_again_later(&mut self, now: Now, mut ask: Ask) {
        let base_ms = (25u64 << ask.tries.min(5)).min(1_000);
        let pause_ms = base_ms + self.random_below(base_ms);
        ask.tries = ask.tries.saturating_add(1);
        let n = self.number();
        self.pausing.insert(n, ask);
        self.timers.arm(Wake::AskAgain(n), now.mono + pause_ms);
    }
}

/// A child's view of the world for the length of one input.
#[derive(Debug)]
pub(crate) struct Ctx<'a> {
    pub(crate) config: &'a Config,
    pub(crate) now: Now,
    pub(crate) kit: &'a mut Kit,
}

impl Ctx<'_> {
    /// When a turn will be let go unless its lease is confirmed again: an
    /// effect that a stopped process carries out later must not begin anything.
    pub(crate) fn held_until(&self, turn: TurnId) -> Instant {
        let due = self.kit.timers.due(&Wake::FenceDue(turn));
        due.unwrap_or(self.now.mono)
    }

    pub(crate) fn ask(&mut self, purpose: Purpose, verb: Verb) -> EffectId {
        self.kit
            .ask(self.now, self.config.deadlines.store_ms, purpose, verb)
    }
}
