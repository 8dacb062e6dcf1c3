//! A small world of computers around the pool alone: it does what it is told, or
//! not, or late, and it sees when the pool breaks a promise.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::computer::{ComputerState, SshFault, SshFaultKind};
use crate::config::{Config, Provider};
use crate::ids::{CommandId, ComputerId, EffectId, Epoch, Owner, TurnId};
use crate::io::{Answer, Effect, Found, ToolAdopt, ToolEnd, ToolStart};
use crate::kit::{Ctx, Flight, Kit, Purpose, Wake, Wish};
use crate::ssh::{Pool, Told, Word};
use crate::store::{ProviderSettings, Verb};
use crate::time::{Instant, Now, Timestamp};

use super::words::{Dir, dir_of, end, fault, is_about, is_unanswered};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Run {
    /// Somebody has looked, and nothing may be started in it.
    Claimed,
    Runs,
    Ended,
    Killed,
}

/// How a turn's call stands for its turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Waits,
    /// It was told what became of it.
    Told(Word),
    /// It waits no more.
    Left,
}

pub(super) struct World {
    pub(super) config: Config,
    pub(super) kit: Kit,
    pub(super) pool: Pool,
    pub(super) now_ms: u64,
    /// What was asked of the world and not answered.
    pub(super) pending: Vec<Effect>,
    /// Starts that are still on their way after their link was lost.
    pub(super) late: Vec<(ComputerId, ToolStart)>,
    /// Connections by the name of their link.
    pub(super) links: BTreeMap<EffectId, ComputerId>,
    /// What is spoken of over which link.
    attempts: BTreeMap<EffectId, (EffectId, Dir)>,
    pub(super) runs: BTreeMap<(ComputerId, Dir), Run>,
    /// How often each call has really been run.
    pub(super) executions: BTreeMap<(TurnId, String), u32>,
    pub(super) asked: BTreeMap<EffectId, (ComputerId, u64, Asked)>,
    pub(super) previews: Vec<u64>,
    pub(super) tests: BTreeMap<CommandId, u64>,
    pub(super) tested: Vec<(CommandId, Result<(), SshFault>)>,
    pub(super) states: BTreeMap<ComputerId, ComputerState>,
    pub(super) connects: u32,
    pub(super) ended_turns: BTreeSet<TurnId>,
    turns: u128,
}

impl World {
    pub(super) fn new() -> World {
        let owner = Owner {
            node: "node".into(),
            boot: 1,
            incarnation: 0,
        };
        let settings = ProviderSettings {
            id: "mock".try_into().unwrap(),
            limit: 1,
            cooldown_ms: 0,
        };
        let provider = Provider {
            settings,
            models: Vec::from(["m".to_string()]),
        };
        World {
            config: Config::new(owner, Vec::from([provider])),
            kit: Kit::new([3; 32], 0),
            pool: Pool::default(),
            now_ms: 0,
            pending: Vec::new(),
            late: Vec::new(),
            links: BTreeMap::new(),
            attempts: BTreeMap::new(),
            runs: BTreeMap::new(),
            executions: BTreeMap::new(),
            asked: BTreeMap::new(),
            previews: Vec::new(),
            tests: BTreeMap::new(),
            tested: Vec::new(),
            states: BTreeMap::new(),
            connects: 0,
            ended_turns: BTreeSet::new(),
            turns: 0,
        }
    }

