//! Acceptance: marker, message and place in line in one transaction (L1, A2, C6).

use alloc::vec::Vec;

use super::open::Open;
use super::rows::{ConversationRow, KeyRow, ProviderRow, TurnRow, TurnState, WorkspaceRow};
use super::tx::{Tx, title_of};
use super::verb::{Accept, Receipt, Rejection, Reply};
use crate::admission::WaiterKey;
use crate::event::EventBody;
use crate::ids::{ComputerId, Epoch, Slug, TurnId};
use crate::time::Timestamp;
use crate::transcript::Item;

pub(super) fn accept<T: Tx>(tx: &mut T, request: &Accept) -> Result<Reply, T::Error> {
    if let Some((key, digest)) = &request.idempotency
        && let Some(known) = tx.key(key)?
    {
        return if known.digest == *digest {
            receipt(tx, known.turn, known.turn != request.turn)
        } else {
            Ok(Reply::Rejected(Rejection::IdempotencyMismatch))
        };
    }
    if tx.turn(request.turn)?.is_some() {
        return receipt(tx, request.turn, false);
    }
    let open_turns = tx.open_turns()?;
    if open_turns >= request.max_open_turns {
        return Ok(Reply::Rejected(Rejection::TooManyOpenTurns(open_turns)));
    }
    let mut conversation = match conversation_for(tx, request)? {
        Ok(conversation) => conversation,
        Err(rejection) => return Ok(Reply::Rejected(rejection)),
    };
    let known = request.configured.contains(&conversation.provider);
    let Some(provider) = tx.provider(&conversation.provider)?.filter(|_| known) else {
        return Ok(Reply::Rejected(Rejection::UnknownProvider(
            conversation.provider,
        )));
    };
    let workspace = workspace_for(tx, &conversation.workspace)?;
    let ordinal = conversation.next_ordinal;
    conversation.next_ordinal += 1;
    let turn = new_turn(tx, request, &conversation, &provider, &workspace, ordinal)?;
    if turn.state == TurnState::Parked || !crate::planted!("D11") {
        tx.put_marker(turn.turn)?;
    }
    if let (Some((key, digest)), false) = (&request.idempotency, crate::planted!("D31")) {
        tx.put_key(
            key,
            &KeyRow {
                digest: *digest,
                turn: turn.turn,
            },
        )?;
    }
    let now = tx.now();
    let mut open = Open {
        tx,
        now,
        turn,
        conversation,
        events: Vec::new(),
    };
    open.item(Item::User {
        text: request.message.clone(),
    })?;
    let model = alloc::format!("{}/{}", open.turn.provider, open.turn.model);
    let workspace_id = open.conversation.workspace.clone();
    open.log(EventBody::TurnStart {
        message: request.message.clone(),
        model,
        workspace_id,
    })?;
    let receipt = Receipt {
        conversation: open.conversation.id.clone(),
        turn: open.turn.turn,
        provider: open.turn.provider.clone(),
        seq: open.conversation.last_seq,
        replayed: false,
    };
    Ok(Reply::Accepted(receipt, open.save()?))
}

/// The receipt of a turn that was accepted before.
fn receipt<T: Tx>(tx: &mut T, turn: TurnId, replayed: bool) -> Result<Reply, T::Error> {
    let (Some(row), Some(seq)) = (tx.turn(turn)?, tx.start_seq(turn)?) else {
        return Ok(Reply::NotFound);
    };
    let receipt = Receipt {
        conversation: row.conversation,
        turn,
        provider: row.provider,
        seq,
        replayed,
    };
    Ok(Reply::Accepted(receipt, Vec::new()))
}

fn conversation_for<T: Tx>(
    tx: &mut T,
    request: &Accept,
) -> Result<Result<ConversationRow, Rejection>, T::Error> {
    let now = tx.now();
    let mut row = match tx.conversation(&request.conversation)? {
        Some(row) => {
            if let Some(wanted) = &request.workspace
                && *wanted != row.workspace
            {
                return Ok(Err(Rejection::WorkspaceMismatch(row.workspace)));
            }
            row
        }
        None => {
            let (provider, model) = request.default_model.clone();
            ConversationRow {
                id: request.conversation.clone(),
                workspace: request
                    .workspace
                    .clone()
                    .unwrap_or_else(Slug::default_workspace),
                title: title_of(&request.message),
                created_at: now,
                last_activity_at: now,
                provider,
                model,
                cwd: None,
                computer: None,
                last_seq: 0,
                turn: None,
                epoch: Epoch(0),
                next_ordinal: 0,
            }
        }
    };
    if let Some((provider, model)) = &request.model {
        row.provider = provider.clone();
        row.model = model.clone();
    }
    if let Some(cwd) = &request.cwd {
        row.cwd = Some(cwd.clone());
    }
    if let Some(computer) = &request.computer {
        row.computer = Some(computer.clone());
    }
    row.last_activity_at = row.last_activity_at.max(now);
    Ok(Ok(row))
}

/// A workspace is created on first use (C3).
fn workspace_for<T: Tx>(tx: &mut T, slug: &Slug) -> Result<WorkspaceRow, T::Error> {
    if let Some(row) = tx.workspace(slug)? {
        return Ok(row);
    }
    let row = new_workspace(slug, tx.now());
    tx.put_workspace(&row)?;
    Ok(row)
}

/// A workspace as it is created: no title, no star.
pub(super) fn new_workspace(slug: &Slug, now: Timestamp) -> WorkspaceRow {
    WorkspaceRow {
        slug: slug.clone(),
        title: None,
        starred: false,
        cwd: None,
        computer: None,
        created_at: now,
    }
}

/// The conversation's, or its workspace's; `None`: the server's own (S1).
fn computer_of(conversation: &ConversationRow, workspace: &WorkspaceRow) -> Option<ComputerId> {
    let own = conversation.computer.as_ref();
    let named = own.or(workspace.computer.as_ref());
    named.filter(|computer| !computer.is_local()).cloned()
}

fn new_turn<T: Tx>(
    tx: &mut T,
    request: &Accept,
    conversation: &ConversationRow,
    provider: &ProviderRow,
    workspace: &WorkspaceRow,
    ordinal: u64,
) -> Result<TurnRow, T::Error> {
    let now = tx.now();
    let busy = !tx.open_turns_of(&conversation.id)?.is_empty();
    Ok(TurnRow {
        turn: request.turn,
        conversation: conversation.id.clone(),
        ordinal,
        provider: provider.id.clone(),
        model: conversation.model.clone(),
        state: if busy {
            TurnState::Blocked
        } else {
            TurnState::Parked
        },
        key: WaiterKey {
            unstarred: !workspace.starred,
            started_at: now,
            seq: tx.next_waiter_seq()?,
        },
        due_at: now,
        owner: None,
        lease_until: Timestamp(0),
        epoch: conversation.epoch,
        step: 0,
        items: 0,
        restarts: Default::default(),
        retry: Default::default(),
        resumes: 0,
        bound: None,
        computer: computer_of(conversation, workspace),
        abort: None,
        accepted_at: now,
        since: now,
        timing: Default::default(),
        usage: Default::default(),
    })
}
