//! What replicas want done.

use dispatch_core::ids::{ComputerId, EffectId, TurnId};
use dispatch_core::io::{Answer, Effect};
use dispatch_core::store::Verb;

use super::Builder;
use super::builder::{Draft, Flight, Going, Place, Span};
use super::model::{Field, Kind, LaneKind, SpanKind};
use super::rows::{Step, turn_of};
use super::strings::{DETAIL_CHARS, cut, debugged, lossy};
use super::words;
use crate::clock::Us;

impl Builder {
    /// A replica wants something done at this moment, in microseconds.
    pub fn effect(&mut self, at: Us, replica: usize, effect: &Effect) {
        let place = self.replica(replica);
        match effect {
            Effect::Store { id, verb } => self.ask(at, replica, &place, *id, verb),
            Effect::OpenProvider {
                id,
                provider,
                turn,
                body,
                connect_ms: _,
                not_after: _,
            } => {
                let lane = self.lane(LaneKind::Provider, provider.as_str());
                let detail = lossy(body, DETAIL_CHARS);
                let title = format!("request to {provider}");
                let draft = Draft::new(at, Kind::Provider, lane, title);
                self.go(
                    replica,
                    &place,
                    *id,
                    Some(*turn),
                    Going::Stream,
                    draft,
                    detail,
                );
                self.request_begins(at, replica, &place, *id, lane, *turn);
            }
            Effect::CloseProvider { id, finished } => {
                let title = if *finished {
                    "read to the end"
                } else {
                    "close"
                };
                let draft = self.back(at, replica, &place, *id, Kind::Provider);
                let lane = draft.from.unwrap_or(place.lane);
                self.add(Draft {
                    lane,
                    from: draft.turn.or(Some(place.lane)),
                    title: title.to_owned(),
                    cause: place.input,
                    ..draft
                });
                let how = if *finished { "ended" } else { "closed" };
                self.request_over(at, replica, &place, *id, how);
            }
            Effect::StartTool { id, start } => {
                let lane = self.lane_of_tools(&place, start.computer.as_ref());
                let detail = cut(&start.input, DETAIL_CHARS);
                let draft = Draft::new(at, Kind::Tool, lane, format!("start {}", start.name));
                let going = Going::Tool(start.call_id.clone());
                self.go(replica, &place, *id, Some(start.turn), going, draft, detail);
                let turn = self.turn_lane(start.turn);
                let name = command_name(start.turn, &start.call_id);
                let span = Span {
                    kind: SpanKind::Command,
                    lane,
                    turn: Some(turn),
                    from: at,
                    to: None,
                    label: cut(&start.input, 60),
                    result: String::new(),
                };
                self.begin(name, span);
                self.count(lane, Field::Running, 1);
            }
            Effect::KillTool { id } => {
                let draft = self.back(at, replica, &place, *id, Kind::Tool);
                let lane = draft.from.unwrap_or(place.lane);
                self.add(Draft {
                    lane,
                    from: draft.turn.or(Some(place.lane)),
                    title: "kill command".to_owned(),
                    cause: place.input,
                    ..draft
                });
            }
            Effect::AdoptTool { id, adopt } => {
                let lane = self.lane_of_tools(&place, adopt.computer.as_ref());
                let detail = format!("{} under epoch {}", adopt.call_id, adopt.epoch.0);
                let draft = Draft::new(at, Kind::Tool, lane, "look for an earlier run");
                let going = Going::Tool(adopt.call_id.clone());
                self.go(replica, &place, *id, Some(adopt.turn), going, draft, detail);
            }
            Effect::LeaveTool { id } => {
                let draft = self.back(at, replica, &place, *id, Kind::Tool);
                self.add(Draft {
                    lane: draft.from.unwrap_or(place.lane),
                    from: draft.turn.or(Some(place.lane)),
                    title: "leave command".to_owned(),
                    cause: place.input,
                    ..draft
                });
            }
            Effect::ConnectComputer { id, computer, .. } => {
                let lane = self.lane(LaneKind::Computer, computer.as_str());
                let draft = Draft::new(at, Kind::Tool, lane, "connect");
                let detail = String::new();
                self.go(replica, &place, *id, None, Going::Link, draft, detail);
            }
            Effect::CloseComputer { id } => {
                let draft = self.back(at, replica, &place, *id, Kind::Tool);
                self.flights.remove(&(replica, place.life, *id));
                self.add(Draft {
                    lane: draft.from.unwrap_or(place.lane),
                    from: Some(place.lane),
                    title: "close link".to_owned(),
                    cause: place.input,
                    ..draft
                });
            }
            Effect::FindUnattended { .. }
            | Effect::PingComputer { .. }
            | Effect::ComputerChanged { .. } => {}
            Effect::EndUnattended { turns, .. } => {
                let lane = self.lane(LaneKind::Computer, &place.node);
                self.add(Draft {
                    from: Some(place.lane),
                    cause: place.input,
                    detail: cut(&format!("{turns:?}"), DETAIL_CHARS),
                    ..Draft::new(at, Kind::Tool, lane, "end what turns have left")
                });
            }
            Effect::Publish { event } => {
                let (lane, turn) = (self.clients(), self.turn_lane(event.turn));
                self.add(Draft {
                    from: Some(turn),
                    turn: Some(turn),
                    cause: place.input,
                    quiet: Some(Kind::Stream),
                    detail: cut(&event.to_json(), DETAIL_CHARS),
                    ..Draft::new(at, Kind::Client, lane, format!("show {}", event.kind()))
                });
            }
            Effect::Wake { conversation } => {
                let lane = self.clients();
                self.add(Draft {
                    from: Some(place.lane),
                    cause: place.input,
                    quiet: Some(Kind::Stream),
                    ..Draft::new(at, Kind::Client, lane, format!("read {conversation} again"))
                });
            }
            Effect::Nudge { node } => {
                let lane = self.store();
                self.add(Draft {
                    from: Some(place.lane),
                    cause: place.input,
                    quiet: Some(Kind::Poll),
                    ..Draft::new(at, Kind::Store, lane, format!("nudge {node}"))
                });
            }
            Effect::Deliver { id, delivery } => {
                let lane = self.clients();
                let title = format!("post to {}, try {}", delivery.endpoint, delivery.tries);
                let draft = Draft::new(at, Kind::Client, lane, title);
                let (turn, detail) = (Some(delivery.turn), debugged(delivery, DETAIL_CHARS));
                self.go(replica, &place, *id, turn, Going::Post, draft, detail);
            }
            Effect::CancelDelivery { id } => {
                let draft = self.back(at, replica, &place, *id, Kind::Client);
                self.flights.remove(&(replica, place.life, *id));
                self.add(Draft {
                    title: "break the post off".to_owned(),
                    cause: place.input,
                    ..draft
                });
            }
            Effect::Answer { id: _, answer } => {
                let lane = self.clients();
                let turn = match answer {
                    Answer::Accepted(receipt) => Some(receipt.turn),
                    Answer::Ended(event) => Some(event.turn),
                    Answer::AbortRequested { turn, .. } => Some(*turn),
                    Answer::Rejected(_)
                    | Answer::Invalid(_)
                    | Answer::NotFound
                    | Answer::Workspace(_)
                    | Answer::Set
                    | Answer::Tested(_)
                    | Answer::Unconfirmed
                    | Answer::ShuttingDown => None,
                };
                let turn = turn.map(|turn| self.turn_lane(turn));
                self.add(Draft {
                    from: Some(place.lane),
                    turn,
                    cause: place.input,
                    detail: debugged(answer, DETAIL_CHARS),
                    ..Draft::new(
                        at,
                        Kind::Client,
                        lane,
                        format!("answer: {}", words::answer(answer)),
                    )
                });
            }
            Effect::Trace { code, message } => {
                self.add(Draft {
                    cause: place.input,
                    detail: cut(message, DETAIL_CHARS),
                    ..Draft::new(at, Kind::Life, place.lane, code.clone())
                });
            }
            Effect::Ready { taken_over } => {
                let title = format!("ready, {taken_over} taken over");
                self.add(Draft {
                    cause: place.input,
                    ..Draft::new(at, Kind::Life, place.lane, title)
                });
            }
            Effect::Drained => {
                self.add(Draft {
                    cause: place.input,
                    ..Draft::new(at, Kind::Life, place.lane, "drained")
                });
            }
        }
    }

