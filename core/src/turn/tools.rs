//! The tools' side of a stretch: every call of the step is answered, whatever
//! happens to it, before the turn goes on (T12).

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Moved, Phase, Stretch};
use crate::event::{EventBody, OutputStream, StatusState};
use crate::ids::{ComputerId, EffectId, Epoch, TurnId};
use crate::io::{Found, ToolAdopt, ToolEnd, ToolStart};
use crate::kit::{Ctx, Flight, Kit, Wake, Wish};
use crate::reconcile::OUTCOME_UNKNOWN;
use crate::store::{CallRow, CallState, StepRecord, ToolAnswer, Verb};
use crate::time::Instant;
use crate::tools::BASH;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tools {
    calls: Vec<Call>,
    /// Answers that the store has not been told yet.
    unwritten: Vec<ToolAnswer>,
    /// The verb in flight, which is the stretch's.
    writing: Writing,
    /// Where they run; `None`: here.
    computer: Option<ComputerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Writing {
    Nothing,
    Starts,
    Answers,
}

/// What all commands of a stretch have in common.
struct Place {
    turn: TurnId,
    epoch: Epoch,
    computer: Option<ComputerId>,
    cwd: Option<String>,
    not_after: Instant,
}

impl Place {
    /// What a call may take whose supervisor does not answer. The pool keeps its
    /// own deadlines for what runs on another computer; this one is later.
    fn most_ms(&self, ctx: &Ctx<'_>) -> u64 {
        let deadlines = ctx.config.deadlines;
        match self.computer {
            Some(_) => ctx.config.ssh.patience_ms + deadlines.tool_ms + 3 * deadlines.kill_ms,
            None => deadlines.tool_ms + deadlines.kill_ms,
        }
    }

    /// What it may take to tell what an earlier ownership has started: a
    /// computer that cannot be reached is waited for.
    fn adopt_ms(&self, ctx: &Ctx<'_>) -> u64 {
        match self.computer {
            Some(_) => self.most_ms(ctx),
            None => ctx.config.deadlines.kill_ms,
        }
    }
}

/// One call of the step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Call {
    n: u32,
    call_id: String,
    name: String,
    input: String,
    at: Stage,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// Not started, and nobody has said that it will be.
    Asked,
    /// An earlier ownership, this one, may have started it.
    Orphan(Epoch),
    /// The store is told that it starts.
    Announced,
    /// It runs; or it is an earlier ownership's that was asked for and has not
    /// answered yet whether it does.
    Running {
        effect: EffectId,
        due: Instant,
        killed: bool,
    },
    /// It has its answer.
    Answered,
}

impl Call {
    /// The calls of a step that was just committed.
    pub(super) fn asked(step: &StepRecord) -> Vec<Call> {
        (0..)
            .zip(&step.calls)
            .map(|(n, call)| Call {
                n,
                call_id: call.call_id.clone(),
                name: call.name.clone(),
                input: call.input.clone(),
                at: Stage::Asked,
            })
            .collect()
    }

    /// A call that an earlier ownership left without an answer.
    pub(super) fn reopened(row: CallRow) -> Option<Call> {
        let at = match row.state {
            CallState::Asked => Stage::Asked,
            CallState::Started(_) if crate::planted!("D21") => Stage::Asked,
            CallState::Started(epoch) => Stage::Orphan(epoch),
            CallState::Finished => return None,
        };
        Some(Call {
            n: row.n,
            call_id: row.call_id,
            name: row.name,
            input: row.input,
            at,
        })
    }

    /// A tool that changes nothing may be run again where nothing tells what
    /// became of it (L10).
    fn may_repeat(&self) -> bool {
        crate::tools::find(&self.name).is_some_and(|tool| tool.read_only)
    }

    fn flight(&self, place: &Place) -> Flight {
        match place.computer {
            Some(_) => Flight::Call(place.turn, self.n),
            None => Flight::Tool(place.turn, self.n),
        }
    }

