//! What only a simulated world can tell: rows, what reaches a provider, how
//! processes fare, what was made to break.

use dispatch_core::Wake;
use dispatch_core::io::{Effect, Input};
use dispatch_core::time::Now;

use super::builder::{Draft, Span};
use super::model::{Field, Kind, LaneKind, SpanKind};
use super::rows::state_name;
use super::strings::{DETAIL_CHARS, cut, debugged};
use super::{Builder, Note, Watch};
use crate::clock::Us;
use crate::fact::{Cause, Fact, Life, Request};
use crate::scenario::{Act, Chaos, When};

impl Watch for Builder {
    fn input(&mut self, at: Us, replica: usize, _: Now, input: &Input, wake: Option<&Wake>) {
        Builder::input(self, at, replica, input, wake);
    }

    fn effect(&mut self, at: Us, replica: usize, effect: &Effect) {
        Builder::effect(self, at, replica, effect);
    }

    fn fact(&mut self, at: Us, fact: &Fact<'_>) {
        match fact {
            Fact::Logged(event) => self.log(at, self.landing, event),
            Fact::Moved { before, after } => {
                let store = self.store();
                let lane = self.meet(after.turn, &after.conversation, &after.provider);
                let state = state_name(after.state);
                let title = match before {
                    None => format!("new, {state}"),
                    Some(before) if before.state == after.state => format!("still {state}"),
                    Some(before) => format!("{} to {state}", state_name(before.state)),
                };
                let is_same = before.is_some_and(|before| {
                    before.state == after.state && before.epoch == after.epoch
                });
                self.add(Draft {
                    from: Some(store),
                    turn: Some(lane),
                    cause: self.landing,
                    detail: debugged(after, DETAIL_CHARS),
                    quiet: is_same.then_some(Kind::Poll),
                    ..Draft::new(at, Kind::State, lane, title)
                });
                self.row(at, after);
                if before.is_none() {
                    self.claim(self.landing, lane);
                }
            }
            Fact::Requested(request) => self.requested(at, request),
            Fact::Gone { stream } => self.request_gone(at, *stream),
            Fact::Lives {
                replica,
                life,
                boot,
                state,
            } => self.lives(at, *replica, *life, *boot, *state),
            Fact::Injected { turn, cause } => {
                let lane = self.turn_lane(*turn);
                let provider = self.value(lane, Field::Provider).to_owned();
                let is_known = !provider.is_empty();
                let from = is_known.then(|| self.lane(LaneKind::Provider, &provider));
                self.add(Draft {
                    from,
                    turn: Some(lane),
                    detail: debugged(cause, DETAIL_CHARS),
                    ..Draft::new(at, Kind::Fault, lane, fault_title(cause))
                });
            }
            Fact::ToolGone {
                command,
                call_id,
                turn,
                end,
            } => {
                let lane = self.turn_lane(*turn);
                let how = match end {
                    Some(end) if end.ok => "ended well",
                    Some(_) => "ended badly",
                    None => "killed",
                };
                self.add(Draft {
                    turn: Some(lane),
                    detail: cut(command, DETAIL_CHARS),
                    ..Draft::new(at, Kind::Tool, lane, format!("command is gone: {how}"))
                });
                self.command_gone(at, *turn, call_id, how);
            }
            Fact::AbortAsked { turn, conversation } => {
                let lane = self.clients();
                let turn = turn.map(|turn| self.turn_lane(turn));
                self.add(Draft {
                    turn,
                    detail: conversation.map_or(String::new(), ToString::to_string),
                    ..Draft::new(at, Kind::Client, lane, "wants an abort")
                });
            }
            Fact::Panicked { replica, seal } => {
                let place = self.replica(*replica);
                let turn = seal.and_then(|turn| self.known_turn(turn));
                let title = match seal {
                    Some(_) => "panics over an input of a turn, and is rebuilt",
                    None => "panics, and is rebuilt",
                };
                self.add(Draft {
                    turn,
                    ..Draft::new(at, Kind::Fault, place.lane, title)
                });
                self.end_requests(*replica, at, "its core panicked");
            }
            Fact::Finished { leftovers, .. } => {
                let lane = self.store();
                self.add(Draft {
                    detail: debugged(leftovers, DETAIL_CHARS),
                    ..Draft::new(at, Kind::Life, lane, "the run is over")
                });
            }
            Fact::Published { .. }
            | Fact::Seen { .. }
            | Fact::ViewRead { .. }
            | Fact::ViewHeard { .. }
            | Fact::Planned { .. }
            | Fact::Granted { .. }
            | Fact::Opened { .. }
            | Fact::Closed { .. }
            | Fact::Trouble { .. }
            | Fact::Rotted { .. }
            | Fact::ToolAdopted { .. }
            | Fact::ToolLeft { .. }
            | Fact::LinkWished { .. }
            | Fact::LinkUp { .. }
            | Fact::LinkGone { .. }
            | Fact::ComputerTroubled { .. }
            | Fact::ComputerTested { .. }
            | Fact::Registered { .. }
            | Fact::ToolStarted { .. }
            | Fact::Answered { .. }
            | Fact::Checked { .. }
            | Fact::Posted { .. }
            | Fact::GivenUp { .. }
            | Fact::Weighed { .. }
            | Fact::Rows { .. }
            | Fact::Written { .. }
            | Fact::Slots { .. }
            | Fact::Burst { .. } => {}
        }
    }

