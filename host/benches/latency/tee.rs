//! Copies bytes between whoever connects and the provider, and notes when each
//! piece of an answer passes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

pub(crate) const PIECE_LEN: usize = 4;

/// The text of a piece: its number.
pub(crate) fn piece(n: usize) -> String {
    format!("{n:0PIECE_LEN$}")
}

/// When each piece of one answer was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sightings {
    bytes: Vec<u8>,
    pub(crate) at: Vec<Instant>,
}

impl Sightings {
    /// Takes more bytes of the answer, read just now. `key` stands before a
    /// piece's text.
    pub(crate) fn take(&mut self, bytes: &[u8], key: &str, now: Instant) {
        self.bytes.extend_from_slice(bytes);
        loop {
            let wanted = format!("\"{key}\":\"{}\"", piece(self.at.len()));
            let Some(at) = find(&self.bytes, wanted.as_bytes()) else {
                return;
            };
            self.bytes.drain(..at + wanted.len());
            self.at.push(now);
        }
    }

    /// Whether what came after the last piece contains this.
    pub(crate) fn rest_contains(&self, wanted: &[u8]) -> bool {
        find(&self.bytes, wanted).is_some()
    }

    pub(crate) fn rest(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// One turn at a time goes through it.
pub(crate) struct Tee {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Sightings>>,
}

impl Tee {
    pub(crate) fn before(provider: SocketAddr) -> Tee {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Sightings::default()));
        let noted = seen.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let upstream = TcpStream::connect(provider).unwrap();
                let (from, to) = (client.try_clone().unwrap(), upstream.try_clone().unwrap());
                let noted = noted.clone();
                thread::spawn(move || copy(from, to, |_| {}));
                thread::spawn(move || {
                    copy(upstream, client, |bytes| {
                        noted.lock().unwrap().take(bytes, "content", Instant::now());
                    });
                });
            }
        });
        Tee { address, seen }
    }

    /// What has passed since the last call.
    pub(crate) fn take(&self) -> Sightings {
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, note: impl Fn(&[u8])) {
    from.set_nodelay(true).unwrap();
    to.set_nodelay(true).unwrap();
    let mut buffer = [0u8; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        note(&buffer[..n]);
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    // The other side may have gone first.
    let _ = to.shutdown(std::net::Shutdown::Write);
}