    fn wake(&self, turn: TurnId) -> Wake {
        Wake::ToolDue(turn, self.n)
    }

    /// What is written for one that did not answer by itself.
    fn unanswered(&self, why: &str) -> ToolAnswer {
        ToolAnswer {
            call_id: self.call_id.clone(),
            ok: false,
            output: why.to_string(),
            duration_ms: 0,
            spilled: None,
        }
    }

    fn start(&mut self, ctx: &mut Ctx<'_>, place: &Place) {
        let deadlines = ctx.config.deadlines;
        let effect = ctx.kit.register(self.flight(place));
        // The supervisor keeps the same deadline and has the better words
        // for it; the core's own is for a supervisor that does not answer.
        let due = ctx.now.mono + place.most_ms(ctx);
        ctx.kit.timers.arm(self.wake(place.turn), due);
        let start = ToolStart {
            turn: place.turn,
            epoch: place.epoch,
            call_id: self.call_id.clone(),
            name: self.name.clone(),
            input: self.input.clone(),
            computer: place.computer.clone(),
            link: None,
            attempt: 0,
            cwd: place.cwd.clone(),
            deadline_ms: deadlines.tool_ms,
            not_after: place.not_after,
        };
        ctx.kit.start_tool(effect, Box::new(start));
        self.at = Stage::Running {
            effect,
            due,
            killed: false,
        };
    }
}

impl Stretch {
    /// Starts what was never started and adopts what an earlier ownership left
    /// running; nothing that changes anything is ever run twice (L10).
    pub(super) fn run_tools(&mut self, ctx: &mut Ctx<'_>, calls: Vec<Call>) {
        let mut tools = Tools {
            calls,
            unwritten: Vec::new(),
            writing: Writing::Nothing,
            computer: self.world.as_ref().and_then(|world| world.computer.clone()),
        };
        if crate::planted!("D37") {
            tools.answer_where(|at| matches!(at, Stage::Orphan(_)), OUTCOME_UNKNOWN);
        }
        let leaves = self.hand_over && self.ending.is_none();
        if leaves {
            tools.leave(ctx, self.turn);
        } else {
            tools.adopt_orphans(ctx, &self.place(ctx));
        }
        if self.ending.is_some() {
            tools.kill_all(ctx, self.turn);
        }
        self.phase = Phase::Tools(tools);
        self.show_status(ctx, StatusState::WaitingTools);
        if leaves || self.ending.is_some() {
            self.tools_moved(ctx);
        } else {
            self.announce_starts(ctx);
        }
    }

    fn announce_starts(&mut self, ctx: &mut Ctx<'_>) {
        let fence = self.fence();
        let Phase::Tools(tools) = &mut self.phase else {
            return;
        };
        let calls = tools.announce();
        // Even where nothing is left to start: this verb is what frees the slot.
        tools.writing = Writing::Starts;
        self.ask(ctx, Verb::ToolsStarted { fence, calls });
    }

    /// The verb of this phase has landed.
    pub(super) fn tools_written(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let stopping = self.ending.is_some() || self.hand_over;
        let place = self.place(ctx);
        let Phase::Tools(tools) = &mut self.phase else {
            return Moved::On;
        };
        if core::mem::replace(&mut tools.writing, Writing::Nothing) == Writing::Starts {
            if stopping {
                tools.answer_unstarted("the turn was stopped before this tool was started");
            } else {
                tools.start_announced(ctx, &place);
            }
        }
        self.tools_moved(ctx)
    }

    fn place(&self, ctx: &Ctx<'_>) -> Place {
        Place {
            turn: self.turn,
            epoch: self.epoch,
            computer: self.world.as_ref().and_then(|world| world.computer.clone()),
            cwd: self.world.as_ref().and_then(|world| world.cwd.clone()),
            not_after: ctx.held_until(self.turn),
        }
    }

