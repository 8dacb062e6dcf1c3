//! Grants: a view to decide on, and the compare-and-set that applies a plan.

use alloc::vec::Vec;

use super::rows::{ReplicaRow, TurnState};
use super::tx::Tx;
use super::verb::{ApplyGrants, Granted, Reply};
use crate::admission::{AdmissionView, Gate, Grant, HEADS};
use crate::ids::{Epoch, ProviderId, TurnId};

pub(super) fn view<T: Tx>(
    tx: &mut T,
    provider: &ProviderId,
    live_ms: u64,
) -> Result<Reply, T::Error> {
    let Some(row) = tx.provider(provider)? else {
        return Ok(Reply::NotFound);
    };
    let now = tx.now();
    let replicas = tx.replicas()?;
    let (live, away): (Vec<_>, Vec<_>) = replicas
        .into_iter()
        .partition(|replica| replica.is_live(now, live_ms));
    let nodes = |rows: Vec<ReplicaRow>| rows.into_iter().map(|row| row.owner.node).collect();
    let (live, away): (_, Vec<_>) = (nodes(live), nodes(away));
    Ok(Reply::View(AdmissionView {
        version: row.version,
        now,
        limit: row.limit,
        streaming: tx.streaming(provider)?,
        cooling: tx.releases_after(provider, now - row.cooldown_ms)?,
        cooldown_ms: row.cooldown_ms,
        gate: Gate::Open,
        fair: row.fair,
        starred: tx.waiters(provider, true, now, &away, HEADS)?,
        unstarred: tx.waiters(provider, false, now, &away, HEADS)?,
        next_due: tx.next_due(provider, now)?,
        live,
    }))
}

pub(super) fn apply<T: Tx>(tx: &mut T, plan: &ApplyGrants) -> Result<Reply, T::Error> {
    let Some(mut provider) = tx.provider(&plan.provider)? else {
        return Ok(Reply::NotFound);
    };
    if provider.version != plan.version && !crate::planted!("D38") {
        // The version also moves with this very plan: asked again after an
        // unknown outcome, what it granted is still ours.
        let granted = landed_before(tx, plan)?;
        return Ok(if granted.is_empty() {
            Reply::Conflict
        } else {
            Reply::Granted(granted)
        });
    }
    foresee(tx, plan)?;
    let now = tx.now();
    let mut rows = Vec::with_capacity(plan.grants.len());
    for grant in &plan.grants {
        let Some(turn) = tx.turn(grant.turn)? else {
            return Ok(Reply::Conflict);
        };
        let Some(conversation) = tx.conversation(&turn.conversation)? else {
            return Ok(Reply::Conflict);
        };
        let free = conversation.turn.is_none() && conversation.epoch == grant.epoch;
        if !free || turn.state != TurnState::Parked || turn.due_at > now {
            return Ok(Reply::Conflict);
        }
        rows.push((turn, conversation));
    }
    let mut granted = Vec::with_capacity(rows.len());
    for (mut turn, mut conversation) in rows {
        // A takeover that does not touch the row by which writes are fenced.
        let is_hidden = crate::planted!("D33") && turn.resumes > 0;
        conversation.epoch.0 += u64::from(!is_hidden);
        conversation.turn = Some(turn.turn);
        turn.enter(TurnState::Streaming, now);
        turn.epoch = conversation.epoch;
        turn.owner = Some(plan.owner.clone());
        turn.lease_until = now + plan.lease_ms;
        granted.push(Granted {
            turn: turn.turn,
            conversation: conversation.id.clone(),
            epoch: conversation.epoch,
        });
        tx.put_turn(&turn)?;
        tx.put_conversation(&conversation)?;
    }
    provider.version += 1;
    provider.fair = plan.fair;
    tx.put_provider(&provider)?;
    Ok(Reply::Granted(granted))
}

fn foresee<T: Tx>(tx: &mut T, plan: &ApplyGrants) -> Result<(), T::Error> {
    let turns: Vec<TurnId> = plan.grants.iter().map(|grant| grant.turn).collect();
    tx.foresee(&turns)
}

fn landed_before<T: Tx>(tx: &mut T, plan: &ApplyGrants) -> Result<Vec<Granted>, T::Error> {
    foresee(tx, plan)?;
    let mut granted = Vec::new();
    for Grant { turn, epoch } in &plan.grants {
        let Some(mut row) = tx.turn(*turn)? else {
            continue;
        };
        let epoch = Epoch(epoch.0 + 1);
        if row.owner.as_ref() == Some(&plan.owner) && row.epoch == epoch {
            // The owner counts its lease from this asking.
            row.lease_until = row.lease_until.max(tx.now() + plan.lease_ms);
            tx.put_turn(&row)?;
            granted.push(Granted {
                turn: *turn,
                conversation: row.conversation,
                epoch,
            });
        }
    }
    Ok(granted)
}
