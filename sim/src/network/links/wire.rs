//! A connection on which something goes wrong at a certain byte.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What becomes of what is written, after so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Snag {
    /// Nothing more is sent, and nobody is told.
    Silent(u64),
    /// The connection is closed.
    Cut(u64),
}

/// See the module's page.
pub(super) struct Snagged<S> {
    inner: Option<S>,
    snag: Option<Snag>,
    written: u64,
}

impl<S> Snagged<S> {
    pub(super) fn new(inner: S, snag: Option<Snag>) -> Snagged<S> {
        Snagged {
            inner: Some(inner),
            snag,
            written: 0,
        }
    }

    /// Bytes that still go through.
    fn room(&self) -> u64 {
        match self.snag {
            Some(Snag::Silent(bytes) | Snag::Cut(bytes)) => bytes.saturating_sub(self.written),
            None => u64::MAX,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Snagged<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Some(stream) => Pin::new(stream).poll_read(context, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Snagged<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let room = usize::try_from(self.room()).unwrap_or(usize::MAX);
        let snag = self.snag;
        let Some(stream) = &mut self.inner else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if room == 0 {
            return match snag {
                Some(Snag::Cut(_)) => {
                    self.inner = None;
                    Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
                }
                Some(Snag::Silent(_)) | None => Poll::Pending,
            };
        }
        let some = &bytes[..bytes.len().min(room)];
        let polled = Pin::new(stream).poll_write(context, some);
        if let Poll::Ready(Ok(n)) = polled {
            self.written += n as u64;
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Some(stream) => Pin::new(stream).poll_flush(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner {
            Some(stream) => Pin::new(stream).poll_shutdown(context),
            None => Poll::Ready(Ok(())),
        }
    }
}