    /// Writes what has gathered; goes on when every call has its answer.
    pub(super) fn tools_moved(&mut self, ctx: &mut Ctx<'_>) -> Moved {
        let fence = self.fence();
        let Phase::Tools(tools) = &mut self.phase else {
            return Moved::On;
        };
        if tools.writing != Writing::Nothing {
            return Moved::On;
        }
        let all_answered = tools.calls.iter().all(|call| call.at == Stage::Answered);
        if let (true, Some(terminal)) = (all_answered, self.ending.clone()) {
            let answers = core::mem::take(&mut tools.unwritten);
            return self.elect(ctx, None, answers, terminal);
        }
        if !tools.unwritten.is_empty() {
            let answers = core::mem::take(&mut tools.unwritten);
            tools.writing = Writing::Answers;
            self.ask(ctx, Verb::ToolsFinished { fence, answers });
            return Moved::SlotFreed;
        }
        if all_answered {
            self.park(ctx, None)
        } else {
            Moved::On
        }
    }

    pub(crate) fn tool_output(
        &mut self,
        ctx: &mut Ctx<'_>,
        n: u32,
        stream: OutputStream,
        offset: u64,
        text: String,
    ) -> Moved {
        let Phase::Tools(tools) = &self.phase else {
            return Moved::On;
        };
        if let Some(call) = tools.calls.iter().find(|call| call.n == n) {
            let call_id = call.call_id.clone();
            self.show_provisional(
                ctx,
                EventBody::ToolOutput {
                    call_id,
                    stream,
                    offset,
                    text,
                },
            );
        }
        Moved::On
    }

    pub(crate) fn tool_done(&mut self, ctx: &mut Ctx<'_>, n: u32, end: ToolEnd) -> Moved {
        let turn = self.turn;
        let Phase::Tools(tools) = &mut self.phase else {
            return Moved::On;
        };
        tools.answer(ctx, turn, n, end);
        self.tools_moved(ctx)
    }

    /// What was found of a call that an earlier ownership had started.
    pub(crate) fn adopted(&mut self, ctx: &mut Ctx<'_>, n: u32, found: Found) -> Moved {
        let may_start = self.ending.is_none() && !self.hand_over;
        let place = self.place(ctx);
        let Phase::Tools(tools) = &mut self.phase else {
            return Moved::On;
        };
        let end = match found {
            Found::Running => {
                tools.give_time(ctx, &place, n);
                return Moved::On;
            }
            Found::Nothing if may_start && tools.repeat(ctx, &place, n) => return Moved::On,
            Found::Nothing => unknown_outcome(""),
            Found::Killed { output } => unknown_outcome(&output),
            Found::Finished(end) => end,
        };
        self.tool_done(ctx, n, end)
    }

    /// A tool has run past its deadline, or has outlived being killed.
    pub(crate) fn tool_due(&mut self, ctx: &mut Ctx<'_>, n: u32) -> Moved {
        let turn = self.turn;
        let Phase::Tools(tools) = &mut self.phase else {
            return Moved::On;
        };
        let Some(call) = tools.calls.iter_mut().find(|call| call.n == n) else {
            return Moved::On;
        };
        match &mut call.at {
            Stage::Running {
                effect,
                due,
                killed: killed @ false,
            } => {
                *killed = true;
                *due = ctx.now.mono + ctx.config.deadlines.kill_ms;
                let (id, due) = (*effect, *due);
                ctx.kit.kill_tool(tools.computer.as_ref(), id);
                ctx.kit.timers.arm(Wake::ToolDue(turn, n), due);
                Moved::On
            }
            Stage::Running { effect, .. } => {
                let id = *effect;
                ctx.kit.flights.remove(&id);
                if let Some(computer) = tools.computer.clone() {
                    ctx.kit.wish(computer, Wish::GiveUp(id));
                }
                let end = unknown_outcome("the command did not end when it was killed");
                tools.answer(ctx, turn, n, end);
                self.tools_moved(ctx)
            }
            Stage::Asked | Stage::Orphan(_) | Stage::Announced | Stage::Answered => Moved::On,
        }
    }
}

