//! Connecting, and bringing the schema up to date.

use std::sync::Arc;
use std::time::Duration;

use dispatch_core::store::FORMAT;
use tokio::runtime::Handle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::wire::PgFault;

/// Migration `n` leads from format `n` to `n + 1`.
const MIGRATIONS: [&str; FORMAT as usize] =
    [include_str!("schema.sql"), include_str!("outbox.sql")];

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
    #[error(
        "cannot connect to PostgreSQL at {at}: {cause}; check DATABASE_URL, and that the server is up"
    )]
    Connect {
        /// Host and database, without credentials.
        at: String,
        /// What was said.
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

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Address, PostgresOpenError> {
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            PostgresOpenError::Address(cause.unwrap_or_else(|| error.to_string()))
        })?;
        if config.get_hosts().is_empty() {
            return Err(PostgresOpenError::Address("it names no host".to_owned()));
        }
        config
            .application_name("dispatch")
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(15))
            .tcp_user_timeout(Duration::from_secs(20));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls()?),
        };
        Ok(Address { config, tls })
    }

    /// For people: nothing secret in it.
    pub(super) fn shown(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(tokio_postgres::config::Host::Tcp(host)) => host.clone(),
            Some(tokio_postgres::config::Host::Unix(path)) => path.display().to_string(),
            None => "?".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let database = self.config.get_dbname().unwrap_or("the default database");
        format!("{host}:{port}/{database}")
    }

    /// A session; its connection is driven on `handle`'s runtime.
    pub(super) async fn connect(&self, handle: &Handle) -> Result<Client, PgFault> {
        match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                handle.spawn(drive(connection));
                Ok(client)
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                handle.spawn(drive(connection));
                Ok(client)
            }
        }
    }
}

/// Its end is seen by whoever waits for an answer.
async fn drive(connection: impl Future<Output = Result<(), tokio_postgres::Error>>) {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection to PostgreSQL has ended");
    }
}

fn tls() -> Result<MakeRustlsConnect, PostgresOpenError> {
    let roots = webpki_roots::TLS_SERVER_ROOTS.iter().cloned();
    let roots = rustls::RootCertStore::from_iter(roots);
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| PostgresOpenError::Address(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
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
    let known: bool = tx.query_one(known, &[]).await.map_err(failed)?.get(0);
    let (found, oldest) = match known {
        true => {
            let row = tx.query_one("SELECT format, oldest FROM meta", &[]).await;
            let row = row.map_err(failed)?;
            (row.get::<_, i64>(0), row.get::<_, i64>(1))
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