    /// Where a call's command runs: on another computer, or the replica's own.
    fn lane_of_tools(&mut self, place: &Place, computer: Option<&ComputerId>) -> u32 {
        let name = computer.map_or(&*place.node, ComputerId::as_str);
        self.lane(LaneKind::Computer, name)
    }

    fn ask(&mut self, at: Us, replica: usize, place: &Place, id: EffectId, verb: &Verb) {
        let store = self.store();
        let draft = Draft {
            quiet: words::verb_quiet(verb),
            ..Draft::new(at, Kind::Store, store, verb.name())
        };
        let step = match verb {
            Verb::AdmissionView { provider, .. } => {
                Step::Look(self.lane(LaneKind::Provider, provider.as_str()))
            }
            Verb::SetLimit { provider, limit } => {
                Step::Limit(self.lane(LaneKind::Provider, provider.as_str()), *limit)
            }
            _ => Step::of(verb),
        };
        let going = Going::Verb(verb.name(), step);
        let detail = debugged(verb, DETAIL_CHARS);
        self.go(replica, place, id, turn_of(verb), going, draft, detail);
        if let Verb::Boot(boot) = verb {
            for settings in &boot.providers {
                let lane = self.lane(LaneKind::Provider, settings.id.as_str());
                if self.value(lane, Field::Limit).is_empty() {
                    self.set(lane, Field::Limit, settings.limit.to_string());
                }
            }
        }
    }

