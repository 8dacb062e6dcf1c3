//! What replicas are told.

use dispatch_core::Wake;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{EffectId, TurnId};
use dispatch_core::io::{Found, Input};
use dispatch_core::store::{Outcome, Reply};

use super::Builder;
use super::builder::{Draft, Going, Place};
use super::effects::{command_name, request_name};
use super::model::{Field, Kind, SpanKind};
use super::rows::Step;
use super::strings::{DETAIL_CHARS, cut, debugged, lossy};
use super::words;
use crate::clock::Us;

impl Builder {
    /// A replica is about to be told something at this moment, in microseconds.
    /// `wake` is why it wanted to be woken, if that is due.
    pub fn input(&mut self, at: Us, replica: usize, input: &Input, wake: Option<&Wake>) {
        let place = self.replica(replica);
        self.landing = None;
        let n = self.told(at, replica, &place, input, wake);
        self.replicas[replica].input = Some(n);
    }

    fn told(
        &mut self,
        at: Us,
        replica: usize,
        place: &Place,
        input: &Input,
        wake: Option<&Wake>,
    ) -> u64 {
        match input {
            Input::Tick => self.tick(at, place, wake),
            Input::Command { id: _, command } => {
                let from = self.clients();
                self.add(Draft {
                    from: Some(from),
                    detail: debugged(command, DETAIL_CHARS),
                    ..Draft::new(at, Kind::Client, place.lane, words::command(command))
                })
            }
            Input::Stored { id, outcome } => self.stored(at, replica, place, *id, outcome),
            Input::ProviderHead {
                id,
                status,
                headers,
            } => {
                let draft = Draft {
                    detail: debugged(headers, DETAIL_CHARS),
                    ..self.back(at, replica, place, *id, Kind::Provider)
                };
                self.add(Draft {
                    title: format!("head {status}"),
                    ..draft
                })
            }
            Input::ProviderBytes { id, bytes } => {
                let draft = self.back(at, replica, place, *id, Kind::Provider);
                self.add(Draft {
                    title: format!("{} bytes", bytes.len()),
                    detail: lossy(bytes, DETAIL_CHARS),
                    quiet: Some(Kind::Stream),
                    ..draft
                })
            }
            Input::ProviderEnd { id } => {
                let draft = self.back(at, replica, place, *id, Kind::Provider);
                let n = self.add(Draft {
                    title: "end of answer".to_owned(),
                    ..draft
                });
                self.request_over(at, replica, place, *id, "ended");
                n
            }
            Input::ProviderFailed { id, kind, message } => {
                let draft = self.back(at, replica, place, *id, Kind::Fault);
                let n = self.add(Draft {
                    title: format!("no answer: {}", kind.cause()),
                    detail: cut(message, DETAIL_CHARS),
                    ..draft
                });
                self.request_over(at, replica, place, *id, kind.cause());
                n
            }
            Input::ToolOutput { id, text, .. } => {
                let draft = self.back(at, replica, place, *id, Kind::Tool);
                self.add(Draft {
                    title: "output".to_owned(),
                    detail: cut(text, DETAIL_CHARS),
                    quiet: Some(Kind::Stream),
                    ..draft
                })
            }
            Input::ToolDone { id, end } => {
                let draft = self.back(at, replica, place, *id, Kind::Tool);
                let result = if end.ok { "ended well" } else { "ended badly" };
                let n = self.add(Draft {
                    title: format!("command {result}"),
                    detail: cut(&end.output, DETAIL_CHARS),
                    ..draft
                });
                self.command_over(at, replica, place, *id, result);
                n
            }
            Input::Unattended { turns, .. } => self.add(Draft {
                quiet: Some(Kind::Poll),
                detail: debugged(turns, DETAIL_CHARS),
                ..Draft::new(at, Kind::Tool, place.lane, "commands that nobody watches")
            }),
            Input::Adopted { id, found } => {
                let draft = self.back(at, replica, place, *id, Kind::Tool);
                let result = words::found(found);
                let n = self.add(Draft {
                    title: format!("earlier run: {result}"),
                    detail: debugged(found, DETAIL_CHARS),
                    ..draft
                });
                if *found != Found::Running {
                    self.command_over(at, replica, place, *id, result);
                }
                n
            }
            Input::ComputerUp { id } => {
                let draft = self.back(at, replica, place, *id, Kind::Tool);
                self.add(Draft {
                    title: "link open".to_owned(),
                    ..draft
                })
            }
            Input::ComputerDown { id, fault } => {
                let draft = self.back(at, replica, place, *id, Kind::Fault);
                self.flights.remove(&(replica, place.life, *id));
                self.add(Draft {
                    title: format!("link down: {}", fault.kind.code()),
                    detail: cut(&fault.message, DETAIL_CHARS),
                    ..draft
                })
            }
            Input::ComputerAlive { .. } => self.add(Draft {
                quiet: Some(Kind::Poll),
                ..Draft::new(at, Kind::Tool, place.lane, "link alive")
            }),
            Input::DeliveryDone { id, outcome } => {
                let draft = self.back(at, replica, place, *id, Kind::Client);
                let (title, detail) = match outcome {
                    Ok(()) => ("delivered", String::new()),
                    Err(why) => ("not delivered", cut(why, DETAIL_CHARS)),
                };
                self.flights.remove(&(replica, place.life, *id));
                self.add(Draft {
                    title: title.to_owned(),
                    detail,
                    ..draft
                })
            }
            Input::EffectPanicked { id, message } => {
                let draft = self.back(at, replica, place, *id, Kind::Fault);
                self.add(Draft {
                    title: "an effect panicked".to_owned(),
                    detail: cut(message, DETAIL_CHARS),
                    ..draft
                })
            }
            Input::ToolLost { id, cause } => {
                let draft = self.back(at, replica, place, *id, Kind::Fault);
                self.add(Draft {
                    title: "nothing more is heard of a command".to_owned(),
                    detail: cut(cause, DETAIL_CHARS),
                    ..draft
                })
            }
            Input::Nudged => self.add(Draft {
                quiet: Some(Kind::Poll),
                ..Draft::new(at, Kind::Timer, place.lane, "nudged by another replica")
            }),
            Input::Shutdown => {
                let n = self.add(Draft::new(at, Kind::Life, place.lane, "shutdown"));
                self.set(place.lane, Field::State, "draining");
                n
            }
        }
    }

