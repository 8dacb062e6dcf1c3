//! The network as the host sees it: a seam that tokio fills in production and
//! a simulated network fills in tests.
//!
//! Everything that opens or accepts a connection does so through [`Net`], so
//! that the same client, server and SSH code runs on real sockets and in a
//! seeded simulation.

mod connect;
mod serve;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use axum::serve::Listener;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

pub use connect::{
    ConnectError, HttpClient, NetConnector, NetStream, TimedConnector, http_client,
    with_connect_limit,
};
pub use serve::{CutConnection, ServeLimits, serve, serve_with};

/// A network: makes connections and listens for them.
pub trait Net: Clone + Send + Sync + 'static {
    /// One connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// Accepts connections. Deals with accept errors itself; it never ends.
    type Listener: Listener<Io = Self::Stream, Addr = SocketAddr>;

    /// Opens a connection. `host` is a name or an IP address without brackets.
    /// Has no deadline of its own: the caller wraps it.
    ///
    /// # Errors
    /// What the system said; a name that cannot be resolved carries [`DnsError`].
    fn connect(
        &self,
        host: &str,
        port: u16,
    ) -> impl Future<Output = io::Result<Self::Stream>> + Send;

    /// Listens on `addr`; port 0 picks one.
    ///
    /// # Errors
    /// What the system said (address in use, no permission).
    fn bind(&self, addr: SocketAddr) -> impl Future<Output = io::Result<Self::Listener>> + Send;
}

/// A host name that did not resolve. Travels inside an [`io::Error`], so that a
/// [`Net`] can say it and a caller can tell it from a refused connection.
#[derive(Debug, thiserror::Error)]
#[error("cannot resolve the host name {host:?}: {reason}")]
pub struct DnsError {
    host: String,
    reason: String,
}

impl DnsError {
    /// Wraps the failure to resolve `host` for a [`Net::connect`] to return.
    pub fn into_io(host: &str, reason: impl ToString) -> io::Error {
        io::Error::new(
            io::ErrorKind::NotFound,
            DnsError {
                host: host.to_owned(),
                reason: reason.to_string(),
            },
        )
    }
}

/// The operating system's network.
#[derive(Clone, Copy, Debug, Default)]
pub struct TokioNet;

impl Net for TokioNet {
    type Stream = TcpStream;
    type Listener = TokioListener;

    async fn connect(&self, host: &str, port: u16) -> io::Result<TcpStream> {
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
            .await
            .map_err(|error| DnsError::into_io(host, error))?
            .take(MAX_ADDRESSES)
            .collect();
        if addresses.is_empty() {
            return Err(DnsError::into_io(host, "it has no address"));
        }
        let stream = connect_any(alternate_families(addresses)).await?;
        // Frames are small and each is awaited by somebody.
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<TokioListener> {
        Ok(TokioListener(TcpListener::bind(addr).await?))
    }
}

/// A [`TcpListener`] that outlives accept errors.
#[derive(Debug)]
pub struct TokioListener(TcpListener);

impl Listener for TokioListener {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%peer, %error, "TCP_NODELAY could not be set");
                    }
                    return (stream, peer);
                }
                Err(error) if is_about_one_peer(&error) => {}
                Err(error) => {
                    // Descriptors or memory ran out: accepting again at once
                    // would spin until some connection ends.
                    tracing::error!(%error, "cannot accept connections; trying again");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const MAX_ADDRESSES: usize = 16;
/// RFC 8305 section 5, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

fn is_about_one_peer(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// RFC 8305 section 4: the families take turns, so that a broken IPv6 route
/// costs one attempt delay and not the connect deadline.
fn alternate_families(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first_is_v6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut same, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        if address.is_ipv6() == first_is_v6 {
            same.push(address);
        } else {
            other.push(address);
        }
    }
    let mut other = other.into_iter();
    let mut ordered = Vec::new();
    for address in same {
        ordered.push(address);
        ordered.extend(other.next());
    }
    ordered.extend(other);
    ordered
}

async fn connect_any(addresses: Vec<SocketAddr>) -> io::Result<TcpStream> {
    let mut waiting = addresses.into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::new(io::ErrorKind::NotFound, "no address to connect to");
    loop {
        if let Some(address) = waiting.next() {
            attempts.push(async move {
                TcpStream::connect(address)
                    .await
                    .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))
            });
        } else if attempts.is_empty() {
            return Err(last_error);
        }
        tokio::select! {
            biased;
            Some(attempt) = attempts.next() => match attempt {
                Ok(stream) => return Ok(stream),
                Err(error) => last_error = error,
            },
            () = tokio::time::sleep(ATTEMPT_DELAY), if waiting.len() > 0 => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn address_families_take_turns() {
        let ordered = alternate_families(vec![
            address("[::1]:1"),
            address("[::2]:1"),
            address("[::3]:1"),
            address("1.1.1.1:1"),
        ]);
        let expected = ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"].map(address);
        assert_eq!(ordered, expected);
    }

    #[tokio::test]
    async fn a_dead_first_address_does_not_prevent_the_connection() {
        let mut listener = TokioNet.bind(address("127.0.0.1:0")).await.unwrap();
        let live = listener.local_addr().unwrap();
        let dead = {
            let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
            unused.local_addr().unwrap()
        };
        let accepting = tokio::spawn(async move { listener.accept().await });
        let stream = connect_any(vec![dead, live]).await.unwrap();
        assert_eq!(stream.peer_addr().unwrap(), live);
        let (accepted, _) = accepting.await.unwrap();
        assert!(accepted.nodelay().unwrap());
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_a_dns_error() {
        let error = TokioNet
            .connect("no-such-host.invalid", 80)
            .await
            .unwrap_err();
        assert!(error.get_ref().is_some_and(|inner| inner.is::<DnsError>()));
        assert!(error.to_string().contains("no-such-host.invalid"));
    }

    #[tokio::test]
    async fn outgoing_connections_have_no_delay() {
        let mut listener = TokioNet.bind(address("127.0.0.1:0")).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let accepting = tokio::spawn(async move { listener.accept().await });
        let stream = TokioNet.connect("127.0.0.1", port).await.unwrap();
        assert!(stream.nodelay().unwrap());
        accepting.await.unwrap();
    }
}
