//! The [`Model`]: a store of maps. It is the executable specification that
//! real stores are compared with, and the store of the simulations.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::convert::Infallible;

use super::rows::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, TurnRow,
    TurnState, WorkspaceRow,
};
use super::tx::{Transcript, Tx};
use super::verb::{Reply, Unreadable, Verb};
use crate::admission::{Head, WaiterKey};
use crate::event::{AgentEvent, EventBody};
use crate::ids::{ConversationId, EndpointId, ProviderId, Seq, Slug, TurnId};
use crate::time::Timestamp;
use crate::webhook::{DeliveryRow, DeliveryState, EndpointRow};

/// See the module's page. Fields are open to oracles, which read and never write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Model {
    /// Store time; moved by the caller.
    pub now: Timestamp,
    /// Every conversation.
    pub conversations: BTreeMap<ConversationId, ConversationRow>,
    /// Every turn.
    pub turns: BTreeMap<TurnId, TurnRow>,
    /// Every workspace.
    pub workspaces: BTreeMap<Slug, WorkspaceRow>,
    /// Every provider.
    pub providers: BTreeMap<ProviderId, ProviderRow>,
    /// Replicas, by node.
    pub replicas: BTreeMap<Arc<str>, ReplicaRow>,
    /// Idempotency keys.
    pub keys: BTreeMap<String, KeyRow>,
    /// The log, by conversation and sequence number.
    pub events: BTreeMap<(ConversationId, Seq), AgentEvent>,
    /// Armed markers.
    pub markers: BTreeSet<TurnId>,
    /// Transcripts, by conversation, ordinal, place.
    pub items: BTreeMap<(ConversationId, u64, u32), ItemRow>,
    /// Conversations whose transcripts cannot be read back; set by the caller.
    pub rotten: BTreeSet<ConversationId>,
    /// Tool calls.
    pub calls: BTreeMap<(TurnId, u32, u32), CallRow>,
    /// Content of open steps.
    pub segments: BTreeMap<TurnId, Vec<Segment>>,
    /// When slots were left.
    pub releases: BTreeMap<ProviderId, Vec<Timestamp>>,
    /// Who is told of terminal events.
    pub endpoints: BTreeMap<EndpointId, EndpointRow>,
    /// What they are to be told, and were not long ago.
    pub outbox: BTreeMap<(EndpointId, TurnId), DeliveryRow>,
    waiter_seq: u64,
    line: BTreeMap<ProviderId, BTreeSet<(WaiterKey, TurnId)>>,
    open: BTreeMap<ConversationId, BTreeSet<(u64, TurnId)>>,
    owned: BTreeSet<TurnId>,
    terminals: BTreeMap<TurnId, Seq>,
    starts: BTreeMap<TurnId, Seq>,
}

impl Model {
    /// Runs one verb as one transaction.
    pub fn apply(&mut self, verb: &Verb) -> Reply {
        match super::apply(self, verb) {
            Ok(reply) => reply,
            Err(never) => match never {},
        }
    }

    /// A conversation's log after `after`.
    pub fn log_after(&self, id: &ConversationId, after: Seq) -> impl Iterator<Item = &AgentEvent> {
        let id = id.clone();
        self.events
            .range((id.clone(), after + 1)..)
            .take_while(move |((conversation, _), _)| *conversation == id)
            .map(|(_, event)| event)
    }

    fn unlist(&mut self, turn: TurnId) {
        let Some(old) = self.turns.get(&turn) else {
            return;
        };
        if let Some(line) = self.line.get_mut(&old.provider) {
            line.remove(&(old.key, turn));
        }
        if let Some(open) = self.open.get_mut(&old.conversation) {
            open.remove(&(old.ordinal, turn));
        }
        self.owned.remove(&turn);
    }

    fn list(&mut self, row: &TurnRow) {
        if row.state == TurnState::Parked {
            self.line
                .entry(row.provider.clone())
                .or_default()
                .insert((row.key, row.turn));
        }
        if row.state.is_owned() {
            self.owned.insert(row.turn);
        }
        if row.state != TurnState::Ended {
            self.open
                .entry(row.conversation.clone())
                .or_default()
                .insert((row.ordinal, row.turn));
        }
    }

