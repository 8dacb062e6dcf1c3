//! What one follower has been shown, and what it may be shown next. Pure.

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{Epoch, Seq, TurnId};

use super::OpenStep;

/// What to do with a logged event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Logged {
    /// It is the next one.
    Show,
    /// It was shown.
    Old,
    /// Others come before it: read the log.
    Gap,
}

/// What to do with a provisional event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passing {
    /// Show it.
    Show,
    /// The log has overtaken it.
    Stale,
    /// Something before it is missing: show a snapshot instead.
    Hole,
    /// It belongs to a later ownership than the open step that is shown: what
    /// ended that one is in the log, and comes first.
    Ahead,
}

/// A follower's position. Ownerships of a conversation are counted by its
/// epoch, so one record about the highest epoch seen is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct View {
    /// The last logged event shown.
    pub(super) cursor: Seq,
    epoch: Epoch,
    /// Steps below this are complete.
    closed: u32,
    /// The last restart of a step, and its place: deltas published before it are void.
    restarted: Option<(u32, Seq)>,
    /// The last tool result: previews published before it say nothing new.
    answered: Seq,
    /// The turn that has ended last.
    ended: Option<TurnId>,
    open: Option<Shown>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shown {
    turn: TurnId,
    epoch: Epoch,
    step: u32,
    text: u64,
    reasoning: u64,
}

impl View {
    pub(super) fn new(cursor: Seq) -> View {
        View {
            cursor,
            ..View::default()
        }
    }

    /// Judges a logged event by its sequence number alone.
    pub(super) fn judge(&self, seq: Seq) -> Logged {
        if seq <= self.cursor {
            Logged::Old
        } else if seq == self.cursor + 1 {
            Logged::Show
        } else {
            Logged::Gap
        }
    }

    /// A logged event has been shown, or had been shown before the cursor.
    pub(super) fn shown(&mut self, event: &AgentEvent) {
        let Some(seq) = event.seq else { return };
        self.cursor = self.cursor.max(seq);
        if event.epoch > self.epoch {
            self.epoch = event.epoch;
            self.closed = 0;
            self.restarted = None;
            self.answered = 0;
            self.ended = None;
        }
        match &event.body {
            EventBody::StepComplete { step, .. } | EventBody::ToolCall { step, .. } => {
                self.closed = self.closed.max(step + 1);
                if self.open.is_some_and(|open| open.step <= *step) {
                    self.open = None;
                }
            }
            EventBody::StepRestart { step, .. } => {
                self.restarted = Some((*step, seq));
                self.open = None;
            }
            EventBody::ToolResult { .. } => self.answered = seq,
            EventBody::Done { .. } | EventBody::Error { .. } | EventBody::Aborted { .. } => {
                self.ended = Some(event.turn);
                if self.open.is_some_and(|open| open.turn == event.turn) {
                    self.open = None;
                }
            }
            EventBody::ProviderRetry { .. }
            | EventBody::TurnStart { .. }
            | EventBody::Warning { .. }
            | EventBody::Status { .. }
            | EventBody::TextDelta { .. }
            | EventBody::ReasoningDelta { .. }
            | EventBody::ToolOutput { .. }
            | EventBody::Snapshot { .. } => {}
        }
    }

    /// Judges a provisional event that was published after `tag`.
    pub(super) fn pass(&mut self, event: &AgentEvent, tag: Seq) -> Passing {
        match &event.body {
            EventBody::TextDelta { step, offset, text } => {
                self.delta(event, *step, *offset, text.len(), tag, |open| {
                    &mut open.text
                })
            }
            EventBody::ReasoningDelta { step, offset, text } => {
                self.delta(event, *step, *offset, text.len(), tag, |open| {
                    &mut open.reasoning
                })
            }
            EventBody::ToolOutput { .. }
                if self.is_left(event.turn, event.epoch)
                    || (event.epoch == self.epoch && tag < self.answered) =>
            {
                Passing::Stale
            }
            EventBody::ToolOutput { .. }
            | EventBody::Status { .. }
            | EventBody::Snapshot { .. }
            | EventBody::TurnStart { .. }
            | EventBody::ToolCall { .. }
            | EventBody::ToolResult { .. }
            | EventBody::StepComplete { .. }
            | EventBody::StepRestart { .. }
            | EventBody::ProviderRetry { .. }
            | EventBody::Warning { .. }
            | EventBody::Done { .. }
            | EventBody::Error { .. }
            | EventBody::Aborted { .. } => Passing::Show,
        }
    }

    /// Whether a snapshot may be shown; if so, what follows is judged from it.
    pub(super) fn snapshot(&mut self, open: &OpenStep) -> bool {
        if self.is_stale(open.turn, open.epoch, open.step, open.tag) {
            return false;
        }
        self.open = Some(Shown {
            turn: open.turn,
            epoch: open.epoch,
            step: open.step,
            text: open.text.len() as u64,
            reasoning: open.reasoning.len() as u64,
        });
        true
    }

    fn delta(
        &mut self,
        event: &AgentEvent,
        step: u32,
        offset: u64,
        length: usize,
        tag: Seq,
        part: fn(&mut Shown) -> &mut u64,
    ) -> Passing {
        if self.is_stale(event.turn, event.epoch, step, tag) {
            return Passing::Stale;
        }
        // Taken out: should the log have nothing to say, it is not asked again.
        if self.open.take_if(|open| open.epoch < event.epoch).is_some() {
            return Passing::Ahead;
        }
        let end = offset + length as u64;
        let same = self
            .open
            .as_mut()
            .filter(|open| (open.turn, open.epoch, open.step) == (event.turn, event.epoch, step));
        match same {
            Some(open) => {
                let shown = part(open);
                if offset == *shown {
                    *shown = end;
                    Passing::Show
                } else if end <= *shown {
                    Passing::Stale
                } else {
                    Passing::Hole
                }
            }
            None if offset == 0 => {
                let mut open = Shown {
                    turn: event.turn,
                    epoch: event.epoch,
                    step,
                    text: 0,
                    reasoning: 0,
                };
                *part(&mut open) = end;
                self.open = Some(open);
                Passing::Show
            }
            None => Passing::Hole,
        }
    }

    fn is_stale(&self, turn: TurnId, epoch: Epoch, step: u32, tag: Seq) -> bool {
        let is_void = self
            .restarted
            .is_some_and(|(restarted, seq)| step == restarted && tag < seq);
        self.is_left(turn, epoch) || (epoch == self.epoch && (step < self.closed || is_void))
    }

    fn is_left(&self, turn: TurnId, epoch: Epoch) -> bool {
        epoch < self.epoch || self.ended == Some(turn)
    }
}
