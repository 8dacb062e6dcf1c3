//! Replicas: processes that are started, stopped, continued and killed, each
//! with its Dispatcher, its clocks and what is in flight for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, OnCut, Provider};
use dispatch_core::ids::{EffectId, Epoch, Owner, ProviderId, TurnId};
use dispatch_core::io::{Effect, Input};
use dispatch_core::journal::{self, Recorder, Start};
use dispatch_core::liveness::OnCrash;
use dispatch_core::store::{ProviderSettings, Reply};
use dispatch_core::time::{Instant, Timestamp};

use super::chaos::{Doom, Hit};
use super::far::Op;
use super::links::Link;
use super::{Event, World, webhooks};
use crate::clock::{Clock, Us, store_time};
use crate::fact::{Fact, Life};
use crate::scenario::SECOND;
use crate::sometimes::Point;

/// A place where processes live, one after the other.
pub(crate) struct Replica {
    pub(super) node: Arc<str>,
    pub(super) life: u32,
    pub(super) state: Life,
    pub(super) process: Option<Process>,
    pub(super) cut_off_until: Us,
    pub(super) wedged_until: Us,
    pub(super) wall_ahead_ms: i64,
    pub(super) down_after_drain: Us,
    /// What came while the process was stopped.
    pub(super) inbox: Vec<Input>,
}

/// One life.
pub(crate) struct Process {
    pub(super) core: Box<Dispatcher>,
    pub(super) clock: Clock,
    pub(super) boot: u64,
    pub(super) incarnation: u32,
    pub(super) armed: Option<Us>,
    /// The core panics over the input after so many more.
    pub(super) panics_after: Option<u32>,
    /// What hits it at one of its next effects.
    pub(super) doom: Option<Doom>,
    feeds: u64,
    pub(super) streams: BTreeMap<EffectId, u32>,
    pub(super) runs: BTreeMap<EffectId, usize>,
    pub(super) links: BTreeMap<EffectId, Link>,
    /// What was begun over which link.
    pub(super) attempts: BTreeMap<EffectId, EffectId>,
    /// Verbs in flight that write to a turn.
    pub(super) writes: BTreeMap<EffectId, TurnId>,
    pub(super) views: BTreeMap<EffectId, ProviderId>,
    /// Deliveries under way.
    pub(super) posts: BTreeSet<EffectId>,
    pub(super) epochs: BTreeMap<TurnId, Epoch>,
    /// When it was last told something.
    told_at: Us,
    fresh_bytes: usize,
    pub(super) journal: Option<Recorder>,
}

/// How often invariants are checked and the state is frozen and thawed, in inputs.
const CHECK_EVERY: u64 = 16;
const THAW_EVERY: u64 = 61;
/// How many timers may fire in a row at one moment.
const TICKS_AT_ONCE: u32 = 1_000;

impl Replica {
    pub(super) fn new(index: usize) -> Replica {
        Replica {
            node: format!("node-{index}").into(),
            life: 0,
            state: Life::Down,
            process: None,
            cut_off_until: 0,
            wedged_until: 0,
            wall_ahead_ms: 0,
            down_after_drain: SECOND,
            inbox: Vec::new(),
        }
    }

    /// Whether this owner's life is the present one.
    pub(super) fn runs(&self, owner: &Owner) -> bool {
        let boot = self.process.as_ref().map(|process| process.boot);
        self.node == owner.node && boot == Some(owner.boot)
    }

    /// When the effects that it is carrying out were decided upon.
    pub(super) fn decided_at(&self) -> Timestamp {
        store_time(self.process.as_ref().map_or(0, |process| process.told_at))
    }

    /// Accepts connections: a stopped process's kernel does so, too.
    pub(super) fn is_reachable(&self) -> bool {
        self.process.is_some()
    }
}

