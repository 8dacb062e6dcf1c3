//! What is done from time to time, for no verb.

use dispatch_core::ids::ConversationId;

use super::super::super::LogHead;
use super::super::super::cells::{Fault, at, count};
use super::super::super::columns::Columns;
use super::super::sql;
use super::super::wire::Param;
use super::PgTx;

impl PgTx<'_> {
    /// Moves what has come due into the line of the due ones, some at a time;
    /// what somebody holds waits for the next time.
    pub(in super::super) fn notice_due(&mut self) -> Result<(), Fault> {
        const AT_ONCE: usize = 1_024;
        let cells = [at(self.now), count(AT_ONCE)];
        self.write(sql::NOTICE_DUE, cells)
    }

    /// How far logs go.
    pub(in super::super) fn heads(
        &mut self,
        ids: &[ConversationId],
    ) -> Result<Vec<LogHead>, Fault> {
        let ids = ids.iter().map(|id| id.as_str().to_owned()).collect();
        #[cfg(planted)]
        if dispatch_core::planted!("D23") {
            return self.heads_by_serial(ids);
        }
        let read = |mut row: Columns<'_>| {
            Ok(LogHead {
                conversation: row.id()?,
                last_seq: row.ordered()?,
                turn: row.opt_turn()?,
            })
        };
        self.wire.rows(sql::HEADS, vec![Param::Names(ids)], read)
    }

    /// What the replicas of this database have in common.
    pub(in super::super) fn installation(&mut self) -> Result<Option<String>, Fault> {
        let read = |mut row: Columns<'_>| row.text();
        Ok(self.wire.rows(sql::INSTALLATION, Vec::new(), read)?.pop())
    }

    /// Forgets slots that were left long ago.
    pub(in super::super) fn forget_releases(&mut self, kept_ms: u64) -> Result<(), Fault> {
        self.write(sql::FORGET_RELEASES, [at(self.now - kept_ms)])
    }
}
