//! What a read-only connection answers.

use std::path::PathBuf;
use std::sync::Arc;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{
    ConversationRow, Outcome, Segment, StoreFault, TurnRow, TurnState, Tx, Verb, WorkspaceRow,
    apply,
};
use rusqlite::{Connection, params};

use super::columns::{Columns, Fault, ordered};
use super::schema::open_reader;
use super::time::StoreTime;
use super::tx::SqlTx;
use super::{ProviderView, ReadError, TurnView, sql};

/// Owns one read-only connection; opened when first needed, and anew after a fault.
#[derive(Debug)]
pub(super) struct Reader {
    path: PathBuf,
    time: Arc<StoreTime>,
    conn: Option<Connection>,
}

impl Reader {
    pub(super) fn new(path: PathBuf, time: Arc<StoreTime>) -> Reader {
        Reader {
            path,
            time,
            conn: None,
        }
    }

    /// A verb that only reads.
    pub(super) fn verb(&mut self, verb: &Verb) -> Outcome {
        self.snapshot(|tx| apply(tx, verb))
            .map_err(|fault| StoreFault::Failed(fault.to_string()))
    }

    /// Runs `read` in one transaction: all that it sees is of one moment.
    pub(super) fn read<T>(
        &mut self,
        read: impl FnOnce(&mut SqlTx<'_>) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        self.snapshot(read)
            .map_err(|fault| ReadError::Failed(fault.to_string()))
    }

    fn snapshot<T>(
        &mut self,
        read: impl FnOnce(&mut SqlTx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let conn = match self.conn.take() {
            Some(conn) => conn,
            None => open_reader(&self.path)?,
        };
        let mut tx = SqlTx {
            conn: &conn,
            now: self.time.now(),
            markers: None,
        };
        tx.write("BEGIN", [])?;
        let result = read(&mut tx);
        tx.write("COMMIT", [])?;
        match result {
            Err(Fault::Sqlite(cause)) => Err(Fault::Sqlite(cause)),
            result @ (Ok(_) | Err(Fault::Column { .. } | Fault::Payload { .. })) => {
                self.conn = Some(conn);
                result
            }
        }
    }
}

pub(super) fn events(
    tx: &mut SqlTx<'_>,
    conversation: &ConversationId,
    after: Seq,
    limit: usize,
) -> Result<Vec<AgentEvent>, Fault> {
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let params = params![conversation.as_str(), ordered(after), limit];
    tx.many(sql::EVENTS_AFTER, params, |row| {
        Columns::of(row).event_or_stand_in()
    })
}

pub(super) fn conversation(
    tx: &mut SqlTx<'_>,
    id: &ConversationId,
) -> Result<Option<ConversationRow>, Fault> {
    tx.conversation(id)
}

pub(super) fn turn(tx: &mut SqlTx<'_>, id: TurnId) -> Result<Option<TurnView>, Fault> {
    match tx.turn(id)? {
        Some(row) => view(tx, row).map(Some),
        None => Ok(None),
    }
}

pub(super) fn open_turns_of(
    tx: &mut SqlTx<'_>,
    id: &ConversationId,
) -> Result<Vec<TurnView>, Fault> {
    let rows = tx.many(sql::OPEN_TURNS_VIEW, [id.as_str()], |row| {
        Columns::of(row).turn()
    })?;
    rows.into_iter().map(|row| view(tx, row)).collect()
}

pub(super) fn workspace(tx: &mut SqlTx<'_>, slug: &Slug) -> Result<Option<WorkspaceRow>, Fault> {
    tx.workspace(slug)
}

pub(super) fn providers(tx: &mut SqlTx<'_>) -> Result<Vec<ProviderView>, Fault> {
    let rows = tx.many(sql::PROVIDERS, [], |row| Columns::of(row).provider())?;
    let view = |row: dispatch_core::store::ProviderRow| {
        Ok(ProviderView {
            streaming: tx.streaming(&row.id)?,
            parked: tx.number(sql::PARKED, [row.id.as_str()])?,
            row,
        })
    };
    rows.into_iter().map(view).collect()
}

pub(super) fn segments(tx: &mut SqlTx<'_>, turn: TurnId) -> Result<Vec<Segment>, Fault> {
    tx.segments(turn)
}

fn view(tx: &mut SqlTx<'_>, row: TurnRow) -> Result<TurnView, Fault> {
    Ok(TurnView {
        terminal: match row.state {
            TurnState::Ended => tx.terminal_event(row.turn)?,
            TurnState::Blocked | TurnState::Parked | TurnState::Streaming | TurnState::Tools => {
                None
            }
        },
        position: match row.state {
            TurnState::Parked => Some(position(tx, &row)?),
            TurnState::Blocked | TurnState::Streaming | TurnState::Tools | TurnState::Ended => None,
        },
        row,
    })
}

/// One more than the parked turns of the provider with a smaller key (A2, A6).
fn position(tx: &SqlTx<'_>, row: &TurnRow) -> Result<u64, Fault> {
    let provider = row.provider.as_str();
    let mut ahead = 0;
    for waiting in [false, true] {
        let (started_at, seq) = (ordered(row.key.started_at.0), ordered(row.key.seq));
        let params = params![provider, waiting, row.key.unstarred, started_at, seq];
        ahead += tx.number(sql::AHEAD, params)?;
        if row.key.unstarred {
            let params = params![provider, waiting, false, i64::MAX, i64::MAX];
            ahead += tx.number(sql::AHEAD, params)?;
        }
    }
    Ok(ahead + 1)
}
