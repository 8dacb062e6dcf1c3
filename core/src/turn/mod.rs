//! One stretch of a turn: from a grant to the next parking place (T1).
//!
//! ```text
//! Loading -> Streaming -> Writing(commit) -> Tools -> Writing(park) -> over
//!                |-> Writing(retry) -> over
//!                |-> Writing(restart) -> Streaming
//!                `-> Writing(elect) -> over
//! ```
//!
//! A stretch owns nothing that outlives it: everything it knows came with
//! [`Loaded`] or goes into a verb. One verb that moves the turn is in flight
//! at any time; the answers of tools gather meanwhile.

mod request;
mod show;
mod stream;
mod tools;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::event::AgentEvent;
use crate::ids::{ComputerId, ConversationId, EffectId, Epoch, ProviderId, TurnId};
use crate::io::Effect;
use crate::kit::{Ctx, Purpose, Wake};
use crate::store::{
    Election, Failure, Fence, Granted, Loaded, Reply, Restarts, RetryState, StepRecord, Terminal,
    ToolAnswer, Unreadable, Verb,
};
use crate::time::{Instant, Timestamp};
use stream::Stream;
use tools::Tools;

/// What the Dispatcher is to do after a stretch has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Nothing.
    On,
    /// A slot was freed: look at the line.
    SlotFreed,
    /// Drop the stretch, and look at the line.
    Over,
}

/// What a verb in flight leads to when it lands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Then {
    /// The step is committed; its tools are next.
    RunTools(Vec<tools::Call>),
    /// The step is repeated.
    StreamAgain,
    /// The turn is in line again or has ended.
    LetGo,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    Loading,
    Streaming(Box<Stream>),
    Writing(Then),
    Tools(Tools),
}

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stretch {
    pub(crate) turn: TurnId,
    pub(crate) conversation: ConversationId,
    pub(crate) epoch: Epoch,
    phase: Phase,
    /// The verb in flight, if any.
    verb: Option<EffectId>,
    /// When it was first asked: a verb that never succeeds must not keep a
    /// lease alive for ever.
    verb_since: Instant,
    /// Set by `begin`.
    world: Option<Box<World>>,
    /// How the turn is to end as soon as nothing of it runs: an abort, the hard limit.
    ending: Option<Terminal>,
    /// The server is going down: park at the next opportunity.
    hand_over: bool,
    /// What the store has confirmed of the open step's content.
    checkpointed: (usize, usize),
}

/// What a stretch knows of its turn, from the load on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct World {
    provider: ProviderId,
    step: u32,
    retry: RetryState,
    restarts: Restarts,
    cwd: Option<String>,
    computer: Option<ComputerId>,
    /// The step's request, kept for a repetition.
    body: Vec<u8>,
    used_ids: alloc::collections::BTreeSet<String>,
    warnings: Vec<(String, String)>,
    offers_tools: bool,
    /// Store time at `loaded_mono`.
    loaded_at: Timestamp,
    loaded_mono: Instant,
}

impl Stretch {
    /// Starts a stretch: from the store, like every one.
    pub(crate) fn start(ctx: &mut Ctx<'_>, granted: Granted, asked_at: Instant) -> Stretch {
        let Granted {
            turn,
            conversation,
            epoch,
        } = granted;
        let mut stretch = Stretch {
            turn,
            conversation,
            epoch,
            phase: Phase::Loading,
            verb: None,
            verb_since: ctx.now.mono,
            world: None,
            ending: None,
            hand_over: false,
            checkpointed: (0, 0),
        };
        stretch.lease_confirmed(ctx, asked_at);
        stretch.ask(ctx, Verb::Load { turn, epoch });
        stretch
    }

    pub(crate) fn fence(&self) -> Fence {
        Fence {
            turn: self.turn,
            epoch: self.epoch,
        }
    }

    /// The store has confirmed the lease with a verb asked at `asked_at`.
    pub(crate) fn lease_confirmed(&self, ctx: &mut Ctx<'_>, asked_at: Instant) {
        let terms = &ctx.config.lease;
        let stop_at = asked_at + terms.lease_ms.saturating_sub(terms.fence_margin_ms);
        ctx.kit.timers.arm(Wake::FenceDue(self.turn), stop_at);
    }

