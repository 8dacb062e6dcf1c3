//! What stands around the Dispatcher: the Model, what is in flight, the time,
//! and the properties.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, OnCut, Provider};
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{CommandId, EffectId, Owner, ProviderId, TurnId};
use dispatch_core::io::{Answer, Command, Effect, Found, Input, ToolEnd};
use dispatch_core::liveness::OnCrash;
use dispatch_core::store::{Model, ProviderSettings, Reply, StoreFault, TurnRow, TurnState, Verb};
use dispatch_core::time::{Instant, Now, Timestamp};
use dispatch_core::tools::find;
use dispatch_core::wire::validate::validate_transcript;

/// More than a grant pass with all its turns, or a boot with all that waited.
const MOST_EFFECTS: usize = 1_000;
/// Of a calm: what a retry may wait at most, over and over, is far below.
const MOST_CALM_INPUTS: usize = 30_000;
/// Of a Dispatcher at rest: the timers of its upkeep, and its verbs that a store
/// has not answered, each with a timer of its own.
const REST_ENTRIES: usize = 20;
/// Store time when the monotonic clock reads zero.
const EPOCH_MS: u64 = 1_790_000_000_000;

/// What a run's configuration differs in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terms {
    pub(super) limit: u32,
    pub(super) on_crash: OnCrash,
    pub(super) on_cut: OnCut,
    pub(super) step_limit: u32,
    pub(super) step_limit_bytes: usize,
    pub(super) max_open_turns: u64,
    pub(super) seed: u8,
}

/// How a Dispatcher's life is followed by another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Restart {
    /// The process died.
    Process,
    /// It panicked; the turn concerned, if any, is to be sealed.
    Panic { seals: bool },
}

pub(super) struct World {
    terms: Terms,
    core: Dispatcher,
    pub(super) model: Model,
    now: Now,
    boot: u64,
    incarnation: u32,
    /// Asked and not answered.
    pub(super) verbs: Vec<(EffectId, Verb)>,
    /// Asked and lost from sight; they may land yet.
    pub(super) delayed: Vec<Verb>,
    /// Given, true ones.
    pub(super) replies: Vec<(EffectId, Reply)>,
    pub(super) streams: Vec<EffectId>,
    pub(super) tools: Vec<EffectId>,
    pub(super) adopts: Vec<EffectId>,
    pub(super) looks: Vec<EffectId>,
    /// Of the present process; true once answered.
    commands: BTreeMap<CommandId, bool>,
    next_command: u64,
    accepted: BTreeSet<TurnId>,
    started: BTreeSet<(TurnId, String)>,
    /// The store has lied in this process's life.
    lied: bool,
    /// It ever has.
    ever_lied: bool,
    shutting_down: bool,
    drained: bool,
}

impl World {
    pub(super) fn new(terms: Terms) -> World {
        let now = Now {
            mono: Instant(0),
            wall: Timestamp(EPOCH_MS),
        };
        let mut model = Model::default();
        model.now = now.wall;
        let mut world = World {
            core: Dispatcher::new(config(terms, 1, 0), [terms.seed; 32], now),
            terms,
            model,
            now,
            boot: 1,
            incarnation: 0,
            verbs: Vec::new(),
            delayed: Vec::new(),
            replies: Vec::new(),
            streams: Vec::new(),
            tools: Vec::new(),
            adopts: Vec::new(),
            looks: Vec::new(),
            commands: BTreeMap::new(),
            next_command: 0,
            accepted: BTreeSet::new(),
            started: BTreeSet::new(),
            lied: false,
            ever_lied: false,
            shutting_down: false,
            drained: false,
        };
        world.drain();
        world
    }

    /// Hands an input to the Dispatcher and does what comes of it.
    pub(super) fn feed(&mut self, input: Input) {
        self.feed_at(self.now, input);
    }

