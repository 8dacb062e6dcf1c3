//! A turn and its conversation, opened for change within one transaction.
//! Every change of ownership, every sequence number and every terminal event
//! of every verb goes through here.

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use super::outbox;
use super::rows::{CallRow, CallState, ConversationRow, ItemRow, TurnRow, TurnState};
use super::tx::Tx;
use super::verb::{Fence, Reply, StepRecord, Terminal, ToolAnswer};
use crate::event::{AgentEvent, EventBody, chunks};
use crate::ids::TurnId;
use crate::time::Timestamp;
use crate::transcript::Item;

/// See the module's page.
pub(super) struct Open<'t, T: Tx> {
    pub(super) tx: &'t mut T,
    pub(super) now: Timestamp,
    pub(super) turn: TurnRow,
    pub(super) conversation: ConversationRow,
    pub(super) events: Vec<AgentEvent>,
}

impl<'t, T: Tx> Open<'t, T> {
    /// Opens a turn for its owner; `None` when it is owned under another epoch, or not at all.
    pub(super) fn at_fence(tx: &'t mut T, fence: Fence) -> Result<Option<Self>, T::Error> {
        Ok(Open::any(tx, fence.turn)?.filter(|open| {
            open.conversation.turn == Some(fence.turn)
                && (open.conversation.epoch == fence.epoch || crate::planted!("D18"))
                && open.turn.state.is_owned()
        }))
    }

    /// Opens a turn whoever owns it.
    pub(super) fn any(tx: &'t mut T, turn: TurnId) -> Result<Option<Self>, T::Error> {
        let now = tx.now();
        let Some(turn) = tx.turn(turn)? else {
            return Ok(None);
        };
        let Some(conversation) = tx.conversation(&turn.conversation)? else {
            return Ok(None);
        };
        Ok(Some(Open {
            tx,
            now,
            turn,
            conversation,
            events: Vec::new(),
        }))
    }

    /// Writes both rows and hands out the events to publish.
    pub(super) fn save(self) -> Result<Vec<AgentEvent>, T::Error> {
        self.tx.put_turn(&self.turn)?;
        self.tx.put_conversation(&self.conversation)?;
        Ok(self.events)
    }

    /// [`Open::save`] as a reply.
    pub(super) fn landed(self) -> Result<Reply, T::Error> {
        Ok(Reply::Landed {
            events: self.save()?,
        })
    }

    /// Logs an event under the next sequence number.
    pub(super) fn log(&mut self, body: EventBody) -> Result<(), T::Error> {
        self.conversation.last_seq += 1;
        let event = AgentEvent {
            seq: Some(self.conversation.last_seq),
            conversation: self.conversation.id.clone(),
            turn: self.turn.turn,
            epoch: self.conversation.epoch,
            at: self.now,
            body,
        };
        self.tx.put_event(&event)?;
        self.events.push(event);
        Ok(())
    }

    /// Appends to the transcript.
    pub(super) fn item(&mut self, item: Item) -> Result<(), T::Error> {
        let n = self.turn.items;
        self.turn.items += 1;
        self.tx.put_item(&ItemRow {
            conversation: self.conversation.id.clone(),
            ordinal: self.turn.ordinal,
            n,
            turn: self.turn.turn,
            item,
        })
    }

    /// Changes state; leaving `streaming` is what frees the slot.
    pub(super) fn enter(&mut self, state: TurnState) -> Result<(), T::Error> {
        if self.turn.state == TurnState::Streaming && state != TurnState::Streaming {
            self.tx.put_release(&self.turn.provider, self.now)?;
        }
        self.turn.enter(state, self.now);
        Ok(())
    }

    /// Ends an ownership, if there is one: the old epoch's writes bounce from
    /// here on. Another turn's ownership of the conversation is not this one's
    /// to end: who aborts a turn in the queue must not fence off the one that runs.
    pub(super) fn release(&mut self) {
        let turn = self.turn.turn;
        if self.conversation.turn.is_none_or(|owned| owned == turn) {
            self.conversation.turn = None;
            self.conversation.epoch.0 += 1;
        }
        self.turn.epoch = self.conversation.epoch;
        self.turn.owner = None;
        self.turn.lease_until = Timestamp(0);
    }

    /// An abort that was asked for while the turn was owned: it must not go
    /// back in line and sleep through it (T5).
    pub(super) fn wished_end(&self) -> Option<Terminal> {
        let abort = self.turn.abort.clone()?;
        Some(Terminal::Aborted {
            by: abort.by,
            reason: abort.reason,
        })
    }

