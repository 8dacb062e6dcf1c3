//! What happens when owners die: boot, leases, sweeps (L2-L4, L6).

use alloc::vec::Vec;

use super::accept::new_workspace;
use super::open::{Open, panicked, takeover_restart};
use super::outbox;
use super::rows::{ProviderRow, ReplicaRow, TurnState};
use super::tx::Tx;
use super::verb::{Boot, Fence, ProviderSettings, Reply, Swept, Terminal};
use crate::event::AgentEvent;
use crate::ids::{Owner, Slug, TurnId};
use crate::liveness::{SweepAction, SweepPolicy, decide, node_lost};

pub(super) fn boot<T: Tx>(tx: &mut T, boot: &Boot) -> Result<Reply, T::Error> {
    let known = tx.replica(&boot.owner.node)?;
    let is_over = known.is_some_and(|known| known.is_later(boot.life, &boot.owner));
    if is_over && !crate::planted!("D49") {
        return Ok(Reply::Fenced);
    }
    let default = Slug::default_workspace();
    if tx.workspace(&default)?.is_none() {
        let row = new_workspace(&default, tx.now());
        tx.put_workspace(&row)?;
    }
    tx.put_replica(&ReplicaRow {
        owner: boot.owner.clone(),
        life: boot.life,
        version: boot.version.clone(),
        started_at: tx.now(),
        seen_at: tx.now(),
        serving: true,
    })?;
    for settings in &boot.providers {
        configure(tx, settings)?;
    }
    // Before any turn ends below: its end is told to who is configured now.
    outbox::boot(tx, &boot.owner, &boot.webhooks)?;
    let mut events = Vec::new();
    let mut taken_over = 0;
    let owned = tx.owned_by(&boot.owner.node)?;
    tx.foresee(&owned)?;
    for turn in owned {
        let Some(open) = Open::any(tx, turn)? else {
            continue;
        };
        // Parked or taken over since it was found, where finding it took no lock.
        let is_of_earlier_life =
            |owner: &Owner| owner.node == boot.owner.node && *owner != boot.owner;
        if !open.turn.owner.as_ref().is_some_and(is_of_earlier_life) {
            continue;
        }
        let action = if boot.seal == Some(turn) {
            SweepAction::End(panicked())
        } else if crate::planted!("D32") && !open.tx.segments(turn)?.is_empty() {
            SweepAction::End(Terminal::Done {
                finish_reason: "stop".into(),
            })
        } else {
            decide(&open.turn, &boot.policy)
        };
        events.extend(carry_out(open, action, &boot.policy)?);
        taken_over += 1;
    }
    let mut orphaned = tx.providers()?;
    orphaned.retain(|id| boot.providers.iter().all(|settings| settings.id != *id));
    Ok(Reply::Booted {
        events,
        taken_over,
        orphaned,
    })
}

/// A limit set at run time outlives restarts until the configuration names another.
fn configure<T: Tx>(tx: &mut T, settings: &ProviderSettings) -> Result<(), T::Error> {
    let before = tx.provider(&settings.id)?;
    let mut row = before.clone().unwrap_or_else(|| ProviderRow {
        id: settings.id.clone(),
        version: 0,
        limit: settings.limit,
        configured_limit: settings.limit,
        cooldown_ms: settings.cooldown_ms,
        fair: 0,
    });
    if row.configured_limit != settings.limit {
        row.limit = settings.limit;
        row.configured_limit = settings.limit;
    }
    row.cooldown_ms = settings.cooldown_ms;
    if before.as_ref() != Some(&row) {
        row.version += 1;
        tx.put_provider(&row)?;
    }
    Ok(())
}

fn carry_out<T: Tx>(
    mut open: Open<'_, T>,
    action: SweepAction,
    policy: &SweepPolicy,
) -> Result<Vec<AgentEvent>, T::Error> {
    match action {
        SweepAction::End(terminal) => match open.end(None, &[], &terminal)? {
            Reply::Ended { events, .. } => Ok(events),
            _ => Ok(Vec::new()),
        },
        SweepAction::ParkAgain => {
            if crate::planted!("D14") {
                open.tx.take_marker(open.turn.turn)?;
            }
            if policy.counts {
                open.turn.resumes += 1;
            }
            if open.turn.state == TurnState::Streaming {
                let step = open.turn.step;
                open.log(takeover_restart(step))?;
                let turn = open.turn.turn;
                open.tx.drop_segments(turn)?;
            }
            let due_at = open.now;
            let (turn, epoch) = (open.turn.turn, open.conversation.epoch);
            open.park(due_at)?;
            if crate::planted!("D29") {
                open.conversation.turn = Some(turn);
            }
            if crate::planted!("D33") {
                (open.conversation.epoch, open.turn.epoch) = (epoch, epoch);
            }
            open.save()
        }
    }
}

