//! A provider's host: a real HTTP server that refuses transcripts which a
//! vendor would refuse, plays the scripts of turns, and fails as was drawn.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::serve::Listener;
use bytes::Bytes;
use dispatch::net::{CutConnection, Net, ServeLimits, serve_with};
use futures_util::stream;
use http::{Request, Response};
use tokio_util::sync::CancellationToken;

use super::fact::{Fact, Log};
use super::net::{SimListener, SimNet, SimStream};
use super::plan::{Plan, ProviderPlan, Storm};
use crate::request::{Asked, Reading};
use crate::rng::{Purpose, Rng};
use crate::script::Script;
use crate::sse::{self, Act};

/// Where providers listen.
pub(super) const PORT: u16 = 80;

const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// The scripts' pauses are made for longer deadlines than the ring's.
const LONGEST_PAUSE_US: u64 = 4_000_000;

/// One provider; what it has counted outlives its process.
pub(super) struct Vendor {
    plan: Arc<Plan>,
    number: usize,
    log: Log,
    pub(super) net: SimNet,
    /// Requests under way.
    open: Mutex<BTreeSet<u32>>,
    /// How often a step was asked for.
    tries: Mutex<BTreeMap<Asked, u64>>,
}

impl Vendor {
    pub(super) fn new(plan: Arc<Plan>, number: usize, log: Log) -> Vendor {
        Vendor {
            plan,
            number,
            log,
            net: SimNet::new(),
            open: Mutex::default(),
            tries: Mutex::default(),
        }
    }

    /// Whatever was under way is over; before the process is dropped, whose
    /// parts would tell of it in any order.
    pub(super) fn fall(&self) {
        self.net.fall();
        let open = std::mem::take(&mut *self.open());
        for stream in open {
            self.log.tell(Fact::Gone { stream });
        }
    }

    fn gone(&self, stream: u32) {
        if self.open().remove(&stream) {
            self.log.tell(Fact::Gone { stream });
        }
    }

    fn open(&self) -> MutexGuard<'_, BTreeSet<u32>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves for ever.
    pub(super) async fn live(self: Arc<Vendor>) -> turmoil::Result {
        self.net.rise();
        tokio::spawn(self.net.clone().close_at_fall());
        let all = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = Moody {
            inner: self.net.bind(all).await?,
            vendor: self.clone(),
            ignored: Vec::new(),
        };
        let handler = move |request: Request<Body>| {
            let vendor = self.clone();
            async move { vendor.answer(request).await }
        };
        let limits = ServeLimits::default();
        serve_with(listener, handler, limits, CancellationToken::new()).await;
        Ok(())
    }

    fn own(&self) -> &ProviderPlan {
        &self.plan.providers[self.number]
    }

    fn storm(&self) -> Option<Storm> {
        let now_ms = self.log.now_ms();
        let storms = self.own().storms.iter();
        storms.copied().find(|storm| storm.span.holds(now_ms))
    }

    fn is_mute(&self) -> bool {
        let now_ms = self.log.now_ms();
        self.own().mutes.iter().any(|span| span.holds(now_ms))
    }

    async fn answer(
        self: Arc<Vendor>,
        request: Request<Body>,
    ) -> Result<Response<Body>, CutConnection> {
        let body = to_bytes(request.into_body(), MAX_BODY_BYTES).await;
        let Ok(body) = body else {
            return Err(CutConnection);
        };
        let Reading { asked, verdict, .. } = Reading::of(&body);
        let verdict = verdict.and_then(|()| match &asked {
            Ok(asked) => self.script_of(*asked).map(|_| ()),
            Err(why) => Err(why.clone()),
        });
        let shown = asked.clone().unwrap_or(Asked {
            token: u32::MAX,
            step: 0,
        });
        let stream = self.log.fresh_id();
        self.log.tell(Fact::Requested {
            stream,
            provider: self.number,
            asked: shown,
            verdict: verdict.clone(),
        });
        self.open().insert(stream);
        let play = Play {
            stream,
            asked: shown,
            vendor: self.clone(),
            acts: match (verdict, asked) {
                (Ok(()), Ok(asked)) => self.acts(asked),
                (Ok(()), Err(why)) | (Err(why), _) => sse::rejection(&why),
            },
        };
        play.respond().await
    }

    fn script_of(&self, asked: Asked) -> Result<crate::script::StepScript, String> {
        let script = Script::of(self.plan.seed, asked.token);
        let step = script.steps.into_iter().nth(asked.step);
        step.ok_or_else(|| format!("step {} of a turn that has fewer", asked.step))
    }