    /// The latest moment at which something must have happened: past it the
    /// lease is not renewed, because whatever was to wake the turn has not (L3).
    pub(crate) fn waits_until(&self, ctx: &Ctx<'_>) -> Instant {
        let deadlines = &ctx.config.deadlines;
        match &self.phase {
            Phase::Loading | Phase::Writing(_) => self.verb_until(ctx),
            Phase::Streaming(stream) => stream.silent_until(deadlines),
            Phase::Tools(tools) => tools.wait_until().unwrap_or_else(|| self.verb_until(ctx)),
        }
    }

    fn verb_until(&self, ctx: &Ctx<'_>) -> Instant {
        self.verb_since + 2 * ctx.config.deadlines.store_ms
    }

    fn ask(&mut self, ctx: &mut Ctx<'_>, verb: Verb) {
        self.verb_since = ctx.now.mono;
        self.verb = Some(ctx.ask(Purpose::Turn(self.turn), verb));
    }

    /// The verb in flight was sent under a new name.
    pub(crate) fn asked_again(&mut self, id: EffectId) {
        self.verb = Some(id);
    }

    /// A verb in flight may be about to let the turn go.
    pub(crate) fn is_writing(&self) -> bool {
        matches!(self.phase, Phase::Writing(_) | Phase::Loading)
    }

    /// The outcome of the verb in flight.
    pub(crate) fn replied(&mut self, ctx: &mut Ctx<'_>, id: EffectId, reply: Reply) -> Moved {
        if self.verb != Some(id) {
            return Moved::On;
        }
        self.verb = None;
        let phase = core::mem::replace(&mut self.phase, Phase::Loading);
        match (phase, reply) {
            (phase, Reply::Fenced) => {
                // What still runs is seen to when the stretch is forgotten.
                self.phase = phase;
                // Either someone else owns the turn, or this very verb landed
                // unheard and let it go: both ways it is not ours any more.
                ctx.kit.emit(Effect::Wake {
                    conversation: self.conversation.clone(),
                });
                Moved::Over
            }
            (Phase::Loading, Reply::Loaded(loaded)) => self.begin(ctx, *loaded),
            (Phase::Writing(then), Reply::Landed { events }) => {
                self.show(ctx, events);
                self.landed(ctx, then)
            }
            (Phase::Tools(tools), Reply::Landed { events }) => {
                self.show(ctx, events);
                self.phase = Phase::Tools(tools);
                self.tools_written(ctx)
            }
            (phase, Reply::Ended { events, .. }) => {
                self.phase = phase;
                self.show(ctx, events);
                Moved::Over
            }
            (phase, other) => {
                self.phase = phase;
                let message = alloc::format!("turn {}: the store answered {other:?}", self.turn);
                ctx.kit.trace("unexpected-reply", message);
                Moved::Over
            }
        }
    }

    fn landed(&mut self, ctx: &mut Ctx<'_>, then: Then) -> Moved {
        match then {
            Then::LetGo => Moved::Over,
            Then::StreamAgain => match self.must_stop(ctx) {
                Some(moved) => moved,
                None => self.open_stream(ctx),
            },
            Then::RunTools(calls) => {
                self.run_tools(ctx, calls);
                Moved::SlotFreed
            }
        }
    }

    /// Publishes what a verb logged; a verb that had to be asked again may
    /// have logged it the first time, unheard.
    fn show(&self, ctx: &mut Ctx<'_>, events: Vec<AgentEvent>) {
        if events.is_empty() {
            ctx.kit.emit(Effect::Wake {
                conversation: self.conversation.clone(),
            });
        }
        ctx.kit.publish(events);
    }

    fn begin(&mut self, ctx: &mut Ctx<'_>, loaded: Loaded) -> Moved {
        let Loaded {
            turn: row,
            items,
            calls,
            cwd,
            now,
        } = loaded;
        if let Some(abort) = row.abort {
            self.ending = Some(Terminal::Aborted {
                by: abort.by,
                reason: abort.reason,
            });
        }
        let items = items.unwrap_or_else(|unreadable| {
            if !crate::planted!("D48") {
                self.ending.get_or_insert_with(|| rotten(unreadable));
            }
            Vec::new()
        });
        let owned_ms = row.timing.model_ms.saturating_add(row.timing.tool_ms);
        let left_ms = ctx.config.hard_limit_ms.saturating_sub(owned_ms);
        ctx.kit
            .timers
            .arm(Wake::HardLimitDue(self.turn), ctx.now.mono + left_ms);
        let last_step = ctx.config.step_limit > 0 && row.step >= ctx.config.step_limit - 1;
        let world = World {
            provider: row.provider,
            step: row.step,
            retry: row.retry,
            restarts: row.restarts,
            cwd,
            computer: row.computer,
            body: Vec::new(),
            used_ids: Default::default(),
            warnings: Vec::new(),
            offers_tools: !last_step,
            loaded_at: now,
            loaded_mono: ctx.now.mono,
        };
        let world = self.world.insert(Box::new(world));
        let open: Vec<tools::Call> = calls
            .into_iter()
            .filter_map(tools::Call::reopened)
            .collect();
        if open.is_empty() {
            world.prepare(ctx, &row.model, items);
        }
        if let Some(moved) = self.must_stop(ctx) {
            return moved;
        }
        if !open.is_empty() {
            self.run_tools(ctx, open);
            return Moved::SlotFreed;
        }
        if let Some(terminal) = self.provider_gone(ctx) {
            return self.elect(ctx, None, Vec::new(), terminal);
        }
        if let Some(failure) = self.retried_for_too_long(ctx) {
            return self.end_unavailable(ctx, failure, None);
        }
        self.open_stream(ctx)
    }

