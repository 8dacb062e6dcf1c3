//! The loop around one Dispatcher: as the host's, but small. Every input and
//! every effect is recorded, and what can be seen of them is told to oracles.

use std::collections::BTreeMap;
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::Dispatcher;
use dispatch_core::ids::{CommandId, EffectId, Epoch, ProviderId, TurnId};
use dispatch_core::io::{Answer, Effect, Input};
use dispatch_core::store::{Reply, Verb};
use madsim::net::Endpoint;
use madsim::task::spawn_local;
use madsim::time::sleep;
use tokio::sync::{mpsc, oneshot};

use super::follow::Hub;
use super::plan::Who;
use super::replica::{Lanes, Urgent};
use super::ring::Ring;
use super::stream::{Flight, Said, What};
use super::wire::{AskedVerb, VERB, address, outcome_tag, packed};
use crate::clock::{Clock, Us, store_time};
use crate::fact::{Fact, Life};

/// How often invariants are checked, in inputs.
const CHECK_EVERY: u64 = 16;

/// See the module's page.
pub(super) struct Driver {
    pub(super) ring: Rc<Ring>,
    pub(super) replica: usize,
    pub(super) life: u32,
    core: Dispatcher,
    clock: Clock,
    endpoint: Endpoint,
    pub(super) lanes: Lanes,
    hub: Rc<Hub>,
    pub(super) flights: BTreeMap<EffectId, Flight>,
    /// Commands, by the effect that started them.
    tools: BTreeMap<EffectId, usize>,
    views: BTreeMap<EffectId, ProviderId>,
    pub(super) epochs: BTreeMap<TurnId, Epoch>,
    waiting: BTreeMap<CommandId, oneshot::Sender<Answer>>,
    asked: u64,
    feeds: u64,
    /// When it was last told something.
    told_at: Us,
    fresh_bytes: usize,
}

impl Driver {
    pub(super) fn new(
        ring: Rc<Ring>,
        (replica, life): (usize, u32),
        core: Dispatcher,
        clock: Clock,
        endpoint: Endpoint,
        lanes: Lanes,
        hub: Rc<Hub>,
    ) -> Driver {
        Driver {
            ring,
            replica,
            life,
            core,
            clock,
            endpoint,
            lanes,
            hub,
            flights: BTreeMap::new(),
            tools: BTreeMap::new(),
            views: BTreeMap::new(),
            epochs: BTreeMap::new(),
            waiting: BTreeMap::new(),
            asked: 0,
            feeds: 0,
            told_at: 0,
            fresh_bytes: 0,
        }
    }

    /// Drives until the node is killed.
    pub(super) async fn run(
        mut self,
        mut urgent: mpsc::UnboundedReceiver<Urgent>,
        mut said: mpsc::Receiver<Said>,
    ) {
        self.feed(Input::Tick).await;
        loop {
            let (at, due) = (self.ring.at(), self.core.poll_timeout());
            let fires_at = due.map_or(u64::MAX, |(due, _)| self.clock.when(due, at));
            let wait = Duration::from_micros(fires_at.saturating_sub(at));
            // A fair choice would be drawn from a source that does not repeat.
            tokio::select! {
                biased;
                Some(urgent) = urgent.recv() => self.urgent(urgent).await,
                Some(said) = said.recv() => self.said(said).await,
                () = sleep(wait) => self.feed(Input::Tick).await,
            }
        }
    }

    async fn urgent(&mut self, urgent: Urgent) {
        match urgent {
            Urgent::Input(input) => self.feed(input).await,
            Urgent::Ask(command, answer) => {
                let id = CommandId(self.asked);
                self.asked += 1;
                self.waiting.insert(id, answer);
                self.feed(Input::Command { id, command }).await;
            }
            Urgent::GoOn => {
                // Timers first: what is overdue ends before anybody counts it.
                self.feed(Input::Tick).await;
                self.ring.tell_life(self.replica, Life::Up);
            }
            Urgent::Weigh => self.ring.tell(&Fact::Weighed {
                replica: self.replica,
                bytes: packed(&self.core).len(),
                fresh_bytes: self.fresh_bytes,
            }),
        }
    }

    /// What a provider says, as far as the stream is still wanted.
    async fn said(&mut self, Said { id, what }: Said) {
        let now = self.clock.now(self.ring.at()).mono;
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        flight.heard(&self.ring, &what, now);
        if let What::Input(input) = what {
            if matches!(
                input,
                Input::ProviderEnd { .. } | Input::ProviderFailed { .. }
            ) && let Some(flight) = self.flights.remove(&id)
            {
                self.ring.streams.borrow_mut().forget(flight.stream);
            }
            self.feed(input).await;
        }
    }

    /// One input, and everything that comes of it.
    async fn feed(&mut self, input: Input) {
        let at = self.ring.at();
        let now = self.clock.now(at);
        self.told_at = at;
        self.ring.count();
        let mut view = None;
        if let Input::Stored { id, outcome } = &input {
            let provider = self.views.remove(id);
            match outcome {
                Ok(Reply::View(read)) => view = provider.map(|p| (p, read.clone())),
                Ok(Reply::Granted(granted)) => {
                    for grant in granted {
                        // A reply that was given up may come after that to a later plan.
                        let epoch = self.epochs.entry(grant.turn).or_default();
                        *epoch = grant.epoch.max(*epoch);
                    }
                }
                Ok(_) | Err(_) => {}
            }
        }
        self.ring
            .recorder
            .borrow_mut()
            .input(at, self.replica, now, &input);
        self.core.handle(now, input);
        if let Some((provider, view)) = &view {
            self.ring.tell(&Fact::ViewHeard {
                replica: self.replica,
                provider,
                view,
            });
        }
        self.drain().await;
        self.feeds += 1;
        if self.feeds.is_multiple_of(CHECK_EVERY) {
            let result = self.core.check().map_err(|broken| broken.to_string());
            let replica = self.replica;
            self.ring.tell(&Fact::Checked { replica, result });
        }
    }

