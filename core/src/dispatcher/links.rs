//! Between the pool of links and everybody else: what the driver says of
//! computers, what turns want of them, and what turns are told (S4, S5).

use alloc::string::String;
use alloc::vec::Vec;

use super::{Dispatcher, Stage};
use crate::computer::{SshFault, SshFaultKind};
use crate::event::OutputStream;
use crate::ids::{CommandId, ComputerId, EffectId, TurnId};
use crate::io::{Answer, Found, MAX_UNATTENDED, ToolEnd};
use crate::kit::{Ctx, Flight};
use crate::ssh::{Pool, Told, Word};
use crate::store::Reply;

impl Dispatcher {
    pub(super) fn in_pool(&mut self, act: impl FnOnce(&mut Pool, &mut Ctx<'_>)) {
        let mut ctx = Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        };
        act(&mut self.pool, &mut ctx);
    }

    /// Hands on what turns want and what they are told, until neither is left.
    pub(super) fn pass_on(&mut self) {
        loop {
            if let Some((computer, wish)) = self.kit.wishes.pop_front() {
                self.in_pool(|pool, ctx| pool.wish(ctx, &computer, wish));
            } else if let Some(told) = self.pool.told.pop_front() {
                self.tell_turn(told);
            } else {
                return;
            }
        }
    }

    /// A call that its turn has let go of is not in the register any more.
    fn tell_turn(&mut self, told: Told) {
        let Told { tool, word } = told;
        let Some(Flight::Call(turn, n)) = self.kit.flights.get(&tool) else {
            return;
        };
        let (turn, n) = (*turn, *n);
        match word {
            Word::Output {
                stream,
                offset,
                text,
            } => self.on_turn(turn, |stretch, ctx| {
                stretch.tool_output(ctx, n, stream, offset, text)
            }),
            Word::Adopted(found) => {
                if found != Found::Running {
                    self.kit.flights.remove(&tool);
                }
                self.on_turn(turn, |stretch, ctx| stretch.adopted(ctx, n, found));
            }
            Word::Done(end) => {
                self.kit.flights.remove(&tool);
                self.on_turn(turn, |stretch, ctx| stretch.tool_done(ctx, n, end));
            }
        }
    }

    pub(super) fn tool_printed(
        &mut self,
        id: EffectId,
        stream: OutputStream,
        offset: u64,
        text: String,
    ) {
        match self.kit.flights.get(&id) {
            Some(Flight::Tool(turn, n)) => {
                let (turn, n) = (*turn, *n);
                self.on_turn(turn, |stretch, ctx| {
                    stretch.tool_output(ctx, n, stream, offset, text)
                });
            }
            Some(Flight::Attempt(computer, tool)) => {
                let (computer, tool) = (computer.clone(), *tool);
                self.pool.printed(&computer, tool, stream, offset, text);
            }
            _ => {}
        }
    }

    pub(super) fn attempt_done(&mut self, computer: &ComputerId, tool: EffectId, end: ToolEnd) {
        self.in_pool(|pool, ctx| pool.done(ctx, computer, tool, end));
    }

    pub(super) fn attempt_adopted(&mut self, computer: &ComputerId, tool: EffectId, found: Found) {
        self.in_pool(|pool, ctx| pool.adopted(ctx, computer, tool, found));
    }

    pub(super) fn attempt_lost(&mut self, id: EffectId, cause: &str) {
        if let Some(Flight::Attempt(computer, tool)) = self.kit.flights.get(&id).cloned() {
            self.in_pool(|pool, ctx| pool.broke(ctx, &computer, tool, cause));
        }
    }

    /// What carried out something of a computer is gone.
    pub(super) fn computer_panicked(&mut self, id: EffectId) {
        match self.kit.flights.get(&id).cloned() {
            Some(Flight::Link(_)) => {
                let fault = SshFault {
                    kind: SshFaultKind::Lost,
                    message: "the server's own SSH client failed; its log says why".into(),
                };
                // It may have half a connection.
                self.kit.emit(crate::io::Effect::CloseComputer { id });
                self.in_pool(|pool, ctx| pool.down(ctx, id, fault));
            }
            Some(Flight::Attempt(..)) => {
                self.attempt_lost(id, "the server's own SSH client failed; its log says why");
            }
            _ => {}
        }
    }

    pub(super) fn unattended_found_on(
        &mut self,
        id: EffectId,
        computer: &ComputerId,
        mut turns: Vec<TurnId>,
    ) {
        self.kit.flights.remove(&id);
        turns.truncate(MAX_UNATTENDED);
        self.in_pool(|pool, ctx| pool.unattended_found(ctx, computer, turns));
    }

    pub(super) fn unattended_judged_on(
        &mut self,
        computer: &ComputerId,
        link: EffectId,
        reply: Reply,
    ) {
        if let Reply::AreEnded(turns) = reply {
            self.in_pool(|pool, ctx| pool.unattended_judged(ctx, computer, link, turns));
        }
    }

    pub(super) fn test_computer(&mut self, id: CommandId, computer: &ComputerId) {
        match self.stage {
            Stage::Booting | Stage::Serving => {
                self.in_pool(|pool, ctx| pool.test(ctx, computer, id));
            }
            Stage::Draining | Stage::Drained => self.answer(id, Answer::ShuttingDown),
        }
    }
}
