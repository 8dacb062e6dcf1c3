//! A replica's requests. What the network does to one is seen here first, and
//! told to the oracles right before the Dispatcher hears of it; what the
//! provider does on purpose comes with a note of its cause.

use std::rc::Rc;
use std::time::Duration;

use dispatch_core::config::Deadlines;
use dispatch_core::ids::{EffectId, ProviderId, TurnId};
use dispatch_core::io::{FailKind, Input};
use dispatch_core::time::Instant;
use madsim::net::TcpStream;
use madsim::task::{AbortHandle, spawn_local};
use madsim::time::sleep;

use super::driver::Driver;
use super::plan::Who;
use super::replica::Lanes;
use super::ring::Ring;
use super::wire::{Call, Piece, address, receive, send};
use crate::fact::{Cause, Fact};

/// Something that a stream brings to its driver.
pub(super) struct Said {
    pub(super) id: EffectId,
    pub(super) what: What,
}

pub(super) enum What {
    Note(Cause),
    Input(Input),
}

/// A stream that its Dispatcher still wants.
pub(super) struct Flight {
    pub(super) stream: u32,
    turn: TurnId,
    task: AbortHandle,
    /// When anything came last, or the request was made.
    heard_at: Instant,
    has_head: bool,
    content: Content,
}

/// Whether a stream has shown content: found here by other means than in the
/// code under test.
#[derive(Default)]
struct Content {
    text: Vec<u8>,
    seen: bool,
}

impl Content {
    fn take(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
        while let Some(end) = self.text.windows(2).position(|two| two == b"\n\n") {
            let event: Vec<u8> = self.text.drain(..end + 2).collect();
            self.seen |= has_content(&event);
        }
    }
}

fn has_content(event: &[u8]) -> bool {
    let data = event.strip_prefix(b"data: ").unwrap_or_default();
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(data) else {
        return false;
    };
    let delta = &json["choices"][0]["delta"];
    let says = |field: &str| delta[field].as_str().is_some_and(|text| !text.is_empty());
    says("content") || says("reasoning_content") || delta["tool_calls"].is_array()
}

impl Flight {
    /// Tells what is being done to the stream, if anything.
    pub(super) fn heard(&mut self, ring: &Ring, what: &What, now: Instant) {
        match what {
            What::Note(cause) if !is_seen_here(cause) => {
                let turn = self.turn;
                ring.inject(turn, cause);
            }
            What::Input(Input::ProviderFailed { kind, .. }) => self.broke(ring, kind.cause()),
            What::Input(Input::ProviderHead { .. }) => {
                self.has_head = true;
                self.heard_at = now;
            }
            What::Input(Input::ProviderBytes { bytes, .. }) => {
                self.content.take(bytes);
                self.heard_at = now;
            }
            What::Note(_) | What::Input(_) => {}
        }
    }

    fn broke(&self, ring: &Ring, cause: &str) {
        let cause = cause.to_owned();
        let cause = match self.content.seen {
            true => Cause::Broken {
                cause,
                is_cut: true,
            },
            false => Cause::Refused {
                cause,
                retry_after_ms: None,
            },
        };
        ring.inject(self.turn, &cause);
    }

    /// A stream that was silent for too long is closed for a reason.
    fn closed(&self, ring: &Ring, now: Instant) {
        let silent_ms = now.since_ms(self.heard_at);
        let deadlines = Deadlines::default();
        let (cause, limit_ms) = match self.has_head {
            false => ("first-byte-timeout", deadlines.first_byte_ms),
            true => ("idle-timeout", deadlines.idle_ms),
        };
        if silent_ms >= limit_ms {
            self.broke(ring, cause);
        }
    }
}

/// A fault that ends or stalls a connection is told where that is seen.
fn is_seen_here(cause: &Cause) -> bool {
    let (Cause::Refused { cause, .. } | Cause::Broken { cause, .. } | Cause::Fatal { cause }) =
        cause
    else {
        return false;
    };
    let by_network = [
        FailKind::Refused.cause(),
        FailKind::ConnectTimeout.cause(),
        FailKind::Body.cause(),
        "first-byte-timeout",
        "idle-timeout",
    ];
    by_network.contains(&cause.as_str())
}

