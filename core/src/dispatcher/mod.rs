//! The [`Dispatcher`]: one per replica; composes the children and routes every
//! input to the one that it concerns.

mod asks;
mod audit;
mod commands;
mod deliveries;
mod lines;
mod links;
mod runs;
mod upkeep;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use serde::{Deserialize, Serialize};

use crate::config::Config;
use crate::ids::{CommandId, EffectId, ProviderId, TurnId};
use crate::io::{Command, Effect, FailKind, Found, Input, ToolEnd};
use crate::kit::{Ctx, Flight, Kit, Purpose, Wake};
use crate::ssh::Pool;
use crate::store::{Boot, Verb};
use crate::time::{Instant, Now};
use crate::turn::{Moved, Stretch};
use deliveries::Deliveries;
use lines::Line;

/// An invariant that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}{}", turn.map(|t| alloc::format!(" (turn {t})")).unwrap_or_default())]
pub struct Broken {
    /// The invariant, as a sentence that is false when it holds.
    pub what: &'static str,
    /// Where.
    pub turn: Option<TurnId>,
}

/// The state machine of one replica. See the crate's page for the loop that drives it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatcher {
    config: Config,
    now: Now,
    kit: Kit,
    turns: BTreeMap<TurnId, Stretch>,
    lines: BTreeMap<ProviderId, Line>,
    stage: Stage,
    /// The turn for which something is being decided right now.
    acting_on: Option<TurnId>,
    /// A checkpoint is in flight.
    checkpointing: bool,
    deliveries: Deliveries,
    pool: Pool,
    /// Commands that came before the store had answered the boot.
    early: VecDeque<(CommandId, Command)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Booting,
    Serving,
    /// Told to stop; takes no new turns and grants none.
    Draining,
    /// Has said so.
    Drained,
}

/// Without an input for so long, leases may have lapsed unnoticed.
const STOOD_STILL_MS: u64 = 1_000;

impl Dispatcher {
    /// A replica's first life in this process. Asks the store to end the
    /// ownerships of its earlier processes.
    pub fn new(config: Config, seed: [u8; 32], now: Now) -> Self {
        let policy = config.sweep_policy();
        Dispatcher::boot(config, seed, now, policy, None)
    }

    /// The next life after a panic: as after a restart, but for the turn whose
    /// input it was, which is sealed; for the others it does not count as a
    /// resume (L7). Where nobody can be named it counts for all, or a panic that
    /// repeats would do so for ever. `config.owner.incarnation` must have risen.
    pub fn rebuilt(config: Config, seed: [u8; 32], now: Now, seal: Option<TurnId>) -> Self {
        let policy = crate::liveness::SweepPolicy {
            counts: seal.is_none(),
            ..config.sweep_policy()
        };
        Dispatcher::boot(config, seed, now, policy, seal)
    }

    fn boot(
        config: Config,
        seed: [u8; 32],
        now: Now,
        policy: crate::liveness::SweepPolicy,
        seal: Option<TurnId>,
    ) -> Self {
        let mut kit = Kit::new(seed, config.owner.incarnation);
        let boot = Boot {
            owner: config.owner.clone(),
            life: config.life,
            providers: config
                .providers
                .iter()
                .map(|p| p.settings.clone())
                .collect(),
            policy,
            seal,
            version: config.version.clone(),
            webhooks: config
                .webhooks
                .iter()
                .map(|webhook| webhook.endpoint.clone())
                .collect(),
        };
        kit.ask(
            now,
            config.deadlines.store_ms,
            Purpose::Boot,
            Verb::Boot(boot),
        );
        let lines = config
            .providers
            .iter()
            .map(|p| (p.settings.id.clone(), Line::default()))
            .collect();
        Dispatcher {
            config,
            now,
            kit,
            turns: BTreeMap::new(),
            lines,
            stage: Stage::Booting,
            acting_on: None,
            checkpointing: false,
            deliveries: Deliveries::default(),
            pool: Pool::default(),
            early: VecDeque::new(),
        }
    }

    /// The only mutator. Whatever is due by `now` happens before the input does.
    pub fn handle(&mut self, now: Now, input: Input) {
        let stood_still_ms = now.mono.since_ms(self.now.mono);
        self.now = Now {
            mono: now.mono.max(self.now.mono),
            wall: now.wall,
        };
        if stood_still_ms >= STOOD_STILL_MS {
            self.fence_off_lapsed();
        }
        while let Some(wake) = self.kit.timers.pop_due(self.now.mono) {
            self.wake(wake);
            self.pass_on();
        }
        self.take(input);
        self.pass_on();
        self.tell_of_ends();
        self.say_drained();
    }

