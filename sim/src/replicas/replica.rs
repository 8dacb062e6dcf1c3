//! A replica's node: sockets around one driver.

use std::rc::Rc;
use std::sync::Arc;

use dispatch_core::Dispatcher;
use dispatch_core::config::{Config, OnCut, Provider};
use dispatch_core::ids::Owner;
use dispatch_core::io::{Answer, Command, Input};
use dispatch_core::liveness::OnCrash;
use dispatch_core::store::ProviderSettings;
use madsim::net::{Endpoint, TcpListener, TcpStream};
use madsim::task::spawn_local;
use tokio::sync::{mpsc, oneshot};

use super::driver::Driver;
use super::follow::{Hub, show};
use super::plan::{REPLICAS, Who};
use super::ring::Ring;
use super::stream::Said;
use super::wire::{Hello, LONGEST, address, datagram, outcome_tag, receive, send};
use crate::clock::{Clock, Us};
use crate::fact::Life;

/// What is known of a replica outside of its processes.
pub(super) struct Replica {
    node: Arc<str>,
    pub(super) life: u32,
    pub(super) boot: u64,
    /// What oracles were told last.
    pub(super) told: Life,
    /// Dies after so many more effects, and stays dead for so long.
    pub(super) doom: Option<(u32, Us)>,
    pub(super) lanes: Option<Lanes>,
}

/// What comes to a driver besides what providers say.
pub(super) enum Urgent {
    Input(Input),
    Ask(Command, oneshot::Sender<Answer>),
    /// The process has been stopped and goes on.
    GoOn,
    /// The run ends: weigh the Dispatcher.
    Weigh,
}

/// The ways to a driver.
#[derive(Clone)]
pub(super) struct Lanes {
    pub(super) urgent: mpsc::UnboundedSender<Urgent>,
    /// Bounded: a driver that is behind stops the sockets.
    pub(super) said: mpsc::Sender<Said>,
}

const SAID_LANE: usize = 64;

impl Replica {
    pub(super) fn all() -> Vec<Replica> {
        (0..REPLICAS)
            .map(|index| Replica {
                node: format!("node-{index}").into(),
                life: 0,
                boot: 0,
                told: Life::Down,
                doom: None,
                lanes: None,
            })
            .collect()
    }
}

impl Ring {
    /// What was in flight for a dead process is heard by nobody.
    pub(super) fn lose_replica(&self, replica: usize) {
        {
            let own = &mut self.replicas.borrow_mut()[replica];
            own.lanes = None;
            own.doom = None;
        }
        self.streams.borrow_mut().forget_all_of(replica);
        self.tell_life(replica, Life::Down);
    }

    pub(super) fn wake_up(&self, replica: usize) {
        if let Some(lanes) = &self.replicas.borrow()[replica].lanes {
            let _ = lanes.urgent.send(Urgent::GoOn);
        }
    }

    /// Asks every living Dispatcher to have itself weighed.
    pub(super) fn weigh_all(&self) {
        for replica in self.replicas.borrow().iter() {
            if let Some(lanes) = &replica.lanes {
                let _ = lanes.urgent.send(Urgent::Weigh);
            }
        }
    }

    fn config(&self, owner: Owner, life: u32) -> Config {
        let scenario = &self.plan.scenario;
        let providers = self.providers.iter().zip(&scenario.limits);
        let providers = providers.map(|(id, limit)| Provider {
            settings: ProviderSettings {
                id: id.clone(),
                limit: *limit,
                cooldown_ms: 200,
            },
            models: vec!["model-1".to_owned()],
        });
        let mut config = Config::new(owner, providers.collect());
        config.life = life.into();
        config.ask_ms = scenario.ask_ms;
        config.requests_ms = scenario.requests_ms;
        config.retry.budget_ms = scenario.retry_budget_ms;
        config.step_limit_bytes = scenario.step_limit_bytes;
        config.step_limit = scenario.step_limit;
        if scenario.seals {
            config.on_crash = OnCrash::Seal;
        }
        if scenario.repeats_cuts {
            config.on_cut = OnCut::Restart;
        }
        config
    }
}

/// A process's whole life.
pub(super) async fn live(ring: Rc<Ring>, replica: usize) {
    let own = address(Who::Replica(replica));
    let endpoint = Endpoint::bind(own).await.expect("a node's port is free");
    let listener = TcpListener::bind(own).await.expect("a node's port is free");
    let (urgent, urgent_out) = mpsc::unbounded_channel();
    let (said, said_out) = mpsc::channel(SAID_LANE);
    let lanes = Lanes { urgent, said };
    let drift_ppm = i64::try_from(ring.dice.process.borrow_mut().below(400)).unwrap_or(0) - 200;
    let offset_ms = ring.dice.process.borrow_mut().below(1 << 40);
    let clock = Clock::new(ring.at(), offset_ms, drift_ppm, 0);
    let boot = ring.dice.core.borrow_mut().bits();
    let seed = ring.dice.core.borrow_mut().seed_bytes();
    let (node, life) = {
        let place = &mut ring.replicas.borrow_mut()[replica];
        place.life += 1;
        place.boot = boot;
        place.lanes = Some(lanes.clone());
        (place.node.clone(), place.life)
    };
    let hub = Rc::new(Hub::new(life));
    spawn_local(hear_store(endpoint.clone(), life, lanes.clone()));
    spawn_local(accept(
        listener,
        endpoint.clone(),
        lanes.clone(),
        hub.clone(),
    ));
    let owner = Owner {
        node,
        boot,
        incarnation: 0,
    };
    let core = Dispatcher::new(ring.config(owner, life), seed, clock.now(ring.at()));
    ring.tell_life(replica, Life::Up);
    let driver = Driver::new(ring, (replica, life), core, clock, endpoint, lanes, hub);
    driver.run(urgent_out, said_out).await;
}

async fn hear_store(endpoint: Endpoint, life: u32, lanes: Lanes) {
    let (tag, mut buffer) = (outcome_tag(life), vec![0; LONGEST]);
    while let Ok(((id, outcome), _)) = datagram(&endpoint, tag, &mut buffer).await {
        let input = Input::Stored { id, outcome };
        let _ = lanes.urgent.send(Urgent::Input(input));
    }
}

async fn accept(listener: TcpListener, endpoint: Endpoint, lanes: Lanes, hub: Rc<Hub>) {
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            spawn_local(serve(stream, endpoint.clone(), lanes.clone(), hub.clone()));
        }
    }
}

async fn serve(mut stream: TcpStream, endpoint: Endpoint, lanes: Lanes, hub: Rc<Hub>) {
    match receive(&mut stream).await {
        Ok(Hello::Command(command)) => {
            let (sender, answer) = oneshot::channel();
            let _ = lanes.urgent.send(Urgent::Ask(command, sender));
            if let Ok(answer) = answer.await {
                // The client may have gone.
                let _ = send(&mut stream, &answer).await;
            }
        }
        Ok(Hello::Follow {
            conversation,
            after,
        }) => show(stream, &endpoint, &hub, conversation, after).await,
        Err(_) => {}
    }
}