impl World<'_> {
    /// Starts a process unless a later life has begun.
    pub(super) fn start(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        if place.life != life || place.process.is_some() {
            return;
        }
        let drift_ppm = i64::try_from(self.dice.process().below(400)).unwrap_or(0) - 200;
        let offset_ms = self.dice.process().below(1 << 40);
        let boot = self.dice.core().bits();
        let seed = self.dice.core().seed_bytes();
        let clock = Clock::new(self.at, offset_ms, drift_ppm, place.wall_ahead_ms);
        let owner = Owner {
            node: place.node.clone(),
            boot,
            incarnation: 0,
        };
        let start = Start {
            config: self.config(owner, place.life + 1),
            seed,
            now: clock.now(self.at),
            life: journal::Life::First,
        };
        let core = start.dispatcher();
        let journal = self.keeps_journals.then(|| begun(&start));
        let place = &mut self.replicas[replica];
        place.life += 1;
        place.state = Life::Up;
        place.process = Some(Process {
            core: Box::new(core),
            clock,
            boot,
            incarnation: 0,
            armed: None,
            panics_after: None,
            doom: None,
            feeds: 0,
            streams: BTreeMap::new(),
            runs: BTreeMap::new(),
            links: BTreeMap::new(),
            attempts: BTreeMap::new(),
            writes: BTreeMap::new(),
            views: BTreeMap::new(),
            posts: BTreeSet::new(),
            epochs: BTreeMap::new(),
            told_at: self.at,
            fresh_bytes: 0,
            journal,
        });
        self.tell_life(replica, Life::Up);
        self.drain(replica);
    }

    pub(super) fn config(&self, owner: Owner, life: u32) -> Config {
        let providers = self
            .providers
            .iter()
            .zip(&self.scenario.limits)
            .map(|(id, limit)| Provider {
                settings: ProviderSettings {
                    id: id.clone(),
                    limit: *limit,
                    cooldown_ms: 200,
                },
                models: vec!["model-1".to_owned()],
            });
        let mut config = Config::new(owner, providers.collect());
        config.life = life.into();
        config.ask_ms = self.scenario.ask_ms;
        config.outbox_ms = self.scenario.ask_ms;
        config.webhooks = webhooks::configured(&self.scenario);
        config.requests_ms = self.scenario.requests_ms;
        config.retry.budget_ms = self.scenario.retry_budget_ms;
        config.step_limit_bytes = self.scenario.step_limit_bytes;
        config.step_limit = self.scenario.step_limit;
        if self.scenario.seals {
            config.on_crash = OnCrash::Seal;
        }
        if self.scenario.repeats_cuts {
            config.on_cut = OnCut::Restart;
        }
        config
    }

    pub(super) fn tell_life(&mut self, replica: usize, state: Life) {
        let place = &mut self.replicas[replica];
        place.state = state;
        let (life, boot) = (place.life, place.process.as_ref().map_or(0, |p| p.boot));
        self.recorder
            .line(self.at, || format!("r{replica} life {life}: {state:?}"));
        self.tell(&Fact::Lives {
            replica,
            life,
            boot,
            state,
        });
    }

    /// Hands an input to a process, or keeps it until the process goes on.
    pub(super) fn deliver(&mut self, replica: usize, life: u32, input: Input) {
        let place = &mut self.replicas[replica];
        if place.life != life || place.state == Life::Down {
            self.court.sometimes.hit(Point::ToTheDead);
            return;
        }
        match place.state {
            Life::Up | Life::Draining => self.feed(replica, input),
            Life::Paused => place.inbox.push(input),
            Life::Down => {}
        }
    }

    pub(super) fn feed(&mut self, replica: usize, input: Input) {
        if let Input::Command { id, .. } = &input {
            self.take_command(*id);
        }
        self.tell_of_links(replica, &input);
        let at = self.at;
        let place = &mut self.replicas[replica];
        let Some(process) = &mut place.process else {
            return;
        };
        let now = process.clock.now(at);
        self.recorder.input(at, replica, now, &input);
        match &mut process.panics_after {
            Some(0) => {
                process.panics_after = None;
                return self.panic_over(replica, &input);
            }
            Some(left) => *left -= 1,
            None => {}
        }
        self.recorder.watched(|watch| {
            let wake = process.core.poll_timeout();
            let wake = wake.filter(|(due, _)| input == Input::Tick && *due <= now.mono);
            watch.input(
                at,
                replica,
                now,
                &input,
                wake.as_ref().map(|(_, wake)| wake),
            );
        });
        let mut view = None;
        if let Input::Stored { id, outcome } = &input {
            let provider = process.views.remove(id);
            process.writes.remove(id);
            match outcome {
                Ok(Reply::View(read)) => view = provider.map(|p| (p, read.clone())),
                Ok(Reply::Granted(granted)) => {
                    for grant in granted {
                        // A reply that was given up may come after that to a later plan.
                        let epoch = process.epochs.entry(grant.turn).or_default();
                        *epoch = grant.epoch.max(*epoch);
                    }
                }
                _ => {}
            }
        }
        process.feeds += 1;
        process.told_at = at;
        if let Some(journal) = &mut process.journal {
            journal.input(now, &input).expect("inputs can be journaled");
        }
        if self.thaws && process.feeds.is_multiple_of(THAW_EVERY) {
            *process.core = thawed(&process.core);
        }
        process.core.handle(now, input);
        if let Some((provider, view)) = view {
            self.tell(&Fact::ViewHeard {
                replica,
                provider: &provider,
                view: &view,
            });
        }
        self.drain(replica);
        self.check(replica);
    }

    /// Carries out effects, down to the last one or to the process's death.
    pub(super) fn drain(&mut self, replica: usize) {
        while let Some(process) = &mut self.replicas[replica].process {
            let Some(effect) = process.core.poll_effect() else {
                if let Some(journal) = &mut process.journal {
                    journal.finish().expect("effects have digests");
                }
                break;
            };
            if let Some(journal) = &mut process.journal {
                journal.effect(&effect);
            }
            let hit = process.doom.take_if(|doom| doom.is_due(&effect));
            let hit = hit.map(|doom| doom.hit);
            if hit.is_some() {
                self.court.sometimes.hit(Point::HitBetweenEffects);
            }
            if let Some(Hit::Kill(down)) = hit {
                self.die(replica, down);
                break;
            }
            self.recorder.effect(self.at, replica, &effect);
            self.carry_out(replica, effect);
            if let Some(Hit::Pause(during)) = hit {
                // The rest of its effects is carried out when it goes on.
                self.stop(replica, during);
                if self.replicas[replica].state == Life::Paused {
                    break;
                }
            }
        }
        self.arm(replica);
    }

    fn carry_out(&mut self, replica: usize, effect: Effect) {
        match effect {
            Effect::Store { id, verb } => self.ask_store(replica, id, verb),
            Effect::OpenProvider {
                id,
                provider,
                turn,
                body,
                connect_ms: _,
                not_after,
            } => {
                if self.is_in_time(replica, not_after) {
                    self.open_stream(replica, id, provider, turn, body);
                }
            }
            Effect::CloseProvider { id, finished: _ } => self.close_stream(replica, id),
            Effect::StartTool { id, start } => {
                if self.is_in_time(replica, start.not_after) {
                    match start.link {
                        Some(link) => {
                            let not_after = self.when(replica, start.not_after);
                            self.send_over(replica, link, Op::Start(id, start, not_after));
                        }
                        None => self.start_tool(replica, id, *start),
                    }
                }
            }
            Effect::KillTool { id } => match self.link_of(replica, id) {
                Some(link) => self.send_over(replica, link, Op::Kill(id)),
                None => self.kill_tool(replica, id),
            },
            Effect::AdoptTool { id, adopt } => {
                if self.is_in_time(replica, adopt.not_after) {
                    match adopt.link {
                        Some(link) => {
                            let not_after = self.when(replica, adopt.not_after);
                            self.send_over(replica, link, Op::Adopt(id, adopt, not_after));
                        }
                        None => self.adopt_tool(replica, id, *adopt),
                    }
                }
            }
            Effect::LeaveTool { id } => self.leave_tool(replica, id),
            Effect::FindUnattended { id, link } => match link {
                Some(link) => self.send_over(replica, link, Op::Find(id)),
                None => self.find_unattended(replica, id),
            },
            Effect::EndUnattended { turns, link } => match link {
                Some(link) => self.send_over(replica, link, Op::End(turns)),
                None => self.end_unattended(replica, &turns),
            },
            Effect::ConnectComputer {
                id,
                computer,
                connect_ms,
                handshake_ms,
            } => self.connect(replica, id, &computer, connect_ms + handshake_ms),
            Effect::PingComputer { id } => self.send_over(replica, id, Op::Ping),
            Effect::CloseComputer { id } => self.close_link(replica, id),
            Effect::ComputerChanged { .. } => {}
            Effect::Deliver { id, delivery } => self.post(replica, id, *delivery),
            Effect::CancelDelivery { id } => self.cancel_post(replica, id),
            Effect::Publish { event } => self.publish(replica, *event),
            Effect::Wake { conversation } => self.wake_followers(replica, &conversation),
            Effect::Nudge { node } => self.nudge(&node),
            Effect::Answer { id, answer } => self.answered(replica, id, answer),
            Effect::Trace { .. } => {}
            Effect::Ready { .. } => self.weigh_fresh(replica),
            Effect::Drained => {
                self.court.sometimes.hit(Point::Drained);
                let life = self.replicas[replica].life;
                self.queue_in(0, Event::DrainedOrNot { replica, life });
            }
        }
    }

    /// When a process's clock will show this.
    fn when(&self, replica: usize, instant: Instant) -> Us {
        let process = self.replicas[replica].process.as_ref();
        process.map_or(self.at, |process| process.clock.when(instant, self.at))
    }

    /// Over which link a call was begun.
    fn link_of(&self, replica: usize, id: EffectId) -> Option<EffectId> {
        let process = self.replicas[replica].process.as_ref()?;
        process.attempts.get(&id).copied()
    }

    /// As the host does it.
    fn is_in_time(&mut self, replica: usize, not_after: Instant) -> bool {
        let process = self.replicas[replica].process.as_ref();
        let is_in_time = process.is_some_and(|p| p.clock.now(self.at).mono <= not_after);
        if !is_in_time {
            self.court.sometimes.hit(Point::TooLateToBegin);
        }
        is_in_time
    }

    fn weigh_fresh(&mut self, replica: usize) {
        if let Some(process) = &mut self.replicas[replica].process {
            process.fresh_bytes = frozen(&process.core).len();
        }
    }

    /// Weighs every Dispatcher, for the oracle.
    pub(super) fn weigh(&mut self) {
        for replica in 0..self.replicas.len() {
            if let Some(process) = &self.replicas[replica].process {
                let (bytes, fresh_bytes) = (frozen(&process.core).len(), process.fresh_bytes);
                self.tell(&Fact::Weighed {
                    replica,
                    bytes,
                    fresh_bytes,
                });
            }
        }
    }

    pub(super) fn arm(&mut self, replica: usize) {
        let (at, place) = (self.at, &mut self.replicas[replica]);
        let life = place.life;
        let Some(process) = &mut place.process else {
            return;
        };
        let Some((due, _)) = process.core.poll_timeout() else {
            return;
        };
        // Timers are never early and often a little late.
        let late = self.dice.process().below(3_000);
        let fires_at = process.clock.when(due, at) + late;
        if process.armed.is_none_or(|armed| armed > fires_at) {
            process.armed = Some(fires_at);
            self.queue_at(fires_at, Event::Timer { replica, life });
        }
    }

    pub(super) fn timer(&mut self, replica: usize, life: u32) {
        let place = &mut self.replicas[replica];
        let Some(process) = place.process.as_mut().filter(|_| place.life == life) else {
            return;
        };
        if process.armed != Some(self.at) {
            return;
        }
        process.armed = None;
        if place.state == Life::Paused {
            return;
        }
        self.tick(replica);
    }

    /// Ticks until nothing is due.
    pub(super) fn tick(&mut self, replica: usize) {
        for _ in 0..TICKS_AT_ONCE {
            let place = &self.replicas[replica];
            if place.state == Life::Paused {
                return;
            }
            let is_due = place.process.as_ref().is_some_and(|p| {
                let due = p.core.poll_timeout();
                due.is_some_and(|(due, _)| due <= p.clock.now(self.at).mono)
            });
            if !is_due {
                self.arm(replica);
                return;
            }
            self.feed(replica, Input::Tick);
        }
        let result = Err(format!("{TICKS_AT_ONCE} timers in a row at one moment"));
        self.tell(&Fact::Checked { replica, result });
    }

    fn check(&mut self, replica: usize) {
        let Some(process) = &self.replicas[replica].process else {
            return;
        };
        if process.feeds.is_multiple_of(CHECK_EVERY) {
            let result = process.core.check().map_err(|broken| broken.to_string());
            self.tell(&Fact::Checked { replica, result });
        }
    }
}

fn begun(start: &Start) -> Recorder {
    let mut journal = Recorder::default();
    journal.start(start).expect("a start can be journaled");
    journal
}

fn frozen(core: &Dispatcher) -> Vec<u8> {
    postcard::to_allocvec(core).expect("a Dispatcher has a binary form")
}

/// The same Dispatcher out of its serialised form.
fn thawed(core: &Dispatcher) -> Dispatcher {
    postcard::from_bytes(&frozen(core)).expect("a frozen Dispatcher can be thawed")
}
