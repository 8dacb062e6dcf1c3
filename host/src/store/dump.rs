//! Everything that a store holds, as values: what conformance tests compare.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, ProviderId, Seq, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, Segment, TurnRow, WorkspaceRow,
};
use dispatch_core::time::Timestamp;

use super::columns::{Columns, Fault};
use super::sql;
use super::tx::SqlTx;

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
}

pub(super) fn dump(tx: &mut SqlTx<'_>) -> Result<Dump, Fault> {
    let mut dump = Dump::default();
    for row in tx.many(
        "SELECT id, workspace, title, created_at, last_activity_at, provider, model, \
        cwd, last_seq, turn, epoch, next_ordinal FROM conversations",
        [],
        |row| Columns::of(row).conversation(),
    )? {
        dump.conversations.insert(row.id.clone(), row);
    }
    for row in tx.many(sql::DUMP_TURNS, [], |row| Columns::of(row).turn())? {
        dump.turns.insert(row.turn, row);
    }
    for row in tx.many(
        "SELECT slug, title, starred, cwd, created_at FROM workspaces",
        [],
        |row| Columns::of(row).workspace(),
    )? {
        dump.workspaces.insert(row.slug.clone(), row);
    }
    for row in tx.many(sql::PROVIDERS, [], |row| Columns::of(row).provider())? {
        dump.providers.insert(row.id.clone(), row);
    }
    dump.keys
        .extend(tx.many("SELECT key, digest, turn FROM keys", [], |row| {
            let mut columns = Columns::of(row);
            Ok((columns.text()?, columns.key_row()?))
        })?);
    for event in tx.many("SELECT json, conversation, seq FROM events", [], |row| {
        Columns::of(row).event()
    })? {
        let seq = event.seq.unwrap_or(0);
        dump.events.insert((event.conversation.clone(), seq), event);
    }
    dump.markers
        .extend(tx.many("SELECT turn FROM markers", [], |row| {
            Columns::of(row).turn_id()
        })?);
    for row in tx.many(
        "SELECT conversation, ordinal, n, turn, item FROM items",
        [],
        |row| Columns::of(row).item(),
    )? {
        dump.items
            .insert((row.conversation.clone(), row.ordinal, row.n), row);
    }
    for row in tx.many(
        "SELECT turn, step, n, call_id, name, input, state, started_epoch FROM calls",
        [],
        |row| Columns::of(row).call(),
    )? {
        dump.calls.insert((row.turn, row.step, row.n), row);
    }
    for segment in tx.many(
        "SELECT turn, epoch, step, text_offset, text, reasoning_offset, reasoning \
        FROM segments ORDER BY n",
        [],
        |row| Columns::of(row).segment(),
    )? {
        dump.segments.entry(segment.turn).or_default().push(segment);
    }
    for (provider, at) in tx.many("SELECT provider, at FROM releases ORDER BY at", [], |row| {
        let mut columns = Columns::of(row);
        Ok((columns.id()?, columns.at()?))
    })? {
        dump.releases.entry(provider).or_default().push(at);
    }
    Ok(dump)
}
