//! What SSH is spoken over: a connection, a channel of a jump host, or the
//! pipes of a proxy command.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

/// A stream that ends when its link is told to.
///
/// The library's session task waits without a deadline in many places: for the
/// other side's part of a key exchange, for room in a socket whose peer is
/// stopped, for a half-open channel to close. All of them end with the stream,
/// so whoever gives a link up ends its stream and thereby its task.
pub(super) struct Socket {
    inner: Option<Box<dyn Duplex>>,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Socket {
    pub(super) fn new(inner: impl Duplex + 'static, cut: CancellationToken) -> Socket {
        Socket {
            inner: Some(Box::new(inner)),
            cut: Box::pin(cut.cancelled_owned()),
        }
    }

    /// The stream, unless it was cut: then it is closed here and now.
    fn stream(&mut self, cx: &mut Context<'_>) -> Option<Pin<&mut dyn Duplex>> {
        if self.inner.is_some() && self.cut.as_mut().poll(cx).is_ready() {
            self.inner = None;
        }
        self.inner
            .as_mut()
            .map(|stream| Pin::new(stream.as_mut()) as Pin<&mut dyn Duplex>)
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.stream(cx) {
            Some(stream) => stream.poll_read(cx, buffer),
            None => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.stream(cx) {
            Some(stream) => stream.poll_write(cx, bytes),
            None => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream(cx) {
            Some(stream) => stream.poll_flush(cx),
            None => Poll::Ready(Ok(())),
        }
    }

    /// Never fails: the library would forget why its session ended over a
    /// socket that is gone already.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.stream(cx) {
            Some(stream) => stream.poll_shutdown(cx).map(|_| Ok(())),
            None => Poll::Ready(Ok(())),
        }
    }
}

/// A proxy command's pipes; the command is killed when they are let go of.
pub(super) struct ProxyPipes {
    pub(super) output: ChildStdout,
    pub(super) input: ChildStdin,
    /// Made with `kill_on_drop`, and reaped by the runtime then.
    pub(super) _child: Child,
}

impl AsyncRead for ProxyPipes {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.output).poll_read(cx, buffer)
    }
}

impl AsyncWrite for ProxyPipes {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.input).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.input).poll_shutdown(cx)
    }
}

/// An SFTP stream that is watched: packets longer than any server sends end it
/// (the library would allocate what the length says), and so does whoever is
/// told of its end.
pub(super) struct SftpStream<S> {
    inner: S,
    ended: CancellationToken,
    /// The length that is being read, and how much of it.
    header: [u8; 4],
    header_bytes: usize,
    /// What is left of the current packet.
    left: usize,
}

/// OpenSSH and the library agree on 256 KiB; twice over, for others.
const MAX_SFTP_PACKET_BYTES: usize = 1024 * 1024;

impl<S> SftpStream<S> {
    /// `ended` is cancelled when nothing more will come.
    pub(super) fn new(inner: S, ended: CancellationToken) -> SftpStream<S> {
        SftpStream {
            inner,
            ended,
            header: [0; 4],
            header_bytes: 0,
            left: 0,
        }
    }

    /// Follows the packets' lengths; false when one is beyond all measure.
    fn follow(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let skipped = self.left.min(bytes.len());
            self.left -= skipped;
            bytes = &bytes[skipped..];
            let Some((first, rest)) = bytes.split_first() else {
                break;
            };
            self.header[self.header_bytes] = *first;
            self.header_bytes += 1;
            bytes = rest;
            if self.header_bytes == self.header.len() {
                self.header_bytes = 0;
                self.left = u32::from_be_bytes(self.header) as usize;
                if self.left > MAX_SFTP_PACKET_BYTES {
                    return false;
                }
            }
        }
        true
    }
}

impl<S> Drop for SftpStream<S> {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for SftpStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ended.is_cancelled() {
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let is_end = match &polled {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(_)) => true,
            Poll::Ready(Ok(())) => {
                let read = &buffer.filled()[before..];
                read.is_empty() || !self.follow(read)
            }
        };
        if is_end {
            // The library takes only an end for an end, and would read on after
            // an error.
            self.ended.cancel();
            buffer.set_filled(before);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for SftpStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn s4_a_cut_socket_ends_whoever_waits_for_it() {
        let cut = CancellationToken::new();
        let (near, mut far) = duplex(16);
        let mut socket = Socket::new(near, cut.clone());
        far.write_all(b"ab").await.unwrap();
        let mut two = [0; 2];
        socket.read_exact(&mut two).await.unwrap();
        let waiting = tokio::spawn(async move {
            let read = socket.read(&mut [0; 8]).await;
            (read, socket.write(b"x").await, socket.shutdown().await)
        });
        cut.cancel();
        let (read, written, shut) = waiting.await.unwrap();
        assert_eq!(read.unwrap(), 0);
        assert!(written.is_err() && shut.is_ok());
        // The other side sees the end, too.
        assert_eq!(far.read(&mut [0; 8]).await.unwrap(), 0);
    }

    async fn read_all(pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let (near, mut far) = duplex(64);
        let ended = CancellationToken::new();
        let mut stream = SftpStream::new(near, ended.clone());
        let mut read = Vec::new();
        for piece in pieces {
            far.write_all(piece).await.unwrap();
            let mut buffer = [0; 64];
            let n = stream.read(&mut buffer).await.unwrap();
            read.extend_from_slice(&buffer[..n]);
        }
        (read, ended.is_cancelled())
    }

    #[tokio::test]
    async fn s6_sftp_packets_of_any_cut_pass_and_one_without_measure_ends_the_stream() {
        let pieces: [&[u8]; 4] = [b"\0\0", b"\0\x02ab\0\0\0\0\0", b"\0\0\x01c\0\0", b"\0\x01d"];
        let (read, ended) = read_all(&pieces).await;
        assert_eq!(read, pieces.concat());
        assert!(!ended);
        let (read, ended) = read_all(&[b"\0\0\0\x01a", b"\xff\xff\xff\xffxx"]).await;
        assert_eq!(read, b"\0\0\0\x01a");
        assert!(ended);
    }
}