impl Tools {
    fn adopt_orphans(&mut self, ctx: &mut Ctx<'_>, place: &Place) {
        let turn = place.turn;
        for call in &mut self.calls {
            let Stage::Orphan(started) = call.at else {
                continue;
            };
            // Over there only commands leave traces.
            if place.computer.is_some() && call.name != BASH.name {
                match call.may_repeat() {
                    true => call.start(ctx, place),
                    false => {
                        call.at = Stage::Answered;
                        self.unwritten.push(call.unanswered(OUTCOME_UNKNOWN));
                    }
                }
                continue;
            }
            let effect = ctx.kit.register(call.flight(place));
            let due = ctx.now.mono + place.adopt_ms(ctx);
            ctx.kit.timers.arm(call.wake(turn), due);
            let adopt = ToolAdopt {
                turn,
                epoch: place.epoch,
                call_id: call.call_id.clone(),
                computer: place.computer.clone(),
                link: None,
                started,
                attempt: 0,
                shown_bytes: 0,
                not_after: place.not_after,
            };
            ctx.kit.adopt_tool(effect, Box::new(adopt));
            call.at = Stage::Running {
                effect,
                due,
                killed: false,
            };
        }
    }

    /// An adopted command runs. Its supervisor keeps the deadline that it began
    /// with; ours, for a supervisor that fails to, can only be later.
    fn give_time(&mut self, ctx: &mut Ctx<'_>, place: &Place, n: u32) {
        let Some(call) = self.calls.iter_mut().find(|call| call.n == n) else {
            return;
        };
        let wake = call.wake(place.turn);
        if let Stage::Running {
            due, killed: false, ..
        } = &mut call.at
        {
            *due = ctx.now.mono + place.most_ms(ctx);
            ctx.kit.timers.arm(wake, *due);
        }
    }

    /// Runs a call again that may be; says whether it is one.
    fn repeat(&mut self, ctx: &mut Ctx<'_>, place: &Place, n: u32) -> bool {
        let call = self.calls.iter_mut().find(|call| call.n == n);
        match call.filter(|call| call.may_repeat()) {
            Some(call) => {
                call.start(ctx, place);
                true
            }
            None => false,
        }
    }

    fn announce(&mut self) -> Vec<String> {
        let asked = self.calls.iter_mut().filter(|call| call.at == Stage::Asked);
        asked
            .map(|call| {
                call.at = Stage::Announced;
                call.call_id.clone()
            })
            .collect()
    }

    fn start_announced(&mut self, ctx: &mut Ctx<'_>, place: &Place) {
        for call in &mut self.calls {
            if call.at == Stage::Announced {
                call.start(ctx, place);
            }
        }
    }

    /// Kills what runs; what never started is answered at once.
    pub(super) fn kill_all(&mut self, ctx: &mut Ctx<'_>, turn: TurnId) {
        let kill_ms = ctx.config.deadlines.kill_ms;
        for call in &mut self.calls {
            let wake = call.wake(turn);
            if let Stage::Running {
                effect,
                due,
                killed: killed @ false,
            } = &mut call.at
            {
                *killed = true;
                *due = ctx.now.mono + kill_ms;
                if !crate::planted!("D41") {
                    ctx.kit.kill_tool(self.computer.as_ref(), *effect);
                }
                ctx.kit.timers.arm(wake, *due);
            }
        }
        // Announced ones wait for their verb: it decides whether they count as started.
        self.answer_where(
            |at| *at == Stage::Asked,
            "the turn was stopped before this tool was started",
        );
    }

