//! What is heard of the calls of one computer, and what becomes of those of
//! which nothing is heard.

use alloc::string::String;
use alloc::vec::Vec;

use super::computer::Computer;
use super::job::{Asker, Job, Kill, Stage, not_started, quoted, stopped, unknown};
use super::link::Link;
use super::{Told, Voice, Word};
use crate::ids::EffectId;
use crate::io::{Effect, Found, ToolEnd};
use crate::kit::Ctx;

impl Computer {
    /// The link is gone: what went over it says nothing more.
    pub(super) fn lose_attempts(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice) {
        let tools: Vec<EffectId> = self.jobs.keys().copied().collect();
        for tool in tools {
            let Some(job) = self.jobs.get_mut(&tool) else {
                continue;
            };
            let Some(id) = job.attempt() else {
                continue;
            };
            ctx.kit.flights.remove(&id);
            if job.kill == Kill::Sent {
                job.kill = Kill::Wished;
            }
            let is_unasked = crate::planted!("D51") && job.start.is_some() && job.kill == Kill::No;
            if is_unasked && job.is_traced() {
                job.call.attempt += 1;
                self.wait_again(ctx, tool);
            } else {
                self.lose_attempt(ctx, voice, tool);
            }
        }
    }

    fn lose_attempt(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, tool: EffectId) {
        let Some(job) = self.jobs.get(&tool) else {
            return;
        };
        let (is_traced, is_read_only) = (job.is_traced(), job.is_read_only());
        let is_killed = job.kill != Kill::No;
        if job.asker == Asker::Nobody {
            if let Some(job) = self.take(ctx, tool) {
                self.owe(ctx, job.call);
            }
        } else if is_traced {
            let until = job.until;
            self.enter(ctx, tool, Stage::Lost, until);
        } else if is_read_only && is_killed {
            self.answer(ctx, voice, tool, stopped());
        } else if is_read_only {
            self.wait_again(ctx, tool);
        } else {
            let why = alloc::format!("the connection to {} was lost", quoted(&self.id));
            self.answer(ctx, voice, tool, unknown(&why, ""));
        }
    }

    fn wait_again(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) {
        let due = ctx.now.mono + ctx.config.ssh.patience_ms;
        self.enter(ctx, tool, Stage::Waiting, due);
    }

    pub(super) fn adopted(
        &mut self,
        ctx: &mut Ctx<'_>,
        voice: &mut Voice,
        tool: EffectId,
        found: Found,
    ) {
        let Some(job) = self.jobs.get(&tool) else {
            return;
        };
        let Some(id) = job.attempt() else { return };
        if found == Found::Running {
            return self.runs(ctx, voice, tool, id);
        }
        ctx.kit.flights.remove(&id);
        match (found, job.asker) {
            (found, Asker::Adopter) => {
                self.take(ctx, tool);
                let word = Word::Adopted(found);
                voice.push_back(Told { tool, word });
            }
            (Found::Finished(end), _) => self.answer(ctx, voice, tool, end),
            (Found::Killed { output }, _) => {
                let why = alloc::format!("it was found dead on {}", quoted(&self.id));
                self.answer(ctx, voice, tool, unknown(&why, &output));
            }
            (Found::Nothing | Found::Running, _) => self.nothing_found(ctx, voice, tool),
        }
    }

    /// The look has claimed the directory of this attempt: no start that is
    /// still on its way can begin in it.
    fn nothing_found(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, tool: EffectId) {
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        let is_looking = matches!(job.stage, Stage::Looking(_));
        match (&job.start, job.kill) {
            (Some(_), Kill::No) if is_looking && job.is_slow => {
                let why = alloc::format!(
                    "{} has not started it within {} s; see that its working directory can be read there",
                    quoted(&self.id),
                    ctx.config.ssh.start_ms / 1_000
                );
                self.answer(ctx, voice, tool, not_started(&why));
            }
            (Some(_), Kill::No) if is_looking => {
                job.call.attempt += 1;
                self.wait_again(ctx, tool);
            }
            (Some(_), _) if is_looking => self.answer(ctx, voice, tool, stopped()),
            _ => {
                let why = alloc::format!("nothing is known of it on {}", quoted(&self.id));
                self.answer(ctx, voice, tool, unknown(&why, ""));
            }
        }
    }

    fn runs(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, tool: EffectId, id: EffectId) {
        let run_until = self.run_until(ctx);
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        if job.asker == Asker::Adopter {
            job.asker = Asker::Turn;
            if job.kill == Kill::No {
                job.until = run_until;
            }
            let word = Word::Adopted(Found::Running);
            voice.push_back(Told { tool, word });
        }
        let until = job.until;
        self.enter(ctx, tool, Stage::Running(id), until);
    }