    fn note(&mut self, at: Us, note: &Note<'_>) {
        match note {
            Note::Chaos(chaos, until) => self.chaos(at, chaos, *until),
            Note::Act(act) => self.act(at, act),
            Note::Landing(replica, life, id) => {
                let flight = self.flights.get(&(*replica, *life, *id));
                self.landing = flight.map(|flight| flight.event);
            }
            Note::Fate(replica, id, fate) => {
                let (place, store) = (self.replica(*replica), self.store());
                let flight = self.flights.get(&(*replica, place.life, *id));
                let (cause, turn) =
                    flight.map_or((None, None), |flight| (Some(flight.event), flight.turn));
                let turn = turn.and_then(|turn| self.known_turn(turn));
                self.add(Draft {
                    from: Some(place.lane),
                    cause,
                    turn,
                    ..Draft::new(at, Kind::Fault, store, format!("the verb's fate: {fate:?}"))
                });
            }
            Note::Calm => {
                let lane = self.store();
                self.add(Draft::new(
                    at,
                    Kind::Life,
                    lane,
                    "calm: nothing fails any more",
                ));
            }
        }
    }
}

impl Builder {
    fn requested(&mut self, at: Us, request: &Request) {
        let lane = self.lane(LaneKind::Provider, request.provider.as_str());
        let turn = self.turn_lane(request.turn);
        let (kind, title) = match &request.verdict {
            Ok(()) => (Kind::Provider, "request arrives"),
            Err(_) => (Kind::Fault, "request is refused as invalid"),
        };
        self.add(Draft {
            from: Some(turn),
            turn: Some(turn),
            detail: match &request.verdict {
                Ok(()) => format!("step {}", request.step),
                Err(why) => cut(why, DETAIL_CHARS),
            },
            ..Draft::new(at, kind, lane, title)
        });
        self.count(lane, Field::Running, 1);
        self.arrived.insert(request.stream, (lane, turn));
    }

    fn request_gone(&mut self, at: Us, stream: u32) {
        let Some((lane, turn)) = self.arrived.remove(&stream) else {
            return;
        };
        self.add(Draft {
            turn: Some(turn),
            ..Draft::new(at, Kind::Provider, lane, "request is over")
        });
        self.count(lane, Field::Running, -1);
    }

    fn lives(&mut self, at: Us, replica: usize, life: u32, boot: u64, state: Life) {
        let place = self.replica(replica);
        let (name, title) = match state {
            Life::Up if place.life == life => ("up", "goes on"),
            Life::Up => ("up", "starts"),
            Life::Paused => ("paused", "is stopped"),
            Life::Draining => ("draining", "is asked to shut down"),
            Life::Down => ("down", "is dead"),
        };
        let kind = match state {
            Life::Up | Life::Draining => Kind::Life,
            Life::Paused | Life::Down => Kind::Fault,
        };
        self.add(Draft {
            detail: format!("life {life}"),
            ..Draft::new(at, kind, place.lane, title)
        });
        self.set(place.lane, Field::State, name);
        self.replicas[replica].life = life;
        match state {
            Life::Up => self.set(place.lane, Field::Boot, format!("{life} ({boot:016x})")),
            Life::Paused | Life::Draining => {}
            Life::Down => {
                self.replicas[replica].input = None;
                self.end_requests(replica, at, "its replica died");
            }
        }
    }

