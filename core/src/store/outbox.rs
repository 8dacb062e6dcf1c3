//! The outbox (C7): a row for each endpoint and terminal event, written with
//! the event; taken under a lease, and settled by what came of the try.

use alloc::boxed::Box;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::tx::Tx;
use super::verb::Reply;
use crate::event::AgentEvent;
use crate::ids::{EndpointId, Owner, TurnId};
use crate::time::Timestamp;
use crate::webhook::{
    DELIVERED_KEPT_MS, Delivery, DeliveryRow, DeliveryState, EndpointRow, FAILED_KEPT_MS, TRIES,
    Tried, delay_for,
};

/// What a replica can try of the deliveries that are due.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeDeliveries {
    /// Who asks.
    pub owner: Owner,
    /// The endpoints that it can reach.
    pub wants: Vec<WantedDeliveries>,
    /// What it has taken and not settled, as far as it knows.
    pub holding: Vec<(EndpointId, TurnId)>,
}

/// How much of one endpoint's deliveries a replica can try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedDeliveries {
    /// Which endpoint.
    pub endpoint: EndpointId,
    /// With those that it has under way already.
    pub at_once: u32,
    /// Nobody else tries them for so long.
    pub lease_ms: u64,
}

/// Rows that one verb forgets at most.
const FORGET_AT_ONCE: usize = 256;

/// In the electing transaction: who wants the event will be told of it.
pub(super) fn announce<T: Tx>(tx: &mut T, event: &AgentEvent) -> Result<(), T::Error> {
    let Some(seq) = event.seq else { return Ok(()) };
    let now = tx.now();
    for endpoint in tx.endpoints()? {
        if endpoint.wanted.takes(&event.body) {
            let delivery = Delivery {
                endpoint: endpoint.id,
                turn: event.turn,
                conversation: event.conversation.clone(),
                seq,
                tries: 0,
            };
            tx.put_delivery(&DeliveryRow::fresh(delivery, now))?;
        }
    }
    Ok(())
}

/// At a boot: the configuration read last says who is told, and what earlier
/// lives of the node had under way is tried again at once.
pub(super) fn boot<T: Tx>(
    tx: &mut T,
    owner: &Owner,
    webhooks: &[EndpointRow],
) -> Result<(), T::Error> {
    let known = tx.endpoints()?;
    for row in &known {
        if webhooks.iter().all(|configured| configured.id != row.id) {
            tx.drop_endpoint(&row.id)?;
        }
    }
    for row in webhooks {
        if !known.contains(row) {
            tx.put_endpoint(row)?;
        }
    }
    let now = tx.now();
    for mut row in tx.taken_deliveries(&owner.node)? {
        if row.owner.as_ref() != Some(owner) {
            row.owner = None;
            row.due_at = now;
            tx.put_delivery(&row)?;
        }
    }
    Ok(())
}

/// Hands out what is due, up to each endpoint's bound. What the owner has taken
/// and does not know of (the answer was lost) it is handed again, so that a
/// second asking answers like the first.
pub(super) fn take<T: Tx>(tx: &mut T, ask: &TakeDeliveries) -> Result<Reply, T::Error> {
    let now = tx.now();
    tx.forget_deliveries(now, FORGET_AT_ONCE)?;
    let mut ours = tx.taken_deliveries(&ask.owner.node)?;
    ours.retain(|row| row.owner.as_ref() == Some(&ask.owner));
    let (mut taken, mut given_up, mut next_due) = (Vec::new(), Vec::new(), None);
    for want in &ask.wants {
        let mut room = want.at_once as usize;
        let of_this = |row: &&DeliveryRow| row.delivery.endpoint == want.endpoint;
        for row in ours.iter().filter(of_this) {
            let is_held = is_held(ask, row);
            // After its lease it may have been tried: that counts.
            let is_unheard = !is_held && row.due_at > now;
            if is_held || is_unheard {
                room = room.saturating_sub(1);
            }
            if is_unheard {
                taken.push(hand_out(tx, row.clone(), ask, want, now)?);
            }
        }
        let due = tx.due_deliveries(&want.endpoint, now, room)?;
        for mut row in due.into_iter().filter(|row| !is_held(ask, row)) {
            if row.delivery.tries >= TRIES {
                // Nobody has told what came of the last try.
                give_up(&mut row, now);
                tx.put_delivery(&row)?;
                given_up.push(row.delivery);
            } else {
                row.delivery.tries += 1;
                taken.push(hand_out(tx, row, ask, want, now)?);
            }
        }
        let next = tx.next_delivery_due(&want.endpoint, now)?;
        next_due = next_due.into_iter().chain(next).min();
    }
    Ok(Reply::Deliveries {
        taken,
        given_up,
        next_due,
        now,
    })
}

fn hand_out<T: Tx>(
    tx: &mut T,
    mut row: DeliveryRow,
    ask: &TakeDeliveries,
    want: &WantedDeliveries,
    now: Timestamp,
) -> Result<Delivery, T::Error> {
    row.owner = Some(ask.owner.clone());
    row.due_at = now + want.lease_ms;
    tx.put_delivery(&row)?;
    Ok(row.delivery)
}

/// The asker has it under way, or is about to tell what came of it.
fn is_held(ask: &TakeDeliveries, row: &DeliveryRow) -> bool {
    let (endpoint, turn) = (&row.delivery.endpoint, row.delivery.turn);
    let is_ours = row.owner.as_ref() == Some(&ask.owner);
    let mut holding = ask.holding.iter();
    is_ours && holding.any(|(e, t)| e == endpoint && *t == turn)
}

/// What came of a try. Said twice, or late, it counts once; that an endpoint
/// has taken a delivery is true whoever says it.
pub(super) fn settle<T: Tx>(
    tx: &mut T,
    endpoint: &EndpointId,
    turn: TurnId,
    tries: u32,
    tried: Tried,
) -> Result<Reply, T::Error> {
    let now = tx.now();
    let Some(mut row) = tx.delivery(endpoint, turn)? else {
        if crate::planted!("D45") {
            return announce_late(tx, turn);
        }
        return Ok(Reply::NotFound);
    };
    let is_this_try =
        row.state == DeliveryState::Pending && row.owner.is_some() && row.delivery.tries == tries;
    match tried {
        Tried::Delivered if row.state != DeliveryState::Delivered => {
            row.state = DeliveryState::Delivered;
            row.owner = None;
            row.forget_at = now + DELIVERED_KEPT_MS;
            tx.put_delivery(&row)?;
        }
        Tried::Failed if is_this_try => {
            match delay_for(tries) {
                Some(delay_ms) => {
                    row.owner = None;
                    row.due_at = now + delay_ms;
                }
                None => give_up(&mut row, now),
            }
            tx.put_delivery(&row)?;
        }
        // Heard before, or of a try that the next one has overtaken.
        Tried::Delivered | Tried::Failed => {}
    }
    Ok(Reply::Settled {
        row: Box::new(row),
        now,
    })
}

fn give_up(row: &mut DeliveryRow, now: Timestamp) {
    row.state = DeliveryState::Failed;
    row.owner = None;
    row.forget_at = now + FAILED_KEPT_MS;
}

/// The defect behind D45: the outbox is written when the election's answer has
/// come, in a verb of its own.
fn announce_late<T: Tx>(tx: &mut T, turn: TurnId) -> Result<Reply, T::Error> {
    if let Some(event) = tx.terminal_event(turn)? {
        announce(tx, &event)?;
    }
    Ok(Reply::NotFound)
}