    fn feed_at(&mut self, now: Now, input: Input) {
        if let Input::Command { id, .. } = &input {
            // A driver gives every request a name of its own.
            if self.commands.contains_key(id) {
                return;
            }
            self.commands.insert(*id, false);
        }
        self.shutting_down |= input == Input::Shutdown;
        let [stream, tool, look] = ended_by(&input);
        let adopted = match &input {
            Input::Adopted { id, found } => Some((*id, *found == Found::Running)),
            _ => None,
        };
        let is_tick = input == Input::Tick;
        self.core.handle(now, input);
        self.drain();
        // Only now: what was due came before the input, and could still close it.
        self.streams.retain(|id| Some(*id) != stream);
        self.tools.retain(|id| Some(*id) != tool);
        self.looks.retain(|id| Some(*id) != look);
        if let Some((id, runs)) = adopted
            && let Some(at) = self.adopts.iter().position(|asked| *asked == id)
        {
            self.adopts.remove(at);
            self.tools.extend(runs.then_some(id));
        }
        self.adopts.retain(|id| Some(*id) != tool);
        if let Err(broken) = self.core.check() {
            panic!("{broken}; the store has lied: {}", self.ever_lied);
        }
        if let (true, Some((due, wake))) = (is_tick, self.core.poll_timeout()) {
            assert!(due > self.now.mono, "{wake:?} is due and was not done");
        }
    }

    fn drain(&mut self) {
        let mut effects = 0;
        while let Some(effect) = self.core.poll_effect() {
            effects += 1;
            assert!(effects <= MOST_EFFECTS, "effects without end");
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Store { id, verb } => self.verbs.push((id, verb)),
            Effect::OpenProvider { id, body, .. } => {
                assert!(serde_json::from_slice::<serde_json::Value>(&body).is_ok());
                if !self.ever_lied {
                    assert_eq!(validate_transcript(&body), Ok(()));
                }
                self.streams.push(id);
            }
            Effect::CloseProvider { id, .. } => {
                assert!(self.streams.contains(&id), "closes what is not open");
                self.streams.retain(|open| *open != id);
            }
            Effect::StartTool { id, start } => {
                let may_repeat = find(&start.name).is_some_and(|tool| tool.read_only);
                let is_first = self.started.insert((start.turn, start.call_id)) || may_repeat;
                assert!(is_first || self.ever_lied, "a tool is started twice");
                self.tools.push(id);
            }
            Effect::KillTool { id } => {
                let is_ours = self.tools.contains(&id) || self.adopts.contains(&id);
                assert!(is_ours, "kills what does not run");
            }
            Effect::AdoptTool { id, .. } => self.adopts.push(id),
            Effect::LeaveTool { id } => {
                let is_ours = self.tools.contains(&id) || self.adopts.contains(&id);
                assert!(is_ours, "leaves what does not run");
                self.tools.retain(|run| *run != id);
                self.adopts.retain(|run| *run != id);
            }
            Effect::FindUnattended { id, .. } => self.looks = Vec::from([id]),
            Effect::EndUnattended { turns, .. } => {
                let rows = &self.model.turns;
                let is_over = |turn: &TurnId| {
                    let row = rows.get(turn);
                    row.is_none_or(|row| row.state == TurnState::Ended)
                };
                let all_over = turns.iter().all(is_over);
                assert!(all_over || self.ever_lied, "ends a command of an open turn");
            }
            Effect::Publish { event } => self.check_published(&event),
            Effect::Answer { id, answer } => self.answered(id, &answer),
            Effect::Deliver { .. } | Effect::CancelDelivery { .. } => {
                unreachable!("nobody is to be told")
            }
            Effect::ConnectComputer { .. }
            | Effect::PingComputer { .. }
            | Effect::CloseComputer { .. } => {
                unreachable!("nobody names a computer")
            }
            Effect::ComputerChanged { .. }
            | Effect::Wake { .. }
            | Effect::Nudge { .. }
            | Effect::Trace { .. }
            | Effect::Ready { .. } => {}
            Effect::Drained => {
                assert!(
                    self.shutting_down && !self.drained,
                    "drained unasked, or twice"
                );
                assert_eq!(self.core.owned_turns().count(), 0, "drained and an owner");
                self.drained = true;
            }
        }
    }

    /// Durable before visible; and no terminal event that nobody elected.
    fn check_published(&self, event: &AgentEvent) {
        if self.lied {
            return;
        }
        match event.seq {
            None => assert!(!event.is_terminal(), "a provisional end"),
            Some(seq) => {
                let logged = self.model.events.get(&(event.conversation.clone(), seq));
                assert_eq!(logged, Some(event), "shown and not in the log");
            }
        }
    }