    /// A timer; that it looks at a line because a retry has become due is what
    /// a reader wants to know.
    fn tick(&mut self, at: Us, place: &Place, wake: Option<&Wake>) -> u64 {
        let (name, turn) = match wake {
            None => ("tick", None),
            Some(wake) => (words::wake(wake), turn_of_wake(wake)),
        };
        let mut reason = name.to_owned();
        let mut turn = turn.map(|turn| self.turn_lane(turn));
        if let Some(Wake::LookDue(provider)) = wake {
            let due: Vec<TurnId> = self
                .due
                .iter()
                .filter(|(_, due)| **due <= at)
                .map(|(turn, _)| *turn)
                .collect();
            let passed = due.into_iter().find_map(|id| {
                let lane = self.turn_lane(id);
                (self.value(lane, Field::Provider) == provider.as_str()).then_some((id, lane))
            });
            if let Some((id, lane)) = passed {
                self.due.remove(&id);
                reason = format!("retry-due {}", self.label(lane));
                turn = Some(lane);
            } else {
                reason = format!("{name} {provider}");
            }
        } else if let Some(lane) = turn {
            reason = format!("{name} {}", self.label(lane));
        }
        self.add(Draft {
            wake: Some(reason.clone()),
            turn,
            quiet: Some(Kind::Poll),
            detail: wake.map_or(String::new(), |wake| debugged(wake, DETAIL_CHARS)),
            ..Draft::new(at, Kind::Timer, place.lane, reason)
        })
    }

    fn stored(
        &mut self,
        at: Us,
        replica: usize,
        place: &Place,
        id: EffectId,
        outcome: &Outcome,
    ) -> u64 {
        let flight = self.flights.remove(&(replica, place.life, id));
        let (verb, step) = match flight.as_ref().map(|flight| &flight.what) {
            Some(Going::Verb(name, step)) => (*name, *step),
            Some(Going::Stream | Going::Tool(_) | Going::Post | Going::Link) | None => {
                ("late or repeated", Step::Stay)
            }
        };
        let store = self.store();
        let turn = flight.as_ref().and_then(|flight| flight.turn);
        let turn = turn.and_then(|turn| self.known_turn(turn));
        let kind = if outcome.is_ok() {
            Kind::Store
        } else {
            Kind::Fault
        };
        let n = self.add(Draft {
            from: Some(store),
            turn,
            cause: flight.map(|flight| flight.event),
            quiet: words::outcome_quiet(verb, outcome),
            detail: debugged(outcome, DETAIL_CHARS),
            ..Draft::new(
                at,
                kind,
                place.lane,
                format!("{verb}: {}", words::outcome(outcome)),
            )
        });
        let Ok(reply) = outcome else { return n };
        match (step, reply) {
            (Step::Look(lane), Reply::View(view)) => {
                self.set(lane, Field::Limit, view.limit.to_string());
            }
            (Step::Limit(lane, limit), Reply::Landed { .. }) => {
                self.set(lane, Field::Limit, limit.to_string());
            }
            (_, _) => {}
        }
        if self.is_told {
            return n;
        }
        self.conclude(at, place, step, reply);
        if let Reply::Accepted(receipt, _) = reply {
            let lane = self.turn_lane(receipt.turn);
            self.claim(Some(n), lane);
        }
        self.log_of(at, n, reply);
        n
    }

