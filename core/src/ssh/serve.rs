//! The calls of one computer: what is sent over its link. What is heard of them
//! is in [`heard`](super::heard).
//!
//! ```text
//! Waiting -> Starting -> Running -> answered
//!    ^          | (link lost)  |
//!    |          v              v
//!    `-- Looking <- (link) -- Lost
//! ```
//!
//! A call that may have been started is looked for over the next link, and
//! started again only where its run directory, claimed by the look, says that
//! it never was (L10, S5).

use alloc::boxed::Box;
use alloc::vec::Vec;

use super::computer::Computer;
use super::job::{Asker, Call, Job, Kill, Stage, not_started, quoted, stopped};
use super::link::{Link, Pause};
use super::{Told, Voice, Word};
use crate::ids::{EffectId, TurnId};
use crate::io::{Effect, ToolAdopt, ToolEnd, ToolStart};
use crate::kit::{Ctx, Flight, Kit, Purpose, Wake};
use crate::store::Verb;
use crate::time::Instant;

/// Commands that are to be killed over a computer's next link. Each keeps its
/// own deadline over there: what is forgotten runs no longer than that.
const MOST_DEBTS: usize = 1_000;

impl Computer {
    pub(super) fn asked_to_start(
        &mut self,
        ctx: &mut Ctx<'_>,
        tool: EffectId,
        start: Box<ToolStart>,
    ) {
        let patience_ms = ctx.config.ssh.patience_ms;
        let most_ms = patience_ms + start.deadline_ms + ctx.config.deadlines.kill_ms;
        let job = Job::asked(start, ctx.now.mono + most_ms);
        self.jobs.insert(tool, job);
        self.enter(ctx, tool, Stage::Waiting, ctx.now.mono + patience_ms);
    }

    pub(super) fn asked_to_adopt(&mut self, ctx: &mut Ctx<'_>, tool: EffectId, adopt: ToolAdopt) {
        let until = self.run_until(ctx);
        self.jobs.insert(tool, Job::left(adopt, until));
        self.enter(ctx, tool, Stage::Lost, until);
    }

    /// When a command that runs must have ended, by its own supervisor.
    pub(super) fn run_until(&self, ctx: &Ctx<'_>) -> Instant {
        ctx.now.mono + ctx.config.deadlines.tool_ms + ctx.config.deadlines.kill_ms
    }

    pub(super) fn asked_to_kill(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, tool: EffectId) {
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        if job.kill != Kill::No {
            return;
        }
        job.kill = Kill::Wished;
        match job.stage {
            Stage::Waiting => return self.answer(ctx, voice, tool, stopped()),
            Stage::Starting(id) => {
                job.kill = Kill::Sent;
                ctx.kit.emit(Effect::KillTool { id });
            }
            Stage::Running(_) | Stage::Lost | Stage::Looking(_) => {}
        }
        // The turn gives it up before.
        job.until = job
            .until
            .min(ctx.now.mono + 2 * ctx.config.deadlines.kill_ms);
        let (stage, until) = (job.stage, job.until);
        self.enter(ctx, tool, stage, until);
    }

    /// Nobody here waits for it any more; it runs on.
    pub(super) fn left(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) {
        if let Some(job) = self.take(ctx, tool)
            && let Some(id) = job.attempt()
        {
            ctx.kit.flights.remove(&id);
            ctx.kit.emit(Effect::LeaveTool { id });
        }
    }

    /// It was to be killed, and its turn has waited long enough.
    pub(super) fn given_up(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) {
        let owed = self.jobs.get(&tool).filter(|job| job.is_traced());
        if let Some(call) = owed.map(|job| job.call.clone()) {
            self.owe(ctx, call);
        }
        self.left(ctx, tool);
    }

    pub(super) fn owe(&mut self, ctx: &mut Ctx<'_>, call: Call) {
        if self.debts.len() >= MOST_DEBTS {
            self.debts.pop_front();
            let message = alloc::format!(
                "{}: more than {MOST_DEBTS} commands are to be killed there; the first one is left to its own deadline",
                quoted(&self.id)
            );
            ctx.kit.trace("computer-debts", message);
        }
        self.debts.push_back(call);
    }

    /// Moves a call on, with the deadline of what it waits for now.
    pub(super) fn enter(&mut self, ctx: &mut Ctx<'_>, tool: EffectId, stage: Stage, due: Instant) {
        if let Some(job) = self.jobs.get_mut(&tool) {
            job.stage = stage;
            let wake = Wake::JobDue(self.id.clone(), tool);
            ctx.kit.timers.arm(wake, due.min(job.until));
        }
    }

