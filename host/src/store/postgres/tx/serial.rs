//! The defect behind D23: logs are asked for what is new by one serial number
//! of all conversations, here that of the transaction which wrote an event.
//! Serials are given out when a transaction begins to write, and it commits
//! when it pleases: what commits late is older than what was seen already.

use std::sync::atomic::{AtomicI64, Ordering};

use super::super::super::LogHead;
use super::super::super::cells::{Cell, Fault};
use super::super::super::columns::Columns;
use super::super::wire::Param;
use super::PgTx;

const HEADS: &str = "SELECT c.id, c.last_seq, c.turn, max(e.xmin::text::bigint) \
    FROM conversations c JOIN events e ON e.conversation = c.id \
    WHERE c.id = ANY($1) AND e.xmin::text::bigint > $2 GROUP BY c.id, c.last_seq, c.turn";

/// The highest serial number that was seen.
static SEEN: AtomicI64 = AtomicI64::new(0);

impl PgTx<'_> {
    pub(super) fn heads_by_serial(&mut self, ids: Vec<String>) -> Result<Vec<LogHead>, Fault> {
        let seen = SEEN.load(Ordering::Relaxed);
        let mut newest = seen;
        let read = |mut row: Columns<'_>| {
            let head = LogHead {
                conversation: row.id()?,
                last_seq: row.ordered()?,
                turn: row.opt_turn()?,
            };
            let serial = row.ordered()?;
            newest = newest.max(i64::try_from(serial).unwrap_or(i64::MAX));
            Ok(head)
        };
        let params = vec![Param::Names(ids), Param::One(Cell::Int(seen))];
        let heads = self.wire.rows(HEADS, params, read)?;
        SEEN.store(newest, Ordering::Relaxed);
        Ok(heads)
    }
}
