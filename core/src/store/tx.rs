//! The primitives that a store supplies: rows by key, and a handful of ordered
//! look-ups. No primitive decides anything.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;

use super::rows::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, TurnRow,
    WorkspaceRow,
};
use super::verb::Unreadable;
use crate::admission::Head;
use crate::event::AgentEvent;
use crate::ids::{ConversationId, EndpointId, ProviderId, Slug, TurnId};
use crate::time::Timestamp;
use crate::webhook::{DeliveryRow, EndpointRow};

/// One open transaction. Reads see its own writes; whatever is read for a
/// decision stays locked until the end.
pub trait Tx {
    /// What can go wrong below.
    type Error;

    /// Store time: the same for the whole transaction.
    fn now(&self) -> Timestamp;

    /// These turns are about to be read, each with its conversation: where
    /// reading takes a lock, take them together, by id, so that two verbs
    /// that touch several turns cannot wait for each other.
    ///
    /// # Errors
    /// Whatever reading them may say.
    fn foresee(&mut self, turns: &[TurnId]) -> Result<(), Self::Error> {
        let _ = turns;
        Ok(())
    }

    /// A conversation.
    fn conversation(&mut self, id: &ConversationId)
    -> Result<Option<ConversationRow>, Self::Error>;
    /// Inserts or replaces a conversation.
    fn put_conversation(&mut self, row: &ConversationRow) -> Result<(), Self::Error>;

    /// A turn.
    fn turn(&mut self, id: TurnId) -> Result<Option<TurnRow>, Self::Error>;
    /// Inserts or replaces a turn.
    fn put_turn(&mut self, row: &TurnRow) -> Result<(), Self::Error>;
    /// A conversation's turns without a terminal event, by ordinal.
    fn open_turns_of(&mut self, id: &ConversationId) -> Result<Vec<TurnId>, Self::Error>;
    /// A workspace's turns without a terminal event, by id.
    fn open_turns_in(&mut self, slug: &Slug) -> Result<Vec<TurnId>, Self::Error>;
    /// Owned turns (`streaming`, `tools`) of a node, by id.
    fn owned_by(&mut self, node: &str) -> Result<Vec<TurnId>, Self::Error>;
    /// Some owned turn whose lease ended before `now`.
    fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Self::Error>;
    /// How many turns have no terminal event: how many markers there are.
    fn open_turns(&mut self) -> Result<u64, Self::Error>;

    /// Parked turns of a provider, starred or not, due by `now`; by
    /// [`WaiterKey`](crate::admission::WaiterKey), `limit` at most. The head's
    /// epoch is its conversation's. Those bound to one of `away` are left out.
    fn waiters(
        &mut self,
        provider: &ProviderId,
        starred: bool,
        now: Timestamp,
        away: &[Arc<str>],
        limit: usize,
    ) -> Result<Vec<Head>, Self::Error>;
    /// The earliest due time after `now` among a provider's parked turns.
    fn next_due(
        &mut self,
        provider: &ProviderId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Self::Error>;
    /// How many turns of a provider are `streaming`.
    fn streaming(&mut self, provider: &ProviderId) -> Result<u32, Self::Error>;
    /// Notes that a slot was left; notes older than an hour may be forgotten.
    fn put_release(&mut self, provider: &ProviderId, at: Timestamp) -> Result<(), Self::Error>;
    /// When slots were left after `since`, each one, oldest first.
    fn releases_after(
        &mut self,
        provider: &ProviderId,
        since: Timestamp,
    ) -> Result<Vec<Timestamp>, Self::Error>;
    /// The next number of a store-wide, strictly rising sequence.
    fn next_waiter_seq(&mut self) -> Result<u64, Self::Error>;

    /// A provider's row.
    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Self::Error>;
    /// Every provider that ever had a row, by id.
    fn providers(&mut self) -> Result<Vec<ProviderId>, Self::Error>;
    /// Inserts or replaces a provider's row.
    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Self::Error>;

    /// A replica's row.
    fn replica(&mut self, node: &str) -> Result<Option<ReplicaRow>, Self::Error>;
    /// Every replica that ever had a row, by node.
    fn replicas(&mut self) -> Result<Vec<ReplicaRow>, Self::Error>;
    /// Inserts or replaces a replica's row.
    fn put_replica(&mut self, row: &ReplicaRow) -> Result<(), Self::Error>;
    /// The parked turn with the lowest id that is bound to a node.
    fn stranded(&mut self, node: &str) -> Result<Option<TurnId>, Self::Error>;

    /// A workspace.
    fn workspace(&mut self, slug: &Slug) -> Result<Option<WorkspaceRow>, Self::Error>;
    /// Inserts or replaces a workspace.
    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), Self::Error>;

