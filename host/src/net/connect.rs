use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::Uri;
use http_body_util::Full;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tower::Service;

use super::{DnsError, Net};

/// An HTTP/1.1 client over a [`Net`], with a pool, TLS and a connect deadline.
pub type HttpClient<N> = Client<TimedConnector<N>, Full<Bytes>>;

/// Makes a client whose connections are refused by nobody but the peer: http
/// and https, webpki roots, idle connections kept for 30 s.
///
/// `connect_limit` bounds name lookup, TCP and TLS together (T10);
/// [`with_connect_limit`] overrides it for one request.
pub fn http_client<N: Net>(net: N, connect_limit: Duration) -> HttpClient<N> {
    let https = HttpsConnectorBuilder::new()
        .with_webpki_roots()
        .https_or_http()
        .enable_http1()
        .wrap_connector(NetConnector { net });
    let connector = TimedConnector {
        https,
        limit: connect_limit,
    };
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(POOL_IDLE)
        .pool_max_idle_per_host(POOL_IDLE_CONNECTIONS)
        .http1_max_buf_size(MAX_BUFFERED_BYTES)
        .build(connector)
}

/// Runs `request` with a connect deadline of its own.
///
/// The pooling client hands its connector nothing but the URI, so the limit
/// travels beside it; the connector reads it when it is called, which happens
/// within the poll of the request that wants the connection.
pub async fn with_connect_limit<F: Future>(limit: Duration, request: F) -> F::Output {
    CONNECT_LIMIT.scope(limit, request).await
}

/// Why no connection came about. Told apart because the remedies differ.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Name lookup, TCP and TLS together took longer than the limit (T10).
    #[error(
        "no connection to {authority} within {limit_ms} ms; check that the host is up and reachable from here"
    )]
    Timeout {
        /// Host and port.
        authority: String,
        /// The limit that was exceeded.
        limit_ms: u64,
    },
    /// Nobody listens there.
    #[error(
        "{authority} refused the connection; check that the server runs and that the port is right"
    )]
    Refused {
        /// Host and port.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
    /// The host name did not resolve.
    #[error("no address for {authority}; check the host name in base_url")]
    Dns {
        /// Host and port.
        authority: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// TCP stood, TLS did not.
    #[error(
        "TLS with {authority} failed; check the certificate, and that the port speaks https and not http"
    )]
    Tls {
        /// Host and port.
        authority: String,
        /// What TLS said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Any other failure to connect.
    #[error("cannot connect to {authority}")]
    Io {
        /// Host and port.
        authority: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Connects a [`Net`] to the host and port of a URI, without TLS.
#[derive(Clone, Debug)]
pub struct NetConnector<N> {
    net: N,
}

impl<N: Net> Service<Uri> for NetConnector<N> {
    type Response = NetStream<N::Stream>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let net = self.net.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default();
            let host = host.trim_start_matches('[').trim_end_matches(']');
            let stream = net
                .connect(host, port_of(&uri))
                .await
                .map_err(|error| classify(&uri, error))?;
            Ok(NetStream(TokioIo::new(stream)))
        })
    }
}

/// Adds TLS where the URI asks for it, and the connect deadline over it all.
#[derive(Clone, Debug)]
pub struct TimedConnector<N> {
    https: HttpsConnector<NetConnector<N>>,
    limit: Duration,
}

impl<N: Net> Service<Uri> for TimedConnector<N> {
    type Response = MaybeHttpsStream<NetStream<N::Stream>>;
    type Error = ConnectError;
    type Future = Connecting<Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let limit = CONNECT_LIMIT.try_with(|limit| *limit).unwrap_or(self.limit);
        let connecting = self.https.call(uri.clone());
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(Ok(stream)) => Ok(stream),
                Ok(Err(error)) => Err(match error.downcast::<ConnectError>() {
                    Ok(error) => *error,
                    Err(source) => ConnectError::Tls {
                        authority: authority_of(&uri),
                        source,
                    },
                }),
                Err(_) => Err(ConnectError::Timeout {
                    authority: authority_of(&uri),
                    limit_ms: u64::try_from(limit.as_millis()).unwrap_or(u64::MAX),
                }),
            }
        })
    }
}

/// A [`Net`]'s stream in the shape that hyper wants.
#[derive(Debug)]
pub struct NetStream<S>(TokioIo<S>);

impl<S> Connection for NetStream<S> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl<S: tokio::io::AsyncRead + Unpin> Read for NetStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: tokio::io::AsyncWrite + Unpin> Write for NetStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, buffers)
    }
}

