//! A link between a store and its PostgreSQL that can be made to fail at a
//! chosen moment: before a COMMIT reaches the server, after it has landed and
//! before its answer comes back, or anywhere.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

/// What a client is about to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Commit,
    Other,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Pass,
    /// Both ends lose the link, and the message with it.
    Cut,
    /// The server gets a COMMIT and carries it out; then both ends lose the
    /// link, and nobody hears of it.
    CutAfterAnswer,
    /// It is on its way until [`Proxy::release`].
    Hold,
}

type Plan = Box<dyn FnMut(Seen) -> Act + Send>;

struct Shared {
    server: SocketAddr,
    plan: Mutex<Plan>,
    /// Both ends of every link.
    links: Mutex<BTreeMap<usize, [TcpStream; 2]>>,
    /// How often what is held was let go.
    released: Mutex<u64>,
    release: Condvar,
}

/// See the module's page. Its threads end with the links.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

impl Proxy {
    /// Listens before the server of `url`.
    pub(crate) fn before(url: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            server: place(url).parse().unwrap(),
            plan: Mutex::new(Box::new(|_| Act::Pass)),
            links: Mutex::default(),
            released: Mutex::new(0),
            release: Condvar::new(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for (n, client) in listener.incoming().enumerate() {
                // Whoever comes while the server is away is sent away too.
                if let (Ok(client), Ok(server)) = (client, TcpStream::connect(accepting.server)) {
                    accepting.link(n, client, server);
                }
            }
        });
        Proxy { port, shared }
    }

    /// `url`, by way of here.
    pub(crate) fn url(&self, url: &str) -> String {
        url.replace(place(url), &format!("127.0.0.1:{}", self.port))
    }

    /// From here on `plan` is asked about every message.
    pub(crate) fn plan(&self, plan: impl FnMut(Seen) -> Act + Send + 'static) {
        *self.shared.plan.lock().unwrap() = Box::new(plan);
    }

    /// Lets go what is held.
    pub(crate) fn release(&self) {
        *self.shared.released.lock().unwrap() += 1;
        self.shared.release.notify_all();
    }

    /// Cuts every link that there is.
    pub(crate) fn cut_all(&self) {
        for ends in std::mem::take(&mut *self.shared.links.lock().unwrap()).into_values() {
            close(&ends);
        }
    }
}

fn place(url: &str) -> &str {
    let after = url.split('@').nth(1).unwrap();
    after.split('/').next().unwrap()
}

fn close(ends: &[TcpStream; 2]) {
    for end in ends {
        // It may be closed already.
        let _ = end.shutdown(Shutdown::Both);
    }
}

impl Shared {
    fn link(self: &Arc<Shared>, n: usize, client: TcpStream, server: TcpStream) {
        client.set_nodelay(true).unwrap();
        server.set_nodelay(true).unwrap();
        let pair = || [client.try_clone().unwrap(), server.try_clone().unwrap()];
        self.links.lock().unwrap().insert(n, pair());
        let is_last = Arc::new(Mutex::new(false));
        let ([from, to], shared, cut) = (pair(), self.clone(), is_last.clone());
        std::thread::spawn(move || {
            shared.upwards(from, to, &cut);
            shared.close(n);
        });
        let ([to, from], shared) = (pair(), self.clone());
        std::thread::spawn(move || {
            downwards(from, to, &is_last);
            shared.close(n);
        });
    }

    fn close(&self, n: usize) {
        if let Some(ends) = self.links.lock().unwrap().remove(&n) {
            close(&ends);
        }
    }

    fn upwards(&self, mut from: TcpStream, mut to: TcpStream, is_last: &Mutex<bool>) {
        // The first message has no type.
        let mut is_first = true;
        while let Some(message) = message(&mut from, !is_first) {
            let seen = match message.starts_with(b"Q") && message[5..].starts_with(b"COMMIT\0") {
                true => Seen::Commit,
                false => Seen::Other,
            };
            let act = match is_first {
                true => Act::Pass,
                false => (self.plan.lock().unwrap())(seen),
            };
            is_first = false;
            match act {
                Act::Pass => {}
                Act::Cut => return,
                Act::CutAfterAnswer => *is_last.lock().unwrap() = true,
                Act::Hold => {
                    let released = self.released.lock().unwrap();
                    let before = *released;
                    let held = self.release.wait_while(released, |now| *now == before);
                    drop(held.unwrap());
                }
            }
            if to.write_all(&message).is_err() {
                return;
            }
        }
    }
}

/// Until somebody closes, or the answer comes that nobody shall hear.
fn downwards(mut from: TcpStream, mut to: TcpStream, is_last: &Mutex<bool>) {
    while let Some(message) = message(&mut from, true) {
        let is_end = message.starts_with(b"C")
            && (message[5..].starts_with(b"COMMIT\0") || message[5..].starts_with(b"ROLLBACK\0"));
        if (is_end && *is_last.lock().unwrap()) || to.write_all(&message).is_err() {
            return;
        }
    }
}

/// The next message, head and all: a byte for its type, then its length.
fn message(from: &mut TcpStream, is_typed: bool) -> Option<Vec<u8>> {
    let head = if is_typed { 5 } else { 4 };
    let mut message = vec![0; head];
    from.read_exact(&mut message).ok()?;
    let length: [u8; 4] = message[head - 4..].try_into().unwrap();
    message.resize(head - 4 + u32::from_be_bytes(length) as usize, 0);
    from.read_exact(&mut message[head..]).ok()?;
    Some(message)
}