    fn acts(&self, asked: Asked) -> VecDeque<sse::Step> {
        let tries = {
            let mut tries = self.tries.lock().unwrap_or_else(PoisonError::into_inner);
            let tries = tries.entry(asked).or_default();
            *tries += 1;
            *tries
        };
        let key = (u64::from(asked.token) << 16) | asked.step as u64;
        let mut rng = Rng::keyed(self.plan.seed, Purpose::Provider, key, tries);
        if let Some(storm) = self.storm() {
            return refusal(&mut rng, storm);
        }
        let own = self.own();
        let is_calm = self.log.now_ms() >= self.plan.calm_at_ms;
        let fails = !is_calm && rng.chance(own.faults);
        let fault = fails.then(|| rng.weighted(&own.fault_kinds));
        match self.script_of(asked) {
            Ok(step) => sse::answer(&mut rng, &step, fault),
            Err(why) => sse::rejection(&why),
        }
    }
}

fn refusal(rng: &mut Rng, storm: Storm) -> VecDeque<sse::Step> {
    let mut headers = vec![("content-type".to_owned(), "application/json".to_owned())];
    if let Some(seconds) = storm.retry_after_s {
        headers.push(("retry-after".to_owned(), seconds.to_string()));
    }
    let note = crate::fact::Cause::Refused {
        cause: format!("http-{}", storm.status),
        retry_after_ms: storm.retry_after_s.map(|s| s * 1_000),
    };
    let body = br#"{"error":{"message":"a storm is on","type":"server_error"}}"#;
    let act = |after, act| sse::Step { after, act };
    VecDeque::from([
        act(0, Act::Note(note)),
        act(rng.spread(1_000, 500_000), Act::Head(storm.status, headers)),
        act(0, Act::Bytes(body.to_vec())),
        act(0, Act::End),
    ])
}

/// One answer under way; dropped, it tells that the request is over.
struct Play {
    stream: u32,
    asked: Asked,
    vendor: Arc<Vendor>,
    acts: VecDeque<sse::Step>,
}

impl Drop for Play {
    fn drop(&mut self) {
        self.vendor.gone(self.stream);
    }
}

impl Play {
    async fn respond(mut self) -> Result<Response<Body>, CutConnection> {
        let Some(Act::Head(status, headers)) = self.next().await else {
            return Err(CutConnection);
        };
        if status >= 400 {
            self.vendor.log.tell(Fact::Refused {
                asked: self.asked,
                status,
            });
        }
        let mut response = Response::builder().status(status);
        for (name, value) in headers {
            response = response.header(name, value);
        }
        let body = Body::from_stream(stream::unfold(Some(self), Play::piece));
        response.body(body).map_err(|_| CutConnection)
    }

    async fn piece(play: Option<Play>) -> Option<(io::Result<Bytes>, Option<Play>)> {
        let mut play = play?;
        match play.next().await? {
            Act::Bytes(bytes) => Some((Ok(bytes.into()), Some(play))),
            Act::End => None,
            Act::Head(..) | Act::Note(_) | Act::Fail(_) => {
                // hyper drops what it has not flushed when a body fails: it must
                // see the body pending once, so that what was said goes out.
                tokio::task::yield_now().await;
                Some((Err(io::Error::other("cut")), None))
            }
        }
    }

    /// What comes next, after its pause; nothing for ever once all is played.
    async fn next(&mut self) -> Option<Act> {
        loop {
            let Some(step) = self.acts.pop_front() else {
                std::future::pending::<()>().await;
                return None;
            };
            let pause = Duration::from_micros(step.after.min(LONGEST_PAUSE_US));
            tokio::time::sleep(pause).await;
            match step.act {
                Act::Note(cause) => self.vendor.log.tell(Fact::Injected {
                    asked: self.asked,
                    cause,
                }),
                act @ (Act::Head(..) | Act::Bytes(_) | Act::End | Act::Fail(_)) => {
                    return Some(act);
                }
            }
        }
    }
}

/// Accepts whoever comes; while the provider is mute, without a word.
struct Moody {
    inner: SimListener,
    vendor: Arc<Vendor>,
    /// Kept open: who is ignored hears nothing, not even a close, until
    /// somebody is listened to again.
    ignored: Vec<SimStream>,
}

impl Listener for Moody {
    type Io = SimStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (SimStream, SocketAddr) {
        loop {
            let (stream, peer) = self.inner.accept().await;
            if !self.vendor.is_mute() {
                self.ignored.clear();
                return (stream, peer);
            }
            self.ignored.push(stream);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}
