//! The simulated provider: takes requests, refuses transcripts that a vendor
//! would refuse, plays scripts, and fails as it was drawn to.

use std::collections::{BTreeMap, VecDeque};

use dispatch_core::ids::{EffectId, ProviderId, TurnId};
use dispatch_core::io::Input;

use super::{Event, World};
use crate::clock::Us;
use crate::fact::{Cause, Fact, Life, Request};
use crate::request::{Asked, Reading};
use crate::rng::Purpose;
use crate::scenario::SECOND;
use crate::script::Script;
use crate::sometimes::Point;
use crate::sse;

/// How long a provider may be silent, by a clock that may be a little fast.
const SILENCE: Us = 119 * SECOND;

/// All requests of a run that are still of interest.
#[derive(Default)]
pub(crate) struct Streams {
    opened: u32,
    open: BTreeMap<u32, Stream>,
    /// Ended while their process stood still, which has not heard of it.
    unheard: Vec<Stream>,
    /// How often a step was asked for.
    tries: BTreeMap<(u32, usize), u64>,
}

struct Stream {
    replica: usize,
    life: u32,
    effect: EffectId,
    provider: ProviderId,
    turn: TurnId,
    body: Vec<u8>,
    answer: VecDeque<sse::Step>,
    /// The provider counts it.
    in_flight: bool,
    /// Nobody listens any more.
    abandoned: bool,
    opened_at: Us,
    /// When its process last took anything of it.
    heard_at: Option<Us>,
}

impl Streams {
    /// Whether a provider is answering a request of this turn, or will.
    pub(super) fn serves(&self, turn: TurnId) -> bool {
        self.open
            .values()
            .any(|stream| stream.turn == turn && !stream.abandoned)
    }

    pub(super) fn turn_of(&self, stream: u32) -> Option<TurnId> {
        self.open.get(&stream).map(|open| open.turn)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.open.values().filter(|s| s.in_flight).count()
    }
}

