//! The wire between a server and a computer, which a test can cut at any byte,
//! or let hang.

#![allow(dead_code, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// See the module's page. Its threads end with the links that it carries.
pub(crate) struct Wire {
    pub(crate) port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    to: u16,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    links: BTreeMap<usize, Link>,
    made: usize,
    carried: u64,
    /// So many more bytes come through, over whichever link, before a cut.
    left: Option<u64>,
    /// Each link carries no more than this.
    each: Option<u64>,
    is_mute: bool,
    cuts: usize,
}

struct Link {
    ends: Vec<TcpStream>,
    carried: u64,
}

impl Wire {
    /// Leads to what listens on this port of this machine.
    pub(crate) fn to(port: u16) -> Wire {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let own = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            to: port,
            state: Mutex::default(),
        });
        let accepting = shared.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                accepting.link(client);
            }
        });
        Wire { port: own, shared }
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        change(&mut self.shared.state.lock().unwrap())
    }

    /// Cuts the link that carries the last of so many bytes, in either direction.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.change(|state| state.left = Some(bytes));
    }

    /// Cuts every link when it has carried so much.
    pub(crate) fn cut_each_after(&self, bytes: Option<u64>) {
        self.change(|state| state.each = bytes);
    }

    /// Cuts what there is.
    pub(crate) fn cut(&self) {
        self.change(State::cut_all);
    }

    /// From now on links come about, and nothing ever comes over them.
    pub(crate) fn mute(&self, is_mute: bool) {
        self.change(|state| {
            state.is_mute = is_mute;
            state.cut_all();
        });
    }

    /// How often a link was cut here.
    pub(crate) fn cuts(&self) -> usize {
        self.change(|state| state.cuts)
    }

    /// How many links have come about.
    pub(crate) fn made(&self) -> usize {
        self.change(|state| state.made)
    }

    /// Bytes that have come through, in both directions.
    pub(crate) fn carried(&self) -> u64 {
        self.change(|state| state.carried)
    }
}

impl State {
    fn cut_all(&mut self) {
        for n in self.links.keys().copied().collect::<Vec<_>>() {
            self.cut(n);
        }
    }

    fn cut(&mut self, n: usize) {
        self.cuts += usize::from(self.end(n));
    }

    fn end(&mut self, n: usize) -> bool {
        let link = self.links.remove(&n);
        for end in link.iter().flat_map(|link| &link.ends) {
            // It may be closed already.
            let _ = end.shutdown(Shutdown::Both);
        }
        link.is_some()
    }

    /// How many of these bytes pass, and whether they are the link's last ones.
    fn pass(&mut self, n: usize, bytes: usize) -> (usize, bool) {
        let Some(link) = self.links.get_mut(&n) else {
            return (0, true);
        };
        let own = self.each.map(|each| each.saturating_sub(link.carried));
        let most = [self.left, own].into_iter().flatten().min();
        let passed = most.map_or(bytes as u64, |most| most.min(bytes as u64));
        link.carried += passed;
        self.carried += passed;
        self.left = self.left.map(|left| left - passed).filter(|left| *left > 0);
        (passed as usize, most == Some(passed))
    }
}

impl Shared {
    fn link(self: &Arc<Shared>, client: TcpStream) {
        let mut state = self.state.lock().unwrap();
        let n = state.made;
        state.made += 1;
        let mut ends = vec![client];
        if !state.is_mute {
            // Whoever comes while the computer is away is sent away too.
            let Ok(computer) = TcpStream::connect(("127.0.0.1", self.to)) else {
                return;
            };
            computer.set_nodelay(true).unwrap();
            ends[0].set_nodelay(true).unwrap();
            ends.push(computer);
            for (from, to) in [(0, 1), (1, 0)] {
                let (from, to) = (ends[from].try_clone(), ends[to].try_clone());
                let (from, to, shared) = (from.unwrap(), to.unwrap(), self.clone());
                std::thread::spawn(move || shared.carry(n, from, to));
            }
        }
        state.links.insert(n, Link { ends, carried: 0 });
    }

    fn carry(&self, n: usize, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let bytes = from.read(&mut buffer).unwrap_or(0);
            let (passed, is_last) = self.state.lock().unwrap().pass(n, bytes);
            let is_sent = to.write_all(&buffer[..passed]).is_ok();
            let mut state = self.state.lock().unwrap();
            if bytes > 0 && is_last {
                state.cut(n);
            } else if bytes == 0 || !is_sent {
                state.end(n);
            } else {
                continue;
            }
            return;
        }
    }
}
