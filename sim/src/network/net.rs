//! The host's network seam over turmoil, with every open connection counted.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use dispatch::net::Net;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

/// One host's way into the simulated network; clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct SimNet {
    open: Arc<AtomicUsize>,
}

impl SimNet {
    /// Connections that somebody still holds.
    pub(super) fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    fn counted(&self, inner: TcpStream) -> Counted {
        self.open.fetch_add(1, Ordering::Relaxed);
        Counted {
            inner,
            open: self.open.clone(),
        }
    }
}

impl Net for SimNet {
    type Stream = Counted;
    type Listener = SimListener;

    async fn connect(&self, host: &str, port: u16) -> io::Result<Counted> {
        let stream = TcpStream::connect((host, port)).await?;
        Ok(self.counted(stream))
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<SimListener> {
        Ok(SimListener {
            inner: TcpListener::bind(addr).await?,
            net: self.clone(),
        })
    }
}

/// A connection that is counted while it is open.
#[derive(Debug)]
pub(super) struct Counted {
    inner: TcpStream,
    open: Arc<AtomicUsize>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, data)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

pub(super) struct SimListener {
    inner: TcpListener,
    net: SimNet,
}

impl Listener for SimListener {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            match self.inner.accept().await {
                Ok((stream, peer)) => return (self.net.counted(stream), peer),
                // turmoil has no accept errors; should it get some, time must pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