type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, ConnectError>> + Send>>;

tokio::task_local! {
    static CONNECT_LIMIT: Duration;
}

/// Below the 60 s and more after which common servers drop an idle connection.
const POOL_IDLE: Duration = Duration::from_secs(30);
const POOL_IDLE_CONNECTIONS: usize = 32;
/// Bounds a response's head, and what one read can put into a channel slot.
const MAX_BUFFERED_BYTES: usize = 64 * 1024;

fn port_of(uri: &Uri) -> u16 {
    let default = if uri.scheme() == Some(&http::uri::Scheme::HTTPS) {
        443
    } else {
        80
    };
    uri.port_u16().unwrap_or(default)
}

fn authority_of(uri: &Uri) -> String {
    format!("{}:{}", uri.host().unwrap_or_default(), port_of(uri))
}

fn classify(uri: &Uri, source: io::Error) -> ConnectError {
    let authority = authority_of(uri);
    if source.get_ref().is_some_and(|inner| inner.is::<DnsError>()) {
        ConnectError::Dns { authority, source }
    } else if source.kind() == io::ErrorKind::ConnectionRefused {
        ConnectError::Refused { authority, source }
    } else {
        ConnectError::Io { authority, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::TokioNet;
    use http::Request;
    use std::net::SocketAddr;
    use tokio::net::TcpListener;

    /// A network on which nothing ever connects.
    #[derive(Clone)]
    struct Blackhole;

    impl Net for Blackhole {
        type Stream = tokio::net::TcpStream;
        type Listener = crate::net::TokioListener;

        async fn connect(&self, _: &str, _: u16) -> io::Result<Self::Stream> {
            std::future::pending().await
        }

        async fn bind(&self, addr: SocketAddr) -> io::Result<Self::Listener> {
            TokioNet.bind(addr).await
        }
    }

    async fn failure<N: Net>(net: N, uri: &str, limit_ms: u64) -> ConnectError {
        let client = http_client(net, Duration::from_secs(600));
        let request = Request::get(uri).body(Full::default()).unwrap();
        let error = with_connect_limit(Duration::from_millis(limit_ms), client.request(request))
            .await
            .unwrap_err();
        assert!(error.is_connect());
        let boxed = std::error::Error::source(&error).unwrap();
        let found = boxed.downcast_ref::<ConnectError>().unwrap();
        match found {
            ConnectError::Timeout {
                authority,
                limit_ms,
            } => ConnectError::Timeout {
                authority: authority.clone(),
                limit_ms: *limit_ms,
            },
            ConnectError::Refused { authority, source } => ConnectError::Refused {
                authority: authority.clone(),
                source: source.kind().into(),
            },
            ConnectError::Dns { authority, source } => ConnectError::Dns {
                authority: authority.clone(),
                source: source.kind().into(),
            },
            ConnectError::Tls { authority, source } => ConnectError::Tls {
                authority: authority.clone(),
                source: source.to_string().into(),
            },
            ConnectError::Io { authority, source } => ConnectError::Io {
                authority: authority.clone(),
                source: source.kind().into(),
            },
        }
    }

    #[tokio::test]
    async fn a_connection_that_never_comes_is_a_timeout_with_the_requests_own_limit() {
        let error = failure(Blackhole, "https://blackhole.test/", 34).await;
        assert!(
            matches!(&error, ConnectError::Timeout { authority, limit_ms: 34 } if authority == "blackhole.test:443"),
            "{error:?}"
        );
    }

    #[tokio::test]
    async fn a_closed_port_is_refused() {
        let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = unused.local_addr().unwrap();
        drop(unused);
        let error = failure(TokioNet, &format!("http://{addr}/"), 5_000).await;
        assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn an_unknown_name_is_a_dns_failure() {
        let error = failure(TokioNet, "http://no-such-host.invalid/", 30_000).await;
        assert!(matches!(error, ConnectError::Dns { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn https_to_a_plain_port_is_a_tls_failure() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let (mut stream, _) = listener.accept().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
            stream
        });
        let error = failure(TokioNet, &format!("https://{addr}/"), 5_000).await;
        assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_mute_peer_in_the_tls_handshake_is_a_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let accepted = listener.accept().await.unwrap();
            std::future::pending::<()>().await;
            drop(accepted);
        });
        let error = failure(TokioNet, &format!("https://{addr}/"), 60).await;
        assert!(matches!(error, ConnectError::Timeout { .. }), "{error:?}");
        server.abort();
    }
}
