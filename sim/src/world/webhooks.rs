//! Endpoints that are told of terminal events: they take what is posted to
//! them, refuse it, say nothing, or take it and are not heard.

use dispatch_core::config;
use dispatch_core::ids::{EffectId, EndpointId};
use dispatch_core::io::Input;
use dispatch_core::store::Reply;
use dispatch_core::webhook::{Delivery, DeliveryState, EndpointRow, Wanted};

use super::{Event, World};
use crate::fact::Fact;
use crate::scenario::{Hook, SECOND, Scenario};
use crate::sometimes::Point;

/// From the beginning of a try to its answer.
const TIMEOUT_MS: u64 = 15_000;

/// A request on its way to an endpoint.
pub(crate) struct Post {
    replica: usize,
    life: u32,
    id: EffectId,
    delivery: Delivery,
}

/// How an endpoint behaves, this once.
enum Mood {
    Takes,
    Refuses,
    /// Neither takes nor answers.
    Hangs,
    /// Takes it, and its answer gets lost.
    TakesUnheard,
}

/// A scenario's endpoints, in their order.
pub(crate) fn endpoints(scenario: &Scenario) -> Vec<EndpointRow> {
    let row = |(n, hook): (usize, &Hook)| {
        Some(EndpointRow {
            id: EndpointId::try_from(format!("hook-{n}").as_str()).ok()?,
            wanted: Wanted {
                done: true,
                error: !hook.done_only,
                aborted: !hook.done_only,
            },
        })
    };
    scenario
        .webhooks
        .iter()
        .enumerate()
        .filter_map(row)
        .collect()
}

pub(super) fn configured(scenario: &Scenario) -> Vec<config::Webhook> {
    let webhook = |endpoint| config::Webhook {
        endpoint,
        timeout_ms: TIMEOUT_MS,
    };
    endpoints(scenario).into_iter().map(webhook).collect()
}

impl World<'_> {
    pub(super) fn post(&mut self, replica: usize, id: EffectId, delivery: Delivery) {
        let place = &mut self.replicas[replica];
        let life = place.life;
        if let Some(process) = &mut place.process {
            process.posts.insert(id);
            let after = self.dice.network().spread(500, 30_000);
            let post = Box::new(Post {
                replica,
                life,
                id,
                delivery,
            });
            self.queue_in(after, Event::Post(post));
        }
    }

    pub(super) fn cancel_post(&mut self, replica: usize, id: EffectId) {
        let process = self.replicas[replica].process.as_mut();
        if process.is_some_and(|process| process.posts.remove(&id)) {
            self.court.sometimes.hit(Point::DeliveryBrokenOff);
        }
    }

    /// It reaches its endpoint, if who sent it still lives and wants it.
    pub(super) fn posted(&mut self, post: Post) {
        let Post {
            replica,
            life,
            id,
            delivery,
        } = post;
        let place = &self.replicas[replica];
        let process = place.process.as_ref().filter(|_| place.life == life);
        if !process.is_some_and(|process| process.posts.contains(&id)) {
            return;
        }
        let mood = self.mood(&delivery);
        let is_taken = matches!(mood, Mood::Takes | Mood::TakesUnheard);
        self.recorder.line(self.at, || {
            format!(
                "post {delivery:?}: {}",
                if is_taken { "taken" } else { "not taken" }
            )
        });
        self.tell(&Fact::Posted {
            delivery: &delivery,
            is_taken,
        });
        let outcome = match mood {
            Mood::Takes => Ok(()),
            Mood::Refuses => Err("it answered 503".to_owned()),
            Mood::TakesUnheard => Err("the connection was cut".to_owned()),
            Mood::Hangs => return,
        };
        let after = self.dice.network().spread(500, SECOND);
        self.send(after, replica, life, Input::DeliveryDone { id, outcome });
    }

    fn mood(&mut self, delivery: &Delivery) -> Mood {
        let rows = endpoints(&self.scenario);
        let place = rows.iter().position(|row| row.id == delivery.endpoint);
        let Some(hook) = place.map(|n| self.scenario.webhooks[n]) else {
            return Mood::Refuses;
        };
        if hook.is_dead {
            return match delivery.tries % 4 {
                0 => Mood::Hangs,
                _ => Mood::Refuses,
            };
        }
        let rng = self.dice.network();
        match !self.calm && rng.chance(hook.trouble) {
            false => Mood::Takes,
            true => match rng.below(3) {
                0 => Mood::Refuses,
                1 => Mood::Hangs,
                _ => Mood::TakesUnheard,
            },
        }
    }

    /// What the store has said of deliveries that are given up.
    pub(super) fn tell_given_up(&mut self, reply: &Reply) {
        match reply {
            Reply::Deliveries { given_up, .. } => {
                for delivery in given_up {
                    self.tell(&Fact::GivenUp { delivery });
                }
            }
            Reply::Settled { row, .. } if row.state == DeliveryState::Failed => {
                self.tell(&Fact::GivenUp {
                    delivery: &row.delivery,
                });
            }
            _ => {}
        }
    }
}