pub(super) fn sweep_one<T: Tx>(tx: &mut T, policy: &SweepPolicy) -> Result<Reply, T::Error> {
    let now = tx.now();
    let Some(turn) = tx.lapsed(now)? else {
        return give_up_one(tx, policy);
    };
    // Renewed since it was found, where finding it took no lock.
    let still = |open: &Open<'_, T>| open.turn.state.is_owned() && open.turn.lease_until < now;
    let Some(open) = Open::any(tx, turn)?.filter(still) else {
        return Ok(Reply::Swept(None));
    };
    let provider = open.turn.provider.clone();
    let action = decide(&open.turn, policy);
    let events = carry_out(open, action, policy)?;
    Ok(Reply::Swept(Some(Swept {
        turn,
        provider,
        events,
    })))
}

/// Ends one turn whose node has been away for too long (L9).
fn give_up_one<T: Tx>(tx: &mut T, policy: &SweepPolicy) -> Result<Reply, T::Error> {
    let now = tx.now();
    for replica in tx.replicas()? {
        if now.since_ms(replica.seen_at) < policy.node_patience_ms {
            continue;
        }
        let node = replica.owner.node;
        let Some(turn) = tx.stranded(&node)? else {
            continue;
        };
        // Granted or ended since it was found, where finding it took no lock.
        let still = |open: &Open<'_, T>| {
            open.turn.state == TurnState::Parked && open.turn.bound.as_ref() == Some(&node)
        };
        let Some(open) = Open::any(tx, turn)?.filter(still) else {
            continue;
        };
        let provider = open.turn.provider.clone();
        let events = carry_out(open, SweepAction::End(node_lost(&node, policy)), policy)?;
        return Ok(Reply::Swept(Some(Swept {
            turn,
            provider,
            events,
        })));
    }
    Ok(Reply::Swept(None))
}

pub(super) fn renew<T: Tx>(
    tx: &mut T,
    owner: &Owner,
    turns: &[Fence],
    lease_ms: u64,
    serving: bool,
) -> Result<Reply, T::Error> {
    let now = tx.now();
    // A later life of the same node has the row to itself.
    if let Some(mut replica) = tx.replica(&owner.node)?
        && replica.owner == *owner
    {
        replica.seen_at = replica.seen_at.max(now);
        replica.serving = serving;
        tx.put_replica(&replica)?;
    }
    foresee(tx, turns)?;
    let mut renewed = Vec::with_capacity(turns.len());
    for fence in turns {
        let Some(mut open) = Open::at_fence(tx, *fence)? else {
            continue;
        };
        if open.turn.owner.as_ref() == Some(owner) {
            open.turn.lease_until = open.turn.lease_until.max(now + lease_ms);
            let row = open.turn;
            tx.put_turn(&row)?;
            renewed.push(*fence);
        }
    }
    Ok(Reply::Renewed(renewed))
}

pub(super) fn requests<T: Tx>(tx: &mut T, turns: &[Fence]) -> Result<Reply, T::Error> {
    foresee(tx, turns)?;
    let mut aborts = Vec::new();
    let mut lost: Vec<Fence> = Vec::new();
    for fence in turns {
        match Open::at_fence(tx, *fence)? {
            Some(open) => aborts.extend(open.turn.abort.map(|abort| (fence.turn, abort))),
            None => lost.push(*fence),
        }
    }
    Ok(Reply::Requests { aborts, lost })
}

pub(super) fn ended<T: Tx>(tx: &mut T, turns: &[TurnId]) -> Result<Reply, T::Error> {
    tx.foresee(turns)?;
    let mut ended = Vec::new();
    for turn in turns {
        let row = tx.turn(*turn)?;
        if row.is_none_or(|row| row.state == TurnState::Ended) {
            ended.push(*turn);
        }
    }
    Ok(Reply::AreEnded(ended))
}

fn foresee<T: Tx>(tx: &mut T, turns: &[Fence]) -> Result<(), T::Error> {
    let turns: Vec<TurnId> = turns.iter().map(|fence| fence.turn).collect();
    tx.foresee(&turns)
}