    /// Carries out effects, down to the last one or to the process's death.
    async fn drain(&mut self) {
        let mut is_alive = true;
        while is_alive && let Some(effect) = self.core.poll_effect() {
            is_alive = self.survives();
            if is_alive {
                let at = self.ring.at();
                let mut recorder = self.ring.recorder.borrow_mut();
                recorder.effect(at, self.replica, &effect);
                drop(recorder);
                self.carry_out(effect);
            }
        }
        if !is_alive {
            pending::<()>().await;
        }
    }

    /// Whether this is not the effect at which the process is to be killed.
    fn survives(&self) -> bool {
        let doom = {
            let doom = &mut self.ring.replicas.borrow_mut()[self.replica].doom;
            match doom {
                Some((0, _)) => doom.take(),
                Some((left, _)) => {
                    *left -= 1;
                    None
                }
                None => None,
            }
        };
        if let Some((_, down)) = doom {
            self.ring.die(Who::Replica(self.replica), down);
        }
        doom.is_none()
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Store { id, verb } => self.ask_store(id, verb),
            Effect::OpenProvider {
                id,
                provider,
                turn,
                body,
                connect_ms,
                not_after,
            } => {
                let now = self.clock.now(self.ring.at()).mono;
                if now <= not_after {
                    self.open(id, provider, turn, body, connect_ms, now);
                }
            }
            Effect::CloseProvider { id, finished: _ } => {
                let now = self.clock.now(self.ring.at()).mono;
                self.close(id, now);
            }
            Effect::StartTool { id, start } => {
                if self.clock.now(self.ring.at()).mono <= start.not_after {
                    let started =
                        self.ring
                            .start_tool(self.replica, id, *start, &self.lanes.urgent);
                    self.tools.extend(started.map(|run| (id, run)));
                }
            }
            Effect::KillTool { id } => {
                if let Some(run) = self.tools.get(&id) {
                    self.ring.kill_tool(*run);
                }
            }
            Effect::AdoptTool { id, adopt } => {
                if self.clock.now(self.ring.at()).mono <= adopt.not_after {
                    let (call, lane) = ((adopt.turn, adopt.call_id), &self.lanes.urgent);
                    let epoch = adopt.epoch;
                    let running = self.ring.adopt_tool(self.replica, id, call, epoch, lane);
                    self.tools.extend(running.map(|run| (id, run)));
                }
            }
            Effect::LeaveTool { id } => {
                if let Some(run) = self.tools.remove(&id) {
                    self.ring.leave_tool(run);
                }
            }
            Effect::FindUnattended { id, .. } => {
                let turns = self.ring.unattended(self.replica);
                let input = Input::Unattended { id, turns };
                let _ = self.lanes.urgent.send(Urgent::Input(input));
            }
            Effect::EndUnattended { turns, .. } => self.ring.end_unattended(self.replica, &turns),
            Effect::Publish { event } => {
                self.ring.tell(&Fact::Published {
                    replica: self.replica,
                    event: &event,
                    decided_at: store_time(self.told_at),
                });
                self.hub.publish(*event);
            }
            Effect::Wake { conversation } => self.hub.wake(&conversation),
            Effect::Answer { id, answer } => self.answer(id, answer),
            Effect::Ready { .. } => self.fresh_bytes = packed(&self.core).len(),
            // Nobody is told of anything in this ring.
            Effect::Deliver { .. } | Effect::CancelDelivery { .. } => {}
            // Nobody names another computer in this ring.
            Effect::ConnectComputer { .. }
            | Effect::PingComputer { .. }
            | Effect::CloseComputer { .. }
            | Effect::ComputerChanged { .. } => {}
            // A hint, and here each is lost.
            Effect::Nudge { .. } => {}
            Effect::Trace { .. } | Effect::Drained => {}
        }
    }

    fn ask_store(&mut self, id: EffectId, verb: Verb) {
        if let Verb::AdmissionView { provider, .. } = &verb {
            self.views.insert(id, provider.clone());
        }
        if let Verb::ApplyGrants(plan) = &verb {
            let replica = self.replica;
            self.ring.tell(&Fact::Planned { replica, plan });
        }
        let tag = outcome_tag(self.life);
        let asked = AskedVerb { tag, id, verb };
        let (endpoint, bytes) = (self.endpoint.clone(), packed(&asked));
        spawn_local(async move {
            // What gets lost is asked again by the core.
            let _ = endpoint.send_to(address(Who::Store), VERB, &bytes).await;
        });
    }

    fn answer(&mut self, id: CommandId, answer: Answer) {
        match self.waiting.remove(&id) {
            // The client may have gone.
            Some(waiting) => drop(waiting.send(answer)),
            None => {
                let replica = self.replica;
                let result = Err(format!("a second answer to command {}: {answer:?}", id.0));
                self.ring.tell(&Fact::Checked { replica, result });
            }
        }
    }
}
