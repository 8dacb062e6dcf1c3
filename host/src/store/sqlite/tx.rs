//! [`Tx`] over one SQLite connection. Whoever makes one has begun the
//! transaction and ends it.

use std::sync::Arc;

use dispatch_core::admission::Head;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EndpointId, ProviderId, Seq, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, TurnRow, Tx,
    WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, EndpointRow};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use super::super::cells::{self, Cell, Fault, Value, at, count, flag, name, ordered, small, text};
use super::super::columns::Columns;
use super::super::dump::Tables;
use super::super::read::Reads;
use super::sql;

/// How long a slot's leaving is remembered: far beyond any cooldown.
const RELEASES_KEPT_MS: u64 = 3_600_000;

/// See the module's page.
pub(super) struct SqlTx<'c> {
    pub(super) conn: &'c Connection,
    pub(super) now: Timestamp,
    /// How many markers there are, once somebody has asked: counting them
    /// anew for every accepted turn would cost more than accepting it.
    pub(super) markers: Option<u64>,
}

impl ToSql for Cell<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Int(value) => ValueRef::Integer(*value),
            Cell::Name(text) | Cell::Text(text) => ValueRef::Text(text.as_bytes()),
            Cell::Turn(id) => ValueRef::Blob(id),
        }))
    }
}

impl cells::Row for rusqlite::Row<'_> {
    fn value(&self, n: usize) -> Result<Value<'_>, Fault> {
        Ok(match self.get_ref(n)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(value) => Value::Int(value),
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Value::Bytes(bytes),
            ValueRef::Real(_) => Value::Odd,
        })
    }

    fn column(&self, n: usize) -> String {
        self.as_ref().column_name(n).unwrap_or("?").to_owned()
    }
}

impl SqlTx<'_> {
    /// How many rows it touched.
    pub(super) fn write<'a>(
        &self,
        sql: &str,
        cells: impl IntoIterator<Item = Cell<'a>>,
    ) -> Result<usize, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        Ok(statement.execute(params_from_iter(cells))?)
    }

    pub(super) fn many<'a, T>(
        &self,
        sql: &str,
        cells: impl IntoIterator<Item = Cell<'a>>,
        read: impl Fn(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(cells))?;
        let mut all = Vec::new();
        while let Some(row) = rows.next()? {
            all.push(read(Columns::of(row))?);
        }
        Ok(all)
    }

    pub(super) fn one<'a, T>(
        &self,
        sql: &str,
        cells: impl IntoIterator<Item = Cell<'a>>,
        read: impl FnOnce(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Option<T>, Fault> {
        let mut statement = self.conn.prepare_cached(sql)?;
        let mut rows = statement.query(params_from_iter(cells))?;
        let row = rows.next()?;
        row.map(|row| read(Columns::of(row))).transpose()
    }

    pub(super) fn number<'a>(
        &self,
        sql: &str,
        cells: impl IntoIterator<Item = Cell<'a>>,
    ) -> Result<u64, Fault> {
        Ok(self.one(sql, cells, |mut row| row.ordered())?.unwrap_or(0))
    }

    /// Moves what has come due into the line of the due ones, some at a time.
    pub(super) fn notice_due(&self) -> Result<(), Fault> {
        const AT_ONCE: usize = 1_024;
        self.write(sql::NOTICE_DUE, [at(self.now), count(AT_ONCE)])?;
        Ok(())
    }
}

