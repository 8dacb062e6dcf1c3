//! The loop around the core: inputs in, effects out.
//!
//! One task owns the Dispatcher. What providers and tools say comes through a
//! bounded channel, so that a core that is behind stops the sockets; outcomes
//! of verbs, ends of tools and commands come through a lane of their own and
//! never wait behind provider bytes. A panic in the core costs at most the turn
//! whose input it was: the Dispatcher is rebuilt from the store (L7).

mod effects;
mod flights;
mod links;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dispatch_core::Dispatcher;
use dispatch_core::config::Config;
use dispatch_core::ids::{CommandId, ProviderId, TurnId};
use dispatch_core::io::{Answer, Command, Effect, Input};
use dispatch_core::journal::{Life, Start};
use dispatch_core::time::{Instant, Now};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::computers::Computers;
use crate::exec::Exec;
use crate::hub::Hub;
use crate::journal::Journal;
use crate::net::Net;
use crate::panics::{self, Caught};
use crate::provider::{Provider, ProviderInput, StreamHandle};
use crate::store::Store;
use crate::webhook::Delivers;

use flights::Flights;

/// The state machine that a driver drives; in production the [`Dispatcher`].
pub trait Machine: Send + 'static {
    /// See [`Dispatcher::handle`].
    fn handle(&mut self, now: Now, input: Input);
    /// See [`Dispatcher::poll_effect`].
    fn poll_effect(&mut self) -> Option<Effect>;
    /// See [`Dispatcher::acting_on`].
    fn acting_on(&self) -> Option<TurnId>;
    /// See [`Dispatcher::poll_timeout`].
    fn poll_timeout(&self) -> Option<Instant>;
}

impl Machine for Dispatcher {
    fn handle(&mut self, now: Now, input: Input) {
        Dispatcher::handle(self, now, input);
    }
    fn poll_effect(&mut self) -> Option<Effect> {
        Dispatcher::poll_effect(self)
    }
    fn acting_on(&self) -> Option<TurnId> {
        Dispatcher::acting_on(self)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        Dispatcher::poll_timeout(self).map(|(at, _)| at)
    }
}

/// A provider as the driver calls it.
pub trait Opens: Send + Sync + 'static {
    /// See [`Provider::open`].
    fn open(&self, body: Bytes, connect_ms: u64, sink: mpsc::Sender<ProviderInput>)
    -> StreamHandle;
}

impl<N: Net> Opens for Provider<N> {
    fn open(
        &self,
        body: Bytes,
        connect_ms: u64,
        sink: mpsc::Sender<ProviderInput>,
    ) -> StreamHandle {
        Provider::open(self, body, connect_ms, sink)
    }
}

/// Everything that effects are carried out with.
pub struct Ports {
    /// Verbs.
    pub store: Arc<dyn Store>,
    /// Tools.
    pub exec: Arc<dyn Exec>,
    /// Tools on other computers.
    pub computers: Arc<dyn Computers>,
    /// Streams.
    pub providers: BTreeMap<ProviderId, Arc<dyn Opens>>,
    /// Who is told of terminal events.
    pub webhooks: Arc<dyn Delivers>,
    /// Events.
    pub hub: Hub,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where tools run when neither conversation nor workspace says (C4).
    pub cwd: PathBuf,
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports")
            .field("providers", &self.providers.keys())
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// Provider bytes and tool previews that may wait for the core.
const BYTES_LANE: usize = 256;
/// Inputs taken in a row before timers and the other lane have their turn.
const BATCH: usize = 64;
/// A command's answer is waited for so long beyond the core's own deadline.
const ANSWER_MARGIN: Duration = Duration::from_secs(5);
/// The pause before a rebuild doubles from here while panics follow each other.
const REBUILD_PAUSE_MS: u64 = 100;
const REBUILD_PAUSE_MAX_MS: u64 = 5_000;
/// A life that lasted so long was a good one.
const GOOD_LIFE_MS: u64 = 60_000;

/// What comes on the lane that is never full.
enum Urgent {
    Input(Input),
    Ask(Command, oneshot::Sender<Answer>),
    Count(oneshot::Sender<Census>),
}

/// What a driver has under way (O4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Turns that something is under way for.
    pub turns: usize,
    /// Requests at providers.
    pub streams: usize,
    /// Tool calls.
    pub tools: usize,
    /// Tries to tell a webhook.
    pub deliveries: usize,
    /// Connections to other computers, on their way or open.
    pub links: usize,
}