impl World<'_> {
    pub(super) fn open_stream(
        &mut self,
        replica: usize,
        effect: EffectId,
        provider: ProviderId,
        turn: TurnId,
        body: Vec<u8>,
    ) {
        let place = &mut self.replicas[replica];
        let life = place.life;
        let Some(process) = &mut place.process else {
            return;
        };
        self.streams.opened += 1;
        let stream = self.streams.opened;
        process.streams.insert(effect, stream);
        let epoch = process.epochs.get(&turn).copied().unwrap_or_default();
        let opened = Stream {
            replica,
            life,
            effect,
            provider,
            turn,
            body,
            answer: VecDeque::new(),
            in_flight: false,
            abandoned: false,
            opened_at: self.at,
            heard_at: None,
        };
        self.streams.open.insert(stream, opened);
        self.tell(&Fact::Opened {
            turn,
            epoch,
            stream,
        });
        let after = self.dice.network().spread(500, 30_000);
        self.queue_in(after, Event::Arrive(stream));
    }

    pub(super) fn close_stream(&mut self, replica: usize, effect: EffectId) {
        let process = self.replicas[replica].process.as_mut();
        if let Some(stream) = process.and_then(|p| p.streams.remove(&effect)) {
            self.tell(&Fact::Closed { stream });
            self.linger(stream);
            self.abandon_stream(stream, 50_000);
        }
    }

    /// What was on its way from the socket to the core when it was closed.
    fn linger(&mut self, stream: u32) {
        if !self.scenario.lingers || !self.dice.network().chance(3_000) {
            return;
        }
        let Some(open) = self.streams.open.get_mut(&stream) else {
            return;
        };
        let (replica, life, id) = (open.replica, open.life, open.effect);
        let input = match open.answer.pop_front().map(|step| step.act) {
            Some(sse::Act::Bytes(bytes)) => Input::ProviderBytes { id, bytes },
            Some(sse::Act::Fail(kind)) => {
                let message = "the connection failed".to_owned();
                Input::ProviderFailed { id, kind, message }
            }
            Some(_) | None => Input::ProviderEnd { id },
        };
        self.court.sometimes.hit(Point::AfterTheEnd);
        self.send(0, replica, life, input);
    }

    /// The reader is gone; the provider notices within so long.
    pub(super) fn abandon_stream(&mut self, stream: u32, within: Us) {
        if let Some(open) = self.streams.open.get_mut(&stream) {
            open.abandoned = true;
            let after = self.dice.network().spread(500, within);
            self.queue_in(after, Event::Gone(stream));
        }
    }

    pub(super) fn gone(&mut self, stream: u32) {
        if self.streams.open.remove(&stream).is_some() {
            self.tell(&Fact::Gone { stream });
        }
    }

    pub(super) fn arrive(&mut self, stream: u32) {
        let Some(open) = self.streams.open.get_mut(&stream).filter(|s| !s.abandoned) else {
            return;
        };
        let body = std::mem::take(&mut open.body);
        let Reading {
            asked,
            offers_tools,
            verdict,
        } = Reading::of(&body);
        let scripted = asked.as_ref().ok().and_then(|asked| {
            let script = self.terms.scripts.get(asked.token as usize)?;
            Some((asked, script.steps.get(asked.step)?))
        });
        let verdict = verdict
            .and_then(|()| asked.as_ref().map(|_| ()).map_err(Clone::clone))
            .and_then(|()| self.is_about(open_turn(&self.streams, stream), &asked))
            .and_then(|()| scripted.map(|_| ()).ok_or("a step too many".to_owned()));
        let answer = match (&verdict, scripted) {
            (Ok(()), Some((asked, step))) => {
                let tries = self
                    .streams
                    .tries
                    .entry((asked.token, asked.step))
                    .or_default();
                *tries += 1;
                let key = (u64::from(asked.token) << 16) | asked.step as u64;
                let mut rng = self.dice.keyed(Purpose::Provider, key, *tries);
                let storm = self.storm.filter(|(until, _)| *until > self.at);
                match storm {
                    Some((_, kind)) => sse::storm_answer(&mut rng, kind),
                    None => {
                        let luck = &mut self.dice.keyed(Purpose::Luck, key, *tries);
                        let step_n = u32::try_from(asked.step).unwrap_or(u32::MAX);
                        let of = (asked.token, step_n, *tries);
                        let fault = self.luck.fault(luck, of, self.calm);
                        sse::answer(&mut rng, step, fault)
                    }
                }
            }
            (Ok(()) | Err(_), _) => sse::rejection(verdict.as_ref().err().map_or("", |why| why)),
        };
        let step = asked.map_or(0, |asked| u32::try_from(asked.step).unwrap_or(0));
        self.serve(stream, step, offers_tools, verdict, answer);
    }

    fn serve(
        &mut self,
        stream: u32,
        step: u32,
        offers_tools: bool,
        verdict: Result<(), String>,
        answer: VecDeque<sse::Step>,
    ) {
        let Some(open) = self.streams.open.get_mut(&stream) else {
            return;
        };
        // A connection that is never established is no request.
        let connects = !answer
            .iter()
            .any(|step| matches!(&step.act, sse::Act::Fail(kind) if *kind != dispatch_core::io::FailKind::Body));
        open.answer = answer;
        open.in_flight = connects;
        let request = Request {
            stream,
            replica: open.replica,
            life: open.life,
            provider: open.provider.clone(),
            turn: open.turn,
            step,
            offers_tools,
            verdict,
        };
        if connects {
            self.tell(&Fact::Requested(&request));
        }
        self.go_on_answering(stream);
    }

    /// The transcript must be about the very turn that the effect names.
    fn is_about(&self, turn: Option<TurnId>, asked: &Result<Asked, String>) -> Result<(), String> {
        let row = turn.and_then(|turn| self.model.turns.get(&turn));
        let token = row.and_then(|row| {
            let range = (row.conversation.clone(), row.ordinal, 0)..;
            let (_, first) = self.model.items.range(range).next()?;
            match &first.item {
                dispatch_core::transcript::Item::User { text } => Script::token_in(text),
                _ => None,
            }
        });
        match asked {
            Ok(asked) if token == Some(asked.token) => Ok(()),
            Ok(asked) => Err(format!(
                "the last message is {}, the turn's is {token:?}",
                asked.token
            )),
            Err(why) => Err(why.clone()),
        }
    }

    fn go_on_answering(&mut self, stream: u32) {
        let next = self
            .streams
            .open
            .get(&stream)
            .and_then(|open| open.answer.front());
        if let Some(step) = next {
            let after = step.after;
            self.queue_in(after, Event::Answer(stream));
        }
    }

    pub(super) fn answer_on(&mut self, stream: u32) {
        let Some(open) = self.streams.open.get_mut(&stream).filter(|s| !s.abandoned) else {
            return;
        };
        let Some(step) = open.answer.pop_front() else {
            return;
        };
        let (replica, life, id, turn) = (open.replica, open.life, open.effect, open.turn);
        let (input, is_last) = match step.act {
            sse::Act::Note(cause) => {
                self.inject(turn, &cause);
                self.go_on_answering(stream);
                return;
            }
            sse::Act::Head(status, headers) => {
                let head = Input::ProviderHead {
                    id,
                    status,
                    headers,
                };
                (head, false)
            }
            sse::Act::Bytes(bytes) => (Input::ProviderBytes { id, bytes }, false),
            sse::Act::End => (Input::ProviderEnd { id }, true),
            sse::Act::Fail(kind) => {
                let message = "the connection failed".to_owned();
                (Input::ProviderFailed { id, kind, message }, true)
            }
        };
        let is_heard = self.replicas[replica].state != Life::Paused;
        if is_heard {
            open.heard_at = Some(self.at);
        }
        if is_last {
            let over = self.streams.open.remove(&stream);
            self.streams.unheard.extend(over.filter(|_| !is_heard));
            if let Some(process) = &mut self.replicas[replica].process {
                process.streams.remove(&id);
            }
            self.tell(&Fact::Gone { stream });
        }
        self.deliver(replica, life, input);
        if !is_last {
            self.go_on_answering(stream);
        }
    }

    fn inject(&mut self, turn: TurnId, cause: &Cause) {
        self.recorder
            .line(self.at, || format!("fault for {turn}: {cause:?}"));
        self.tell(&Fact::Injected { turn, cause });
    }

    /// A process that stood still finds those of its streams timed out that
    /// have said nothing to it for as long as a provider may be silent.
    pub(super) fn excuse_silence(&mut self, replica: usize) {
        let at = self.at;
        let unheard = self
            .streams
            .unheard
            .extract_if(.., |s| s.replica == replica);
        let unheard: Vec<Stream> = unheard.collect();
        let of_replica = self.streams.open.values().chain(&unheard).filter(|stream| {
            let last = stream.heard_at.unwrap_or(stream.opened_at);
            stream.replica == replica && !stream.abandoned && at - last >= SILENCE
        });
        let silent: Vec<(TurnId, bool)> = of_replica
            .map(|stream| (stream.turn, stream.heard_at.is_some()))
            .collect();
        for (turn, has_head) in silent {
            let cause = match has_head {
                true => "idle-timeout".to_owned(),
                false => "first-byte-timeout".to_owned(),
            };
            let refused = Cause::Refused {
                cause: cause.clone(),
                retry_after_ms: None,
            };
            self.inject(turn, &refused);
            if has_head {
                let is_cut = true;
                self.inject(turn, &Cause::Broken { cause, is_cut });
            }
        }
    }
}

fn open_turn(streams: &Streams, stream: u32) -> Option<TurnId> {
    streams.open.get(&stream).map(|open| open.turn)
}
