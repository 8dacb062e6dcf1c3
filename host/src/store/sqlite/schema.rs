//! Opening a database: pragmas, schema, migrations.

use std::fs::Permissions;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dispatch_core::store::FORMAT;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};

use super::Durability;
use super::lock::LockError;

/// Marks a file as ours: "DSPT".
const APPLICATION_ID: i64 = 0x4453_5054;

/// Migration `n` leads from format `n` to `n + 1`.
const MIGRATIONS: [&str; FORMAT as usize] = [
    include_str!("schema.sql"),
    include_str!("outbox.sql"),
    include_str!("nodes.sql"),
    include_str!("lives.sql"),
    include_str!("computers.sql"),
];

/// How long a statement waits for another program that has the file locked.
const BUSY: Duration = Duration::from_secs(5);

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its directory is in use.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// Its directory cannot be made.
    #[error("cannot make the data directory {dir}: {cause}; check its parent's permissions")]
    Directory {
        /// The directory.
        dir: PathBuf,
        /// What the system said.
        cause: std::io::Error,
    },
    /// A later build has migrated it.
    #[error(
        "the database {path} has format {found}, this build knows up to {FORMAT}; run the newer build, or restore a backup"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// Some other program's database.
    #[error("{path} is a database of another program; name another file")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It was there when it was opened.
    #[error(
        "the database {path} was deleted or replaced while it was served: nothing more is taken; stop the server, put the file back, and start it again"
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// SQLite said no.
    #[error(
        "cannot open the database {path}: {cause}; check the disk, its free space, and that the file is intact"
    )]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        cause: rusqlite::Error,
    },
    /// The store's threads could not be started.
    #[error("cannot start a thread for the store: {0}; check the limits on processes")]
    Thread(std::io::Error),
}

/// A connection that writes; the schema is brought up to [`FORMAT`].
pub(super) fn open_writer(path: &Path, durability: Durability) -> Result<Connection, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let sqlite = |cause| OpenError::Sqlite {
        path: path.to_owned(),
        cause,
    };
    // It holds what people say: for its owner only, and SQLite gives the files
    // beside it the same mode.
    let private = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .and_then(|file| file.set_permissions(Permissions::from_mode(0o600)));
    if let Err(cause) = private {
        tracing::debug!(%cause, "the database's mode is left as it is");
    }
    let mut conn = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    conn.busy_timeout(BUSY).map_err(sqlite)?;
    check_ours(&conn, path)?;
    configure_writer(&conn, durability).map_err(sqlite)?;
    migrate(&mut conn).map_err(sqlite)?;
    Ok(conn)
}

/// A connection that cannot write.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(path, flags)?;
    conn.busy_timeout(BUSY)?;
    keep_plans(&conn)?;
    Ok(conn)
}

/// Statements are parsed once. Without the stability guarantee SQLite parses
/// them again whenever a value is bound that might make another plan better,
/// which is most of the time of a short verb.
fn keep_plans(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_prepared_statement_cache_capacity(64);
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    Ok(())
}

fn check_ours(conn: &Connection, path: &Path) -> Result<(), OpenError> {
    let sqlite = |cause| OpenError::Sqlite {
        path: path.to_owned(),
        cause,
    };
    let number = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
    let tables: i64 = conn
        .query_row("SELECT COUNT(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(sqlite)?;
    if tables > 0 && number("application_id").map_err(sqlite)? != APPLICATION_ID {
        return Err(OpenError::Foreign {
            path: path.to_owned(),
        });
    }
    let found = number("user_version").map_err(sqlite)?;
    if found > i64::from(FORMAT) {
        return Err(OpenError::Newer {
            path: path.to_owned(),
            found,
        });
    }
    Ok(())
}

fn configure_writer(conn: &Connection, durability: Durability) -> rusqlite::Result<()> {
    keep_plans(conn)?;
    conn.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    let synchronous = match durability {
        Durability::Full => "FULL",
        Durability::ProcessCrashOnly => "OFF",
    };
    conn.pragma_update(None, "synchronous", synchronous)?;
    // A burst may grow the WAL; a checkpoint gives the disk back down to this.
    conn.pragma_update_and_check(None, "journal_size_limit", 64 * 1024 * 1024, |_| Ok(()))?;
    conn.pragma_update(None, "cache_size", -16 * 1024)
}

fn migrate(conn: &mut Connection) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let found = tx.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0))?;
    let done = usize::try_from(found).unwrap_or(0);
    if done < MIGRATIONS.len() {
        for migration in MIGRATIONS.iter().skip(done) {
            tx.execute_batch(migration)?;
        }
        tx.pragma_update(None, "application_id", APPLICATION_ID)?;
        tx.pragma_update(None, "user_version", FORMAT)?;
    }
    tx.commit()
}

