//! Bringing the schema up to date, and what may be wrong with a database.

use std::path::PathBuf;

use dispatch_core::store::FORMAT;
use tokio_postgres::Client;

use super::wire::PgFault;

/// Migration `n` leads from format `n` to `n + 1`.
const MIGRATIONS: [&str; FORMAT as usize] = [
    include_str!("schema.sql"),
    include_str!("outbox.sql"),
    include_str!("nodes.sql"),
    include_str!("lives.sql"),
    include_str!("computers.sql"),
];

/// Of all replicas only one migrates; the number means nothing.
const MIGRATION_LOCK: i64 = 0x4453_5054;

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PostgresOpenError {
    /// The address is none.
    #[error(
        "DATABASE_URL is no PostgreSQL address: {0}; it looks like postgres://user:password@host:5432/database"
    )]
    Address(String),
    /// It cannot be reached, or does not let us in.
    #[error("cannot connect to PostgreSQL at {at}: {cause}; {remedy}")]
    Connect {
        /// Host and database, without credentials.
        at: String,
        /// What was said.
        cause: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// The file of `sslrootcert` is of no use.
    #[error(
        "cannot read the certificates that sslrootcert of DATABASE_URL names, {}: {cause}; it must be a PEM file", .path.display()
    )]
    Authority {
        /// The file.
        path: PathBuf,
        /// What was met.
        cause: String,
    },
    /// A later build has migrated it.
    #[error(
        "the database {at} has format {found} and serves builds from format {oldest} on, this build knows {FORMAT}; run the newer build"
    )]
    Newer {
        /// Host and database.
        at: String,
        /// Its format.
        found: i64,
        /// The oldest that it serves.
        oldest: i64,
    },
    /// A migration failed; nothing of it has landed.
    #[error("cannot bring the database {at} up to date: {cause}")]
    Migrate {
        /// Host and database.
        at: String,
        /// What was said.
        cause: String,
    },
    /// The store's threads could not be started.
    #[error("cannot start a thread for the store: {0}; check the limits on processes")]
    Thread(std::io::Error),
}

/// Brings the schema up to [`FORMAT`], or refuses one that is beyond it.
pub(super) async fn migrate(client: &mut Client, at: &str) -> Result<(), PostgresOpenError> {
    let failed = |error: tokio_postgres::Error| PostgresOpenError::Migrate {
        at: at.to_owned(),
        cause: PgFault::from(error).to_string(),
    };
    let tx = client.transaction().await.map_err(failed)?;
    let lock = format!("SELECT pg_advisory_xact_lock({MIGRATION_LOCK})");
    tx.batch_execute(&lock).await.map_err(failed)?;
    let begin = "CREATE SCHEMA IF NOT EXISTS dispatch; SET LOCAL search_path TO dispatch";
    tx.batch_execute(begin).await.map_err(failed)?;
    let known = "SELECT to_regclass('dispatch.meta') IS NOT NULL";
    // Without names: behind a pooler they may be another process's.
    let known = tx.query_typed(known, &[]).await.map_err(failed)?;
    let known = known.first().is_some_and(|row| row.get(0));
    let (found, oldest) = match known {
        true => {
            let format = "SELECT format, oldest FROM meta";
            let rows = tx.query_typed(format, &[]).await.map_err(failed)?;
            let read = |row: &tokio_postgres::Row| (row.get(0), row.get(1));
            rows.first().map_or((0, 0), read)
        }
        false => (0, 0),
    };
    if oldest > i64::from(FORMAT) {
        return Err(PostgresOpenError::Newer {
            at: at.to_owned(),
            found,
            oldest,
        });
    }
    for migration in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(0)) {
        tx.batch_execute(migration).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)
}