    fn chaos(&mut self, at: Us, chaos: &Chaos, until: Us) {
        let (replica, title) = match chaos {
            Chaos::Kill { replica, when, .. } => (Some(*replica), at_moment("kill -9", when)),
            Chaos::Shutdown { replica, .. } => (Some(*replica), "SIGTERM".to_owned()),
            Chaos::Pause { replica, when, .. } => (Some(*replica), at_moment("SIGSTOP", when)),
            Chaos::Wedge { replica, .. } => (Some(*replica), "wedged".to_owned()),
            Chaos::Panic {
                replica,
                after_inputs,
            } => (
                Some(*replica),
                format!("panics {after_inputs} inputs later"),
            ),
            Chaos::Partition { replica, .. } => (Some(*replica), "cut off".to_owned()),
            Chaos::Storm { kind, .. } => (None, format!("storm: {kind:?}")),
            Chaos::Rot { conversation } => (None, format!("rot in conversation {conversation}")),
            Chaos::Computer { trouble, .. } => (None, format!("{trouble:?}").to_lowercase()),
            Chaos::WallJump { replica, by_ms } => (
                Some(*replica),
                format!("wall clock moves by {} s", by_ms / 1_000),
            ),
        };
        let place = replica.map(|replica| self.replica(replica));
        let lane = match &place {
            Some(place) => place.lane,
            None => match chaos {
                Chaos::Rot { .. } => self.store(),
                Chaos::Computer { computer, .. } => {
                    self.lane(LaneKind::Computer, &format!("box-{computer}"))
                }
                _ => self.first_provider(),
            },
        };
        self.add(Draft {
            detail: debugged(chaos, DETAIL_CHARS),
            ..Draft::new(at, Kind::Fault, lane, title.clone())
        });
        let (kind, lanes) = match chaos {
            Chaos::Storm { .. } => (SpanKind::Storm, self.lanes_of(LaneKind::Provider)),
            Chaos::Partition { .. } | Chaos::Computer { .. } => (SpanKind::Partition, vec![lane]),
            Chaos::Kill { .. }
            | Chaos::Shutdown { .. }
            | Chaos::Pause { .. }
            | Chaos::Wedge { .. }
            | Chaos::Panic { .. }
            | Chaos::WallJump { .. }
            | Chaos::Rot { .. } => return,
        };
        for lane in lanes {
            let span = Span {
                kind,
                lane,
                turn: None,
                from: at,
                to: Some(until),
                label: title.clone(),
                result: String::new(),
            };
            self.begin(String::new(), span);
        }
    }

    fn first_provider(&mut self) -> u32 {
        match self.lanes_of(LaneKind::Provider).first() {
            Some(lane) => *lane,
            None => self.store(),
        }
    }

    fn lanes_of(&self, kind: LaneKind) -> Vec<u32> {
        let lanes = self.lanes.iter().zip(0u32..);
        lanes
            .filter(|(lane, _)| lane.kind == kind)
            .map(|(_, n)| n)
            .collect()
    }

    fn act(&mut self, at: Us, act: &Act) {
        let title = match act {
            Act::Submit { token } => format!("sends message {token}"),
            Act::SubmitAgain { token } => format!("sends message {token} again"),
            Act::Abort { token, .. } => format!("aborts message {token}"),
            Act::Star {
                slug,
                starred: true,
            } => format!("stars {slug}"),
            Act::Star {
                slug,
                starred: false,
            } => format!("unstars {slug}"),
            Act::Test { computer } => format!("tests computer {computer}"),
            Act::Limit { provider, limit } => format!("limits provider {provider} to {limit}"),
        };
        let lane = self.clients();
        self.add(Draft {
            detail: debugged(act, DETAIL_CHARS),
            ..Draft::new(at, Kind::Client, lane, title)
        });
    }
}

fn fault_title(cause: &Cause) -> String {
    match cause {
        Cause::Refused {
            cause,
            retry_after_ms: None,
        } => format!("fault: refused, {cause}"),
        Cause::Refused {
            cause,
            retry_after_ms: Some(ms),
        } => format!("fault: refused, {cause}, retry after {} s", ms / 1_000),
        Cause::Fatal { cause } => format!("fault: fatal, {cause}"),
        Cause::Broken { cause, .. } => format!("fault: broken, {cause}"),
        Cause::Empty => "fault: empty completion".to_owned(),
    }
}

fn at_moment(signal: &str, when: &When) -> String {
    match when {
        When::Now => signal.to_owned(),
        When::AfterEffects(effects) => format!("{signal} after {effects} effects"),
        When::At(effect) => format!("{signal} at the next {effect}"),
    }
}