    pub(super) fn on(&mut self, act: impl FnOnce(&mut Pool, &mut Ctx<'_>)) {
        let mut ctx = Ctx {
            config: &self.config,
            now: Now {
                mono: Instant(self.now_ms),
                wall: Timestamp(1_000_000 + self.now_ms),
            },
            kit: &mut self.kit,
        };
        act(&mut self.pool, &mut ctx);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(Told { tool, word }) = self.pool.told.pop_front() {
            self.hear(tool, word);
        }
        while let Some(effect) = self.kit.effects.pop_front() {
            self.take(effect);
        }
        self.pool.check(&self.kit).unwrap();
        for link in self.links.keys() {
            let busy = self.channels(*link);
            assert!(busy < 8, "{busy} channels beside the files'");
        }
    }

    fn hear(&mut self, tool: EffectId, word: Word) {
        if let Word::Output { offset, .. } = word {
            return self.previews.push(offset);
        }
        let Some((_, asked_at, asked)) = self.asked.get_mut(&tool) else {
            panic!("nobody asked");
        };
        assert_eq!(*asked, Asked::Waits, "answered twice: {word:?}");
        // What a turn waits for at most, on top of what it has been told before.
        let bound_ms = 2 * 800_000;
        assert!(self.now_ms - *asked_at <= bound_ms, "answered too late");
        if word != Word::Adopted(Found::Running) {
            self.kit.flights.remove(&tool);
            *asked = Asked::Told(word);
        }
    }

    fn take(&mut self, effect: Effect) {
        match &effect {
            Effect::ConnectComputer { id, computer, .. } => {
                assert!(
                    !self.links.values().any(|other| other == computer),
                    "a second connection to {computer}"
                );
                self.links.insert(*id, computer.clone());
                self.connects += 1;
            }
            Effect::CloseComputer { id } => return self.cut(*id),
            Effect::ComputerChanged { computer, state } => {
                self.states.insert(computer.clone(), (**state).clone());
                return;
            }
            Effect::StartTool { id, start } => self.attempt(*id, start.link, dir_of(start)),
            Effect::AdoptTool { id, adopt } => {
                let dir = (
                    adopt.turn,
                    adopt.call_id.clone(),
                    adopt.started,
                    adopt.attempt,
                );
                self.attempt(*id, adopt.link, dir);
            }
            Effect::LeaveTool { id } => {
                self.attempts.remove(id);
                self.pending.retain(|pending| !is_about(pending, *id));
                return;
            }
            Effect::Answer { id, answer } => {
                let asked_at = self.tests.remove(id).expect("a test that was asked for");
                assert!(self.now_ms - asked_at <= 30_000);
                if let Answer::Tested(outcome) = answer {
                    self.tested.push((*id, outcome.clone()));
                }
                return;
            }
            Effect::EndUnattended { turns, link } => {
                let computer = link.and_then(|link| self.links.get(&link)).cloned();
                for turn in turns {
                    assert!(self.ended_turns.contains(turn), "a turn that goes on");
                    for ((place, dir), run) in &mut self.runs {
                        if Some(place) == computer.as_ref() && dir.0 == *turn && *run == Run::Runs {
                            *run = Run::Killed;
                        }
                    }
                }
                return;
            }
            Effect::Trace { .. } => return,
            _ => {}
        }
        self.pending.push(effect);
    }

    fn attempt(&mut self, id: EffectId, link: Option<EffectId>, dir: Dir) {
        let link = link.expect("a link");
        assert!(
            self.links.contains_key(&link),
            "over a link that is not there"
        );
        self.attempts.insert(id, (link, dir));
    }

    /// Channels that the pool keeps busy over a link.
    fn channels(&self, link: EffectId) -> usize {
        let over = |id: &EffectId| self.attempts.get(id).is_some_and(|(at, _)| *at == link);
        let busy = self.pending.iter().filter(|effect| match effect {
            Effect::StartTool { id, .. } | Effect::AdoptTool { id, .. } => over(id),
            Effect::KillTool { id } => {
                let is_other = |effect: &&Effect| matches!(effect, Effect::StartTool { id: at, .. } | Effect::AdoptTool { id: at, .. } if at == id);
                over(id) && !self.pending.iter().any(|effect| is_other(&effect))
            }
            _ => false,
        });
        busy.count()
    }

    /// A link is not there any more: what was asked over it may have been done.
    pub(super) fn cut(&mut self, link: EffectId) {
        let Some(computer) = self.links.remove(&link) else {
            return;
        };
        let lost: Vec<EffectId> = self
            .attempts
            .iter()
            .filter(|(_, (at, _))| *at == link)
            .map(|(id, _)| *id)
            .collect();
        for id in lost {
            self.attempts.remove(&id);
            let pending = core::mem::take(&mut self.pending);
            for effect in pending {
                match effect {
                    Effect::StartTool { id: at, start } if at == id => {
                        self.late.push((computer.clone(), *start));
                    }
                    effect if is_about(&effect, id) => {}
                    effect => self.pending.push(effect),
                }
            }
        }
        self.pending.retain(|effect| !is_about(effect, link));
    }

    pub(super) fn down(&mut self, link: EffectId, kind: SshFaultKind) {
        self.cut(link);
        self.on(|pool, ctx| pool.down(ctx, link, fault(kind)));
    }

    pub(super) fn link(&self, computer: &ComputerId) -> Option<EffectId> {
        let mut links = self.links.iter();
        links.find(|(_, at)| *at == computer).map(|(id, _)| *id)
    }

    /// A turn asks for a call.
    pub(super) fn start(&mut self, at: &ComputerId, name: &str) -> EffectId {
        self.turns += 1;
        let turn = TurnId(self.turns);
        let tool = self.kit.register(Flight::Call(turn, 0));
        let start = ToolStart {
            turn,
            epoch: Epoch(1),
            call_id: "call".into(),
            name: name.into(),
            input: "{}".into(),
            computer: Some(at.clone()),
            link: None,
            attempt: 0,
            cwd: None,
            deadline_ms: self.config.deadlines.tool_ms,
            not_after: Instant(u64::MAX),
        };
        self.ask(at, tool, Wish::Start(tool, Box::new(start)));
        tool
    }

    /// A turn asks for what an earlier ownership may have started.
    pub(super) fn adopt(&mut self, at: &ComputerId, runs: bool) -> EffectId {
        self.turns += 1;
        let turn = TurnId(self.turns);
        if runs {
            let dir = (turn, "call".to_string(), Epoch(1), 0);
            self.runs.insert((at.clone(), dir), Run::Runs);
            self.executions.insert((turn, "call".into()), 1);
        }
        let tool = self.kit.register(Flight::Call(turn, 0));
        let adopt = ToolAdopt {
            turn,
            epoch: Epoch(2),
            call_id: "call".into(),
            computer: Some(at.clone()),
            link: None,
            started: Epoch(1),
            attempt: 0,
            shown_bytes: 0,
            not_after: Instant(u64::MAX),
        };
        self.ask(at, tool, Wish::Adopt(tool, Box::new(adopt)));
        tool
    }

    fn ask(&mut self, at: &ComputerId, tool: EffectId, wish: Wish) {
        let asked = (at.clone(), self.now_ms, Asked::Waits);
        self.asked.insert(tool, asked);
        self.on(|pool, ctx| pool.wish(ctx, at, wish));
    }

    pub(super) fn kill(&mut self, tool: EffectId) {
        let Some((at, _, Asked::Waits)) = self.asked.get(&tool).cloned() else {
            return;
        };
        self.on(|pool, ctx| pool.wish(ctx, &at, Wish::Kill(tool)));
    }

    /// Its turn waits no more: let it run, or give up waiting for its death.
    pub(super) fn leave(&mut self, tool: EffectId, gives_up: bool) {
        let Some((at, _, Asked::Waits)) = self.asked.get(&tool).cloned() else {
            return;
        };
        self.kit.flights.remove(&tool);
        if let Some((.., asked)) = self.asked.get_mut(&tool) {
            *asked = Asked::Left;
        }
        let wish = match gives_up {
            true => Wish::GiveUp(tool),
            false => Wish::Leave(tool),
        };
        self.on(|pool, ctx| pool.wish(ctx, &at, wish));
    }

    pub(super) fn test(&mut self, at: &ComputerId, n: u64) {
        let id = CommandId(n);
        self.tests.insert(id, self.now_ms);
        self.on(|pool, ctx| pool.test(ctx, at, id));
    }

    /// Does what was asked, and answers.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::ConnectComputer { id, .. } => self.on(|pool, ctx| pool.up(ctx, id)),
            Effect::PingComputer { id } => self.on(|pool, ctx| pool.alive(ctx, id)),
            Effect::StartTool { id, start } => {
                let computer = start.computer.clone().expect("a computer");
                let is_command = start.name == "bash";
                // Its answer may come late.
                let is_there = self.runs.get(&(computer.clone(), dir_of(&start)));
                let has_begun = match is_there {
                    Some(run) => *run != Run::Claimed,
                    None => self.run(&computer, &start),
                };
                match (is_command, has_begun) {
                    (true, true) => self.adopted(id, Found::Running),
                    (true, false) => self.done(id, end("its directory was claimed")),
                    (false, _) => self.done(id, end("contents")),
                }
            }
            Effect::AdoptTool { id, adopt } => {
                let computer = adopt.computer.clone().expect("a computer");
                let found = self.look(&computer, &adopt);
                self.adopted(id, found);
            }
            Effect::KillTool { id } => {
                let Some((link, dir)) = self.attempts.get(&id).cloned() else {
                    return;
                };
                let key = (self.links[&link].clone(), dir);
                if let Some(run @ Run::Runs) = self.runs.get_mut(&key) {
                    *run = Run::Killed;
                }
                self.done(id, end("killed"));
            }
            Effect::FindUnattended { id, link } => self.find(id, link),
            Effect::Store {
                id,
                verb: Verb::Ended { turns },
            } => self.judge(id, &turns),
            other => panic!("{other:?}"),
        }
    }

    /// Whether a command has begun; nothing begins where somebody has looked.
    pub(super) fn run(&mut self, computer: &ComputerId, start: &ToolStart) -> bool {
        if start.name != "bash" {
            return true;
        }
        let key = (computer.clone(), dir_of(start));
        if self.runs.contains_key(&key) {
            return false;
        }
        self.runs.insert(key, Run::Runs);
        let call = (start.turn, start.call_id.clone());
        let times = self.executions.entry(call).or_default();
        *times += 1;
        assert_eq!(*times, 1, "a call was run twice");
        true
    }

    fn look(&mut self, computer: &ComputerId, adopt: &ToolAdopt) -> Found {
        let mut runs = self.runs.iter();
        let is_same = |place: &ComputerId, dir: &Dir| {
            place == computer && dir.0 == adopt.turn && dir.1 == adopt.call_id
        };
        let is_real = |run: Run| run != Run::Claimed;
        let found = runs.rfind(|((place, dir), run)| is_same(place, dir) && is_real(**run));
        match found.map(|(_, run)| *run) {
            Some(Run::Runs) => Found::Running,
            Some(Run::Ended) => Found::Finished(end("late")),
            Some(Run::Killed) => Found::Killed {
                output: "half".into(),
            },
            Some(Run::Claimed) | None => {
                let dir = (
                    adopt.turn,
                    adopt.call_id.clone(),
                    adopt.started,
                    adopt.attempt,
                );
                self.runs.insert((computer.clone(), dir), Run::Claimed);
                Found::Nothing
            }
        }
    }

    fn find(&mut self, id: EffectId, link: Option<EffectId>) {
        let Some(Flight::RunsOn(computer)) = self.kit.flights.remove(&id) else {
            return;
        };
        let link = link.expect("a link");
        assert_eq!(self.links.get(&link), Some(&computer));
        let runs = self.runs.iter();
        let running = runs.filter(|((place, _), run)| *place == computer && **run == Run::Runs);
        let turns: BTreeSet<TurnId> = running.map(|((_, dir), _)| dir.0).collect();
        let turns = turns.into_iter().collect();
        self.on(|pool, ctx| pool.unattended_found(ctx, &computer, turns));
    }

    fn judge(&mut self, id: EffectId, turns: &[TurnId]) {
        let Some(ask) = self.kit.take_ask(id) else {
            return;
        };
        let Purpose::RunsOn(computer, link) = ask.purpose else {
            panic!("{:?}", ask.purpose);
        };
        let ended = turns.iter().filter(|turn| self.ended_turns.contains(turn));
        let ended = ended.copied().collect();
        self.on(|pool, ctx| pool.unattended_judged(ctx, &computer, link, ended));
    }

    pub(super) fn adopted(&mut self, id: EffectId, found: Found) {
        if found != Found::Running {
            self.attempts.remove(&id);
            self.pending.retain(|effect| !is_about(effect, id));
        }
        if let Some(Flight::Attempt(at, tool)) = self.kit.flights.get(&id).cloned() {
            self.on(|pool, ctx| pool.adopted(ctx, &at, tool, found));
        }
    }

    pub(super) fn done(&mut self, id: EffectId, end: ToolEnd) {
        self.attempts.remove(&id);
        self.pending.retain(|effect| !is_about(effect, id));
        if let Some(Flight::Attempt(at, tool)) = self.kit.flights.get(&id).cloned() {
            self.on(|pool, ctx| pool.done(ctx, &at, tool, end));
        }
    }

    /// A command ends by itself; who watches it hears of it.
    pub(super) fn end_run(&mut self, n: usize) {
        let running = self.runs.iter().filter(|(_, run)| **run == Run::Runs);
        let Some((key, _)) = running.cycle().nth(n) else {
            return;
        };
        let key = key.clone();
        self.runs.insert(key.clone(), Run::Ended);
        let mut attempts = self.attempts.iter();
        let watches = attempts.find(|(id, (link, dir))| {
            let is_there = self.links.get(link) == Some(&key.0) && *dir == key.1;
            is_there
                && !self
                    .pending
                    .iter()
                    .any(|effect| is_unanswered(effect, **id))
        });
        if let Some(id) = watches.map(|(id, _)| *id) {
            self.done(id, end("out"));
        }
    }

    pub(super) fn prints(&mut self, tool: EffectId, offset: u64, text: &str) {
        let flights = self.kit.flights.iter();
        let computer = flights
            .filter(|(id, _)| self.attempts.contains_key(id))
            .find_map(|(_, flight)| match flight {
                Flight::Attempt(at, of) if *of == tool => Some(at.clone()),
                _ => None,
            });
        let computer = computer.expect("it is watched");
        let stream = crate::event::OutputStream::Combined;
        self.on(|pool, _| pool.printed(&computer, tool, stream, offset, text.into()));
    }

    /// Answers all that is pending, as a world does in which nothing fails.
    pub(super) fn obey(&mut self) {
        while !self.pending.is_empty() {
            let effect = self.pending.remove(0);
            self.carry_out(effect);
        }
    }

    /// Lets time pass, timer by timer.
    pub(super) fn pass(&mut self, ms: u64, obeys: bool) {
        let until = self.now_ms + ms;
        while let Some((at, _)) = self.kit.timers.next().filter(|(at, _)| at.0 <= until) {
            self.now_ms = self.now_ms.max(at.0);
            while let Some(wake) = self.kit.timers.pop_due(Instant(self.now_ms)) {
                self.wake(wake);
                if obeys {
                    self.obey();
                }
            }
        }
        self.now_ms = until;
    }

    fn wake(&mut self, wake: Wake) {
        match wake {
            Wake::LinkDue(at) => self.on(|pool, ctx| pool.link_due(ctx, &at)),
            Wake::JobDue(at, tool) => self.on(|pool, ctx| pool.job_due(ctx, &at, tool)),
            Wake::TestDue(at, id) => self.on(|pool, ctx| pool.test_due(ctx, &at, id)),
            Wake::VerbDue(id) => {
                self.kit.take_ask(id);
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn told(&self, tool: EffectId) -> &Asked {
        &self.asked[&tool].2
    }

    /// The words of a call's answer.
    pub(super) fn words(&self, tool: EffectId) -> (bool, &str) {
        match self.told(tool) {
            Asked::Told(Word::Done(end)) => (end.ok, &end.output),
            other => panic!("{other:?}"),
        }
    }
}
