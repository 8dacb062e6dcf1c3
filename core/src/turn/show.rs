//! What of a stretch is shown before it is in the log: states, and the content
//! of the open step on its way to a checkpoint.

use alloc::boxed::Box;
use alloc::string::ToString;

use super::{Phase, Stretch};
use crate::event::{AgentEvent, EventBody, StatusState};
use crate::io::Effect;
use crate::kit::Ctx;
use crate::store::{Segment, Terminal};

impl Stretch {
    /// The defect behind D12 and D13: a terminal event that nobody elected.
    pub(super) fn announce_without_election(&self, ctx: &mut Ctx<'_>, terminal: &Terminal) {
        let body = match terminal.clone() {
            Terminal::Done { finish_reason } => EventBody::Done {
                finish_reason,
                usage: Default::default(),
                duration_ms: 0,
            },
            Terminal::Error {
                code,
                message,
                cause,
                retryable,
            } => EventBody::Error {
                code,
                message,
                cause,
                retryable,
            },
            Terminal::Aborted { by, reason } => EventBody::Aborted { by, reason },
        };
        self.show_provisional(ctx, body);
    }

    /// Shows something that is not logged.
    pub(super) fn show_provisional(&self, ctx: &mut Ctx<'_>, body: EventBody) {
        let event = AgentEvent {
            seq: None,
            conversation: self.conversation.clone(),
            turn: self.turn,
            epoch: self.epoch,
            at: ctx.now.wall,
            body,
        };
        ctx.kit.emit(Effect::Publish {
            event: Box::new(event),
        });
    }

    pub(super) fn show_status(&self, ctx: &mut Ctx<'_>, state: StatusState) {
        let provider = self.world.as_ref().map(|world| world.provider.to_string());
        let body = EventBody::Status {
            state,
            position: None,
            provider,
            gate: None,
            due_at: None,
        };
        self.show_provisional(ctx, body);
    }

    /// What the open step has shown and the store has not confirmed yet.
    pub(crate) fn unsaved(&self) -> Option<Segment> {
        let Phase::Streaming(stream) = &self.phase else {
            return None;
        };
        let (text, reasoning) = stream.shown();
        let (text_from, reasoning_from) = self.checkpointed;
        if text.len() == text_from && reasoning.len() == reasoning_from {
            return None;
        }
        Some(Segment {
            turn: self.turn,
            epoch: self.epoch,
            step: self.world.as_ref()?.step,
            text_offset: text_from as u64,
            text: text.get(text_from..)?.into(),
            reasoning_offset: reasoning_from as u64,
            reasoning: reasoning.get(reasoning_from..)?.into(),
        })
    }

    /// The store has this segment.
    pub(crate) fn saved(&mut self, segment: &Segment) {
        let same_step = self
            .world
            .as_ref()
            .is_some_and(|world| world.step == segment.step);
        if same_step && segment.epoch == self.epoch {
            let end = |offset: u64, text: &str| usize::try_from(offset).unwrap_or(0) + text.len();
            self.checkpointed = (
                end(segment.text_offset, &segment.text),
                end(segment.reasoning_offset, &segment.reasoning),
            );
        }
    }
}