    pub(super) fn printed(&mut self, tool: EffectId, offset: u64, text: &str) {
        if let Some(job) = self.jobs.get_mut(&tool) {
            let end = offset.saturating_add(text.len() as u64);
            job.shown_bytes = job.shown_bytes.max(end);
        }
    }

    pub(super) fn done(
        &mut self,
        ctx: &mut Ctx<'_>,
        voice: &mut Voice,
        tool: EffectId,
        end: ToolEnd,
    ) {
        if let Some(id) = self.jobs.get(&tool).and_then(Job::attempt) {
            ctx.kit.flights.remove(&id);
            self.answer(ctx, voice, tool, end);
        }
    }

    /// It has waited for long enough.
    pub(super) fn job_due(&mut self, ctx: &mut Ctx<'_>, voice: &mut Voice, tool: EffectId) {
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        let now = ctx.now.mono;
        match job.stage {
            Stage::Waiting => {
                let why = self.why_unreachable(ctx);
                self.answer(ctx, voice, tool, not_started(&why));
            }
            Stage::Starting(_) if job.until > now => self.leave_start(ctx, tool),
            Stage::Looking(_) if job.until > now => {
                self.give_up_link(ctx, voice, "it has not answered about a command");
            }
            Stage::Running(_) if job.kill == Kill::No => {
                job.kill = Kill::Wished;
                job.until = now + ctx.config.deadlines.kill_ms;
                let (stage, until) = (job.stage, job.until);
                self.enter(ctx, tool, stage, until);
            }
            Stage::Running(_) => {
                self.abandon(
                    ctx,
                    voice,
                    tool,
                    "the command did not end when it was killed",
                );
            }
            Stage::Starting(_) | Stage::Looking(_) => {
                let why = alloc::format!("{} has not answered in time", quoted(&self.id));
                self.abandon(ctx, voice, tool, &why);
            }
            Stage::Lost => {
                let why = alloc::format!(
                    "the connection to {} was lost and has not come back in time: {}",
                    quoted(&self.id),
                    self.last_fault()
                );
                self.abandon(ctx, voice, tool, &why);
            }
        }
    }

    /// A start is not heard of, as where its directory is on a disk that does not
    /// answer: that is this call's trouble and not the link's. The look for it
    /// tells, or finds that the link is no good.
    fn leave_start(&mut self, ctx: &mut Ctx<'_>, tool: EffectId) {
        let Some(job) = self.jobs.get_mut(&tool) else {
            return;
        };
        if let Some(id) = job.attempt() {
            ctx.kit.flights.remove(&id);
            ctx.kit.emit(Effect::LeaveTool { id });
        }
        if job.kill == Kill::Sent {
            job.kill = Kill::Wished;
        }
        job.is_slow = true;
        let until = job.until;
        self.enter(ctx, tool, Stage::Lost, until);
    }

    /// Answers a call whose command may run on, and has it killed when that can be done.
    pub(super) fn abandon(
        &mut self,
        ctx: &mut Ctx<'_>,
        voice: &mut Voice,
        tool: EffectId,
        why: &str,
    ) {
        let Some(job) = self.take(ctx, tool) else {
            return;
        };
        if let Some(id) = job.attempt() {
            ctx.kit.flights.remove(&id);
            ctx.kit.emit(Effect::LeaveTool { id });
        }
        if job.asker == Asker::Nobody {
            let message = alloc::format!("a command of turn {}: {why}", job.call.turn);
            return ctx.kit.trace("computer-kill-failed", message);
        }
        if job.is_traced() {
            self.owe(ctx, job.call);
        }
        let word = Word::Done(unknown(why, ""));
        voice.push_back(Told { tool, word });
    }

    fn last_fault(&self) -> String {
        let fault = self.fault.as_ref();
        fault.map_or_else(|| "no cause was told".into(), |fault| fault.message.clone())
    }

    fn why_unreachable(&self, ctx: &Ctx<'_>) -> String {
        let patience_s = ctx.config.ssh.patience_ms / 1_000;
        match &self.link {
            Link::Open(_) => alloc::format!(
                "{} was too busy with other commands for {patience_s} s",
                quoted(&self.id)
            ),
            Link::Closed | Link::Connecting { .. } | Link::Waiting(_) | Link::Quarantined(_) => {
                alloc::format!(
                    "{} could not be reached within {patience_s} s; the last time: {}",
                    quoted(&self.id),
                    self.last_fault()
                )
            }
        }
    }
}