/// Speaks to the driver; cheap to clone.
#[derive(Clone)]
pub struct Handle {
    urgent: mpsc::UnboundedSender<Urgent>,
    booted: watch::Receiver<bool>,
    drained: watch::Receiver<bool>,
    unwell: watch::Receiver<Option<Arc<str>>>,
    draining: Arc<AtomicBool>,
    patience: Duration,
}

impl Handle {
    /// Asks the core, and waits for its answer: [`Answer::Unconfirmed`] when none
    /// comes in time.
    pub async fn ask(&self, command: Command) -> Answer {
        let (sender, answer) = oneshot::channel();
        if self.urgent.send(Urgent::Ask(command, sender)).is_err() {
            return Answer::ShuttingDown;
        }
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Answer::Unconfirmed,
        }
    }

    /// Begins the graceful end (L8).
    pub fn shut_down(&self) {
        self.draining.store(true, Ordering::Relaxed);
        // A driver that is gone has nothing left to drain.
        let _ = self.urgent.send(Urgent::Input(Input::Shutdown));
    }

    /// Another replica says that something waits for this one (L9).
    pub fn nudged(&self) {
        // A driver that is gone waits for nothing.
        let _ = self.urgent.send(Urgent::Input(Input::Nudged));
    }

    /// The graceful end has begun: nothing new is taken.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// What is under way; answered in its turn, so that it also tells that the
    /// driver gets on. `None`: the driver is gone.
    pub async fn census(&self) -> Option<Census> {
        let (sender, census) = oneshot::channel();
        self.urgent.send(Urgent::Count(sender)).ok()?;
        census.await.ok()
    }

    /// Why the store took nothing when it was last asked to; `None`: it took it.
    pub fn unwell(&self) -> Option<Arc<str>> {
        self.unwell.borrow().clone()
    }

    /// The store has answered this process's boot.
    pub fn is_booted(&self) -> bool {
        *self.booted.borrow()
    }

    /// Waits until [`Handle::is_booted`]; `false`: the driver is gone.
    pub async fn booted(&self) -> bool {
        self.booted.clone().wait_for(|yes| *yes).await.is_ok()
    }

    /// Waits until no turn is owned any more after a shutdown.
    pub async fn drained(&self) {
        // A driver that is gone owns nothing.
        let _ = self.drained.clone().wait_for(|yes| *yes).await;
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("is_booted", &self.is_booted())
            .finish_non_exhaustive()
    }
}

/// The driver; [`Driver::run`] is its task.
pub struct Driver<M, F> {
    build: F,
    machine: M,
    config: Config,
    ports: Ports,
    journal: Option<Journal>,
    urgent: mpsc::UnboundedReceiver<Urgent>,
    bytes: mpsc::Receiver<Input>,
    lanes: Lanes,
    flights: Flights,
    waiting: BTreeMap<CommandId, oneshot::Sender<Answer>>,
    next_command: u64,
    drain: Vec<Effect>,
    booted: watch::Sender<bool>,
    drained: watch::Sender<bool>,
    unwell: watch::Sender<Option<Arc<str>>>,
    is_shutting_down: bool,
    born: Instant,
    rebuild_pause_ms: u64,
    tracker: TaskTracker,
    stop: CancellationToken,
}

/// The sending ends, for whoever carries out an effect.
#[derive(Clone)]
struct Lanes {
    urgent: mpsc::UnboundedSender<Urgent>,
    bytes: mpsc::Sender<Input>,
}

impl Lanes {
    fn urgent(&self, input: Input) {
        // Without a driver nobody waits for it.
        let _ = self.urgent.send(Urgent::Input(input));
    }
}