    fn answered(&mut self, id: CommandId, answer: &Answer) {
        let was_answered = self.commands.insert(id, true);
        assert_eq!(was_answered, Some(false), "an answer too many");
        if let (Answer::Accepted(receipt), false) = (answer, self.lied) {
            assert!(
                self.model.turns.contains_key(&receipt.turn),
                "accepted and not kept"
            );
            self.accepted.insert(receipt.turn);
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        self.next_command += 1;
        let id = CommandId(1 << 32 | self.next_command);
        self.feed(Input::Command { id, command });
    }

    /// A turn of the store for a drawn number, where it has any.
    /// Some that a computer may know of.
    pub(super) fn turns(&self) -> Vec<TurnId> {
        self.model.turns.keys().take(5).copied().collect()
    }

    pub(super) fn known_turn(&self, drawn: TurnId) -> TurnId {
        let known = self.model.turns.len().max(1) as u128;
        let place = usize::try_from(drawn.0 % known).unwrap_or(0);
        self.model.turns.keys().nth(place).copied().unwrap_or(drawn)
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono = self.now.mono + ms;
        self.now.wall = self.now.wall + ms;
        self.model.now = self.model.now + ms;
    }

    pub(super) fn tick_after(&mut self, ms: u64) {
        self.pass(ms);
        self.feed(Input::Tick);
    }

    pub(super) fn tick_when_due(&mut self) {
        let due = self.core.poll_timeout().map(|(due, _)| due);
        let wait_ms = due.map_or(1_000, |due| due.since_ms(self.now.mono));
        self.tick_after(wait_ms);
    }

    /// A reading that is older than the last one.
    pub(super) fn tick_before(&mut self, ms: u64) {
        let earlier = Now {
            mono: self.now.mono - ms,
            wall: self.now.wall,
        };
        self.feed_at(earlier, Input::Tick);
    }

    pub(super) fn jump_wall(&mut self, by_s: i32) {
        let by_ms = u64::from(by_s.unsigned_abs()) * 1_000;
        self.now.wall = if by_s < 0 {
            self.now.wall - by_ms
        } else {
            self.now.wall + by_ms
        };
    }

    fn land(&mut self, verb: &Verb) -> Reply {
        let Verb::ApplyGrants(plan) = verb else {
            return self.model.apply(verb);
        };
        let before = self.streaming(&plan.provider);
        let reply = self.model.apply(verb);
        let after = self.streaming(&plan.provider);
        let row = self.model.providers.get(&plan.provider);
        let limit = row.map_or(0, |row| row.limit as usize);
        // A limit may be lowered below what is in flight (A1).
        let is_within = after <= limit.max(before);
        assert!(is_within || self.ever_lied, "{after} streams of {limit}");
        reply
    }

    fn streaming(&self, provider: &ProviderId) -> usize {
        let turns = self.model.turns.values();
        turns
            .filter(|row| row.state == TurnState::Streaming && row.provider == *provider)
            .count()
    }

    fn take_verb(&mut self, at: usize) -> Option<(EffectId, Verb)> {
        (at < self.verbs.len()).then(|| self.verbs.remove(at))
    }

    pub(super) fn answer_verb(&mut self, at: usize) {
        if let Some((id, verb)) = self.take_verb(at) {
            let reply = self.land(&verb);
            self.replies.push((id, reply.clone()));
            let outcome = Ok(reply);
            self.feed(Input::Stored { id, outcome });
        }
    }

    /// A verb that lands or does not, and of whose outcome only `fault` is told.
    pub(super) fn fail_verb(&mut self, at: usize, lands: bool, fault: Option<StoreFault>) {
        if let Some((id, verb)) = self.take_verb(at) {
            if lands {
                let reply = self.land(&verb);
                self.replies.push((id, reply));
            }
            if let Some(fault) = fault {
                let outcome = Err(fault);
                self.feed(Input::Stored { id, outcome });
            }
        }
    }

    pub(super) fn delay_verb(&mut self, at: usize) {
        if let Some((_, verb)) = self.take_verb(at) {
            self.delayed.push(verb);
        }
    }

    pub(super) fn land_late(&mut self, at: usize) {
        if at < self.delayed.len() {
            let verb = self.delayed.remove(at);
            self.land(&verb);
        }
    }

    pub(super) fn lie(&mut self, at: usize, reply: Reply) {
        if let Some((id, _)) = self.take_verb(at) {
            (self.lied, self.ever_lied) = (true, true);
            let outcome = Ok(reply);
            self.feed(Input::Stored { id, outcome });
        }
    }

    /// A whole answer of a provider, by one of four kinds.
    pub(super) fn answer_stream(&mut self, at: usize, kind: u8) {
        const TEXT: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
        const CALLS: &str = "data: {\"choices\":[{\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"a\",\"function\":{\"name\":\"bash\",\"arguments\":\"{}\"}},{\"index\":1,\"id\":\"a\",\"function\":{\"name\":\"read\",\"arguments\":\"{\"}}]},\"finish_reason\":\"tool_calls\"}]}\n\ndata: [DONE]\n\n";
        let Some(id) = self.streams.get(at).copied() else {
            return;
        };
        let (status, body) = match kind {
            0 => (200, TEXT),
            1 => (200, CALLS),
            2 => (200, "data: [DONE]\n\n"),
            _ => (529, "{\"error\":{\"type\":\"overloaded_error\"}}"),
        };
        let headers = Vec::new();
        self.feed(Input::ProviderHead {
            id,
            status,
            headers,
        });
        let bytes = body.as_bytes().to_vec();
        self.feed(Input::ProviderBytes { id, bytes });
        if self.streams.contains(&id) {
            self.feed(Input::ProviderEnd { id });
        }
    }

    pub(super) fn freeze_and_thaw(&mut self) {
        let frozen = postcard::to_allocvec(&self.core).expect("a Dispatcher has a binary form");
        let thawed: Dispatcher = postcard::from_bytes(&frozen).expect("and comes back");
        assert!(thawed == self.core, "thawed and not the same");
        self.core = thawed;
    }

    pub(super) fn restart(&mut self, restart: Restart) {
        let acting_on = self.core.owned_turns().next();
        self.delayed
            .extend(self.verbs.drain(..).map(|(_, verb)| verb));
        self.streams.clear();
        self.tools.clear();
        self.adopts.clear();
        self.looks.clear();
        self.commands.clear();
        (self.lied, self.shutting_down, self.drained) = (false, false, false);
        let seed = [self.terms.seed.wrapping_add(self.boot as u8); 32];
        match restart {
            Restart::Process => {
                // Its effects are counted anew: no old reply can reach it.
                self.replies.clear();
                (self.boot, self.incarnation) = (self.boot + 1, 0);
                let config = config(self.terms, self.boot, 0);
                self.core = Dispatcher::new(config, seed, self.now);
            }
            Restart::Panic { seals } => {
                self.incarnation += 1;
                let config = config(self.terms, self.boot, self.incarnation);
                let seal = acting_on.filter(|_| seals);
                self.core = Dispatcher::rebuilt(config, seed, self.now, seal);
            }
        }
        self.drain();
    }

    /// Nothing fails any more, and everything must come to rest.
    pub(super) fn calm_down(&mut self) {
        for verb in std::mem::take(&mut self.delayed) {
            self.land(&verb);
        }
        self.settle("the Dispatcher", |world| {
            world.core.owned_turns().next().is_none()
        });
        if self.ever_lied || self.shutting_down {
            self.restart(Restart::Process);
            self.delayed.clear();
        }
        self.settle("every turn", |world| world.model.markers.is_empty());

        let footprint = self.core.footprint();
        assert!(footprint <= REST_ENTRIES, "{footprint} entries at rest");
        if !self.ever_lied {
            self.check_ends();
        }
    }

    fn settle(&mut self, what: &str, is_at_rest: impl Fn(&World) -> bool) {
        for _ in 0..MOST_CALM_INPUTS {
            let in_flight = self.streams.len() + self.tools.len() + self.adopts.len();
            let is_answered = self.commands.values().all(|answered| *answered);
            if in_flight == 0 && self.verbs.is_empty() && is_answered && is_at_rest(self) {
                return;
            }
            if !self.answer_something() {
                self.wait();
            }
        }
        let open = &self.model.markers;
        panic!(
            "{what} does not come to rest: {open:?} open, {:?}",
            self.core.poll_timeout()
        );
    }

    /// To the next timer; while nothing is owned, at once to a minute before
    /// something can be: hours of looking at a line that cannot move are long.
    fn wait(&mut self) {
        let of_turn = |row: &TurnRow| match row.state {
            TurnState::Parked => Some(row.due_at),
            TurnState::Streaming | TurnState::Tools => Some(row.lease_until),
            TurnState::Blocked | TurnState::Ended => None,
        };
        let due = self.model.turns.values().filter_map(of_turn).min();
        let far_ms = due.map_or(0, |due| due.since_ms(self.model.now).saturating_sub(60_000));
        if far_ms > 0 && self.core.owned_turns().next().is_none() {
            self.tick_after(far_ms);
        } else {
            self.tick_when_due();
        }
    }

    fn answer_something(&mut self) -> bool {
        if !self.verbs.is_empty() {
            self.answer_verb(0);
        } else if let Some(id) = self.adopts.first().copied() {
            let found = Found::Nothing;
            self.feed(Input::Adopted { id, found });
        } else if let Some(id) = self.tools.first().copied() {
            let end = ToolEnd {
                ok: true,
                output: "fine".to_owned(),
                duration_ms: 1,
                spilled: None,
            };
            self.feed(Input::ToolDone { id, end });
        } else if !self.streams.is_empty() {
            self.answer_stream(0, 0);
        } else {
            return false;
        }
        true
    }

    fn check_ends(&self) {
        for turn in &self.accepted {
            assert!(
                self.model.turns.contains_key(turn),
                "an accepted turn is gone"
            );
        }
        let mut ends: BTreeMap<TurnId, u32> = BTreeMap::new();
        for event in self
            .model
            .events
            .values()
            .filter(|event| event.is_terminal())
        {
            *ends.entry(event.turn).or_default() += 1;
        }
        for (turn, row) in &self.model.turns {
            assert_eq!(row.state, TurnState::Ended);
            assert_eq!(ends.get(turn), Some(&1), "terminal events of {turn}");
        }
    }
}

/// The stream, the tool and the look for commands of which nothing more comes after this.
fn ended_by(input: &Input) -> [Option<EffectId>; 3] {
    match input {
        Input::ProviderEnd { id } | Input::ProviderFailed { id, .. } => [Some(*id), None, None],
        Input::ToolDone { id, .. } => [None, Some(*id), None],
        Input::Unattended { id, .. } => [None, None, Some(*id)],
        Input::EffectPanicked { id, .. } => [Some(*id); 3],
        // Only of calls over links.
        Input::ToolLost { .. }
        | Input::Tick
        | Input::Command { .. }
        | Input::Stored { .. }
        | Input::ProviderHead { .. }
        | Input::ProviderBytes { .. }
        | Input::ToolOutput { .. }
        | Input::Adopted { .. }
        | Input::ComputerUp { .. }
        | Input::ComputerDown { .. }
        | Input::ComputerAlive { .. }
        | Input::DeliveryDone { .. }
        | Input::Nudged
        | Input::Shutdown => [None; 3],
    }
}

fn config(terms: Terms, boot: u64, incarnation: u32) -> Config {
    let owner = Owner {
        node: "node".into(),
        boot,
        incarnation,
    };
    let provider = |id: &str| Provider {
        settings: ProviderSettings {
            id: id.try_into().expect("a provider id"),
            limit: terms.limit,
            cooldown_ms: 200,
        },
        models: vec!["m".to_owned()],
    };
    let mut config = Config::new(owner, vec![provider("north"), provider("south")]);
    config.life = boot;
    // Long intervals: a calm of hours costs few inputs.
    config.ask_ms = 20_000;
    config.requests_ms = 5_000;
    config.on_crash = terms.on_crash;
    config.on_cut = terms.on_cut;
    config.step_limit = terms.step_limit;
    config.step_limit_bytes = terms.step_limit_bytes;
    config.max_open_turns = terms.max_open_turns;
    config
}