    /// The configuration has changed under a turn that waited.
    fn provider_gone(&self, ctx: &Ctx<'_>) -> Option<Terminal> {
        let provider = &self.world.as_ref()?.provider;
        if ctx.config.provider(provider).is_some() {
            return None;
        }
        Some(Terminal::Error {
            code: "provider-unknown".to_string(),
            message: alloc::format!(
                "provider `{provider}` is no longer configured; name another model and send the message again"
            ),
            cause: "provider-not-configured".to_string(),
            retryable: false,
        })
    }

    /// T7: a step that refusals have kept from succeeding for nine hours.
    fn retried_for_too_long(&self, ctx: &Ctx<'_>) -> Option<Failure> {
        const GRACE_MS: u64 = 3_600_000;
        let world = self.world.as_ref()?;
        let since = world.retry.first_failure_at?;
        let limit_ms = ctx.config.retry.budget_ms + GRACE_MS;
        (world.store_now(ctx).since_ms(since) > limit_ms).then(|| world.retry.last.clone())?
    }

    /// Carries out an end or a hand-over before anything new is begun.
    fn must_stop(&mut self, ctx: &mut Ctx<'_>) -> Option<Moved> {
        if let Some(terminal) = self.ending.clone() {
            return Some(self.elect(ctx, None, Vec::new(), terminal));
        }
        if self.hand_over {
            return Some(self.park(ctx, None));
        }
        None
    }

    /// Somebody wants the turn stopped (T5).
    pub(crate) fn abort(&mut self, ctx: &mut Ctx<'_>, by: String, reason: Option<String>) -> Moved {
        self.end_soon(ctx, Terminal::Aborted { by, reason })
    }

    /// T7's backstop.
    pub(crate) fn hard_limit(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let limit_s = ctx.config.hard_limit_ms / 1_000;
        let terminal = Terminal::Error {
            code: "hard-limit".to_string(),
            message: alloc::format!(
                "the turn has run for {limit_s} s, which is all that any turn may; send a message to go on"
            ),
            cause: "hard-limit".to_string(),
            retryable: true,
        };
        self.end_soon(ctx, terminal)
    }

    /// Stops whatever runs, then ends the turn. The first wish counts.
    fn end_soon(&mut self, ctx: &mut Ctx<'_>, terminal: Terminal) -> Moved {
        if self.ending.is_some() {
            return Moved::On;
        }
        self.ending = Some(terminal.clone());
        match &mut self.phase {
            // Seen when the verb in flight comes back; an election in flight wins.
            Phase::Loading | Phase::Writing(_) => Moved::On,
            Phase::Streaming(_) => {
                let said = self.close_stream(ctx);
                self.elect(ctx, said, Vec::new(), terminal)
            }
            Phase::Tools(tools) => {
                tools.kill_all(ctx, self.turn);
                self.tools_moved(ctx)
            }
        }
    }

    /// The server goes down: let go without an end (L8).
    pub(crate) fn hand_over(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        self.hand_over = true;
        match &mut self.phase {
            Phase::Loading | Phase::Writing(_) => Moved::On,
            Phase::Streaming(_) => {
                let said = self.close_stream(ctx);
                self.park(ctx, said.map(|_| "the server is restarting".to_string()))
            }
            Phase::Tools(tools) => {
                tools.leave(ctx, self.turn);
                self.tools_moved(ctx)
            }
        }
    }

