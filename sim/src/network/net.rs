//! The host's network seam over turmoil, with every open connection registered.
//!
//! A host's death is made here and not left to turmoil alone: that drops the
//! runtime, whose tasks go in an order that depends on numbers which all
//! threads of the process draw from. So the sockets are closed first, in the
//! order of their making, and what is dropped afterwards holds none.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use dispatch::net::Net;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use turmoil::net::{TcpListener, TcpStream};

/// One host's way into the simulated network; clones share it.
#[derive(Clone, Debug)]
pub(super) struct SimNet(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    sockets: Mutex<Sockets>,
    fallen: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Sockets {
    open: BTreeMap<u64, Slot>,
    made: u64,
}

/// Empty once its host has fallen.
type Slot = Arc<Mutex<Option<TcpStream>>>;

impl SimNet {
    pub(super) fn new() -> SimNet {
        SimNet(Arc::new(Shared {
            sockets: Mutex::default(),
            fallen: watch::Sender::new(false),
        }))
    }

    /// Connections that somebody still holds.
    pub(super) fn open(&self) -> usize {
        locked(&self.0.sockets).open.len()
    }

    /// The host's process is about to be gone: within this tick its sockets
    /// are closed, and nothing that it does reaches anybody any more.
    pub(super) fn fall(&self) {
        self.0.fallen.send_replace(true);
    }

    /// A new process begins.
    pub(super) fn rise(&self) {
        self.0.fallen.send_replace(false);
    }

    /// Spawned in every process of the host, because sockets can only be
    /// closed from within.
    pub(super) async fn close_at_fall(self) {
        self.fallen().await;
        let slots: Vec<Slot> = locked(&self.0.sockets).open.values().cloned().collect();
        for slot in slots {
            drop(locked(&slot).take());
        }
    }

    async fn fallen(&self) {
        // The sender lives in `self`.
        let _ = self.0.fallen.subscribe().wait_for(|fallen| *fallen).await;
    }

    async fn stop_if_fallen(&self) {
        if *self.0.fallen.borrow() {
            std::future::pending().await
        }
    }

    fn register(&self, stream: TcpStream) -> SimStream {
        let slot = Arc::new(Mutex::new(Some(stream)));
        let mut sockets = locked(&self.0.sockets);
        let number = sockets.made;
        sockets.made += 1;
        sockets.open.insert(number, slot.clone());
        SimStream {
            slot,
            number,
            net: self.clone(),
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Net for SimNet {
    type Stream = SimStream;
    type Listener = SimListener;

    async fn connect(&self, host: &str, port: u16) -> io::Result<SimStream> {
        let stream = TcpStream::connect((host, port)).await?;
        self.stop_if_fallen().await;
        Ok(self.register(stream))
    }

    async fn bind(&self, addr: SocketAddr) -> io::Result<SimListener> {
        Ok(SimListener {
            inner: TcpListener::bind(addr).await?,
            net: self.clone(),
        })
    }
}

/// A connection. On a fallen host it is silent for ever.
#[derive(Debug)]
pub(super) struct SimStream {
    slot: Slot,
    number: u64,
    net: SimNet,
}

impl Drop for SimStream {
    fn drop(&mut self) {
        locked(&self.net.0.sockets).open.remove(&self.number);
    }
}

impl SimStream {
    fn with<T>(
        &mut self,
        use_it: impl FnOnce(Pin<&mut TcpStream>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match locked(&self.slot).as_mut() {
            Some(stream) => use_it(Pin::new(stream)),
            None => Poll::Pending,
        }
    }
}

impl AsyncRead for SimStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for SimStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.with(|stream| stream.poll_write(context, data))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_flush(context))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.with(|stream| stream.poll_shutdown(context))
    }
}

pub(super) struct SimListener {
    inner: TcpListener,
    net: SimNet,
}

impl Listener for SimListener {
    type Io = SimStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (SimStream, SocketAddr) {
        loop {
            self.net.stop_if_fallen().await;
            match self.inner.accept().await {
                Ok((stream, peer)) => return (self.net.register(stream), peer),
                // turmoil has no accept errors; should it get some, time must pass.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
