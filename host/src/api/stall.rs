//! A client that takes nothing holds nothing: a socket that does not accept
//! data for [`PATIENCE`] is cut, and its client resumes by its cursor.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// How long a socket may refuse data.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A listener whose connections are cut when they stall.
#[derive(Debug)]
pub struct StallListener<L> {
    inner: L,
    patience: Duration,
}

impl<L> StallListener<L> {
    /// Wraps a listener.
    pub fn new(inner: L, patience: Duration) -> StallListener<L> {
        StallListener { inner, patience }
    }
}

impl<L: Listener<Addr = SocketAddr>> Listener for StallListener<L> {
    type Io = Impatient<L::Io>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        let (inner, peer) = self.inner.accept().await;
        let stream = Impatient {
            inner,
            patience: self.patience,
            timer: Box::pin(tokio::time::sleep(self.patience)),
            is_stalled: false,
        };
        (stream, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection whose writes have a deadline.
#[derive(Debug)]
pub struct Impatient<S> {
    inner: S,
    patience: Duration,
    timer: Pin<Box<Sleep>>,
    is_stalled: bool,
}

impl<S> Impatient<S> {
    fn judge<T>(
        &mut self,
        outcome: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.is_stalled = false;
            return outcome;
        }
        if !self.is_stalled {
            self.is_stalled = true;
            let until = Instant::now() + self.patience;
            self.timer.as_mut().reset(until);
        }
        match self.timer.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client has taken no data for too long",
            ))),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write(context, data);
        self.judge(outcome, context)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.inner).poll_write_vectored(context, data);
        self.judge(outcome, context)
    }
    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_flush(context);
        self.judge(outcome, context)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.inner).poll_shutdown(context);
        self.judge(outcome, context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    fn impatient<S>(inner: S) -> Impatient<S> {
        Impatient {
            inner,
            patience: PATIENCE,
            timer: Box::pin(tokio::time::sleep(PATIENCE)),
            is_stalled: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_takes_nothing_is_cut_and_a_slow_one_is_not() {
        let (near, mut far) = duplex(4);
        let mut near = impatient(near);
        let writing = tokio::spawn(async move { near.write_all(&[0; 12]).await });
        let mut taken = [0; 4];
        for _ in 0..2 {
            tokio::time::sleep(PATIENCE - Duration::from_secs(1)).await;
            far.read_exact(&mut taken).await.unwrap();
        }
        writing.await.unwrap().unwrap();

        let (near, _far) = duplex(4);
        let mut near = impatient(near);
        let error = near.write_all(&[0; 12]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