    /// Adds an effect's event and remembers what its completion will be about.
    fn go(
        &mut self,
        replica: usize,
        place: &Place,
        id: EffectId,
        turn: Option<TurnId>,
        what: Going,
        draft: Draft,
        detail: String,
    ) {
        let lane = draft.lane;
        // A turn that is only asked for may never be.
        let turn_lane = match &what {
            Going::Verb("accept", _) => turn.and_then(|turn| self.known_turn(turn)),
            Going::Verb(..) | Going::Stream | Going::Tool(_) | Going::Post | Going::Link => {
                turn.map(|turn| self.turn_lane(turn))
            }
        };
        let event = self.add(Draft {
            from: Some(place.lane),
            turn: turn_lane,
            cause: place.input,
            detail,
            ..draft
        });
        let flight = Flight {
            event,
            turn,
            lane,
            what,
        };
        self.flights.insert((replica, place.life, id), flight);
    }

    fn request_begins(
        &mut self,
        at: Us,
        replica: usize,
        place: &Place,
        id: EffectId,
        lane: u32,
        turn: TurnId,
    ) {
        let turn = self.turn_lane(turn);
        let span = Span {
            kind: SpanKind::Request,
            lane,
            turn: Some(turn),
            from: at,
            to: None,
            label: format!("{} from {}", self.label(turn), place.node),
            result: String::new(),
        };
        self.begin(request_name(replica, place.life, id), span);
        if !self.is_told {
            self.count(lane, Field::Running, 1);
        }
    }
}

/// Unique in a picture.
pub(super) fn request_name(replica: usize, life: u32, id: EffectId) -> String {
    format!("{replica}/{life}/{}/{}", id.incarnation, id.n)
}

/// Unique in a picture.
pub(super) fn command_name(turn: TurnId, call: &str) -> String {
    format!("{turn}/{call}")
}
