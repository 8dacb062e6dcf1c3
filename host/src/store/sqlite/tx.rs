//! [`Tx`] over one SQLite connection. Whoever makes one has begun the
//! transaction and ends it.

use std::sync::Arc;

use dispatch_core::admission::Head;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EndpointId, ProviderId, Seq, Slug, TurnId};
use dispatch_core::store::{
    CallRow, ConversationRow, ItemRow, KeyRow, ProviderRow, ReplicaRow, Segment, Transcript,
    TurnRow, Tx, Unreadable, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{DeliveryRow, EndpointRow};
use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ToSql, params_from_iter};

use super::super::alike::{reads_alike, rows_alike};
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

    rows_alike!();

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

    fn open_turns(&mut self) -> Result<u64, Fault> {
        if let Some(markers) = self.markers {
            return Ok(markers);
        }
        let markers = self.number(sql::COUNT_MARKERS, [])?;
        self.markers = Some(markers);
        Ok(markers)
    }

    fn put_release(&mut self, provider: &ProviderId, when: Timestamp) -> Result<(), Fault> {
        let provider = name(provider.as_str());
        let kept_from = at(when - RELEASES_KEPT_MS);
        self.write(sql::FORGET_RELEASES, [provider.clone(), kept_from])?;
        self.write(sql::PUT_RELEASE, [provider, at(when)])?;
        Ok(())
    }

    fn provider(&mut self, id: &ProviderId) -> Result<Option<ProviderRow>, Fault> {
        self.one(sql::PROVIDER, [name(id.as_str())], |mut row| row.provider())
    }

    fn put_provider(&mut self, row: &ProviderRow) -> Result<(), Fault> {
        self.write(sql::PUT_PROVIDER, cells::provider(row))?;
        Ok(())
    }

    fn put_replica(&mut self, row: &ReplicaRow) -> Result<(), Fault> {
        self.write(sql::PUT_REPLICA, cells::replica(row))?;
        Ok(())
    }

    fn replica(&mut self, node: &str) -> Result<Option<ReplicaRow>, Fault> {
        self.one(sql::REPLICA, [name(node)], |mut row| row.replica())
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

    fn put_event(&mut self, event: &AgentEvent) -> Result<(), Fault> {
        if let Some(cells) = cells::event(event) {
            self.write(sql::PUT_EVENT, cells)?;
        }
        Ok(())
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

    fn calls(&mut self, turn: TurnId, step: u32) -> Result<Vec<CallRow>, Fault> {
        self.many(
            sql::CALLS,
            [cells::turn_id(turn), small(step)],
            |mut row| row.call(),
        )
    }

    fn delivery(
        &mut self,
        endpoint: &EndpointId,
        turn: TurnId,
    ) -> Result<Option<DeliveryRow>, Fault> {
        let cells = [name(endpoint.as_str()), cells::turn_id(turn)];
        self.one(sql::DELIVERY, cells, |mut row| row.delivery())
    }
}

reads_alike!(SqlTx<'_>);