#[cfg(test)]
mod tests {
    use super::super::sql;
    use super::*;
    use rusqlite::StatementStatus;

    fn open(path: &Path) -> Result<Connection, OpenError> {
        open_writer(path, Durability::Full)
    }

    #[test]
    fn a_database_of_a_newer_build_is_refused_by_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dispatch.db");
        let conn = open(&path).unwrap();
        conn.pragma_update(None, "user_version", FORMAT + 1)
            .unwrap();
        drop(conn);
        let refused = open(&path).unwrap_err();
        assert!(
            matches!(refused, OpenError::Newer { found, .. } if found == i64::from(FORMAT) + 1)
        );
    }

    #[test]
    fn a_database_of_another_program_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("other.db");
        let other = Connection::open(&path).unwrap();
        other.execute_batch("CREATE TABLE photos (id)").unwrap();
        drop(other);
        assert!(matches!(open(&path), Err(OpenError::Foreign { .. })));
    }

    #[test]
    fn a_file_that_is_no_database_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dispatch.db");
        std::fs::write(&path, [b'x'; 4096]).unwrap();
        let refused = open(&path).unwrap_err().to_string();
        assert!(refused.contains("dispatch.db"), "{refused}");
    }

    #[test]
    fn every_commit_reaches_the_disk_before_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let conn = open(&dir.path().join("dispatch.db")).unwrap();
        let pragma = |name: &str| {
            conn.query_row(&format!("PRAGMA {name}"), [], |row| {
                row.get::<_, rusqlite::types::Value>(0)
            })
            .unwrap()
        };
        assert_eq!(pragma("journal_mode"), "wal".to_owned().into());
        assert_eq!(pragma("synchronous"), 2.into());
    }

    #[test]
    fn no_statement_of_a_verb_or_a_read_scans_a_table_or_sorts_more_than_it_must() {
        // They sort what has lapsed or just come due, a star's open turns, and
        // what the audit finds.
        const MAY_SORT: [&str; 4] = ["LAPSED", "WAITERS_NEWLY_DUE", "OPEN_TURNS_IN", "MISFITS"];
        // Those that walk all open turns, or their markers.
        const MAY_WALK: [&str; 2] = ["OPEN_TURNS_IN", "MISFITS"];
        let dir = tempfile::tempdir().unwrap();
        let conn = open(&dir.path().join("dispatch.db")).unwrap();
        let mut seen = 0;
        for (name, text) in sql::ALL {
            let mut plan = conn.prepare(&format!("EXPLAIN QUERY PLAN {text}")).unwrap();
            let count = plan.parameter_count();
            let params = rusqlite::params_from_iter((0..count).map(|_| 1));
            let steps: Vec<String> = plan
                .query_map(params, |row| row.get::<_, String>(3))
                .unwrap()
                .map(Result::unwrap)
                .collect();
            for step in &steps {
                let is_open = step.contains("INDEX turns_open") || step == "SCAN m";
                let bounded = MAY_WALK.contains(name) && is_open;
                assert!(!step.starts_with("SCAN") || bounded, "{name}: {steps:?}");
                let sorts = step.contains("TEMP B-TREE");
                assert!(!sorts || MAY_SORT.contains(name), "{name}: {steps:?}");
            }
            seen += steps.len();
        }
        assert!(seen > 20, "the plans were read");
    }

    #[test]
    fn a_statement_is_not_parsed_again_for_other_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dispatch.db");
        let conns = [open(&path).unwrap(), open_reader(&path).unwrap()];
        for conn in &conns {
            for (name, text) in sql::ALL {
                if !text.starts_with("SELECT") {
                    continue;
                }
                let mut statement = conn.prepare(text).unwrap();
                for value in 0..3 {
                    let count = statement.parameter_count();
                    let params = rusqlite::params_from_iter((0..count).map(|_| value));
                    statement.query(params).unwrap().next().unwrap();
                }
                let again = statement.get_status(StatementStatus::RePrepare);
                assert_eq!(again, 0, "{name}");
            }
        }
    }
}