    pub(super) fn take(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) -> Option<Job> {
        let wake = Wake::JobDue(self.id.clone(), tool);
        ctx.kit.timers.disarm(&wake);
        if let Link::Open(open) = &mut self.link {
            open.used_at = ctx.now.mono;
        }
        self.jobs.remove(&tool)
    }

    /// The call's one answer.
    pub(super) fn answer(
        &mut self,
        ctx: &mut Ctx<'_>,
        voice: &mut Voice,
        tool: EffectId,
        end: ToolEnd,
    ) {
        if let Some(job) = self.take(ctx, tool)
            && job.asker != Asker::Nobody
        {
            let word = Word::Done(end);
            voice.push_back(Told { tool, word });
        }
    }

    /// What waits and was not started is answered: it would wait in vain.
    pub(super) fn refuse_waiting(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, why: &str) {
        let waiting = self.jobs.iter();
        let waiting = waiting.filter(|(_, job)| job.stage == Stage::Waiting);
        let waiting: Vec<EffectId> = waiting.map(|(tool, _)| *tool).collect();
        for tool in waiting {
            self.answer(ctx, voice, tool, not_started(why));
        }
    }

    /// Sends what the link and its channels have room for: kills first, then
    /// looks, then starts in the order of asking. One channel is kept from
    /// starts, so that a kill need not wait for them.
    pub(super) fn serve(&mut self, ctx: &mut Ctx<'_>) {
        let Link::Open(open) = &mut self.link else {
            return;
        };
        if !self.jobs.is_empty() {
            open.used_at = ctx.now.mono;
        }
        let link = open.id;
        let held = self.jobs.values().filter(|job| job.holds_channel());
        let held = u32::try_from(held.count()).unwrap_or(u32::MAX);
        // One is the files'.
        let mut free = ctx.config.ssh.channels.saturating_sub(1 + held);
        for tool in self.first(free, |job| {
            matches!(job.stage, Stage::Running(_)) && job.kill == Kill::Wished
        }) {
            self.send_kill(ctx, tool);
            free -= 1;
        }
        for tool in self.first(free, |job| job.stage == Stage::Lost) {
            self.send_look(ctx, link, tool);
            free -= 1;
        }
        free = free.saturating_sub(1);
        for tool in self.first(free, |job| job.stage == Stage::Waiting) {
            self.send_start(ctx, link, tool);
            free -= 1;
        }
        while free > 0 && self.pay_debt(ctx, link) {
            free -= 1;
        }
    }

    /// The first ones, as many as there is room for.
    fn first(&self, room: u32, which: impl Fn(&Job) -> bool) -> Vec<EffectId> {
        let room = usize::try_from(room).unwrap_or(usize::MAX);
        let found = self.jobs.iter().filter(|(_, job)| which(job));
        found.take(room).map(|(tool, _)| *tool).collect()
    }

    fn attempt(&self, ctx: &mut Ctx<'_>, tool: EffectId) -> EffectId {
        ctx.kit.register(Flight::Attempt(self.id.clone(), tool))
    }

    fn send_kill(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) {
        if let Some(job) = self.jobs.get_mut(&tool)
            && let Some(id) = job.attempt()
        {
            job.kill = Kill::Sent;
            ctx.kit.emit(Effect::KillTool { id });
        }
    }

    fn send_look(&mut self, ctx: &mut Ctx<'_>, link: EffectId, tool: EffectId) {
        let id = self.attempt(ctx, tool);
        let Some(job) = self.jobs.get(&tool) else {
            return;
        };
        let kill_ms = ctx.config.deadlines.kill_ms;
        let not_after = match job.asker {
            Asker::Turn | Asker::Adopter => ctx.held_until(job.call.turn),
            Asker::Nobody => ctx.now.mono + kill_ms,
        };
        let adopt = ToolAdopt {
            turn: job.call.turn,
            epoch: job.epoch,
            call_id: job.call.call_id.clone(),
            computer: Some(self.id.clone()),
            link: Some(link),
            started: job.call.started,
            attempt: job.call.attempt,
            shown_bytes: job.shown_bytes,
            not_after,
        };
        let adopt = Box::new(adopt);
        ctx.kit.emit(Effect::AdoptTool { id, adopt });
        self.enter(ctx, tool, Stage::Looking(id), ctx.now.mono + kill_ms);
    }