    /// Back in line under the old key, due at `due_at`.
    pub(super) fn park(&mut self, due_at: Timestamp) -> Result<(), T::Error> {
        self.enter(TurnState::Parked)?;
        self.turn.due_at = due_at;
        self.release();
        Ok(())
    }

    /// Keeps a step: transcript, log, usage.
    pub(super) fn keep_step(&mut self, step: &StepRecord) -> Result<(), T::Error> {
        for (code, message) in &step.warnings {
            self.log(EventBody::Warning {
                code: code.clone(),
                message: message.clone(),
            })?;
        }
        // Reasoning alone is shown, but nothing that a provider would take back.
        if !step.text.is_empty() || !step.calls.is_empty() {
            self.item(Item::Assistant {
                text: step.text.clone(),
                reasoning: step.reasoning.clone(),
                calls: step.calls.clone(),
                partial: step.partial,
            })?;
        }
        self.log(EventBody::StepComplete {
            step: step.step,
            chunks: chunks(&step.text, &step.reasoning),
            usage: step.usage,
            duration_ms: step.duration_ms,
            partial: step.partial,
        })?;
        for (n, call) in step.calls.iter().enumerate() {
            self.tx.put_call(&CallRow {
                turn: self.turn.turn,
                step: step.step,
                n: u32::try_from(n).unwrap_or(u32::MAX),
                call_id: call.call_id.clone(),
                name: call.name.clone(),
                input: call.input.clone(),
                state: CallState::Asked,
            })?;
            self.log(EventBody::ToolCall {
                step: step.step,
                call_id: call.call_id.clone(),
                name: call.name.clone(),
                input: call.input.clone(),
            })?;
        }
        if step.calls.is_empty() || !crate::planted!("D43") {
            self.turn.usage = self.turn.usage.plus(step.usage);
        }
        self.turn.step = step.step + 1;
        self.turn.retry = Default::default();
        self.turn.restarts = Default::default();
        self.turn.resumes = 0;
        self.conversation.last_activity_at = self.conversation.last_activity_at.max(self.now);
        self.tx.drop_segments(self.turn.turn)
    }

    /// The tool calls of the last completed step that have no answer yet.
    pub(super) fn open_calls(&mut self) -> Result<Vec<CallRow>, T::Error> {
        let Some(step) = self.turn.step.checked_sub(1) else {
            return Ok(Vec::new());
        };
        let mut calls = self.tx.calls(self.turn.turn, step)?;
        calls.retain(|call| call.state != CallState::Finished);
        Ok(calls)
    }

    /// Answers one open call; a second answer to the same call is dropped.
    pub(super) fn answer(&mut self, answer: &ToolAnswer) -> Result<(), T::Error> {
        let open = self.open_calls()?;
        let Some(mut call) = open.into_iter().find(|call| call.call_id == answer.call_id) else {
            return Ok(());
        };
        call.state = CallState::Finished;
        self.tx.put_call(&call)?;
        self.item(Item::ToolResult {
            call_id: answer.call_id.clone(),
            ok: answer.ok,
            output: answer.output.clone(),
        })?;
        self.log(EventBody::ToolResult {
            call_id: answer.call_id.clone(),
            ok: answer.ok,
            output: answer.output.clone(),
            duration_ms: answer.duration_ms,
            spilled: answer.spilled.clone(),
        })
    }

    /// The election: whoever takes the marker writes the terminal event, in
    /// this transaction, together with all that ends with the turn (L2).
    pub(super) fn end(
        mut self,
        step: Option<&StepRecord>,
        answers: &[ToolAnswer],
        terminal: &Terminal,
    ) -> Result<Reply, T::Error> {
        let turn = self.turn.turn;
        if !self.tx.take_marker(turn)? && self.turn.state == TurnState::Ended {
            return already_ended(self.tx, turn);
        }
        for answer in answers {
            self.answer(answer)?;
        }
        self.answer_the_rest(terminal)?;
        match step {
            Some(step) => self.keep_step(step)?,
            None => self.fold_segments()?,
        }
        let terminal = self.terminal_body(terminal);
        self.log(terminal)?;
        self.enter(TurnState::Ended)?;
        self.release();
        self.conversation.last_activity_at = self.conversation.last_activity_at.max(self.now);
        self.unblock_next()?;
        if let Some(terminal) = self.events.last()
            && !crate::planted!("D45")
        {
            outbox::announce(self.tx, terminal)?;
        }
        let events = self.save()?;
        match events.last() {
            Some(last) => Ok(Reply::Ended {
                terminal: Box::new(last.clone()),
                events,
            }),
            None => Ok(Reply::NotFound),
        }
    }

