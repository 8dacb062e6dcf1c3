use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::serve::Listener;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// What an HTTP server spends on its connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServeLimits {
    /// Open connections; one that comes above it is closed at once.
    pub connections: usize,
    /// How long a connection may take over a request's head, and idle between
    /// two requests.
    pub header_read_ms: u64,
    /// How long the requests in flight may go on after the shutdown began.
    pub drain_ms: u64,
}

impl Default for ServeLimits {
    fn default() -> Self {
        ServeLimits {
            connections: 4_096,
            header_read_ms: 30_000,
            drain_ms: 30_000,
        }
    }
}

/// A handler's way of dropping the connection without an answer.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the connection is cut by intent")]
pub struct CutConnection;

/// Serves `router` with the default [`ServeLimits`] until `shutdown`, then lets
/// the requests in flight finish. Requests carry `ConnectInfo<SocketAddr>`.
///
/// Streams that never end must watch `shutdown` themselves (L8): a graceful
/// shutdown waits for them up to `drain_ms`, then they are dropped. Dropping
/// the future drops every connection.
pub async fn serve<L>(listener: L, router: Router, shutdown: CancellationToken)
where
    L: Listener<Addr = SocketAddr>,
{
    let handler = move |request: Request<Body>| {
        let router = router.clone();
        async move {
            router
                .oneshot(request)
                .await
                .map_err(|never: Infallible| match never {})
        }
    };
    serve_with(listener, handler, ServeLimits::default(), shutdown).await;
}

/// [`serve`] for any handler, which may also cut the connection.
///
/// HTTP/1.1 is spoken by hyper's own connection and not by the version-sniffing
/// one: that one reads the first bytes of an upgradable connection without any
/// deadline, so that a mute client would hold its place for ever.
pub async fn serve_with<L, H, F>(
    mut listener: L,
    handler: H,
    limits: ServeLimits,
    shutdown: CancellationToken,
) where
    L: Listener<Addr = SocketAddr>,
    H: Fn(Request<Body>) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Response<Body>, CutConnection>> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut is_full = false;
    loop {
        let (stream, peer) = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => {
                report_panic(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        if connections.len() >= limits.connections {
            if !is_full {
                tracing::warn!(%peer, limit = limits.connections, "too many connections; new ones are closed");
            }
            is_full = true;
            continue;
        }
        is_full = false;
        connections.spawn(serve_one(
            stream,
            peer,
            handler.clone(),
            limits,
            shutdown.clone(),
        ));
    }
    drop(listener);
    let drained = tokio::time::timeout(Duration::from_millis(limits.drain_ms), async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(
            open = connections.len(),
            "connections dropped at the end of the shutdown"
        );
        connections.shutdown().await;
    }
}

const MAX_HEAD_BYTES: usize = 64 * 1024;

async fn serve_one<S, H, F>(
    stream: S,
    peer: SocketAddr,
    handler: H,
    limits: ServeLimits,
    shutdown: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Request<Body>) -> F + Send + 'static,
    F: Future<Output = Result<Response<Body>, CutConnection>> + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(ConnectInfo(peer));
        handler(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(limits.header_read_ms))
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled(), if !is_closing => {
                is_closing = true;
                connection.as_mut().graceful_shutdown();
            }
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
        }
    }
}

fn report_panic(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's handler panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::{Net, TokioNet};
    use axum::routing::get;
    use std::io;
    use std::sync::Arc;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;

    async fn start(
        router: Router,
        limits: ServeLimits,
    ) -> (SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = TokioNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let handler = move |request| {
            let router = router.clone();
            async move { Ok(router.oneshot(request).await.unwrap()) }
        };
        let server =
            tokio::spawn(async move { serve_with(listener, handler, limits, token).await });
        (addr, shutdown, server)
    }

    async fn get_once(addr: SocketAddr, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(addr).await?;
        stream
            .write_all(
                format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes(),
            )
            .await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_request_knows_its_peer() {
        let router = Router::new().route(
            "/",
            get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.ip().to_string() }),
        );
        let listener = TokioNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve(listener, router, shutdown.clone()));
        assert!(get_once(addr, "/").await.unwrap().ends_with("127.0.0.1"));
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn shutdown_lets_a_request_in_flight_finish_and_accepts_no_other() {
        let (entered, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (entered_in, go_in) = (entered.clone(), go.clone());
        let router = Router::new().route(
            "/",
            get(move || async move {
                entered_in.notify_one();
                go_in.notified().await;
                "finished"
            }),
        );
        let (addr, shutdown, server) = start(router, ServeLimits::default()).await;
        let request = tokio::spawn(async move { get_once(addr, "/").await });
        entered.notified().await;
        shutdown.cancel();
        while TcpStream::connect(addr).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!server.is_finished());
        go.notify_one();
        assert!(request.await.unwrap().unwrap().ends_with("finished"));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_request_that_outlasts_the_drain_is_dropped() {
        let entered = Arc::new(Notify::new());
        let entered_in = entered.clone();
        let router = Router::new().route(
            "/",
            get(move || async move {
                entered_in.notify_one();
                std::future::pending::<&str>().await
            }),
        );
        let limits = ServeLimits {
            drain_ms: 20,
            ..ServeLimits::default()
        };
        let (addr, shutdown, server) = start(router, limits).await;
        let request = tokio::spawn(async move { get_once(addr, "/").await });
        entered.notified().await;
        shutdown.cancel();
        server.await.unwrap();
        let answer = request.await.unwrap().unwrap_or_default();
        assert_eq!(answer, "");
    }

    #[tokio::test]
    async fn a_connection_above_the_bound_is_closed_and_its_place_comes_back() {
        let limits = ServeLimits {
            connections: 1,
            ..ServeLimits::default()
        };
        let router = Router::new().route("/", get(|| async { "ok" }));
        let (addr, shutdown, server) = start(router, limits).await;
        let mut first = TcpStream::connect(addr).await.unwrap();
        first
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut byte = [0u8; 1];
        first.read_exact(&mut byte).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        let closed = second.read(&mut byte).await;
        assert!(matches!(closed, Ok(0) | Err(_)));
        drop(first);
        while !get_once(addr, "/")
            .await
            .is_ok_and(|answer| answer.ends_with("ok"))
        {
            tokio::task::yield_now().await;
        }
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_mute_connection_is_closed_after_the_header_limit() {
        let limits = ServeLimits {
            header_read_ms: 30,
            ..ServeLimits::default()
        };
        let router = Router::new().route("/", get(|| async { "ok" }));
        let (addr, shutdown, server) = start(router, limits).await;
        let started = std::time::Instant::now();
        let mut mute = TcpStream::connect(addr).await.unwrap();
        let mut byte = [0u8; 1];
        assert!(matches!(mute.read(&mut byte).await, Ok(0) | Err(_)));
        assert!(started.elapsed() >= Duration::from_millis(30));
        shutdown.cancel();
        server.await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_in_a_handler_ends_one_connection_only() {
        let router = Router::new()
            .route(
                "/panic",
                get(|| async {
                    if true {
                        panic!("on purpose")
                    }
                }),
            )
            .route("/", get(|| async { "ok" }));
        let (addr, shutdown, server) = start(router, ServeLimits::default()).await;
        assert_eq!(get_once(addr, "/panic").await.unwrap_or_default(), "");
        assert!(get_once(addr, "/").await.unwrap().ends_with("ok"));
        shutdown.cancel();
        server.await.unwrap();
    }
}
