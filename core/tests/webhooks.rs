//! Deliveries, as the core asks for them (C7).

// The lint's exemption for tests does not reach the functions beside them.
#![allow(clippy::unwrap_used)]

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, Provider, Webhook};
use dispatch_core::ids::{CommandId, EffectId, Owner};
use dispatch_core::io::{Command, Effect, Input, Submit};
use dispatch_core::store::{Model, ProviderSettings};
use dispatch_core::time::{Instant, Now, Timestamp};
use dispatch_core::webhook::{Delivery, EndpointRow, Wanted};

/// A core over the Model; what it wants posted is kept, everything else ignored.
struct World {
    core: Dispatcher,
    model: Model,
    now_ms: u64,
    commands: u64,
    posts: Vec<(EffectId, Delivery)>,
    cancelled: Vec<EffectId>,
    traces: Vec<String>,
    drained: bool,
}

const TIMEOUT_MS: u64 = 15_000;

impl World {
    fn new() -> World {
        let owner = Owner {
            node: "here".into(),
            boot: 1,
            incarnation: 0,
        };
        let provider = Provider {
            settings: ProviderSettings {
                id: "mock".try_into().unwrap(),
                limit: 1,
                cooldown_ms: 0,
            },
            models: vec!["m".into()],
        };
        let mut config = Config::new(owner, vec![provider]);
        config.webhooks = vec![Webhook {
            endpoint: EndpointRow {
                id: "ops".try_into().unwrap(),
                wanted: Wanted::ALL,
            },
            timeout_ms: TIMEOUT_MS,
        }];
        let now = Now {
            mono: Instant(0),
            wall: Timestamp(1_000_000),
        };
        let mut world = World {
            core: Dispatcher::new(config, [7; 32], now),
            model: Model::default(),
            now_ms: 0,
            commands: 0,
            posts: vec![],
            cancelled: vec![],
            traces: vec![],
            drained: false,
        };
        world.settle();
        world
    }

    fn now(&self) -> Now {
        Now {
            mono: Instant(self.now_ms),
            wall: Timestamp(1_000_000 + self.now_ms),
        }
    }

    fn feed(&mut self, input: Input) {
        self.core.handle(self.now(), input);
        self.settle();
    }

    fn settle(&mut self) {
        while let Some(effect) = self.core.poll_effect() {
            match effect {
                Effect::Store { id, verb } => {
                    self.model.now = self.now().wall;
                    let outcome = Ok(self.model.apply(&verb));
                    self.core.handle(self.now(), Input::Stored { id, outcome });
                }
                Effect::Deliver { id, delivery } => self.posts.push((id, *delivery)),
                Effect::CancelDelivery { id } => self.cancelled.push(id),
                Effect::Trace { code, .. } => self.traces.push(code),
                Effect::Drained => self.drained = true,
                _ => {}
            }
        }
        self.core.check().unwrap();
    }

    /// Lets time pass, timer by timer.
    fn pass(&mut self, ms: u64) {
        let end = self.now_ms + ms;
        while let Some((at, _)) = self.core.poll_timeout().filter(|(at, _)| at.0 <= end) {
            self.now_ms = at.0.max(self.now_ms);
            self.feed(Input::Tick);
        }
        self.now_ms = end;
    }

    fn command(&mut self, command: Command) {
        self.commands += 1;
        let id = CommandId(self.commands);
        self.feed(Input::Command { id, command });
    }

    /// A turn of a conversation, which is aborted while it waits for the first one.
    fn ended(&mut self, conversation: &str) {
        self.command(Command::Submit(Box::new(Submit {
            conversation: Some(conversation.try_into().unwrap()),
            workspace: None,
            model: None,
            message: "hello".into(),
            cwd: None,
            computer: None,
            idempotency: None,
        })));
        self.command(Command::Abort {
            turn: self.model.turns.keys().next_back().copied(),
            conversation: None,
            by: "test".into(),
            reason: None,
        });
        self.pass(100);
    }

    fn post(&mut self) -> (EffectId, Delivery) {
        assert_eq!(self.posts.len(), 1, "{:?}", self.posts);
        self.posts.remove(0)
    }

    fn done(&mut self, id: EffectId, outcome: Result<(), &str>) {
        let outcome = outcome.map_err(str::to_owned);
        self.feed(Input::DeliveryDone { id, outcome });
    }
}

#[test]
fn c7_a_failed_try_is_followed_by_the_next_one_in_time_and_a_taken_one_by_none() {
    let mut world = World::new();
    world.ended("busy");
    world.ended("talk");
    world.pass(500);
    let (first, delivery) = world.posts.pop().unwrap();
    world.posts.clear();
    assert_eq!(delivery.tries, 1);
    world.done(first, Err("it answered 503"));
    world.pass(999);
    assert_eq!(world.posts, []);
    world.pass(30);
    let (second, again) = world.post();
    assert_eq!((again.tries, again.turn), (2, delivery.turn));
    // The first try speaks once more: nobody listens.
    world.done(first, Ok(()));
    world.done(second, Ok(()));
    world.pass(10 * TIMEOUT_MS);
    assert!(world.posts.iter().all(|(_, post)| post.turn != again.turn));
}

#[test]
fn c7_a_silent_endpoint_is_broken_off_in_time_and_asked_again() {
    let mut world = World::new();
    world.ended("talk");
    world.pass(200);
    let (first, _) = world.post();
    world.pass(TIMEOUT_MS - 1_000);
    assert_eq!(world.cancelled, []);
    world.pass(1_000);
    assert_eq!(world.cancelled, [first]);
    assert_eq!(world.traces, ["webhook-failed"]);
    world.pass(1_100);
    assert_eq!(world.post().1.tries, 2);
}

#[test]
fn c7_at_most_four_deliveries_are_under_way_to_an_endpoint() {
    let mut world = World::new();
    for n in 0..9 {
        world.ended(&format!("talk-{n}"));
    }
    world.pass(1_000);
    assert_eq!(world.posts.len(), 4);
    let (id, _) = world.posts.remove(0);
    world.done(id, Ok(()));
    world.pass(100);
    assert_eq!(world.posts.len(), 4);
}

#[test]
fn l8_a_shutdown_waits_for_what_is_under_way_but_not_for_ever() {
    let mut world = World::new();
    world.ended("talk");
    world.pass(200);
    let (id, _) = world.post();
    world.feed(Input::Shutdown);
    assert!(!world.drained);
    world.done(id, Ok(()));
    assert!(world.drained);

    let mut world = World::new();
    world.ended("talk");
    world.pass(200);
    let (id, _) = world.post();
    world.feed(Input::Shutdown);
    world.pass(10_000);
    assert!(world.drained);
    assert_eq!(world.cancelled, [id]);
}