    fn send_start(&mut self, ctx: &mut Ctx<'_>, link: EffectId, tool: EffectId) {
        let id = self.attempt(ctx, tool);
        let run_until = self.run_until(ctx);
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        let Some(start) = &job.start else {
            return;
        };
        let mut start = start.clone();
        start.link = Some(link);
        start.attempt = job.call.attempt;
        start.not_after = ctx.held_until(start.turn);
        ctx.kit.emit(Effect::StartTool { id, start });
        job.until = job.until.min(run_until);
        job.is_slow = false;
        let due = match job.is_traced() {
            true => ctx.now.mono + ctx.config.ssh.start_ms,
            false => job.until,
        };
        self.enter(ctx, tool, Stage::Starting(id), due);
    }

    /// Kills a command that could not be killed when it was to be; says whether
    /// there was one. It may be waited for again by now, and then it is no debt.
    fn pay_debt(&mut self, ctx: &mut Ctx<'_>, link: EffectId) -> bool {
        while let Some(call) = self.debts.pop_front() {
            let is_same =
                |job: &Job| job.call.turn == call.turn && job.call.call_id == call.call_id;
            if self.jobs.values().any(is_same) {
                continue;
            }
            let tool = ctx.kit.name();
            let until = ctx.now.mono + 2 * ctx.config.deadlines.kill_ms;
            self.jobs.insert(tool, Job::owed(call, until));
            self.send_look(ctx, link, tool);
            return true;
        }
        false
    }

    /// Looks for commands that nobody watches, when it is time (L10).
    pub(super) fn look_around(&mut self, ctx: &mut Ctx<'_>) {
        let Link::Open(open) = self.link else {
            return;
        };
        if open.look_due > ctx.now.mono {
            return;
        }
        // One look at a time; one that was not answered is taken for lost.
        self.drop_look(ctx.kit);
        if let Link::Open(open) = &mut self.link {
            open.look_due = ctx.now.mono + ctx.config.ssh.look_ms;
        }
        let id = ctx.kit.register(Flight::RunsOn(self.id.clone()));
        let link = Some(open.id);
        ctx.kit.emit(Effect::FindUnattended { id, link });
    }

    pub(super) fn drop_look(&mut self, kit: &mut Kit) {
        let look = Flight::RunsOn(self.id.clone());
        kit.flights.retain(|_, flight| *flight != look);
    }

    pub(super) fn unattended_found(&mut self, ctx: &mut Ctx<'_>, turns: Vec<TurnId>) {
        let Link::Open(open) = self.link else {
            return;
        };
        let purpose = Purpose::RunsOn(self.id.clone(), open.id);
        if !turns.is_empty() && ctx.kit.asking(&purpose) == 0 {
            ctx.ask(purpose, Verb::Ended { turns });
        }
    }

    pub(super) fn unattended_judged(
        &mut self,
        ctx: &mut Ctx<'_>,
        link: EffectId,
        turns: Vec<TurnId>,
    ) {
        if matches!(self.link, Link::Open(open) if open.id == link) && !turns.is_empty() {
            let link = Some(link);
            ctx.kit.emit(Effect::EndUnattended { turns, link });
        }
    }

    pub(super) fn check_jobs(&self, kit: &Kit) -> Result<(), &'static str> {
        if self.debts.len() > MOST_DEBTS {
            return Err("more debts than are kept");
        }
        for (tool, job) in &self.jobs {
            if !kit.timers.is_armed(&Wake::JobDue(self.id.clone(), *tool)) {
                return Err("a call on a computer without a deadline");
            }
            let attempt = job.attempt();
            let is_over_link = attempt.is_some();
            if is_over_link && !matches!(self.link, Link::Open(_)) {
                return Err("an attempt over a link that is not open");
            }
            let mine = Flight::Attempt(self.id.clone(), *tool);
            if attempt.is_some_and(|id| kit.flights.get(&id) != Some(&mine)) {
                return Err("an attempt that is not registered");
            }
            let is_owned = kit.flights.contains_key(tool);
            if is_owned != (job.asker != Asker::Nobody) {
                return Err("a call on a computer that nobody waits for");
            }
        }
        match self.link {
            Link::Closed if self.jobs.values().any(Job::wants_link) => {
                Err("a call that waits for a link that nobody opens")
            }
            Link::Quarantined(Pause { .. })
                if self.jobs.values().any(|job| job.stage == Stage::Waiting) =>
            {
                Err("a call that waits out a quarantine without having been started")
            }
            _ => Ok(()),
        }
    }
}
