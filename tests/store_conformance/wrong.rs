//! Stores with one mistake each: the comparison must find them out, else it
//! proves nothing about the right one.

use std::sync::Arc;

use dispatch::store::Dump;
use dispatch_core::admission::Head;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EndpointId, ProviderId, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, Model, Outcome, ProviderRow, ReplicaRow, Segment,
    Transcript, TurnRow, Tx, Verb, WorkspaceRow, apply,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, DeliveryState, EndpointRow};

use super::harness::{Reached, Subject, difference, dump_of};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mistake {
    None,
    /// Every bid wins, and the marker stays.
    MarkerIsNeverTaken,
    /// Equal times are ordered by turn instead of by sequence number.
    LineIgnoresSequence,
    /// Waiters whose time has not come are granted too.
    LineIgnoresDueTime,
    /// A lease holds a moment longer than it says.
    LeaseLapsesLate,
    /// Who is bound to a node that is away stands in the way of the others.
    LineShowsTheAway,
    /// A delivery does not wait for an earlier one of its conversation.
    OutboxIgnoresOrder,
}

struct Wrong {
    model: Model,
    mistake: Mistake,
}

impl Subject for Wrong {
    fn ask(&mut self, now: Timestamp, verb: &Verb) -> Outcome {
        self.model.now = now;
        let Ok(reply) = apply(self, verb);
        Ok(reply)
    }
    fn dump(&mut self) -> Dump {
        dump_of(&self.model)
    }
}

macro_rules! pass_on {
    ($( fn $name:ident(&mut self $(, $arg:ident : $ty:ty)*) -> $out:ty; )*) => {
        $( fn $name(&mut self $(, $arg: $ty)*) -> Result<$out, Self::Error> {
            self.model.$name($($arg),*)
        } )*
    };
}

impl Tx for Wrong {
    type Error = core::convert::Infallible;

    fn now(&self) -> Timestamp {
        self.model.now
    }

    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Self::Error> {
        match self.mistake {
            Mistake::MarkerIsNeverTaken => Ok(true),
            _ => self.model.take_marker(turn),
        }
    }

    fn waiters(
        &mut self,
        provider: &ProviderId,
        starred: bool,
        now: Timestamp,
        away: &[Arc<str>],
        limit: usize,
    ) -> Result<Vec<Head>, Self::Error> {
        let due_by = match self.mistake {
            Mistake::LineIgnoresDueTime => Timestamp(u64::MAX),
            _ => now,
        };
        let away = match self.mistake {
            Mistake::LineShowsTheAway => &[],
            _ => away,
        };
        let mut heads = self.model.waiters(provider, starred, due_by, away, limit)?;
        if self.mistake == Mistake::LineIgnoresSequence {
            heads.sort_by_key(|head| (head.key.started_at, head.turn));
        }
        Ok(heads)
    }

    fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Self::Error> {
        match self.mistake {
            Mistake::LeaseLapsesLate => self.model.lapsed(now - 10_000),
            _ => self.model.lapsed(now),
        }
    }

