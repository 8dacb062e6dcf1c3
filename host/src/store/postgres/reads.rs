//! What clients read, and whole tables, over one PostgreSQL transaction.

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq};
use dispatch_core::store::{ProviderRow, TurnRow};

use super::super::cells::{Cell, Fault, count, flag, name, ordered};
use super::super::columns::Columns;
use super::super::dump::Tables;
use super::super::read::Reads;
use super::sql;
use super::tx::PgTx;

impl Reads for PgTx<'_> {
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

impl Tables for PgTx<'_> {
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
