//! What another replica streams, as far as it has checkpointed it.

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::store::Segment;
use dispatch_core::time::Timestamp;

use super::Topic;
use crate::store::LogHead;

impl Topic {
    /// Shows what is new of an open step. `head` was read before the segments;
    /// one's own pieces are always ahead of their checkpoints.
    pub(super) fn show_checkpoint(&mut self, head: &LogHead, segments: &[Segment], at: Timestamp) {
        // The log has gone on since: this may be of a step that it has ended.
        if self.known > head.last_seq {
            return;
        }
        let Some(last) = segments.iter().max_by_key(|s| (s.epoch, s.step)) else {
            return;
        };
        let (turn, epoch, step) = (last.turn, last.epoch, last.step);
        let of_step = || {
            let of_step = segments.iter();
            of_step.filter(|s| (s.epoch, s.step) == (epoch, step))
        };
        let text: String = of_step().map(|s| s.text.as_str()).collect();
        let reasoning: String = of_step().map(|s| s.reasoning.as_str()).collect();
        let (shown_text, shown_reasoning) = match &self.open {
            Some(open) if (open.turn, open.epoch, open.step) == (turn, epoch, step) => {
                (open.text.len(), open.reasoning.len())
            }
            Some(open) if (open.epoch, open.step) > (epoch, step) => return,
            Some(_) | None => (0, 0),
        };
        let new = |all: &str, shown| {
            let new = all.get(shown..).filter(|new| !new.is_empty());
            new.map(|new| (shown as u64, new.to_owned()))
        };
        let reasoning = new(&reasoning, shown_reasoning)
            .map(|(offset, text)| EventBody::ReasoningDelta { step, offset, text });
        let text = new(&text, shown_text).map(|(offset, text)| EventBody::TextDelta {
            step,
            offset,
            text,
        });
        for body in [reasoning, text].into_iter().flatten() {
            self.is_elsewhere = true;
            self.show(AgentEvent {
                seq: None,
                conversation: head.conversation.clone(),
                turn,
                epoch,
                at,
                body,
            });
        }
    }
}