    fn due_deliveries(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, Self::Error> {
        if self.mistake != Mistake::OutboxIgnoresOrder {
            return self.model.due_deliveries(endpoint, now, limit);
        }
        let is_due = |row: &&DeliveryRow| {
            let is_pending = row.state == DeliveryState::Pending;
            is_pending && row.delivery.endpoint == *endpoint && row.due_at <= now
        };
        let due = self.model.outbox.values().filter(is_due);
        let mut due: Vec<DeliveryRow> = due.cloned().collect();
        due.sort_by_key(|row| (row.due_at, row.delivery.seq));
        due.truncate(limit);
        Ok(due)
    }

    pass_on! {
        fn endpoints(&mut self) -> Vec<EndpointRow>;
        fn put_endpoint(&mut self, row: &EndpointRow) -> ();
        fn drop_endpoint(&mut self, id: &EndpointId) -> ();
        fn delivery(&mut self, endpoint: &EndpointId, turn: TurnId) -> Option<DeliveryRow>;
        fn put_delivery(&mut self, row: &DeliveryRow) -> ();
        fn next_delivery_due(&mut self, endpoint: &EndpointId, now: Timestamp) -> Option<Timestamp>;
        fn taken_deliveries(&mut self, node: &str) -> Vec<DeliveryRow>;
        fn forget_deliveries(&mut self, now: Timestamp, limit: usize) -> ();
        fn conversation(&mut self, id: &ConversationId) -> Option<ConversationRow>;
        fn put_conversation(&mut self, row: &ConversationRow) -> ();
        fn turn(&mut self, id: TurnId) -> Option<TurnRow>;
        fn put_turn(&mut self, row: &TurnRow) -> ();
        fn open_turns_of(&mut self, id: &ConversationId) -> Vec<TurnId>;
        fn open_turns_in(&mut self, slug: &Slug) -> Vec<TurnId>;
        fn owned_by(&mut self, node: &str) -> Vec<TurnId>;
        fn open_turns(&mut self) -> u64;
        fn next_due(&mut self, provider: &ProviderId, now: Timestamp) -> Option<Timestamp>;
        fn streaming(&mut self, provider: &ProviderId) -> u32;
        fn put_release(&mut self, provider: &ProviderId, at: Timestamp) -> ();
        fn releases_after(&mut self, provider: &ProviderId, since: Timestamp) -> Vec<Timestamp>;
        fn next_waiter_seq(&mut self) -> u64;
        fn provider(&mut self, id: &ProviderId) -> Option<ProviderRow>;
        fn providers(&mut self) -> Vec<ProviderId>;
        fn put_provider(&mut self, row: &ProviderRow) -> ();
        fn replica(&mut self, node: &str) -> Option<ReplicaRow>;
        fn replicas(&mut self) -> Vec<ReplicaRow>;
        fn put_replica(&mut self, row: &ReplicaRow) -> ();
        fn stranded(&mut self, node: &str) -> Option<TurnId>;
        fn workspace(&mut self, slug: &Slug) -> Option<WorkspaceRow>;
        fn put_workspace(&mut self, row: &WorkspaceRow) -> ();
        fn key(&mut self, key: &str) -> Option<KeyRow>;
        fn put_key(&mut self, key: &str, row: &KeyRow) -> ();
        fn put_event(&mut self, event: &AgentEvent) -> ();
        fn terminal_event(&mut self, turn: TurnId) -> Option<AgentEvent>;
        fn start_seq(&mut self, turn: TurnId) -> Option<u64>;
        fn put_marker(&mut self, turn: TurnId) -> ();
        fn misfits(&mut self, limit: usize) -> Vec<TurnId>;
        fn put_item(&mut self, row: &ItemRow) -> ();
        fn items(&mut self, id: &ConversationId, up_to: u64) -> Transcript;
        fn put_call(&mut self, row: &CallRow) -> ();
        fn calls(&mut self, turn: TurnId, step: u32) -> Vec<CallRow>;
        fn put_segment(&mut self, segment: &Segment) -> ();
        fn segments(&mut self, turn: TurnId) -> Vec<Segment>;
        fn drop_segments(&mut self, turn: TurnId) -> ();
    }
}

fn found_out(mistake: Mistake) -> bool {
    let mut reached = Reached::new();
    (0..super::SEEDS).any(|seed| {
        let mut wrong = Wrong {
            model: Model::default(),
            mistake,
        };
        difference(seed, super::OPERATIONS, &mut wrong, &mut reached).is_some()
    })
}

#[test]
fn a_store_without_a_mistake_passes() {
    assert!(!found_out(Mistake::None));
}

#[test]
fn a_store_whose_markers_are_never_taken_is_found_out() {
    assert!(found_out(Mistake::MarkerIsNeverTaken));
}

#[test]
fn a_store_whose_line_ignores_the_sequence_number_is_found_out() {
    assert!(found_out(Mistake::LineIgnoresSequence));
}

#[test]
fn a_store_that_grants_before_the_due_time_is_found_out() {
    assert!(found_out(Mistake::LineIgnoresDueTime));
}

#[test]
fn a_store_whose_leases_lapse_late_is_found_out() {
    assert!(found_out(Mistake::LeaseLapsesLate));
}

#[test]
fn a_store_whose_line_shows_those_who_are_away_is_found_out() {
    assert!(found_out(Mistake::LineShowsTheAway));
}

#[test]
fn c7_a_store_whose_deliveries_overtake_each_other_is_found_out() {
    assert!(found_out(Mistake::OutboxIgnoresOrder));
}