impl Ring {
    fn inject(&self, turn: TurnId, cause: &Cause) {
        self.line(|| format!("fault for {turn}: {cause:?}"));
        self.tell(&Fact::Injected { turn, cause });
    }
}

impl Driver {
    pub(super) fn open(
        &mut self,
        id: EffectId,
        provider: ProviderId,
        turn: TurnId,
        body: Vec<u8>,
        connect_ms: u64,
        now: Instant,
    ) {
        let stream = self.ring.streams.borrow_mut().open(turn, self.replica);
        let epoch = self.epochs.get(&turn).copied().unwrap_or_default();
        self.ring.tell(&Fact::Opened {
            turn,
            epoch,
            stream,
        });
        let call = Call {
            stream,
            replica: self.replica,
            life: self.life,
            provider,
            turn,
            body,
        };
        let task = request(self.ring.clone(), id, call, connect_ms, self.lanes.clone());
        let flight = Flight {
            stream,
            turn,
            task: spawn_local(task).abort_handle(),
            heard_at: now,
            has_head: false,
            content: Content::default(),
        };
        self.flights.insert(id, flight);
    }

    pub(super) fn close(&mut self, id: EffectId, now: Instant) {
        if let Some(flight) = self.flights.remove(&id) {
            flight.closed(&self.ring, now);
            let stream = flight.stream;
            self.ring.streams.borrow_mut().forget(stream);
            self.ring.tell(&Fact::Closed { stream });
            flight.task.abort();
        }
    }
}

async fn request(ring: Rc<Ring>, id: EffectId, call: Call, connect_ms: u64, lanes: Lanes) {
    let failed = match connect(&ring, call.replica, connect_ms).await {
        Ok(stream) => match exchange(&ring, id, stream, &call, &lanes).await {
            Some(kind) => kind,
            None => return,
        },
        Err(kind) => kind,
    };
    let input = Input::ProviderFailed {
        id,
        kind: failed,
        message: "the connection failed".to_owned(),
    };
    say(&lanes, id, What::Input(input)).await;
}

async fn connect(ring: &Ring, replica: usize, connect_ms: u64) -> Result<TcpStream, FailKind> {
    let (here, there) = (Who::Replica(replica), Who::Provider);
    let connected = TcpStream::connect(address(there)).await;
    let is_clogged = ring.is_clogged(here, there) || ring.is_clogged(there, here);
    match connected {
        Ok(stream) => Ok(stream),
        // The simulated network says no at once where a real one says nothing.
        Err(_) if is_clogged => {
            sleep(Duration::from_millis(connect_ms)).await;
            Err(FailKind::ConnectTimeout)
        }
        Err(_) => Err(FailKind::Refused),
    }
}

/// Reads the whole answer; what broke, unless it ended well.
async fn exchange(
    ring: &Ring,
    id: EffectId,
    mut stream: TcpStream,
    call: &Call,
    lanes: &Lanes,
) -> Option<FailKind> {
    if send(&mut stream, call).await.is_err() {
        return Some(FailKind::Transport);
    }
    let mut cut = FailKind::Transport;
    loop {
        let what = match receive(&mut stream).await {
            Ok(Piece::Note(n)) => What::Note(ring.streams.borrow().cause(n)),
            Ok(Piece::Head(status, headers)) => {
                cut = FailKind::Body;
                What::Input(Input::ProviderHead {
                    id,
                    status,
                    headers,
                })
            }
            Ok(Piece::Bytes(bytes)) => What::Input(Input::ProviderBytes { id, bytes }),
            Ok(Piece::End) => {
                say(lanes, id, What::Input(Input::ProviderEnd { id })).await;
                return None;
            }
            Ok(Piece::NoConnection(kind)) => return Some(kind),
            Err(_) => return Some(cut),
        };
        say(lanes, id, what).await;
    }
}

async fn say(lanes: &Lanes, id: EffectId, what: What) {
    // A driver that is gone has no use for it.
    let _ = lanes.said.send(Said { id, what }).await;
}
