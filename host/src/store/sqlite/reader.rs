//! One read-only connection.

use std::path::PathBuf;
use std::sync::Arc;

use dispatch_core::store::{Outcome, StoreFault, Verb, apply};
use rusqlite::Connection;

use super::super::ReadError;
use super::super::cells::Fault;
use super::schema::open_reader;
use super::time::StoreTime;
use super::tx::SqlTx;

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
            Err(fault @ (Fault::Sqlite(_) | Fault::Postgres(_))) => Err(fault),
            result @ (Ok(_) | Err(Fault::Column { .. } | Fault::Payload { .. })) => {
                self.conn = Some(conn);
                result
            }
        }
    }
}
