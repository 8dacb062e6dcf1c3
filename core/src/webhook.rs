//! Webhooks (C7): which terminal events an endpoint is told of, and when a
//! delivery that failed is tried again. Addresses and secrets are not among
//! it: they stay with the host (P4).

use serde::{Deserialize, Serialize};

use crate::event::EventBody;
use crate::ids::{ConversationId, EndpointId, Owner, Seq, TurnId};
use crate::time::Timestamp;

/// A delivery is given up after so many tries.
pub const TRIES: u32 = 30;

/// The longest wait between two tries.
pub const LONGEST_WAIT_MS: u64 = 3_600_000;

/// Deliveries under way at once, for each endpoint and replica.
pub const AT_ONCE: u32 = 4;

/// The code of the trace that tells of a delivery that was given up.
pub const GIVEN_UP: &str = "webhook-given-up";

/// How long a delivery that was made is remembered.
pub const DELIVERED_KEPT_MS: u64 = 24 * 3_600_000;

/// How long one that was given up is remembered.
pub const FAILED_KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// How long one waits that nobody tries, because no replica that runs has its
/// endpoint in its configuration. Thirty tries take less than a day.
pub const UNTRIED_KEPT_MS: u64 = 30 * 24 * 3_600_000;

/// The wait after so many failed tries: doubling from a second to an hour;
/// `None`: it is given up.
pub fn delay_for(tries: u32) -> Option<u64> {
    (tries < TRIES).then(|| {
        let doubled = 1_000_u64 << tries.saturating_sub(1).min(12);
        doubled.min(LONGEST_WAIT_MS)
    })
}

/// Which terminal events an endpoint wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// `done`.
    pub done: bool,
    /// `error`.
    pub error: bool,
    /// `aborted`.
    pub aborted: bool,
}

impl Wanted {
    /// Every terminal event.
    pub const ALL: Wanted = Wanted {
        done: true,
        error: true,
        aborted: true,
    };

    /// Whether it wants this event.
    pub fn takes(self, event: &EventBody) -> bool {
        match event {
            EventBody::Done { .. } => self.done,
            EventBody::Error { .. } => self.error,
            EventBody::Aborted { .. } => self.aborted,
            _ => false,
        }
    }
}

/// One endpoint as the store knows it: whoever ends a turn reads it there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointRow {
    /// Its name.
    pub id: EndpointId,
    /// What it is told.
    pub wanted: Wanted,
}

/// One row of the outbox: a terminal event that an endpoint is to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryRow {
    /// What, to whom, and how often it was tried.
    pub delivery: Delivery,
    /// How far it has come.
    pub state: DeliveryState,
    /// Who tries it just now.
    pub owner: Option<Owner>,
    /// Not tried before. While it has an owner: until when nobody else tries.
    pub due_at: Timestamp,
    /// When the row may be forgotten.
    pub forget_at: Timestamp,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryState {
    /// To be tried, or being tried.
    Pending,
    /// The endpoint has taken it.
    Delivered,
    /// Given up.
    Failed,
}

/// What is delivered, and which try it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delivery {
    /// To whom.
    pub endpoint: EndpointId,
    /// The turn that has ended.
    pub turn: TurnId,
    /// Its conversation.
    pub conversation: ConversationId,
    /// The terminal event's sequence number.
    pub seq: Seq,
    /// Tries begun so far, this one included.
    pub tries: u32,
}

/// What came of one try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tried {
    /// The endpoint has answered that it has it.
    Delivered,
    /// Anything else.
    Failed,
}

impl DeliveryRow {
    /// A delivery that nobody has tried yet.
    pub(crate) fn fresh(delivery: Delivery, now: Timestamp) -> DeliveryRow {
        DeliveryRow {
            delivery,
            state: DeliveryState::Pending,
            owner: None,
            due_at: now,
            forget_at: now + UNTRIED_KEPT_MS,
        }
    }

    /// Later ones of the same conversation wait for it: it is being tried, or
    /// it was not tried yet. One that has failed holds up nobody.
    pub fn holds(&self) -> bool {
        self.state == DeliveryState::Pending && (self.delivery.tries == 0 || self.owner.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c7_waits_double_to_an_hour_and_the_thirtieth_failure_is_the_last() {
        let waits: alloc::vec::Vec<u64> = (1..).map_while(delay_for).collect();
        assert_eq!(waits.len(), 29, "thirty tries have 29 waits between them");
        assert_eq!(waits[..4], [1_000, 2_000, 4_000, 8_000]);
        assert!(
            waits
                .windows(2)
                .all(|two| two[1] == (two[0] * 2).min(LONGEST_WAIT_MS))
        );
        assert_eq!(waits.last(), Some(&LONGEST_WAIT_MS));
        assert!(
            waits.iter().sum::<u64>() < DELIVERED_KEPT_MS,
            "under a day in all"
        );
        assert_eq!(delay_for(TRIES), None);
        assert_eq!(delay_for(u32::MAX), None);
    }
}
