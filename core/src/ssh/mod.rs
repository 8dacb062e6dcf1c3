//! The pool of links to computers that tools run on (S4, S5): when to connect,
//! what waits for it, what is sent over it, and what becomes of a call whose
//! link was lost.
//!
//! A turn knows its call by one name; every try over a link has a name of its
//! own, so that late words of a dead link find nobody. What turns are to be told
//! is left in a queue: the pool knows none of them.

mod computer;
mod heard;
mod job;
mod link;
mod serve;
#[cfg(test)]
mod tests;

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::computer::SshFault;
use crate::event::OutputStream;
use crate::ids::{CommandId, ComputerId, EffectId, TurnId};
use crate::io::{Found, ToolEnd};
use crate::kit::{Ctx, Flight, Kit, Wake, Wish};
use computer::Computer;

/// Computers beyond this are forgotten when nothing goes on with them.
const MOST_COMPUTERS: usize = 1_000;

/// Something that a turn is to be told of one of its calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Told {
    /// The call, by the name that the turn knows.
    pub(crate) tool: EffectId,
    pub(crate) word: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Word {
    Output {
        stream: OutputStream,
        offset: u64,
        text: String,
    },
    Adopted(Found),
    Done(ToolEnd),
}

/// What turns are to be told, in order.
type Voice = VecDeque<Told>;

/// See the module's page.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pool {
    computers: BTreeMap<ComputerId, Computer>,
    pub(crate) told: Voice,
}

impl Pool {
    /// Entries held in memory.
    pub(crate) fn len(&self) -> usize {
        let entries = self.computers.values().map(Computer::len);
        entries.sum::<usize>() + self.told.len()
    }

    /// No call, no debt, no link, nothing to tell.
    #[cfg(test)]
    fn is_at_rest(&self) -> bool {
        let mut computers = self.computers.values();
        self.told.is_empty() && computers.all(Computer::is_forgettable)
    }

