//! Everything that a store holds, as values: what conformance tests compare.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EndpointId, ProviderId, Seq, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, TurnRow,
    WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, EndpointRow};

use super::cells::Fault;
use super::columns::Columns;

/// The tables, keyed as `dispatch_core::store::Model` keys them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dump {
    /// Every conversation.
    pub conversations: BTreeMap<ConversationId, ConversationRow>,
    /// Every turn.
    pub turns: BTreeMap<TurnId, TurnRow>,
    /// Every workspace.
    pub workspaces: BTreeMap<Slug, WorkspaceRow>,
    /// Every provider.
    pub providers: BTreeMap<ProviderId, ProviderRow>,
    /// Every replica.
    pub replicas: BTreeMap<Arc<str>, ReplicaRow>,
    /// Idempotency keys.
    pub keys: BTreeMap<String, KeyRow>,
    /// The log.
    pub events: BTreeMap<(ConversationId, Seq), AgentEvent>,
    /// Armed markers.
    pub markers: BTreeSet<TurnId>,
    /// Transcripts, by conversation, ordinal, place.
    pub items: BTreeMap<(ConversationId, u64, u32), ItemRow>,
    /// Tool calls, by turn, step, place.
    pub calls: BTreeMap<(TurnId, u32, u32), CallRow>,
    /// Content of open steps, in order of arrival.
    pub segments: BTreeMap<TurnId, Vec<Segment>>,
    /// When slots were left, oldest first.
    pub releases: BTreeMap<ProviderId, Vec<Timestamp>>,
    /// Who is told of terminal events.
    pub endpoints: BTreeMap<EndpointId, EndpointRow>,
    /// What they are to be told, and were not long ago.
    pub outbox: BTreeMap<(EndpointId, TurnId), DeliveryRow>,
}

/// Reads whole tables: for comparisons and inspection only.
pub(super) trait Tables {
    /// Every row that the statement names, in its order.
    fn all<T>(
        &mut self,
        select: &'static str,
        read: impl Fn(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault>;
    /// Every turn.
    fn all_turns(&mut self) -> Result<Vec<TurnRow>, Fault>;
}

pub(super) fn dump(tables: &mut impl Tables) -> Result<Dump, Fault> {
    let mut dump = Dump::default();
    let select = "SELECT id, workspace, title, created_at, last_activity_at, provider, model, \
        cwd, last_seq, turn, epoch, next_ordinal, computer FROM conversations";
    for row in tables.all(select, |mut row| row.conversation())? {
        dump.conversations.insert(row.id.clone(), row);
    }
    for row in tables.all_turns()? {
        dump.turns.insert(row.turn, row);
    }
    let select = "SELECT slug, title, starred, cwd, created_at, computer FROM workspaces";
    for row in tables.all(select, |mut row| row.workspace())? {
        dump.workspaces.insert(row.slug.clone(), row);
    }
    let select = "SELECT id, version, stream_limit, configured_limit, cooldown_ms, fair \
        FROM providers";
    for row in tables.all(select, |mut row| row.provider())? {
        dump.providers.insert(row.id.clone(), row);
    }
    let select = "SELECT node, boot, incarnation, version, started_at, seen_at, serving, life \
        FROM replicas";
    for row in tables.all(select, |mut row| row.replica())? {
        dump.replicas.insert(row.owner.node.clone(), row);
    }
    let keys = tables.all("SELECT key, digest, turn FROM keys", |mut row| {
        Ok((row.text()?, row.key_row()?))
    })?;
    dump.keys.extend(keys);
    let select = "SELECT json, conversation, seq FROM events";
    for event in tables.all(select, |mut row| row.event())? {
        let seq = event.seq.unwrap_or(0);
        dump.events.insert((event.conversation.clone(), seq), event);
    }
    let markers = tables.all("SELECT turn FROM markers", |mut row| row.turn_id())?;
    dump.markers.extend(markers);
    let select = "SELECT conversation, ordinal, n, turn, item FROM items";
    for row in tables.all(select, |mut row| row.item())? {
        let place = (row.conversation.clone(), row.ordinal, row.n);
        dump.items.insert(place, row);
    }
    let select = "SELECT turn, step, n, call_id, name, input, state, started_epoch FROM calls";
    for row in tables.all(select, |mut row| row.call())? {
        dump.calls.insert((row.turn, row.step, row.n), row);
    }
    let select = "SELECT turn, epoch, step, text_offset, text, reasoning_offset, reasoning \
        FROM segments ORDER BY n";
    for segment in tables.all(select, |mut row| row.segment())? {
        dump.segments.entry(segment.turn).or_default().push(segment);
    }
    let select = "SELECT provider, at FROM releases ORDER BY at";
    for (provider, at) in tables.all(select, |mut row| Ok((row.id()?, row.at()?)))? {
        dump.releases.entry(provider).or_default().push(at);
    }
    let select = "SELECT id, wanted FROM endpoints";
    for row in tables.all(select, |mut row| row.endpoint())? {
        dump.endpoints.insert(row.id.clone(), row);
    }
    let select = "SELECT endpoint, turn, conversation, seq, tries, state, owner_node, owner_boot, \
        owner_incarnation, due_at, forget_at FROM outbox";
    for row in tables.all(select, |mut row| row.delivery())? {
        let key = (row.delivery.endpoint.clone(), row.delivery.turn);
        dump.outbox.insert(key, row);
    }
    Ok(dump)
}