    /// The lease may lapse any moment: stop, and say nothing (L2). Commands run
    /// on, and whoever owns it next adopts them: here, because the turn is bound
    /// to this node, or on the computer where they run (L9, L10); should it end
    /// meanwhile, they are ended as unattended.
    pub(crate) fn fence_off(&mut self, ctx: &mut Ctx<'_>) {
        match &mut self.phase {
            Phase::Loading | Phase::Writing(_) => {}
            Phase::Streaming(_) => {
                self.close_stream(ctx);
            }
            Phase::Tools(tools) => tools.leave(ctx, self.turn),
        }
    }

    fn park(&mut self, ctx: &mut Ctx<'_>, restart: Option<String>) -> Moved {
        let fence = self.fence();
        self.write(ctx, Verb::Park { fence, restart }, Then::LetGo)
    }

    fn write(&mut self, ctx: &mut Ctx<'_>, verb: Verb, then: Then) -> Moved {
        self.ask(ctx, verb);
        self.phase = Phase::Writing(then);
        Moved::On
    }

    fn end_unavailable(
        &mut self,
        ctx: &mut Ctx<'_>,
        failure: Failure,
        why: Option<String>,
    ) -> Moved {
        let message = match why {
            Some(why) => alloc::format!("{} ({why})", failure.message),
            None => failure.message,
        };
        let terminal = Terminal::Error {
            code: "provider-unavailable".to_string(),
            message,
            cause: failure.cause,
            retryable: true,
        };
        self.elect(ctx, None, Vec::new(), terminal)
    }

    /// Bids for the terminal event (L2).
    fn elect(
        &mut self,
        ctx: &mut Ctx<'_>,
        step: Option<StepRecord>,
        answers: Vec<ToolAnswer>,
        terminal: Terminal,
    ) -> Moved {
        if crate::planted!("D12") {
            self.announce_without_election(ctx, &terminal);
        }
        if crate::planted!("D13") && matches!(terminal, Terminal::Error { .. }) {
            self.announce_without_election(ctx, &terminal);
            return self.park(ctx, None);
        }
        let election = Election {
            fence: self.fence(),
            step,
            answers,
            terminal,
        };
        self.write(ctx, Verb::Elect(Box::new(election)), Then::LetGo)
    }

    /// Frees everything that is registered under this stretch.
    pub(crate) fn forget(self, ctx: &mut Ctx<'_>) {
        if let Some(id) = self.verb {
            ctx.kit.take_ask(id);
        }
        let turn = self.turn;
        ctx.kit
            .pausing
            .retain(|_, ask| ask.purpose != Purpose::Turn(turn));
        match self.phase {
            Phase::Loading | Phase::Writing(_) => {}
            Phase::Streaming(stream) => stream.forget(ctx),
            Phase::Tools(tools) => tools.forget(ctx, self.turn),
        }
        for wake in [
            Wake::FenceDue(self.turn),
            Wake::HardLimitDue(self.turn),
            Wake::StreamDue(self.turn),
        ] {
            ctx.kit.timers.disarm(&wake);
        }
    }

    /// Everything that this stretch waits for must be able to come.
    pub(crate) fn check(&self, kit: &crate::kit::Kit) -> Result<(), &'static str> {
        let turn = self.turn;
        if !kit.timers.is_armed(&Wake::FenceDue(turn)) {
            return Err("an owned turn has no lease timer");
        }
        let asking = kit
            .pausing
            .values()
            .any(|ask| ask.purpose == Purpose::Turn(turn));
        let asked = self.verb.is_some_and(|id| kit.flights.contains_key(&id));
        match &self.phase {
            Phase::Loading | Phase::Writing(_) if !(asking || asked) => {
                Err("a turn waits for a verb that nobody carries out")
            }
            Phase::Loading | Phase::Writing(_) => Ok(()),
            Phase::Streaming(_) if !kit.timers.is_armed(&Wake::StreamDue(turn)) => {
                Err("a stream has no deadline")
            }
            Phase::Streaming(stream) => stream.check(kit),
            Phase::Tools(tools) => tools.check(kit, turn, asking || asked),
        }
    }
}

/// A model is not asked about half a conversation as if it were the whole.
fn rotten(Unreadable(what): Unreadable) -> Terminal {
    Terminal::Error {
        code: "transcript-unreadable".to_string(),
        message: what,
        cause: "transcript-unreadable".to_string(),
        retryable: false,
    }
}

impl World {
    /// Store time now, by this process's clock since the load.
    fn store_now(&self, ctx: &Ctx<'_>) -> Timestamp {
        self.loaded_at + ctx.now.mono.since_ms(self.loaded_mono)
    }
}