    /// No transcript may keep a call without an answer (T12, L5).
    fn answer_the_rest(&mut self, terminal: &Terminal) -> Result<(), T::Error> {
        let why = match terminal {
            Terminal::Aborted { .. } => "aborted",
            Terminal::Done { .. } | Terminal::Error { .. } => "the turn ended",
        };
        for call in self.open_calls()? {
            let output = match call.state {
                CallState::Asked => alloc::format!("{why} before this tool was started"),
                CallState::Started(_) | CallState::Finished => {
                    alloc::format!("{why} while this tool was running; its outcome is unknown")
                }
            };
            let answer = ToolAnswer {
                call_id: call.call_id,
                ok: false,
                output,
                duration_ms: 0,
                spilled: None,
            };
            self.answer(&answer)?;
            if crate::planted!("D20") {
                break;
            }
        }
        Ok(())
    }

    /// Keeps what an owner that is gone had shown of the open step.
    fn fold_segments(&mut self) -> Result<(), T::Error> {
        let segments = self.tx.segments(self.turn.turn)?;
        let Some(epoch) = segments.iter().map(|s| s.epoch).max() else {
            return Ok(());
        };
        let (mut text, mut reasoning) = (String::new(), String::new());
        for segment in segments
            .iter()
            .filter(|s| s.epoch == epoch && s.step == self.turn.step)
        {
            text.push_str(&segment.text);
            reasoning.push_str(&segment.reasoning);
        }
        self.tx.drop_segments(self.turn.turn)?;
        if text.is_empty() && reasoning.is_empty() {
            return Ok(());
        }
        self.keep_step(&StepRecord {
            step: self.turn.step,
            text,
            reasoning,
            calls: Vec::new(),
            partial: true,
            usage: Default::default(),
            duration_ms: 0,
            warnings: Vec::new(),
        })
    }

    fn terminal_body(&self, terminal: &Terminal) -> EventBody {
        match terminal {
            Terminal::Done { finish_reason } => EventBody::Done {
                finish_reason: finish_reason.clone(),
                usage: self.turn.usage,
                duration_ms: self.now.since_ms(self.turn.accepted_at),
            },
            Terminal::Error {
                code,
                message,
                cause,
                retryable,
            } => EventBody::Error {
                code: code.clone(),
                message: message.clone(),
                cause: cause.clone(),
                retryable: *retryable,
            },
            Terminal::Aborted { by, reason } => EventBody::Aborted {
                by: by.clone(),
                reason: reason.clone(),
            },
        }
    }

    /// The conversation's next turn need wait no longer (T6).
    fn unblock_next(&mut self) -> Result<(), T::Error> {
        let open = self.tx.open_turns_of(&self.conversation.id)?;
        let Some(next) = open.into_iter().find(|id| *id != self.turn.turn) else {
            return Ok(());
        };
        let Some(mut next) = self.tx.turn(next)? else {
            return Ok(());
        };
        if next.state == TurnState::Blocked {
            next.enter(TurnState::Parked, self.now);
            next.due_at = self.now;
            next.epoch = self.conversation.epoch;
            self.tx.put_turn(&next)?;
        }
        Ok(())
    }
}

/// Losing to a terminal event returns that event (T5).
pub(super) fn already_ended<T: Tx>(tx: &mut T, turn: TurnId) -> Result<Reply, T::Error> {
    Ok(match tx.terminal_event(turn)? {
        Some(terminal) => Reply::Ended {
            events: Vec::new(),
            terminal: Box::new(terminal),
        },
        None => Reply::NotFound,
    })
}

/// The reason that a takeover gives when it repeats an open step.
pub(super) fn takeover_restart(step: u32) -> EventBody {
    EventBody::StepRestart {
        step,
        reason: "the server that streamed this step is gone".to_owned(),
    }
}

/// The terminal event for a turn whose input made the core panic (L7).
pub(super) fn panicked() -> Terminal {
    Terminal::Error {
        code: "internal".to_string(),
        message: "a bug in the server ended this turn; its log says where".to_string(),
        cause: "panic".to_string(),
        retryable: true,
    }
}