    /// Lets something happen to a computer, then whatever follows from it.
    fn on(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &ComputerId,
        act: impl FnOnce(&mut Computer, &mut Ctx<'_>, &mut Voice),
    ) {
        if let Some(computer) = self.computers.get_mut(id) {
            act(computer, ctx, &mut self.told);
            computer.settle(ctx, &mut self.told);
        }
    }

    /// It is known from now on.
    fn meet(&mut self, id: &ComputerId) {
        if self.computers.contains_key(id) {
            return;
        }
        if self.computers.len() >= MOST_COMPUTERS {
            self.computers
                .retain(|_, computer| !computer.is_forgettable());
        }
        let computer = Computer::new(id.clone());
        self.computers.insert(id.clone(), computer);
    }

    /// What a turn wants of a call.
    pub(crate) fn wish(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId, wish: Wish) {
        self.meet(id);
        self.on(ctx, id, |computer, ctx, voice| match wish {
            Wish::Start(tool, start) => computer.asked_to_start(ctx, tool, start),
            Wish::Adopt(tool, adopt) => computer.asked_to_adopt(ctx, tool, *adopt),
            Wish::Kill(tool) => computer.asked_to_kill(ctx, voice, tool),
            Wish::Leave(tool) => computer.left(ctx, tool),
            Wish::GiveUp(tool) => computer.given_up(ctx, tool),
        });
    }

    /// A client wants to know whether a computer can be reached (S2).
    pub(crate) fn test(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId, command: CommandId) {
        self.meet(id);
        self.on(ctx, id, |computer, ctx, _| computer.test(ctx, command));
    }

    fn link_of(ctx: &Ctx<'_>, id: EffectId) -> Option<ComputerId> {
        match ctx.kit.flights.get(&id) {
            Some(Flight::Link(computer)) => Some(computer.clone()),
            _ => None,
        }
    }

    pub(crate) fn up(&mut self, ctx: &mut Ctx<'_>, id: EffectId) {
        if let Some(computer) = Pool::link_of(ctx, id) {
            self.on(ctx, &computer, |computer, ctx, _| computer.up(ctx, id));
        }
    }

    pub(crate) fn down(&mut self, ctx: &mut Ctx<'_>, id: EffectId, fault: SshFault) {
        if let Some(computer) = Pool::link_of(ctx, id) {
            if crate::planted!("D55") {
                for other in self.computers.values_mut() {
                    let tools: Vec<EffectId> = other.jobs.keys().copied().collect();
                    for tool in tools {
                        other.abandon(ctx, &mut self.told, tool, "another link was lost");
                    }
                }
            }
            self.on(ctx, &computer, |computer, ctx, voice| {
                computer.failed(ctx, voice, fault);
            });
        }
    }

    pub(crate) fn alive(&mut self, ctx: &mut Ctx<'_>, id: EffectId) {
        if let Some(computer) = Pool::link_of(ctx, id) {
            self.on(ctx, &computer, |computer, ctx, _| computer.alive(ctx));
        }
    }

    pub(crate) fn link_due(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId) {
        self.on(ctx, id, |computer, ctx, voice| computer.due(ctx, voice));
    }

    pub(crate) fn job_due(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId, tool: EffectId) {
        self.on(ctx, id, |computer, ctx, voice| {
            computer.job_due(ctx, voice, tool);
        });
    }

    pub(crate) fn test_due(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId, command: CommandId) {
        self.on(ctx, id, |computer, ctx, _| computer.test_due(ctx, command));
    }

    /// A preview over a link; it moves nothing.
    pub(crate) fn printed(
        &mut self,
        id: &ComputerId,
        tool: EffectId,
        stream: OutputStream,
        offset: u64,
        text: String,
    ) {
        if let Some(computer) = self.computers.get_mut(id) {
            computer.printed(tool, offset, &text);
            let word = Word::Output {
                stream,
                offset,
                text,
            };
            self.told.push_back(Told { tool, word });
        }
    }

    pub(crate) fn adopted(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &ComputerId,
        tool: EffectId,
        found: Found,
    ) {
        self.on(ctx, id, |computer, ctx, voice| {
            computer.adopted(ctx, voice, tool, found);
        });
    }

    pub(crate) fn done(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &ComputerId,
        tool: EffectId,
        end: ToolEnd,
    ) {
        self.on(ctx, id, |computer, ctx, voice| {
            computer.done(ctx, voice, tool, end);
        });
    }

    /// Nothing more is heard of an attempt over a link that is as good as before.
    pub(crate) fn broke(&mut self, ctx: &mut Ctx<'_>, id: &ComputerId, tool: EffectId, why: &str) {
        self.on(ctx, id, |computer, ctx, voice| {
            computer.abandon(ctx, voice, tool, why);
        });
    }

    pub(crate) fn unattended_found(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &ComputerId,
        turns: Vec<TurnId>,
    ) {
        self.on(ctx, id, |computer, ctx, _| {
            computer.unattended_found(ctx, turns);
        });
    }

    pub(crate) fn unattended_judged(
        &mut self,
        ctx: &mut Ctx<'_>,
        id: &ComputerId,
        link: EffectId,
        turns: Vec<TurnId>,
    ) {
        self.on(ctx, id, |computer, ctx, _| {
            computer.unattended_judged(ctx, link, turns);
        });
    }

    /// The server goes: no turn is owned any more, and no link is needed.
    pub(crate) fn shut_down(&mut self, ctx: &mut Ctx<'_>) {
        for computer in self.computers.values_mut() {
            computer.shut_down(ctx);
        }
    }

    /// Every invariant.
    pub(crate) fn check(&self, kit: &Kit) -> Result<(), &'static str> {
        for computer in self.computers.values() {
            computer.check(kit)?;
        }
        let knows = |id: &ComputerId| self.computers.get(id);
        for flight in kit.flights.values() {
            let is_known = match flight {
                Flight::Link(id) | Flight::RunsOn(id) => knows(id).is_some(),
                Flight::Attempt(id, tool) => {
                    knows(id).is_some_and(|computer| computer.jobs.contains_key(tool))
                }
                _ => true,
            };
            if !is_known {
                return Err("a flight to a computer that nobody knows");
            }
        }
        for wake in kit.timers.iter() {
            let is_known = match wake {
                Wake::LinkDue(id) | Wake::TestDue(id, _) => knows(id).is_some(),
                Wake::JobDue(id, tool) => {
                    knows(id).is_some_and(|computer| computer.jobs.contains_key(tool))
                }
                _ => true,
            };
            if !is_known {
                return Err("a timer for a computer or a call that nobody knows");
            }
        }
        Ok(())
    }
}