    /// The next effect; drain to `None` after every [`Dispatcher::handle`].
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.kit.effects.pop_front()
    }

    /// When to come back with [`Input::Tick`] if nothing else happens, and why.
    pub fn poll_timeout(&self) -> Option<(Instant, Wake)> {
        self.kit.timers.next()
    }

    /// Turns that this replica owns, by its own account.
    pub fn owned_turns(&self) -> impl Iterator<Item = TurnId> + '_ {
        self.turns.keys().copied()
    }

    /// The turn whose affairs a panic has interrupted: the one to seal (L7).
    pub fn acting_on(&self) -> Option<TurnId> {
        self.acting_on
    }

    /// Entries held in memory: what must stay bounded.
    pub fn footprint(&self) -> usize {
        self.turns.len()
            + self.kit.flights.len()
            + self.kit.timers.len()
            + self.kit.pausing.len()
            + self.deliveries.len()
            + self.pool.len()
            + self.early.len()
    }

    /// Every invariant.
    ///
    /// # Errors
    /// The first one that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        for (turn, stretch) in &self.turns {
            stretch.check(&self.kit).map_err(|what| Broken {
                what,
                turn: Some(*turn),
            })?;
        }
        for flight in self.kit.flights.values() {
            let (Flight::Stream(turn) | Flight::Tool(turn, _) | Flight::Call(turn, _)) = flight
            else {
                continue;
            };
            if !self.turns.contains_key(turn) {
                return Err(Broken {
                    what: "an effect in flight for a turn that is not owned",
                    turn: Some(*turn),
                });
            }
        }
        for wake in self.kit.timers.iter() {
            let (Wake::StreamDue(turn)
            | Wake::ToolDue(turn, _)
            | Wake::FenceDue(turn)
            | Wake::HardLimitDue(turn)) = wake
            else {
                continue;
            };
            if !self.turns.contains_key(turn) {
                return Err(Broken {
                    what: "a timer for a turn that is not owned",
                    turn: Some(*turn),
                });
            }
        }
        self.check_deliveries()?;
        self.pool
            .check(&self.kit)
            .map_err(|what| Broken { what, turn: None })?;
        if self.stage == Stage::Serving && !self.lines.keys().all(|id| self.is_watched(id)) {
            return Err(Broken {
                what: "a provider's line that nobody looks at",
                turn: None,
            });
        }
        Ok(())
    }

    fn ctx(&mut self) -> Ctx<'_> {
        Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Tick => {}
            Input::Command { id, command } => self.command(id, command),
            Input::Stored { id, outcome } => self.stored(id, outcome),
            Input::ProviderHead {
                id,
                status,
                headers,
            } => {
                self.on_stream(id, |stretch, ctx| stretch.head(ctx, status, headers));
            }
            Input::ProviderBytes { id, bytes } => {
                self.on_stream(id, |stretch, ctx| stretch.bytes(ctx, &bytes));
            }
            Input::ProviderEnd { id } => self.stream_over(id, |stretch, ctx| stretch.ended(ctx)),
            Input::ProviderFailed { id, kind, message } => {
                self.stream_over(id, |stretch, ctx| stretch.broke(ctx, kind, &message));
            }
            Input::ToolOutput {
                id,
                stream,
                offset,
                text,
            } => self.tool_printed(id, stream, offset, text),
            Input::ToolDone { id, end } => self.tool_done(id, end),
            Input::Adopted { id, found } => self.adopted(id, found),
            Input::ComputerUp { id } => self.in_pool(|pool, ctx| pool.up(ctx, id)),
            Input::ComputerDown { id, fault } => {
                self.in_pool(|pool, ctx| pool.down(ctx, id, fault));
            }
            Input::ComputerAlive { id } => self.in_pool(|pool, ctx| pool.alive(ctx, id)),
            Input::Unattended { id, turns } => self.unattended_found(id, turns),
            Input::DeliveryDone { id, outcome } => self.delivery_done(id, outcome),
            Input::EffectPanicked { id, message } => self.effect_panicked(id, message),
            Input::ToolLost { id, cause } => self.attempt_lost(id, &cause),
            Input::Nudged => self.nudged(),
            Input::Shutdown => self.shut_down(),
        }
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::StreamDue(turn) => self.on_turn(turn, |stretch, ctx| stretch.stream_due(ctx)),
            Wake::ToolDue(turn, n) => self.on_turn(turn, |stretch, ctx| stretch.tool_due(ctx, n)),
            Wake::HardLimitDue(turn) => self.on_turn(turn, |stretch, ctx| stretch.hard_limit(ctx)),
            Wake::FenceDue(turn) => self.fence_off(turn),
            Wake::VerbDue(id) => self.verb_due(id),
            Wake::AskAgain(n) => self.ask_again(n),
            Wake::LookDue(provider) => self.look(&provider),
            Wake::RenewDue => self.renew(),
            Wake::SweepDue => self.sweep(),
            Wake::RequestsDue => self.read_requests(),
            Wake::CheckpointDue => self.checkpoint(),
            Wake::DrainDue => self.hand_over_rest(),
            Wake::AuditDue => self.audit(),
            Wake::OutboxDue => self.look_into_outbox(),
            Wake::DeliveryDue(endpoint, turn) => self.delivery_due(endpoint, turn),
            Wake::LinkDue(computer) => self.in_pool(|pool, ctx| pool.link_due(ctx, &computer)),
            Wake::JobDue(computer, tool) => {
                self.in_pool(|pool, ctx| pool.job_due(ctx, &computer, tool));
            }
            Wake::TestDue(computer, id) => {
                self.in_pool(|pool, ctx| pool.test_due(ctx, &computer, id));
            }
        }
    }

    /// Lets a stretch move, then does what its move asks for. An input for a
    /// turn that is not owned any more is late, and dropped.
    fn on_turn(&mut self, turn: TurnId, act: impl FnOnce(&mut Stretch, &mut Ctx<'_>) -> Moved) {
        let mut ctx = Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        };
        let Some(stretch) = self.turns.get_mut(&turn) else {
            return;
        };
        self.acting_on = Some(turn);
        let moved = act(stretch, &mut ctx);
        self.acting_on = None;
        match moved {
            Moved::On => {}
            Moved::SlotFreed => self.look_everywhere(),
            Moved::Over => {
                self.drop_stretch(turn);
                self.look_everywhere();
            }
        }
    }

    fn drop_stretch(&mut self, turn: TurnId) {
        if let Some(stretch) = self.turns.remove(&turn) {
            stretch.forget(&mut self.ctx());
        }
    }

    fn on_stream(&mut self, id: EffectId, act: impl FnOnce(&mut Stretch, &mut Ctx<'_>) -> Moved) {
        if let Some(Flight::Stream(turn)) = self.kit.flights.get(&id) {
            let turn = *turn;
            self.on_turn(turn, act);
        }
    }

    /// As [`Dispatcher::on_stream`], for an input after which nothing more comes.
    fn stream_over(&mut self, id: EffectId, act: impl FnOnce(&mut Stretch, &mut Ctx<'_>) -> Moved) {
        if let Some(Flight::Stream(turn)) = self.kit.flights.get(&id) {
            let turn = *turn;
            self.kit.flights.remove(&id);
            self.on_turn(turn, act);
        }
    }

    fn tool_done(&mut self, id: EffectId, end: ToolEnd) {
        match self.kit.flights.get(&id).cloned() {
            Some(Flight::Tool(turn, n)) => {
                self.kit.flights.remove(&id);
                self.on_turn(turn, |stretch, ctx| stretch.tool_done(ctx, n, end));
            }
            Some(Flight::Attempt(computer, tool)) => self.attempt_done(&computer, tool, end),
            _ => {}
        }
    }

    fn adopted(&mut self, id: EffectId, found: Found) {
        match self.kit.flights.get(&id).cloned() {
            Some(Flight::Tool(turn, n)) => {
                if found != Found::Running {
                    self.kit.flights.remove(&id);
                }
                self.on_turn(turn, |stretch, ctx| stretch.adopted(ctx, n, found));
            }
            Some(Flight::Attempt(computer, tool)) => self.attempt_adopted(&computer, tool, found),
            _ => {}
        }
    }

    /// What carried out an effect is gone: every kind of effect has a failure of its own.
    fn effect_panicked(&mut self, id: EffectId, message: String) {
        // Of a link that is gone it is told late, and concerns nobody.
        if self.kit.flights.contains_key(&id) {
            self.kit.trace("effect-panicked", message.clone());
        }
        match self.kit.flights.get(&id) {
            Some(Flight::Verb(_)) => self.verb_due(id),
            Some(Flight::Stream(_)) => self.stream_over(id, |stretch, ctx| {
                stretch.broke(
                    ctx,
                    FailKind::Transport,
                    "the server's own client failed; its log says why",
                )
            }),
            Some(Flight::Tool(..)) => {
                let output = "the tool itself failed; the server's log says why".into();
                self.tool_done(
                    id,
                    ToolEnd {
                        ok: false,
                        output,
                        duration_ms: 0,
                        spilled: None,
                    },
                );
            }
            Some(Flight::Runs | Flight::RunsOn(_)) => {
                self.kit.flights.remove(&id);
            }
            Some(Flight::Link(_) | Flight::Attempt(..)) => self.computer_panicked(id),
            // Not an effect of its own: the driver knows it by its attempts.
            Some(Flight::Call(..)) => {}
            Some(Flight::Delivery(..)) => self.delivery_done(id, Err(message)),
            None => {}
        }
    }
}
