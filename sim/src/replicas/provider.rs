//! The provider's node: takes requests, refuses transcripts that a vendor would
//! refuse, plays scripts, and fails as it was drawn to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::ids::TurnId;
use dispatch_core::io::FailKind;
use dispatch_core::transcript::Item;
use madsim::net::{TcpListener, TcpStream};
use madsim::task::spawn_local;
use madsim::time::sleep;

use super::plan::Who;
use super::ring::Ring;
use super::wire::{Call, Piece, address, closed, receive, send};
use crate::fact::{Cause, Fact, Request};
use crate::request::{Asked, Reading};
use crate::rng::{Purpose, Rng};
use crate::script::Script;
use crate::sse;

/// All requests of a run that are still of interest.
#[derive(Default)]
pub(super) struct Streams {
    opened: u32,
    /// Wanted by their replica.
    open: BTreeMap<u32, (TurnId, usize)>,
    in_flight: BTreeSet<u32>,
    /// How often a step was asked for.
    tries: BTreeMap<(u32, usize), u64>,
    /// What is done to streams, by number.
    causes: Vec<Cause>,
}

impl Streams {
    pub(super) fn open(&mut self, turn: TurnId, replica: usize) -> u32 {
        self.opened += 1;
        self.open.insert(self.opened, (turn, replica));
        self.opened
    }

    pub(super) fn forget(&mut self, stream: u32) {
        self.open.remove(&stream);
    }

    pub(super) fn forget_all_of(&mut self, replica: usize) {
        self.open.retain(|_, (_, owner)| *owner != replica);
    }

    /// Whether a request of this turn is under way.
    pub(super) fn serves(&self, turn: TurnId) -> bool {
        self.open.values().any(|(served, _)| *served == turn)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn cause(&self, n: usize) -> Cause {
        self.causes[n].clone()
    }

    fn note(&mut self, cause: Cause) -> usize {
        self.causes.push(cause);
        self.causes.len() - 1
    }
}

/// Counted by the provider for as long as it lives.
struct InFlight {
    ring: Rc<Ring>,
    stream: u32,
}

impl InFlight {
    fn new(ring: Rc<Ring>, request: &Request) -> InFlight {
        let stream = request.stream;
        ring.streams.borrow_mut().in_flight.insert(stream);
        ring.tell(&Fact::Requested(request));
        InFlight { ring, stream }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let stream = self.stream;
        self.ring.streams.borrow_mut().in_flight.remove(&stream);
        self.ring.tell(&Fact::Gone { stream });
    }
}

pub(super) async fn live(ring: Rc<Ring>) {
    let own = address(Who::Provider);
    let listener = TcpListener::bind(own).await.expect("a node's port is free");
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            spawn_local(serve(ring.clone(), stream));
        }
    }
}

async fn serve(ring: Rc<Ring>, mut stream: TcpStream) {
    let Ok(call) = receive::<Call>(&mut stream).await else {
        return;
    };
    // Its reader was gone before it came.
    if !ring.streams.borrow().open.contains_key(&call.stream) {
        return;
    }
    ring.count();
    let (request, answer) = ring.answer(&call);
    let is_refused = answer
        .iter()
        .any(|step| matches!(&step.act, sse::Act::Fail(kind) if *kind != FailKind::Body));
    let _in_flight = (!is_refused).then(|| InFlight::new(ring.clone(), &request));
    // The reader may be gone: the same as the end of the answer.
    let _ = play(&ring, &mut stream, answer).await;
}

/// Plays an answer; after the last piece the connection is cut or stays silent.
async fn play(
    ring: &Ring,
    stream: &mut TcpStream,
    answer: VecDeque<sse::Step>,
) -> std::io::Result<()> {
    for sse::Step { after, act } in answer {
        tokio::select! {
            biased;
            () = closed(stream) => return Ok(()),
            () = sleep(Duration::from_micros(after)) => {}
        }
        let piece = match act {
            sse::Act::Note(cause) => Piece::Note(ring.streams.borrow_mut().note(cause)),
            sse::Act::Head(status, headers) => Piece::Head(status, headers),
            sse::Act::Bytes(bytes) => Piece::Bytes(bytes),
            sse::Act::End => return send(stream, &Piece::End).await,
            sse::Act::Fail(FailKind::Body) => return Ok(()),
            sse::Act::Fail(kind) => return send(stream, &Piece::NoConnection(kind)).await,
        };
        send(stream, &piece).await?;
    }
    closed(stream).await;
    Ok(())
}

impl Ring {
    fn answer(&self, call: &Call) -> (Request, VecDeque<sse::Step>) {
        let Reading {
            asked,
            offers_tools,
            verdict,
        } = Reading::of(&call.body);
        let scripted = asked.as_ref().ok().and_then(|asked| {
            let script = self.terms.scripts.get(asked.token as usize)?;
            Some((asked, script.steps.get(asked.step)?))
        });
        let verdict = verdict
            .and_then(|()| self.is_about(call.turn, &asked))
            .and_then(|()| scripted.map(|_| ()).ok_or("a step too many".to_owned()));
        let answer = match (&verdict, scripted) {
            (Ok(()), Some((asked, step))) => {
                let tries = self.tried(asked);
                let key = (u64::from(asked.token) << 16) | asked.step as u64;
                let mut rng = Rng::keyed(self.seed, Purpose::Provider, key, tries);
                let faults = &self.plan.scenario.faults;
                let fails = rng.chance(faults.provider) && !self.is_calm();
                let mut storms = self.plan.storms.iter();
                let storm = storms.find(|(during, _)| during.contains(&self.at()));
                match storm {
                    Some((_, kind)) => sse::storm_answer(&mut rng, *kind),
                    None if fails => {
                        let fault = rng.weighted(&faults.provider_kinds);
                        sse::answer(&mut rng, step, Some(fault))
                    }
                    None => sse::answer(&mut rng, step, None),
                }
            }
            (Ok(()) | Err(_), _) => sse::rejection(verdict.as_ref().err().map_or("", |why| why)),
        };
        let request = Request {
            stream: call.stream,
            replica: call.replica,
            life: call.life,
            provider: call.provider.clone(),
            turn: call.turn,
            step: asked.map_or(0, |asked| u32::try_from(asked.step).unwrap_or(0)),
            offers_tools,
            verdict,
        };
        (request, answer)
    }

    fn tried(&self, asked: &Asked) -> u64 {
        let mut streams = self.streams.borrow_mut();
        let tries = streams.tries.entry((asked.token, asked.step)).or_default();
        *tries += 1;
        *tries
    }

    /// The transcript must be about the very turn that the effect names.
    fn is_about(&self, turn: TurnId, asked: &Result<Asked, String>) -> Result<(), String> {
        let asked = asked.as_ref().map_err(Clone::clone)?;
        let model = &self.disk.borrow().model;
        let token = model.turns.get(&turn).and_then(|row| {
            let range = (row.conversation.clone(), row.ordinal, 0)..;
            match &model.items.range(range).next()?.1.item {
                Item::User { text } => Script::token_in(text),
                _ => None,
            }
        });
        match token == Some(asked.token) {
            true => Ok(()),
            false => Err(format!(
                "the last message is {}, the turn's is {token:?}",
                asked.token
            )),
        }
    }
}