    /// Leaves to the next owner what can be left: calls that were not started,
    /// and commands that run, which it adopts (L8, L10).
    pub(super) fn leave(&mut self, ctx: &mut Ctx<'_>, turn: TurnId) {
        self.calls.retain(|call| match &call.at {
            Stage::Asked | Stage::Orphan(_) => false,
            Stage::Running {
                effect,
                killed: false,
                ..
            } => {
                ctx.kit.flights.remove(effect);
                ctx.kit.timers.disarm(&call.wake(turn));
                ctx.kit.leave_tool(self.computer.as_ref(), *effect);
                false
            }
            Stage::Announced | Stage::Running { .. } | Stage::Answered => true,
        });
    }

    fn answer_unstarted(&mut self, why: &str) {
        self.answer_where(|at| matches!(at, Stage::Asked | Stage::Announced), why);
    }

    fn answer_where(&mut self, which: impl Fn(&Stage) -> bool, why: &str) {
        for call in self.calls.iter_mut().filter(|call| which(&call.at)) {
            call.at = Stage::Answered;
            self.unwritten.push(call.unanswered(why));
        }
    }

    fn answer(&mut self, ctx: &mut Ctx<'_>, turn: TurnId, n: u32, end: ToolEnd) {
        let Some(call) = self.calls.iter_mut().find(|call| call.n == n) else {
            return;
        };
        if call.at == Stage::Answered {
            return;
        }
        ctx.kit.timers.disarm(&call.wake(turn));
        call.at = Stage::Answered;
        self.unwritten.push(ToolAnswer {
            call_id: call.call_id.clone(),
            ok: end.ok,
            output: end.output,
            duration_ms: end.duration_ms,
            spilled: end.spilled,
        });
    }

    /// The last deadline among what runs; `None` where only a verb is awaited.
    pub(super) fn wait_until(&self) -> Option<Instant> {
        let dues = self.calls.iter().filter_map(|call| match &call.at {
            Stage::Running { due, .. } => Some(*due),
            Stage::Asked | Stage::Orphan(_) | Stage::Announced | Stage::Answered => None,
        });
        dues.max()
    }

    /// The turn is not ours any more: our commands must not run on beside
    /// whatever comes next. On another computer they may be somebody else's by
    /// now, who adopts them there; should the turn be over, they are ended as
    /// unattended.
    pub(super) fn forget(self, ctx: &mut Ctx<'_>, turn: TurnId) {
        for call in &self.calls {
            ctx.kit.timers.disarm(&call.wake(turn));
            match &call.at {
                Stage::Running { effect, killed, .. } => {
                    ctx.kit.flights.remove(effect);
                    match &self.computer {
                        Some(computer) => ctx.kit.leave_tool(Some(computer), *effect),
                        None if *killed => {}
                        None => ctx.kit.kill_tool(None, *effect),
                    }
                }
                Stage::Asked | Stage::Orphan(_) | Stage::Announced | Stage::Answered => {}
            }
        }
    }

    pub(super) fn check(&self, kit: &Kit, turn: TurnId, asking: bool) -> Result<(), &'static str> {
        if self.writing != Writing::Nothing && !asking {
            return Err("a tool's answer waits for a verb that nobody carries out");
        }
        for call in &self.calls {
            match &call.at {
                Stage::Asked | Stage::Orphan(_) => return Err("a tool call that nobody starts"),
                Stage::Announced if self.writing != Writing::Starts => {
                    return Err("an announced tool call that nobody starts");
                }
                Stage::Running { effect, .. } => {
                    if !kit.flights.contains_key(effect) || !kit.timers.is_armed(&call.wake(turn)) {
                        return Err("a running tool without deadline or register entry");
                    }
                }
                Stage::Announced | Stage::Answered => {}
            }
        }
        Ok(())
    }
}

fn unknown_outcome(output: &str) -> ToolEnd {
    let output = match output {
        "" => OUTCOME_UNKNOWN.to_string(),
        output => alloc::format!("{OUTCOME_UNKNOWN}; so far:\n{output}"),
    };
    ToolEnd {
        ok: false,
        output,
        duration_ms: 0,
        spilled: None,
    }
}