    /// What an idempotency key stands for.
    fn key(&mut self, key: &str) -> Result<Option<KeyRow>, Self::Error>;
    /// Remembers an idempotency key.
    fn put_key(&mut self, key: &str, row: &KeyRow) -> Result<(), Self::Error>;

    /// Appends a logged event; its `seq` is set and unused.
    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Self::Error>;
    /// A turn's terminal event.
    fn terminal_event(&mut self, turn: TurnId) -> Result<Option<AgentEvent>, Self::Error>;
    /// The sequence number of a turn's `turn-start`.
    fn start_seq(&mut self, turn: TurnId) -> Result<Option<u64>, Self::Error>;

    /// Arms the marker of a turn (L1).
    fn put_marker(&mut self, turn: TurnId) -> Result<(), Self::Error>;
    /// Deletes the marker; `false` when there was none: the election is lost.
    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Self::Error>;

    /// Turns without a terminal event and without a marker, and markers of turns
    /// that have one or are not known; by id, `limit` at most.
    fn misfits(&mut self, limit: usize) -> Result<Vec<TurnId>, Self::Error>;

    /// Appends an item to a transcript.
    fn put_item(&mut self, row: &ItemRow) -> Result<(), Self::Error>;
    /// A transcript up to and including the turn of that ordinal, by ordinal, then `n`.
    /// A payload that cannot be read back is no failure: asking again would not help.
    fn items(&mut self, id: &ConversationId, up_to: u64) -> Result<Transcript, Self::Error>;

    /// Inserts or replaces a tool call.
    fn put_call(&mut self, row: &CallRow) -> Result<(), Self::Error>;
    /// A turn's tool calls of one step, by `n`.
    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Self::Error>;

    /// Appends a segment of an open step.
    fn put_segment(&mut self, segment: &Segment) -> Result<(), Self::Error>;
    /// A turn's segments, in order of arrival.
    fn segments(&mut self, turn: TurnId) -> Result<Vec<Segment>, Self::Error>;
    /// Forgets them.
    fn drop_segments(&mut self, turn: TurnId) -> Result<(), Self::Error>;

    /// Every endpoint that is told of terminal events, by id (C7).
    fn endpoints(&mut self) -> Result<Vec<EndpointRow>, Self::Error>;
    /// Inserts or replaces an endpoint.
    fn put_endpoint(&mut self, row: &EndpointRow) -> Result<(), Self::Error>;
    /// Forgets an endpoint, not its deliveries.
    fn drop_endpoint(&mut self, id: &EndpointId) -> Result<(), Self::Error>;

    /// A delivery.
    fn delivery(
        &mut self,
        endpoint: &EndpointId,
        turn: TurnId,
    ) -> Result<Option<DeliveryRow>, Self::Error>;
    /// Inserts or replaces a delivery.
    fn put_delivery(&mut self, row: &DeliveryRow) -> Result<(), Self::Error>;
    /// An endpoint's pending deliveries that are due by `now`, without those
    /// that an earlier one of the same conversation
    /// [holds up](DeliveryRow::holds); by due time, conversation and sequence
    /// number, `limit` at most.
    fn due_deliveries(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, Self::Error>;
    /// The earliest due time after `now` among an endpoint's pending deliveries.
    fn next_delivery_due(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Self::Error>;
    /// Pending deliveries that some life of a node has taken, by endpoint and turn.
    fn taken_deliveries(&mut self, node: &str) -> Result<Vec<DeliveryRow>, Self::Error>;
    /// Forgets rows whose time has come by `now`; by that time, endpoint and
    /// turn, `limit` at most.
    fn forget_deliveries(&mut self, now: Timestamp, limit: usize) -> Result<(), Self::Error>;
}

/// What a transcript holds, or what of it cannot be read back.
pub type Transcript = Result<Vec<ItemRow>, Unreadable>;

/// The title of a conversation that was not given one: its first message's
/// beginning, on one line (C2).
pub(crate) fn title_of(message: &str) -> String {
    let line: String = message
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.trim().chars().take(80).collect()
}