impl Tx for SqlTx<'_> {
    type Error = Fault;

    fn now(&self) -> Timestamp {
        self.now
    }

    fn conversation(&mut self, id: &ConversationId) -> Result<Option<ConversationRow>, Fault> {
        self.one(sql::CONVERSATION, [name(id.as_str())], |mut row| {
            row.conversation()
        })
    }

    fn put_conversation(&mut self, row: &ConversationRow) -> Result<(), Fault> {
        self.write(sql::PUT_CONVERSATION, cells::conversation(row))?;
        Ok(())
    }

    fn turn(&mut self, id: TurnId) -> Result<Option<TurnRow>, Fault> {
        self.one(sql::TURN, [cells::turn_id(id)], |mut row| row.turn())
    }

    fn put_turn(&mut self, row: &TurnRow) -> Result<(), Fault> {
        self.write(sql::PUT_TURN, cells::turn(row, self.now))?;
        Ok(())
    }

    fn open_turns_of(&mut self, id: &ConversationId) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OPEN_TURNS_OF, [name(id.as_str())], |mut row| {
            row.turn_id()
        })
    }

    fn open_turns_in(&mut self, slug: &Slug) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OPEN_TURNS_IN, [name(slug.as_str())], |mut row| {
            row.turn_id()
        })
    }

    fn owned_by(&mut self, node: &str) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::OWNED_BY, [name(node)], |mut row| row.turn_id())
    }

    fn lapsed(&mut self, now: Timestamp) -> Result<Option<TurnId>, Fault> {
        self.one(sql::LAPSED, [at(now)], |mut row| row.turn_id())
    }

    fn open_turns(&mut self) -> Result<u64, Fault> {
        if let Some(markers) = self.markers {
            return Ok(markers);
        }
        let markers = self.number(sql::COUNT_MARKERS, [])?;
        self.markers = Some(markers);
        Ok(markers)
    }

    fn waiters(
        &mut self,
        provider: &ProviderId,
        starred: bool,
        now: Timestamp,
        away: &[Arc<str>],
        limit: usize,
    ) -> Result<Vec<Head>, Fault> {
        let (provider, unstarred) = (name(provider.as_str()), flag(!starred));
        let (limited, away) = (count(limit), cells::names(away));
        let due = [
            provider.clone(),
            unstarred.clone(),
            limited.clone(),
            away.clone(),
        ];
        let newly_due = [provider, unstarred, at(now), limited, away];
        let mut heads = self.many(sql::WAITERS_DUE, due, |mut row| row.head())?;
        heads.extend(self.many(sql::WAITERS_NEWLY_DUE, newly_due, |mut row| row.head())?);
        heads.sort_by_key(|head| (head.key.started_at, head.key.seq));
        heads.truncate(limit);
        Ok(heads)
    }

    fn next_due(
        &mut self,
        provider: &ProviderId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        let cells = [name(provider.as_str()), at(now)];
        let due = self.one(sql::NEXT_DUE, cells, |mut row| row.opt_at())?;
        Ok(due.flatten())
    }

    fn streaming(&mut self, provider: &ProviderId) -> Result<u32, Fault> {
        let count = self.number(sql::STREAMING, [name(provider.as_str())])?;
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }

    fn put_release(&mut self, provider: &ProviderId, when: Timestamp) -> Result<(), Fault> {
        let provider = name(provider.as_str());
        let kept_from = at(when - RELEASES_KEPT_MS);
        self.write(sql::FORGET_RELEASES, [provider.clone(), kept_from])?;
        self.write(sql::PUT_RELEASE, [provider, at(when)])?;
        Ok(())
    }

    fn releases_after(
        &mut self,
        provider: &ProviderId,
        since: Timestamp,
    ) -> Result<Vec<Timestamp>, Fault> {
        let cells = [name(provider.as_str()), at(since)];
        self.many(sql::RELEASES_AFTER, cells, |mut row| row.at())
    }

    fn next_waiter_seq(&mut self) -> Result<u64, Fault> {
        self.number(sql::NEXT_WAITER_SEQ, [])
    }

    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Fault> {
        self.one(sql::PROVIDER, [name(id.as_str())], |mut row| row.provider())
    }

    fn providers(&mut self) -> Result<Vec<ProviderId>, Fault> {
        let rows = self.many(sql::PROVIDERS, [], |mut row| row.provider())?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Fault> {
        self.write(sql::PUT_PROVIDER, cells::provider(row))?;
        Ok(())
    }

    fn replica(&mut self, node: &str) -> Result<Option<ReplicaRow>, Fault> {
        self.one(sql::REPLICA, [name(node)], |mut row| row.replica())
    }

    fn replicas(&mut self) -> Result<Vec<ReplicaRow>, Fault> {
        self.many(sql::REPLICAS, [], |mut row| row.replica())
    }

    fn put_replica(&mut self, row: &ReplicaRow) -> Result<(), Fault> {
        self.write(sql::PUT_REPLICA, cells::replica(row))?;
        Ok(())
    }

    fn stranded(&mut self, node: &str) -> Result<Option<TurnId>, Fault> {
        self.one(sql::STRANDED, [name(node)], |mut row| row.turn_id())
    }

    fn workspace(&mut self, slug: &Slug) -> Result<Option<WorkspaceRow>, Fault> {
        self.one(sql::WORKSPACE, [name(slug.as_str())], |mut row| {
            row.workspace()
        })
    }

    fn put_workspace(&mut self, row: &WorkspaceRow) -> Result<(), Fault> {
        self.write(sql::PUT_WORKSPACE, cells::workspace(row))?;
        Ok(())
    }

    fn key(&mut self, key: &str) -> Result<Option<KeyRow>, Fault> {
        self.one(sql::KEY, [text(key)], |mut row| row.key_row())
    }

    fn put_key(&mut self, key: &str, row: &KeyRow) -> Result<(), Fault> {
        self.write(sql::PUT_KEY, cells::key(key, row))?;
        Ok(())
    }

    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Fault> {
        if let Some(cells) = cells::event(event) {
            self.write(sql::PUT_EVENT, cells)?;
        }
        Ok(())
    }

    fn terminal_event(&mut self, turn: TurnId) -> Result<Option<AgentEvent>, Fault> {
        self.one(sql::TERMINAL_EVENT, [cells::turn_id(turn)], |mut row| {
            row.event()
        })
    }

    fn start_seq(&mut self, turn: TurnId) -> Result<Option<u64>, Fault> {
        self.one(sql::START_SEQ, [cells::turn_id(turn)], |mut row| {
            row.ordered()
        })
    }

    fn put_marker(&mut self, turn: TurnId) -> Result<(), Fault> {
        let armed = self.write(sql::PUT_MARKER, [cells::turn_id(turn)])?;
        self.markers = self.markers.map(|n| n + armed as u64);
        Ok(())
    }

    fn take_marker(&mut self, turn: TurnId) -> Result<bool, Fault> {
        let taken = self.write(sql::TAKE_MARKER, [cells::turn_id(turn)])?;
        self.markers = self.markers.map(|n| n.saturating_sub(taken as u64));
        Ok(taken > 0)
    }

    fn misfits(&mut self, limit: usize) -> Result<Vec<TurnId>, Fault> {
        self.many(sql::MISFITS, [count(limit)], |mut row| row.turn_id())
    }

    fn put_item(&mut self, row: &ItemRow) -> Result<(), Fault> {
        self.write(sql::PUT_ITEM, cells::item(row)?)?;
        Ok(())
    }

    fn items(&mut self, id: &ConversationId, up_to: u64) -> Result<Vec<ItemRow>, Fault> {
        let cells = [name(id.as_str()), ordered(up_to)];
        self.many(sql::ITEMS, cells, |mut row| row.item())
    }

    fn put_call(&mut self, row: &CallRow) -> Result<(), Fault> {
        self.write(sql::PUT_CALL, cells::call(row))?;
        Ok(())
    }

    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Fault> {
        self.many(
            sql::CALLS,
            [cells::turn_id(turn), small(step)],
            |mut row| row.call(),
        )
    }

    fn put_segment(&mut self, segment: &Segment) -> Result<(), Fault> {
        self.write(sql::PUT_SEGMENT, cells::segment(segment))?;
        Ok(())
    }

    fn segments(&mut self, turn: TurnId) -> Result<Vec<Segment>, Fault> {
        self.many(sql::SEGMENTS, [cells::turn_id(turn)], |mut row| {
            row.segment()
        })
    }

    fn drop_segments(&mut self, turn: TurnId) -> Result<(), Fault> {
        self.write(sql::DROP_SEGMENTS, [cells::turn_id(turn)])?;
        Ok(())
    }

    fn endpoints(&mut self) -> Result<Vec<EndpointRow>, Fault> {
        self.many(sql::ENDPOINTS, [], |mut row| row.endpoint())
    }

    fn put_endpoint(&mut self, row: &EndpointRow) -> Result<(), Fault> {
        self.write(sql::PUT_ENDPOINT, cells::endpoint(row))?;
        Ok(())
    }

    fn drop_endpoint(&mut self, id: &EndpointId) -> Result<(), Fault> {
        self.write(sql::DROP_ENDPOINT, [name(id.as_str())])?;
        Ok(())
    }

    fn delivery(
        &mut self,
        endpoint: &EndpointId,
        turn: TurnId,
    ) -> Result<Option<DeliveryRow>, Fault> {
        let cells = [name(endpoint.as_str()), cells::turn_id(turn)];
        self.one(sql::DELIVERY, cells, |mut row| row.delivery())
    }

    fn put_delivery(&mut self, row: &DeliveryRow) -> Result<(), Fault> {
        self.write(sql::PUT_DELIVERY, cells::delivery(row))?;
        Ok(())
    }

    fn due_deliveries(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
        limit: usize,
    ) -> Result<Vec<DeliveryRow>, Fault> {
        let cells = [name(endpoint.as_str()), at(now), count(limit)];
        self.many(sql::DUE_DELIVERIES, cells, |mut row| row.delivery())
    }

    fn next_delivery_due(
        &mut self,
        endpoint: &EndpointId,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, Fault> {
        let cells = [name(endpoint.as_str()), at(now)];
        let due = self.one(sql::NEXT_DELIVERY_DUE, cells, |mut row| row.opt_at())?;
        Ok(due.flatten())
    }

    fn taken_deliveries(&mut self, node: &str) -> Result<Vec<DeliveryRow>, Fault> {
        self.many(sql::TAKEN_DELIVERIES, [name(node)], |mut row| {
            row.delivery()
        })
    }

    fn forget_deliveries(&mut self, now: Timestamp, limit: usize) -> Result<(), Fault> {
        self.write(sql::FORGET_DELIVERIES, [at(now), count(limit)])?;
        Ok(())
    }
}

impl Reads for SqlTx<'_> {
    fn events_after(
        &mut self,
        id: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> Result<Vec<AgentEvent>, Fault> {
        let cells = [name(id.as_str()), ordered(after), count(limit)];
        self.many(sql::EVENTS_AFTER, cells, |mut row| row.event_or_stand_in())
    }

    fn open_rows_of(&mut self, id: &ConversationId) -> Result<Vec<TurnRow>, Fault> {
        self.many(sql::OPEN_TURNS_VIEW, [name(id.as_str())], |mut row| {
            row.turn()
        })
    }

    fn provider_rows(&mut self) -> Result<Vec<ProviderRow>, Fault> {
        self.many(sql::PROVIDERS, [], |mut row| row.provider())
    }

    fn parked(&mut self, row: &ProviderRow) -> Result<u64, Fault> {
        self.number(sql::PARKED, [name(row.id.as_str())])
    }

    fn ahead(
        &mut self,
        row: &TurnRow,
        waiting: bool,
        unstarred: bool,
        before: [Cell<'static>; 2],
    ) -> Result<u64, Fault> {
        let [started_at, seq] = before;
        let provider = name(row.provider.as_str());
        let cells = [provider, flag(waiting), flag(unstarred), started_at, seq];
        self.number(sql::AHEAD, cells)
    }
}

impl Tables for SqlTx<'_> {
    fn all<T>(
        &mut self,
        select: &'static str,
        read: impl Fn(Columns<'_>) -> Result<T, Fault>,
    ) -> Result<Vec<T>, Fault> {
        self.many(select, [], read)
    }

    fn all_turns(&mut self) -> Result<Vec<TurnRow>, Fault> {
        self.many(sql::DUMP_TURNS, [], |mut row| row.turn())
    }
}