impl<M: Machine, F: FnMut(Start) -> M + Send + 'static> Driver<M, F> {
    /// Prepares a driver around the machine that `build` makes of a [`Start`].
    /// Every task that it spawns is one of `tracker`'s; `stop` ends it at once.
    ///
    /// # Errors
    /// [`Caught`] when the very first machine panics.
    pub fn new(
        config: Config,
        ports: Ports,
        journal: Option<Journal>,
        mut build: F,
        tracker: TaskTracker,
        stop: CancellationToken,
    ) -> Result<(Driver<M, F>, Handle), Caught> {
        let (urgent_in, urgent) = mpsc::unbounded_channel();
        let (bytes_in, bytes) = mpsc::channel(BYTES_LANE);
        let (booted, booted_out) = watch::channel(false);
        let (drained, drained_out) = watch::channel(false);
        let (unwell, unwell_out) = watch::channel(None);
        let handle = Handle {
            draining: Arc::default(),
            urgent: urgent_in.clone(),
            booted: booted_out,
            drained: drained_out,
            unwell: unwell_out,
            patience: Duration::from_millis(config.deadlines.store_ms) + ANSWER_MARGIN,
        };
        let now = ports.clock.now();
        let mut journal = journal;
        let start = Start {
            config: config.clone(),
            seed: fresh_seed(),
            now,
            life: Life::First,
        };
        if let Some(journal) = &mut journal {
            journal.start(&start);
        }
        let machine = panics::guard(|| build(start))?;
        let driver = Driver {
            build,
            machine,
            config,
            ports,
            journal,
            urgent,
            bytes,
            lanes: Lanes {
                urgent: urgent_in,
                bytes: bytes_in,
            },
            flights: Flights::default(),
            waiting: BTreeMap::new(),
            next_command: 0,
            drain: Vec::new(),
            booted,
            drained,
            unwell,
            is_shutting_down: false,
            born: now.mono,
            rebuild_pause_ms: 0,
            tracker,
            stop,
        };
        Ok((driver, handle))
    }

    /// Drives until stopped; then every stream is dropped and every tool left
    /// to its supervisor.
    pub async fn run(mut self) {
        self.feed(Input::Tick).await;
        loop {
            if let Some(journal) = &mut self.journal
                && self.urgent.is_empty()
                && self.bytes.is_empty()
            {
                journal.flush();
            }
            let due = self.machine.poll_timeout();
            let wait_ms = due.map(|at| at.since_ms(self.ports.clock.now().mono));
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return self.flights.leave(),
                urgent = self.urgent.recv() => self.urgent(urgent).await,
                bytes = self.bytes.recv() => self.bytes(bytes).await,
                () = sleep(wait_ms) => self.feed(Input::Tick).await,
            }
        }
    }

    /// What waits on both lanes, in turns, so that neither starves the other.
    async fn urgent(&mut self, first: Option<Urgent>) {
        let mut next = first;
        for _ in 0..BATCH {
            let Some(urgent) = next else { break };
            self.one_urgent(urgent).await;
            next = self.urgent.try_recv().ok();
        }
        if let Some(urgent) = next {
            self.one_urgent(urgent).await;
        }
        let bytes = self.bytes.try_recv().ok();
        self.bytes(bytes).await;
    }

    async fn one_urgent(&mut self, urgent: Urgent) {
        match urgent {
            Urgent::Input(input) => {
                self.is_shutting_down |= matches!(input, Input::Shutdown);
                self.feed(input).await;
            }
            Urgent::Ask(command, answer) => {
                let id = CommandId(self.next_command);
                self.next_command += 1;
                self.waiting.insert(id, answer);
                self.feed(Input::Command { id, command }).await;
            }
            Urgent::Count(census) => {
                // Whoever asked may have gone.
                let _ = census.send(self.flights.census());
            }
        }
    }

    async fn bytes(&mut self, first: Option<Input>) {
        let mut next = first;
        for _ in 0..BATCH {
            let Some(input) = next else { return };
            self.feed(input).await;
            next = self.bytes.try_recv().ok();
        }
        if let Some(input) = next {
            self.feed(input).await;
        }
    }

    /// One input, and everything that comes of it.
    async fn feed(&mut self, input: Input) {
        let now = self.ports.clock.now();
        let turn = self.flights.turn_of(&input);
        self.flights.over(&input);
        #[cfg(planted)]
        let answered = crate::points::answered(&input);
        let (machine, drain, journal) = (&mut self.machine, &mut self.drain, &mut self.journal);
        if let Some(journal) = journal {
            journal.input(now, &input);
        }
        let handled = panics::guard(|| {
            machine.handle(now, input);
            while let Some(effect) = machine.poll_effect() {
                drain.push(effect);
            }
        });
        match handled {
            Ok(()) => {
                if let Some(journal) = journal {
                    for effect in drain.iter() {
                        journal.effect(effect);
                    }
                    journal.finish(now);
                }
                #[cfg(planted)]
                if let Some(verb) = answered {
                    crate::points::reach(crate::points::Point::BeforeEffects, verb);
                }
                let mut drain = std::mem::take(&mut self.drain);
                for effect in drain.drain(..) {
                    self.carry_out(effect);
                }
                self.drain = drain;
            }
            Err(caught) => {
                // A timer that was due may have run before the input did.
                let turn = self.machine.acting_on().or(turn);
                self.rebuild(&caught, turn).await;
            }
        }
    }

    /// L7: as after a restart, but only the turn whose input it was is sealed.
    async fn rebuild(&mut self, caught: &Caught, turn: Option<TurnId>) {
        let mut caught = caught.clone();
        let seal = turn;
        if let Some(journal) = &mut self.journal {
            journal.panicked();
        }
        loop {
            tracing::error!(
                message = %caught.message,
                turn = seal.map(|turn| turn.to_string()),
                open_turns = self.flights.turns(),
                resident_kib = panics::resident_kib(),
                "the core panicked and is rebuilt from the store\n{}",
                caught.trace
            );
            self.drain.clear();
            self.flights.leave();
            for (_, answer) in std::mem::take(&mut self.waiting) {
                let _ = answer.send(Answer::Unconfirmed);
            }
            self.pause_before_rebuild().await;
            self.config.owner.incarnation += 1;
            let start = Start {
                config: self.config.clone(),
                seed: fresh_seed(),
                now: self.ports.clock.now(),
                life: Life::Rebuilt { seal },
            };
            self.born = start.now.mono;
            if let Some(journal) = &mut self.journal {
                journal.start(&start);
            }
            let build = &mut self.build;
            match panics::guard(|| build(start)) {
                Ok(machine) => {
                    let old = std::mem::replace(&mut self.machine, machine);
                    // A broken machine may also panic while it is dropped.
                    let _ = panics::guard(|| drop(old));
                    break;
                }
                Err(again) => caught = again,
            }
        }
        // Through the lane and not through `feed`: a panic in here must not recurse.
        self.lanes.urgent(Input::Tick);
        if self.is_shutting_down {
            self.lanes.urgent(Input::Shutdown);
        }
    }

    async fn pause_before_rebuild(&mut self) {
        let lived_ms = self.ports.clock.now().mono.since_ms(self.born);
        if lived_ms >= GOOD_LIFE_MS {
            self.rebuild_pause_ms = 0;
        }
        let pause = Duration::from_millis(self.rebuild_pause_ms);
        self.rebuild_pause_ms =
            (self.rebuild_pause_ms * 2).clamp(REBUILD_PAUSE_MS, REBUILD_PAUSE_MAX_MS);
        tokio::select! {
            biased;
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

impl<M, F> fmt::Debug for Driver<M, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver")
            .field("owner", &self.config.owner)
            .finish_non_exhaustive()
    }
}

/// 32 bytes of the system's randomness.
pub(crate) fn fresh_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the system always has randomness once it has booted");
    seed
}

async fn sleep(wait_ms: Option<u64>) {
    match wait_ms {
        Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