    fn pending<'a>(&'a self, endpoint: &EndpointId) -> impl Iterator<Item = &'a DeliveryRow> {
        self.outbox
            .range((endpoint.clone(), TurnId(0))..=(endpoint.clone(), TurnId(u128::MAX)))
            .map(|(_, row)| row)
            .filter(|row| row.state == DeliveryState::Pending)
    }

    fn parked<'a>(&'a self, provider: &ProviderId) -> impl Iterator<Item = &'a TurnRow> + use<'a> {
        self.line
            .get(provider)
            .into_iter()
            .flatten()
            .filter_map(|(_, turn)| self.turns.get(turn))
    }
}

impl Tx for Model {
    type Error = Infallible;

    fn now(&self) -> Timestamp {
        self.now
    }

    fn conversation(&mut self, id: &ConversationId) -> Result<Option<ConversationRow>, Infallible> {
        Ok(self.conversations.get(id).cloned())
    }
    fn put_conversation(&mut self, row: &ConversationRow) -> Result<(), Infallible> {
        self.conversations.insert(row.id.clone(), row.clone());
        Ok(())
    }

    fn turn(&mut self, id: TurnId) -> Result<Option<TurnRow>, Infallible> {
        Ok(self.turns.get(&id).cloned())
    }
    fn put_turn(&mut self, row: &TurnRow) -> Result<(), Infallible> {
        self.unlist(row.turn);
        self.list(row);
        self.turns.insert(row.turn, row.clone());
        Ok(())
    }
    fn open_turns_of(&mut self, id: &ConversationId) -> Result<Vec<TurnId>, Infallible> {
        Ok(self
            .open
            .get(id)
            .into_iter()
            .flatten()
            .map(|(_, turn)| *turn)
            .collect())
    }
    fn open_turns_in(&mut self, slug: &Slug) -> Result<Vec<TurnId>, Infallible> {
        let mut turns = Vec::new();
        for (id, open) in &self.open {
            if self
                .conversations
                .get(id)
                .is_some_and(|c| c.workspace == *slug)
            {
                turns.extend(open.iter().map(|(_, turn)| *turn));
            }
        }
        turns.sort();
        Ok(turns)
    }
    fn owned_by(&mut self, node: &str) -> Result<Vec<TurnId>, Infallible> {
        let ours = |turn: &&TurnId| {
            let owner = self.turns.get(*turn).and_then(|row| row.owner.as_ref());
            owner.is_some_and(|owner| *owner.node == *node)
        };
        Ok(self.owned.iter().filter(ours).copied().collect())
    }
    fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Infallible> {
        let lapsed = |turn: &&TurnId| {
            self.turns
                .get(*turn)
                .is_some_and(|row| row.lease_until < now)
        };
        Ok(self.owned.iter().find(lapsed).copied())
    }
    fn open_turns(&mut self) -> Result<u64, Infallible> {
        Ok(self.markers.len() as u64)
    }

