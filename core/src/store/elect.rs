//! Endings: elections by owners, and aborts by anyone (T2, T5, L2).

use alloc::sync::Arc;

use super::open::{Open, already_ended};
use super::rows::{AbortRequest, TurnState};
use super::tx::Tx;
use super::verb::{AbortOf, Election, Reply, Terminal};
use crate::ids::TurnId;

pub(super) fn elect<T: Tx>(tx: &mut T, election: &Election) -> Result<Reply, T::Error> {
    match Open::at_fence(tx, election.fence)? {
        Some(open) => open.end(
            election.step.as_ref(),
            &election.answers,
            &election.terminal,
        ),
        // Ended: perhaps by this very bid, asked again.
        None => match tx.turn(election.fence.turn)? {
            Some(row) if row.state == TurnState::Ended => already_ended(tx, row.turn),
            Some(_) | None => Ok(Reply::Fenced),
        },
    }
}

pub(super) fn request_abort<T: Tx>(tx: &mut T, request: &AbortOf) -> Result<Reply, T::Error> {
    let Some(turn) = target(tx, request)? else {
        return Ok(Reply::NotFound);
    };
    let Some(open) = Open::any(tx, turn)? else {
        return Ok(Reply::NotFound);
    };
    let now = open.now;
    let aborted = Terminal::Aborted {
        by: request.by.clone(),
        reason: request.reason.clone(),
    };
    match open.turn.state {
        TurnState::Ended => already_ended(open.tx, turn),
        TurnState::Parked if crate::planted!("D09") && open.turn.due_at > now => {
            ask_owner(open, request)
        }
        TurnState::Blocked | TurnState::Parked => open.end(None, &[], &aborted),
        TurnState::Streaming | TurnState::Tools => {
            let asked_at = open.turn.abort.as_ref().map(|abort| abort.at);
            let unheard = asked_at.is_some_and(|at| now.since_ms(at) >= request.patience_ms);
            if unheard || open.turn.lease_until < now {
                return open.end(None, &[], &aborted);
            }
            ask_owner(open, request)
        }
    }
}

/// Leaves the wish with the turn, for whoever runs it.
fn ask_owner<T: Tx>(mut open: Open<'_, T>, request: &AbortOf) -> Result<Reply, T::Error> {
    let at = open.now;
    open.turn.abort.get_or_insert_with(|| AbortRequest {
        by: request.by.clone(),
        reason: request.reason.clone(),
        at,
    });
    let reply = Reply::AbortRequested {
        turn: open.turn.turn,
        conversation: open.conversation.id.clone(),
        node: open
            .turn
            .owner
            .as_ref()
            .map_or_else(Arc::default, |owner| owner.node.clone()),
    };
    open.save()?;
    Ok(reply)
}

/// The named turn, which must be the named conversation's if both are given;
/// or the conversation's first open turn.
fn target<T: Tx>(tx: &mut T, request: &AbortOf) -> Result<Option<TurnId>, T::Error> {
    match (request.turn, &request.conversation) {
        (Some(turn), None) => Ok(Some(turn)),
        (Some(turn), Some(conversation)) => Ok(tx
            .turn(turn)?
            .filter(|row| row.conversation == *conversation)
            .map(|row| row.turn)),
        (None, Some(conversation)) => {
            // Its first open turn must still be that when it is aborted.
            tx.conversation(conversation)?;
            Ok(tx.open_turns_of(conversation)?.first().copied())
        }
        (None, None) => Ok(None),
    }
}
