//! Where and how to connect: what `DATABASE_URL` says, and TLS.
//!
//! Certificates are checked whenever TLS is spoken: `sslmode=require`,
//! `verify-ca` and `verify-full` all mean what libpq calls `verify-full`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::poll_fn;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, NoTls, Notification};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::schema::PostgresOpenError;
use super::wire::{MORE_CONNECTIONS, PgFault};

/// What tokio-postgres says of a server that refuses TLS.
const NO_TLS: &str = "server does not support TLS";

/// Notifications that may wait to be heard.
const MOST_UNHEARD: usize = 64;

/// Where and how to connect.
#[derive(Clone)]
pub(super) struct Address {
    config: Config,
    tls: Option<MakeRustlsConnect>,
}

impl Address {
    pub(super) fn parse(url: &str) -> Result<Address, PostgresOpenError> {
        let (url, root) = without_verification(url);
        let mut config: Config = url.parse().map_err(|error: tokio_postgres::Error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            PostgresOpenError::Address(cause.unwrap_or_else(|| error.to_string()))
        })?;
        let Some(first) = config.get_hosts().first() else {
            return Err(PostgresOpenError::Address("it names no host".to_owned()));
        };
        // Nobody listens on a socket of this machine's.
        if matches!(first, Host::Unix(_)) && config.get_ssl_mode() == SslMode::Prefer {
            config.ssl_mode(SslMode::Disable);
        }
        config
            .application_name("dispatch")
            .connect_timeout(Duration::from_secs(5))
            .keepalives_idle(Duration::from_secs(15))
            .tcp_user_timeout(Duration::from_secs(20));
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(tls(root.as_deref())?),
        };
        Ok(Address { config, tls })
    }

    /// For people: nothing secret in it.
    pub(super) fn shown(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(host)) => host.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => "?".to_owned(),
        };
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        let database = self.config.get_dbname().unwrap_or("the default database");
        format!("{host}:{port}/{database}")
    }

    /// The first session of all. An address that leaves TLS open settles it
    /// here, and aloud: a server that speaks it is never again spoken to without.
    pub(super) async fn settle(&mut self, handle: &Handle) -> Result<Client, PostgresOpenError> {
        let is_open = self.config.get_ssl_mode() == SslMode::Prefer;
        if is_open {
            self.config.ssl_mode(SslMode::Require);
        }
        let mut met = self.connect(handle).await;
        if is_open && matches!(&met, Err(PgFault::Lost(cause)) if cause == NO_TLS) {
            tracing::warn!(
                at = self.shown(),
                "PostgreSQL does not speak TLS: passwords and turns go there in clear text; \
                 write sslmode=require in DATABASE_URL to refuse that, sslmode=disable to say that it is meant"
            );
            self.config.ssl_mode(SslMode::Disable);
            self.tls = None;
            met = self.connect(handle).await;
        }
        met.map_err(|fault| {
            let is_crowded = fault.is_crowded();
            let cause = match fault {
                PgFault::Refused { message, .. } => message,
                PgFault::Lost(cause) => cause,
                PgFault::Moved => fault.to_string(),
            };
            let remedy = match is_crowded {
                true => MORE_CONNECTIONS,
                false => remedy(&cause),
            };
            PostgresOpenError::Connect {
                at: self.shown(),
                remedy,
                cause,
            }
        })
    }

    /// A session; its connection is driven on `handle`'s runtime.
    pub(super) async fn connect(&self, handle: &Handle) -> Result<Client, PgFault> {
        let (client, _) = self.listen(handle).await?;
        Ok(client)
    }

    /// The same, with what is notified in it; what nobody takes in time is lost.
    pub(super) async fn listen(
        &self,
        handle: &Handle,
    ) -> Result<(Client, Receiver<Notification>), PgFault> {
        let (said, heard) = channel(MOST_UNHEARD);
        let client = match &self.tls {
            None => {
                let (client, connection) = self.config.connect(NoTls).await?;
                handle.spawn(drive(connection, said));
                client
            }
            Some(tls) => {
                let (client, connection) = self.config.connect(tls.clone()).await?;
                handle.spawn(drive(connection, said));
                client
            }
        };
        Ok((client, heard))
    }
}