    /// The store's log grows by what an answer brings.
    fn log_of(&mut self, at: Us, cause: u64, reply: &Reply) {
        let events: &[AgentEvent] = match reply {
            Reply::Booted { events, .. }
            | Reply::Accepted(_, events)
            | Reply::Landed { events }
            | Reply::Ended { events, .. } => events,
            Reply::Swept(Some(swept)) => &swept.events,
            Reply::Rejected(_)
            | Reply::View(_)
            | Reply::Granted(_)
            | Reply::Conflict
            | Reply::Loaded(_)
            | Reply::Fenced
            | Reply::AbortRequested { .. }
            | Reply::NotFound
            | Reply::Renewed(_)
            | Reply::Requests { .. }
            | Reply::Swept(None)
            | Reply::AreEnded(_)
            | Reply::Audited { .. }
            | Reply::Deliveries { .. }
            | Reply::Settled { .. }
            | Reply::Workspace(_) => &[],
        };
        for event in events {
            self.log(at, Some(cause), event);
        }
    }

    /// A logged event.
    pub(super) fn log(&mut self, at: Us, cause: Option<u64>, event: &AgentEvent) {
        let (lane, store) = (self.turn_lane(event.turn), self.store());
        self.add(Draft {
            from: Some(store),
            turn: Some(lane),
            cause,
            detail: cut(&event.to_json(), DETAIL_CHARS),
            ..Draft::new(at, Kind::Log, lane, event.kind())
        });
        self.logged(event);
    }

    /// What comes back for an effect: an event on its turn's lane.
    pub(super) fn back(
        &mut self,
        at: Us,
        replica: usize,
        place: &Place,
        id: EffectId,
        kind: Kind,
    ) -> Draft {
        let flight = self.flights.get(&(replica, place.life, id)).cloned();
        let turn = flight.as_ref().and_then(|flight| flight.turn);
        let turn = turn.map(|turn| self.turn_lane(turn));
        Draft {
            from: flight.as_ref().map(|flight| flight.lane),
            turn,
            cause: flight.map(|flight| flight.event),
            ..Draft::new(at, kind, turn.unwrap_or(place.lane), "")
        }
    }

    pub(super) fn request_over(
        &mut self,
        at: Us,
        replica: usize,
        place: &Place,
        id: EffectId,
        how: &str,
    ) {
        let Some(flight) = self.flights.remove(&(replica, place.life, id)) else {
            return;
        };
        let name = request_name(replica, place.life, id);
        self.end(SpanKind::Request, &name, at, how);
        if !self.is_told {
            self.count(flight.lane, Field::Running, -1);
        }
    }

    fn command_over(&mut self, at: Us, replica: usize, place: &Place, id: EffectId, how: &str) {
        let Some(flight) = self.flights.remove(&(replica, place.life, id)) else {
            return;
        };
        let (Some(turn), Going::Tool(call)) = (flight.turn, flight.what) else {
            return;
        };
        self.command_gone(at, turn, &call, how);
    }

    /// A command is dead; its end may be told more than once.
    pub(super) fn command_gone(&mut self, at: Us, turn: TurnId, call: &str, how: &str) {
        if let Some(lane) = self.end(SpanKind::Command, &command_name(turn, call), at, how) {
            self.count(lane, Field::Running, -1);
        }
    }
}

fn turn_of_wake(wake: &Wake) -> Option<TurnId> {
    match wake {
        Wake::StreamDue(turn)
        | Wake::ToolDue(turn, _)
        | Wake::FenceDue(turn)
        | Wake::HardLimitDue(turn)
        | Wake::DeliveryDue(_, turn) => Some(*turn),
        Wake::VerbDue(_)
        | Wake::AskAgain(_)
        | Wake::LookDue(_)
        | Wake::RenewDue
        | Wake::SweepDue
        | Wake::RequestsDue
        | Wake::CheckpointDue
        | Wake::DrainDue
        | Wake::AuditDue
        | Wake::OutboxDue
        | Wake::LinkDue(_)
        | Wake::JobDue(..)
        | Wake::TestDue(..) => None,
    }
}
