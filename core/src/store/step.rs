//! What an owner writes while it runs a stretch. Every verb is fenced, and a
//! verb that is asked again after an unknown outcome lands once.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;

use super::open::Open;
use super::rows::{CallState, Segment, TurnState};
use super::tx::Tx;
use super::verb::{Fence, Loaded, Reply, RestartCause, Retry, StepRecord, ToolAnswer, refused};
use crate::event::EventBody;
use crate::ids::{Epoch, TurnId};

pub(super) fn load<T: Tx>(tx: &mut T, turn: TurnId, epoch: Epoch) -> Result<Reply, T::Error> {
    let Some(open) = Open::at_fence(tx, Fence { turn, epoch })? else {
        return Ok(Reply::Fenced);
    };
    let (row, conversation, now) = (open.turn, open.conversation, open.now);
    let workspace = tx.workspace(&conversation.workspace)?;
    let items = tx.items(&conversation.id, row.ordinal)?;
    let calls = match row.step.checked_sub(1) {
        Some(last) => tx.calls(turn, last)?,
        None => Vec::new(),
    };
    Ok(Reply::Loaded(Box::new(Loaded {
        turn: row,
        items: items.map(|rows| rows.into_iter().map(|row| row.item).collect()),
        calls,
        cwd: conversation.cwd.or(workspace.and_then(|w| w.cwd)),
        now,
    })))
}

/// A segment that was sent before, in whole or in part, is appended only as
/// far as it is new; one that would leave a hole is dropped.
pub(super) fn checkpoint<T: Tx>(tx: &mut T, segments: &[Segment]) -> Result<Reply, T::Error> {
    let turns: Vec<TurnId> = segments.iter().map(|segment| segment.turn).collect();
    tx.foresee(&turns)?;
    for segment in segments {
        let fence = Fence {
            turn: segment.turn,
            epoch: segment.epoch,
        };
        let still_open =
            Open::at_fence(tx, fence)?.is_some_and(|open| open.turn.step == segment.step);
        if !still_open {
            continue;
        }
        let kept = tx.segments(segment.turn)?;
        let kept = || {
            kept.iter()
                .filter(|s| s.epoch == segment.epoch && s.step == segment.step)
        };
        let text_end = kept().map(|s| s.text.len() as u64).sum();
        let reasoning_end = kept().map(|s| s.reasoning.len() as u64).sum();
        let text = beyond(text_end, segment.text_offset, &segment.text);
        let reasoning = beyond(reasoning_end, segment.reasoning_offset, &segment.reasoning);
        if !text.is_empty() || !reasoning.is_empty() {
            if crate::planted!("D39") {
                log_delta(tx, fence, segment.step, text_end, text)?;
            }
            tx.put_segment(&Segment {
                text_offset: text_end,
                text: text.into(),
                reasoning_offset: reasoning_end,
                reasoning: reasoning.into(),
                ..segment.clone()
            })?;
        }
    }
    Ok(Reply::Landed { events: Vec::new() })
}

/// The defect behind D39: what a client is shown in passing, kept for ever.
fn log_delta<T: Tx>(
    tx: &mut T,
    fence: Fence,
    step: u32,
    offset: u64,
    text: &str,
) -> Result<(), T::Error> {
    if let Some(mut open) = Open::at_fence(tx, fence)? {
        open.log(EventBody::TextDelta {
            step,
            offset,
            text: text.into(),
        })?;
        open.save()?;
    }
    Ok(())
}

/// What of a piece at `offset` lies beyond `end`; nothing, if there is a hole between them.
fn beyond(end: u64, offset: u64, piece: &str) -> &str {
    let known = end
        .checked_sub(offset)
        .and_then(|n| usize::try_from(n).ok());
    known.and_then(|n| piece.get(n..)).unwrap_or("")
}

pub(super) fn commit<T: Tx>(
    tx: &mut T,
    fence: Fence,
    step: &StepRecord,
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    if open.turn.step > step.step {
        return Ok(Reply::Landed { events: Vec::new() });
    }
    open.keep_step(step)?;
    open.enter(TurnState::Tools)?;
    open.landed()
}

pub(super) fn restart<T: Tx>(
    tx: &mut T,
    fence: Fence,
    step: u32,
    reason: &str,
    by: RestartCause,
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    if open.turn.step != step {
        return Ok(Reply::Landed { events: Vec::new() });
    }
    let (counter, wanted) = match by {
        RestartCause::Empty(n) => (&mut open.turn.restarts.empty, n),
        RestartCause::Cut(n) => (&mut open.turn.restarts.cut, n),
    };
    if *counter >= wanted {
        return Ok(Reply::Landed { events: Vec::new() });
    }
    *counter = wanted;
    open.log(EventBody::StepRestart {
        step,
        reason: reason.into(),
    })?;
    open.tx.drop_segments(fence.turn)?;
    open.landed()
}

pub(super) fn tools_started<T: Tx>(
    tx: &mut T,
    fence: Fence,
    calls: &[String],
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    for mut call in open.open_calls()? {
        if call.state == CallState::Asked && calls.contains(&call.call_id) {
            call.state = CallState::Started(fence.epoch);
            open.tx.put_call(&call)?;
            // From here on its files are there and nowhere else; every node
            // reaches another computer alike.
            if open.turn.computer.is_none() {
                open.turn.bound = open.turn.owner.as_ref().map(|owner| owner.node.clone());
            }
        }
    }
    open.enter(TurnState::Tools)?;
    open.landed()
}

pub(super) fn tools_finished<T: Tx>(
    tx: &mut T,
    fence: Fence,
    answers: &[ToolAnswer],
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    for answer in answers {
        open.answer(answer)?;
    }
    open.enter(TurnState::Tools)?;
    open.landed()
}

pub(super) fn park<T: Tx>(
    tx: &mut T,
    fence: Fence,
    restart: Option<&str>,
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    if let Some(terminal) = open.wished_end() {
        return open.end(None, &[], &terminal);
    }
    if let Some(reason) = restart {
        let step = open.turn.step;
        open.log(EventBody::StepRestart {
            step,
            reason: reason.into(),
        })?;
        open.tx.drop_segments(fence.turn)?;
    }
    let due_at = open.now;
    open.park(due_at)?;
    open.landed()
}

pub(super) fn schedule_retry<T: Tx>(
    tx: &mut T,
    fence: Fence,
    retry: &Retry,
) -> Result<Reply, T::Error> {
    let Some(mut open) = Open::at_fence(tx, fence)? else {
        return Ok(Reply::Fenced);
    };
    if let Some(terminal) = open.wished_end() {
        return open.end(None, &[], &terminal);
    }
    let due_at = open.now + retry.delay_ms;
    open.turn.retry = refused(&open.turn.retry, retry, open.now);
    open.log(EventBody::ProviderRetry {
        attempt: retry.attempt,
        delay_ms: retry.delay_ms,
        due_at,
        message: retry.failure.message.clone(),
        code: retry.failure.code.clone(),
        source: retry.source.clone(),
    })?;
    if crate::planted!("D10") {
        // The slot is taken for left only when the wait is over.
        open.tx.put_release(&open.turn.provider, due_at)?;
    }
    if crate::planted!("D02") && retry.failure.cause == "stream-cut" {
        // A slot that nobody will ever have left.
        let never = open.now + u64::MAX / 2;
        open.tx.put_release(&open.turn.provider, never)?;
    }
    open.park(due_at)?;
    open.landed()
}