    fn waiters(
        &mut self,
        provider: &ProviderId,
        starred: bool,
        now: Timestamp,
        away: &[Arc<str>],
        limit: usize,
    ) -> Result<Vec<Head>, Infallible> {
        let is_here = |row: &&TurnRow| !row.bound.as_ref().is_some_and(|node| away.contains(node));
        let due = self
            .parked(provider)
            .filter(|row| row.key.unstarred != starred && row.due_at <= now)
            .filter(is_here);
        Ok(due
            .filter_map(|row| {
                let conversation = self.conversations.get(&row.conversation)?;
                Some(Head {
                    turn: row.turn,
                    key: row.key,
                    epoch: conversation.epoch,
                    bound: row.bound.clone(),
                })
            })
            .take(limit)
            .collect())
    }
    fn next_due(
        &mut self,
        provider: &ProviderId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Infallible> {
        Ok(self
            .parked(provider)
            .map(|row| row.due_at)
            .filter(|due| *due > now)
            .min())
    }
    fn streaming(&mut self, provider: &ProviderId) -> Result<u32, Infallible> {
        let holds = |turn: &&TurnId| {
            self.turns
                .get(*turn)
                .is_some_and(|row| row.state == TurnState::Streaming && row.provider == *provider)
        };
        Ok(u32::try_from(self.owned.iter().filter(holds).count()).unwrap_or(u32::MAX))
    }
    fn put_release(&mut self, provider: &ProviderId, at: Timestamp) -> Result<(), Infallible> {
        const AN_HOUR_MS: u64 = 3_600_000;
        let releases = self.releases.entry(provider.clone()).or_default();
        let stale = releases.partition_point(|old| *old < at - AN_HOUR_MS);
        releases.drain(..stale);
        releases.push(at);
        Ok(())
    }
    fn releases_after(
        &mut self,
        provider: &ProviderId,
        since: Timestamp,
    ) -> Result<Vec<Timestamp>, Infallible> {
        let releases = self.releases.get(provider).into_iter().flatten();
        Ok(releases.copied().filter(|at| *at > since).collect())
    }
    fn next_waiter_seq(&mut self) -> Result<u64, Infallible> {
        self.waiter_seq += 1;
        Ok(self.waiter_seq)
    }

    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Infallible> {
        Ok(self.providers.get(id).cloned())
    }
    fn providers(&mut self) -> Result<Vec<ProviderId>, Infallible> {
        Ok(self.providers.keys().cloned().collect())
    }
    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Infallible> {
        self.providers.insert(row.id.clone(), row.clone());
        Ok(())
    }

    fn replica(&mut self, node: &str) -> Result<Option<ReplicaRow>, Infallible> {
        Ok(self.replicas.get(node).cloned())
    }
    fn replicas(&mut self) -> Result<Vec<ReplicaRow>, Infallible> {
        Ok(self.replicas.values().cloned().collect())
    }
    fn put_replica(&mut self, row: &ReplicaRow) -> Result<(), Infallible> {
        self.replicas.insert(row.owner.node.clone(), row.clone());
        Ok(())
    }
    fn stranded(&mut self, node: &str) -> Result<Option<TurnId>, Infallible> {
        let parked = self.line.values().flatten().map(|(_, turn)| turn);
        let is_bound = |turn: &&TurnId| {
            let row = self.turns.get(turn);
            row.is_some_and(|row| row.bound.as_deref() == Some(node))
        };
        Ok(parked.filter(is_bound).min().copied())
    }

    fn workspace(&mut self, slug: &Slug) -> Result<Option<WorkspaceRow>, Infallible> {
        Ok(self.workspaces.get(slug).cloned())
    }
    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), Infallible> {
        self.workspaces.insert(row.slug.clone(), row.clone());
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyRow>, Infallible> {
        Ok(self.keys.get(key).cloned())
    }
    fn put_key(&mut self, key: &str, row: &KeyRow) -> Result<(), Infallible> {
        self.keys.insert(key.to_string(), row.clone());
        Ok(())
    }

    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Infallible> {
        let Some(seq) = event.seq else { return Ok(()) };
        if event.is_terminal() {
            self.terminals.insert(event.turn, seq);
        }
        if let EventBody::TurnStart { .. } = event.body {
            self.starts.insert(event.turn, seq);
        }
        self.events
            .insert((event.conversation.clone(), seq), event.clone());
        Ok(())
    }
    fn terminal_event(&mut self, turn: TurnId) -> Result<Option<AgentEvent>, Infallible> {
        let (Some(row), Some(seq)) = (self.turns.get(&turn), self.terminals.get(&turn)) else {
            return Ok(None);
        };
        Ok(self.events.get(&(row.conversation.clone(), *seq)).cloned())
    }
    fn start_seq(&mut self, turn: TurnId) -> Result<Option<u64>, Infallible> {
        Ok(self.starts.get(&turn).copied())
    }

    fn put_marker(&mut self, turn: TurnId) -> Result<(), Infallible> {
        self.markers.insert(turn);
        Ok(())
    }
    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Infallible> {
        Ok(self.markers.remove(&turn))
    }

    fn misfits(&mut self, limit: usize) -> Result<Vec<TurnId>, Infallible> {
        let open = self
            .turns
            .values()
            .filter(|row| row.state != TurnState::Ended);
        let open: BTreeSet<TurnId> = open.map(|row| row.turn).collect();
        let misfits = open.symmetric_difference(&self.markers);
        Ok(misfits.copied().take(limit).collect())
    }

    fn put_item(&mut self, row: &ItemRow) -> Result<(), Infallible> {
        self.items
            .insert((row.conversation.clone(), row.ordinal, row.n), row.clone());
        Ok(())
    }
    fn items(&mut self, id: &ConversationId, up_to: u64) -> Result<Transcript, Infallible> {
        if self.rotten.contains(id) {
            return Ok(Err(Unreadable("an item has rotted".to_string())));
        }
        let range = (id.clone(), 0, 0)..=(id.clone(), up_to, u32::MAX);
        let rows = self.items.range(range).map(|(_, row)| row.clone());
        Ok(Ok(rows.collect()))
    }

    fn put_call(&mut self, row: &CallRow) -> Result<(), Infallible> {
        self.calls.insert((row.turn, row.step, row.n), row.clone());
        Ok(())
    }
    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Infallible> {
        let range = (turn, step, 0)..=(turn, step, u32::MAX);
        Ok(self
            .calls
            .range(range)
            .map(|(_, row)| row.clone())
            .collect())
    }

    fn put_segment(&mut self, segment: &Segment) -> Result<(), Infallible> {
        self.segments
            .entry(segment.turn)
            .or_default()
            .push(segment.clone());
        Ok(())
    }
    fn segments(&mut self, turn: TurnId) -> Result<Vec<Segment>, Infallible> {
        Ok(self.segments.get(&turn).cloned().unwrap_or_default())
    }
    fn drop_segments(&mut self, turn: TurnId) -> Result<(), Infallible> {
        self.segments.remove(&turn);
        Ok(())
    }

    fn endpoints(&mut self) -> Result<Vec<EndpointRow>, Infallible> {
        Ok(self.endpoints.values().cloned().collect())
    }
    fn put_endpoint(&mut self, row: &EndpointRow) -> Result<(), Infallible> {
        self.endpoints.insert(row.id.clone(), row.clone());
        Ok(())
    }
    fn drop_endpoint(&mut self, id: &EndpointId) -> Result<(), Infallible> {
        self.endpoints.remove(id);
        Ok(())
    }

    fn delivery(
        &mut self,
        endpoint: &EndpointId,
        turn: TurnId,
    ) -> Result<Option<DeliveryRow>, Infallible> {
        Ok(self.outbox.get(&(endpoint.clone(), turn)).cloned())
    }
    fn put_delivery(&mut self, row: &DeliveryRow) -> Result<(), Infallible> {
        let key = (row.delivery.endpoint.clone(), row.delivery.turn);
        self.outbox.insert(key, row.clone());
        Ok(())
    }
    fn due_deliveries(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, Infallible> {
        let is_held_up = |row: &DeliveryRow| {
            self.pending(endpoint).any(|other| {
                other.holds()
                    && other.delivery.conversation == row.delivery.conversation
                    && other.delivery.seq < row.delivery.seq
            })
        };
        let due = self.pending(endpoint).filter(|row| row.due_at <= now);
        let mut due: Vec<&DeliveryRow> = due.filter(|row| !is_held_up(row)).collect();
        due.sort_by_key(|row| (row.due_at, &row.delivery.conversation, row.delivery.seq));
        Ok(due.into_iter().take(limit).cloned().collect())
    }
    fn next_delivery_due(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Infallible> {
        let due = self.pending(endpoint).map(|row| row.due_at);
        Ok(due.filter(|due| *due > now).min())
    }
    fn taken_deliveries(&mut self, node: &str) -> Result<Vec<DeliveryRow>, Infallible> {
        let taken = |row: &&DeliveryRow| {
            row.state == DeliveryState::Pending
                && row.owner.as_ref().is_some_and(|owner| *owner.node == *node)
        };
        Ok(self.outbox.values().filter(taken).cloned().collect())
    }
    fn forget_deliveries(&mut self, now: Timestamp, limit: usize) -> Result<(), Infallible> {
        let old = self.outbox.iter().filter(|(_, row)| row.forget_at <= now);
        let mut old: Vec<_> = old.map(|(key, row)| (row.forget_at, key.clone())).collect();
        old.sort();
        for (_, key) in old.into_iter().take(limit) {
            self.outbox.remove(&key);
        }
        Ok(())
    }
}
