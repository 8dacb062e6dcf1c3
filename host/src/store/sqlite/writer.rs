//! The one connection that writes, and its group commits.

use std::any::Any;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dispatch_core::store::{Outcome, Reply, StoreFault, Verb, apply};
use dispatch_core::time::Timestamp;
use rusqlite::Connection;

use super::super::cells::{Fault, at};
use super::Durability;
use super::schema::{OpenError, open_writer};
use super::sql;
use super::time::StoreTime;
use super::tx::SqlTx;
#[cfg(planted)]
use crate::points::{self, CommitFault};

/// Owns the writing connection. Survives whatever happens to it: a connection
/// whose state is in doubt is dropped and opened anew.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    durability: Durability,
    time: Arc<StoreTime>,
    conn: Option<Connection>,
    markers: Option<u64>,
    /// Device and inode of the file; `None` where it is no file of the system's.
    file: Option<(u64, u64)>,
}

/// SQLite gave up the whole transaction at one verb.
struct RolledBack;

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        durability: Durability,
        time: Arc<StoreTime>,
        conn: Connection,
    ) -> Writer {
        Writer {
            file: identity(&path),
            path,
            durability,
            time,
            conn: Some(conn),
            markers: None,
        }
    }

    /// Runs the verbs in order, in one transaction, a savepoint each. What is
    /// answered `Ok` is on the disk.
    pub(super) fn run(&mut self, verbs: &[&Verb]) -> Vec<Outcome> {
        if let Err(cause) = self.is_there().and_then(|()| self.reopen()) {
            let fault = StoreFault::Failed(cause.to_string());
            return verbs.iter().map(|_| Err(fault.clone())).collect();
        }
        match self.together(verbs) {
            Ok(outcomes) => outcomes,
            // Nothing of it landed; alone, each verb gets the answer that is its own.
            Err(RolledBack) => verbs.iter().map(|verb| self.alone(verb)).collect(),
        }
    }

    /// Moves what the WAL holds into the database file.
    pub(super) fn checkpoint(&mut self) {
        if let Some(conn) = &self.conn
            && let Err(error) =
                conn.pragma_update_and_check(None, "wal_checkpoint", "TRUNCATE", |_| Ok(()))
        {
            tracing::warn!(%error, "the last checkpoint of the database failed; the next start makes up for it");
        }
    }

    #[cfg(test)]
    pub(super) fn connection(&self) -> Option<&Connection> {
        self.conn.as_ref()
    }

    /// What is written into a file that has been deleted is gone with this
    /// process, however often it was synced.
    fn is_there(&self) -> Result<(), OpenError> {
        match self.file == identity(&self.path) {
            true => Ok(()),
            false => Err(OpenError::Gone {
                path: self.path.clone(),
            }),
        }
    }

    fn reopen(&mut self) -> Result<(), OpenError> {
        if self.conn.is_none() {
            self.conn = Some(open_writer(&self.path, self.durability)?);
        }
        Ok(())
    }

    fn alone(&mut self, verb: &Verb) -> Outcome {
        let failed = |cause: String| Err(StoreFault::Failed(cause));
        if let Err(cause) = self.reopen() {
            return failed(cause.to_string());
        }
        match self.together(&[verb]) {
            Ok(mut outcomes) => outcomes
                .pop()
                .unwrap_or_else(|| failed("the verb was not run".to_owned())),
            Err(RolledBack) => failed(format!(
                "SQLite gave up the transaction of {}; look at the disk that holds {}",
                verb.name(),
                self.path.display()
            )),
        }
    }

    fn together(&mut self, verbs: &[&Verb]) -> Result<Vec<Outcome>, RolledBack> {
        let Some(conn) = self.conn.take() else {
            return Err(RolledBack);
        };
        let mut batch = Batch {
            tx: SqlTx {
                conn: &conn,
                now: self.time.now(),
                markers: self.markers.take(),
            },
            time: &self.time,
        };
        if let Err(cause) = batch.begin() {
            tracing::error!(%cause, "the store cannot begin a transaction");
            let fault = StoreFault::Failed(cause.to_string());
            return Ok(verbs.iter().map(|_| Err(fault.clone())).collect());
        }
        let mut outcomes = Vec::with_capacity(verbs.len());
        for verb in verbs {
            outcomes.push(batch.verb(verb));
            if conn.is_autocommit() {
                if let (1, Some(Err(_))) = (verbs.len(), outcomes.last()) {
                    self.conn = Some(conn);
                    return Ok(outcomes);
                }
                self.conn = Some(conn);
                return Err(RolledBack);
            }
        }
        #[cfg(planted)]
        for verb in verbs {
            points::reach(points::Point::BeforeCommit, verb.name());
        }
        match batch.commit() {
            Ok(()) => {
                self.markers = batch.tx.markers;
                self.conn = Some(conn);
                Ok(outcomes)
            }
            Err(cause) => {
                // Whether it landed only the next opening can tell.
                tracing::error!(%cause, verbs = verbs.len(), "the outcome of a commit is unknown");
                let unknown = |outcome: Outcome| outcome.and(Err(StoreFault::Unknown));
                Ok(outcomes.into_iter().map(unknown).collect())
            }
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// One transaction of several verbs.
struct Batch<'w> {
    tx: SqlTx<'w>,
    time: &'w StoreTime,
}

impl Batch<'_> {
    fn begin(&mut self) -> Result<(), Fault> {
        self.tx.write("BEGIN IMMEDIATE", [])?;
        self.tx.notice_due()
    }

    fn verb(&mut self, verb: &Verb) -> Outcome {
        let markers = self.tx.markers;
        let outcome = self.savepoint(verb).map_err(|cause| {
            // The core tells of it, once a verb and however the store is made.
            tracing::debug!(verb = verb.name(), %cause, "a verb failed");
            StoreFault::Failed(cause)
        });
        if outcome.is_err() {
            self.tx.markers = markers;
        }
        outcome
    }

    fn savepoint(&mut self, verb: &Verb) -> Result<Reply, String> {
        self.tx.now = self.time.now();
        let text = |fault: Fault| fault.to_string();
        self.tx.write("SAVEPOINT verb", []).map_err(text)?;
        let ran = catch_unwind(AssertUnwindSafe(|| apply(&mut self.tx, verb)));
        let ran = match ran {
            Ok(ran) => ran.map_err(text),
            Err(panic) => Err(format!("a bug in the server: {}", said(&*panic))),
        };
        if ran.is_err() && !self.tx.conn.is_autocommit() {
            self.tx.write("ROLLBACK TO verb", []).map_err(text)?;
        }
        if !self.tx.conn.is_autocommit() {
            self.tx.write("RELEASE verb", []).map_err(text)?;
        }
        ran
    }

    fn commit(&mut self) -> Result<(), Fault> {
        self.tx.write(sql::PUT_STORE_TIME, [at(self.tx.now)])?;
        #[cfg(planted)]
        lost(CommitFault::Before)?;
        self.tx.write("COMMIT", [])?;
        #[cfg(planted)]
        lost(CommitFault::After)?;
        Ok(())
    }
}

/// A test wants this commit's outcome lost.
#[cfg(planted)]
fn lost(when: CommitFault) -> Result<(), Fault> {
    match points::commit_fails(when) {
        true => Err(Fault::from(rusqlite::Error::InvalidQuery)),
        false => Ok(()),
    }
}

fn said(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// The latest store time on record: where store time goes on from.
pub(super) fn last_store_time(conn: &Connection, path: &Path) -> Result<Timestamp, OpenError> {
    let read = conn.query_row(sql::STORE_TIME, [], |row| row.get::<_, i64>(0));
    match read {
        Ok(ms) => Ok(Timestamp(u64::try_from(ms).unwrap_or(0))),
        Err(cause) => Err(OpenError::Sqlite {
            path: path.to_owned(),
            cause,
        }),
    }
}