/// Its end is seen by whoever waits for an answer.
async fn drive<S, T>(mut connection: Connection<S, T>, said: Sender<Notification>)
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        match poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notification(notification))) => {
                let _ = said.try_send(notification);
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!(%error, "a connection to PostgreSQL has ended");
                return;
            }
            None => return,
        }
    }
}

fn remedy(cause: &str) -> &'static str {
    if cause == NO_TLS {
        "switch TLS on there (ssl = on), or write sslmode=disable in DATABASE_URL where the way to it is safe"
    } else if cause.contains("UnknownIssuer") || cause.contains("CaUsedAsEndEntity") {
        "its certificate comes from no public authority: name the one that signed it by sslrootcert=/path/to/ca.pem in DATABASE_URL"
    } else if cause.contains("certificate") {
        "its certificate must be valid now and made out to the host that DATABASE_URL names"
    } else {
        "check DATABASE_URL, and that the server is up"
    }
}

/// The address as tokio-postgres knows addresses, and the authority that
/// `sslrootcert` names. How strictly certificates are checked cannot be
/// chosen, so libpq's words for it all become `require`.
fn without_verification(url: &str) -> (String, Option<PathBuf>) {
    let Some((place, query)) = url.split_once('?') else {
        return (url.to_owned(), None);
    };
    let mut root = None;
    let mut kept = Vec::new();
    for parameter in query.split('&') {
        match parameter.split_once('=') {
            Some(("sslrootcert", path)) => root = Some(PathBuf::from(unescaped(path))),
            Some(("sslmode", "verify-ca" | "verify-full")) => kept.push("sslmode=require"),
            Some(_) | None => kept.push(parameter),
        }
    }
    match kept.is_empty() {
        true => (place.to_owned(), root),
        false => (format!("{place}?{}", kept.join("&")), root),
    }
}

/// Percent signs as they stand in addresses (RFC 3986, section 2.1).
fn unescaped(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let code = others
            .get(..2)
            .and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = code.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                out.push(byte);
                rest = others.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn tls(root: Option<&Path>) -> Result<MakeRustlsConnect, PostgresOpenError> {
    let roots = match root {
        None => rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(path) => authority(path)?,
    };
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(ring)
        .with_safe_default_protocol_versions()
        .map_err(|error| PostgresOpenError::Address(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

/// The certificates of a file, and no others.
fn authority(path: &Path) -> Result<rustls::RootCertStore, PostgresOpenError> {
    let failed = |cause: String| PostgresOpenError::Authority {
        path: path.to_owned(),
        cause,
    };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|e| failed(e.to_string()))?;
    let mut roots = rustls::RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|e| failed(e.to_string()))?;
        roots.add(certificate).map_err(|e| failed(e.to_string()))?;
    }
    match roots.is_empty() {
        true => Err(failed("there is no certificate in it".to_owned())),
        false => Ok(roots),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o1_what_libpq_says_of_certificates_is_understood() {
        let split = |url| without_verification(url);
        let plain = "postgres://me:s3cret@db/x";
        assert_eq!(split(plain), (plain.to_owned(), None));
        let (url, root) = split(
            "postgres://db/x?sslmode=verify-full&sslrootcert=/a%20b/ca.pem&connect_timeout=3",
        );
        assert_eq!(url, "postgres://db/x?sslmode=require&connect_timeout=3");
        assert_eq!(root.as_deref(), Some(Path::new("/a b/ca.pem")));
        let (url, _) = split("postgres://db/x?sslrootcert=/ca.pem");
        assert_eq!(url, "postgres://db/x");
    }

    #[test]
    fn o1_an_authority_that_cannot_be_read_is_named() {
        let told = |path: &str| {
            let url = format!("postgres://db/x?sslmode=require&sslrootcert={path}");
            Address::parse(&url)
                .err()
                .map(|e| e.to_string())
                .unwrap_or_default()
        };
        assert!(told("/nowhere/ca.pem").contains("/nowhere/ca.pem"));
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), "no certificate").expect("written");
        let path = file.path().to_str().expect("plain");
        assert!(told(path).contains("no certificate in it"));
    }
}
