//! Nodes are built, killed, restarted, stopped and cut off from each other;
//! then comes the calm.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use madsim::net::NetSim;
use madsim::runtime::Handle;
use madsim::task::{NodeId, spawn_local};
use madsim::time::sleep;
use tokio::sync::mpsc;

use super::plan::{REPLICAS, Trouble, Who};
use super::ring::Ring;
use super::wire::address;
use super::{client, provider, replica, store, tools};
use crate::clock::Us;
use crate::fact::{Fact, Life};
use crate::scenario::SECOND;

/// A node, as the supervisor of the run sees it.
pub(super) struct Place {
    node: NodeId,
    life: u32,
    state: Life,
}

/// A dead process is started again: which, after which of its lives, when.
pub(super) type Restart = (Who, u32, Us);

/// How often oracles hear of trouble that lasts.
const COMPLAIN_EVERY: Us = 5 * SECOND;

impl Ring {
    pub(super) fn build_nodes(&self) {
        let handle = Handle::current();
        let node = |name: &str, who: Who| {
            let builder = handle.create_node().name(name).ip(address(who).ip());
            match who {
                Who::Replica(index) => builder.init(move || replica::live(Ring::current(), index)),
                Who::Store => builder.init(|| store::live(Ring::current())),
                Who::Provider => builder.init(|| provider::live(Ring::current())),
                Who::Client => builder.init(|| client::live(Ring::current())),
            }
            .build()
            .id()
        };
        let mut places = self.places.borrow_mut();
        let mut place = |name: &str, who: Who| {
            let place = Place {
                node: node(name, who),
                life: 1,
                state: Life::Up,
            };
            places.insert(who, place);
        };
        place("store", Who::Store);
        place("provider", Who::Provider);
        place("client", Who::Client);
        for index in 0..REPLICAS {
            place(&format!("replica-{index}"), Who::Replica(index));
        }
        // Nothing befalls it and nothing reaches it over the network: commands
        // are started by their replica as processes of their own.
        let computer = handle.create_node().name("computer");
        computer.init(|| tools::live(Ring::current())).build();
    }

    fn node(&self, who: Who) -> NodeId {
        self.places.borrow()[&who].node
    }

    /// `kill -9`, also of a process by itself; it starts again `down` later.
    pub(super) fn die(&self, who: Who, down: Us) {
        let (node, life) = {
            let mut places = self.places.borrow_mut();
            let Some(place) = places.get_mut(&who).filter(|p| p.state != Life::Down) else {
                return;
            };
            place.state = Life::Down;
            (place.node, place.life)
        };
        self.line(|| format!("{who:?} dies for {} ms", down / 1_000));
        Handle::current().kill(node);
        match who {
            Who::Replica(replica) => self.lose_replica(replica),
            Who::Store => self.complain(),
            Who::Provider | Who::Client => {}
        }
        self.restart_later((who, life, self.at() + down));
    }

    fn start_again(&self, (who, life, _): Restart) {
        {
            let mut places = self.places.borrow_mut();
            let Some(place) = places.get_mut(&who) else {
                return;
            };
            if place.life != life || place.state != Life::Down {
                return;
            }
            place.life += 1;
            place.state = Life::Up;
        }
        self.line(|| format!("{who:?} starts again"));
        Handle::current().restart(self.node(who));
    }

    /// Stops a running process; the life that was stopped.
    fn pause(&self, who: Who) -> Option<u32> {
        let life = {
            let mut places = self.places.borrow_mut();
            let place = places.get_mut(&who).filter(|p| p.state == Life::Up)?;
            place.state = Life::Paused;
            place.life
        };
        self.line(|| format!("{who:?} is stopped"));
        Handle::current().pause(self.node(who));
        match who {
            Who::Replica(replica) => self.tell_life(replica, Life::Paused),
            Who::Store => self.complain(),
            Who::Provider | Who::Client => {}
        }
        Some(life)
    }

    fn go_on(&self, who: Who, life: u32) {
        {
            let mut places = self.places.borrow_mut();
            let Some(place) = places.get_mut(&who) else {
                return;
            };
            if place.life != life || place.state != Life::Paused {
                return;
            }
            place.state = Life::Up;
        }
        self.line(|| format!("{who:?} goes on"));
        // The message waits with everything else until the node runs again.
        if let Who::Replica(replica) = who {
            self.wake_up(replica);
        }
        Handle::current().resume(self.node(who));
    }

    /// Whether a message from one node to the other gets lost.
    pub(super) fn is_clogged(&self, from: Who, to: Who) -> bool {
        self.clogs.borrow().contains_key(&(from, to))
    }

    fn clog(&self, link: (Who, Who)) {
        *self.clogs.borrow_mut().entry(link).or_default() += 1;
        NetSim::current().clog_link(self.node(link.0), self.node(link.1));
        self.complain();
    }

    fn unclog(&self, link: (Who, Who)) {
        let mut clogs = self.clogs.borrow_mut();
        let Some(count) = clogs.get_mut(&link) else {
            return;
        };
        *count -= 1;
        if *count == 0 {
            clogs.remove(&link);
            drop(clogs);
            NetSim::current().unclog_link(self.node(link.0), self.node(link.1));
            self.complain();
        }
    }

    /// Tells which replicas have trouble with the store just now.
    fn complain(&self) {
        let everybody = !self.is_calm()
            && (self.plan.loss > 0.0 || self.places.borrow()[&Who::Store].state != Life::Up);
        for replica in 0..REPLICAS {
            let who = Who::Replica(replica);
            let is_cut_off = self.is_clogged(who, Who::Store) || self.is_clogged(Who::Store, who);
            if everybody || is_cut_off {
                self.tell(&Fact::Trouble { replica });
            }
        }
    }

    async fn befall(&self, trouble: &Trouble) {
        self.count();
        self.line(|| format!("trouble {trouble:?}"));
        match trouble {
            Trouble::Kill {
                who,
                after_effects,
                down,
            } => match (who, after_effects) {
                (Who::Replica(replica), Some(effects)) => {
                    self.replicas.borrow_mut()[*replica].doom = Some((*effects, *down));
                }
                (Who::Replica(_) | Who::Store | Who::Provider | Who::Client, _) => {
                    self.die(*who, *down);
                }
            },
            Trouble::Pause { who, during } => {
                if let Some(life) = self.pause(*who) {
                    self.wait_until(self.at() + during).await;
                    self.go_on(*who, life);
                    self.complain();
                }
            }
            Trouble::Clog { links, during } => {
                links.iter().for_each(|link| self.clog(*link));
                self.wait_until(self.at() + during).await;
                links.iter().for_each(|link| self.unclog(*link));
            }
        }
    }

    /// All nodes run again, and everything gets through.
    fn end_all_trouble(&self) {
        self.complain();
        self.calm_down();
        NetSim::current().update_config(|config| config.packet_loss_rate = 0.0);
        for (link, count) in std::mem::take(&mut *self.clogs.borrow_mut()) {
            debug_assert!(count > 0);
            NetSim::current().unclog_link(self.node(link.0), self.node(link.1));
        }
        for replica in self.replicas.borrow_mut().iter_mut() {
            replica.doom = None;
        }
        let lives: BTreeMap<Who, u32> = self
            .places
            .borrow()
            .iter()
            .map(|(who, place)| (*who, place.life))
            .collect();
        for (who, life) in lives {
            self.go_on(who, life);
            self.start_again((who, life, 0));
        }
    }
}

/// Plays a whole run, to its end or to the first broken promise.
pub(super) async fn play(ring: &Rc<Ring>) {
    for n in 0..ring.plan.troubles.len() {
        let ring = ring.clone();
        spawn_local(async move {
            let (at, trouble) = &ring.plan.troubles[n];
            ring.wait_until(*at).await;
            if !ring.is_calm() {
                ring.befall(trouble).await;
            }
        });
    }
    let (restarts, dead) = mpsc::unbounded_channel();
    ring.restarts.set(restarts).expect("a run is played once");
    spawn_local(restart(ring.clone(), dead));
    let storm = ring.clone();
    spawn_local(async move {
        while !storm.is_calm() {
            storm.complain();
            sleep(Duration::from_micros(COMPLAIN_EVERY)).await;
        }
    });
    let looker = ring.clone();
    spawn_local(async move { looker.look_around().await });
    let calm = ring.clone();
    spawn_local(async move {
        calm.wait_until(calm.plan.scenario.calm_at).await;
        calm.end_all_trouble();
    });
    ring.over().await;
    leave(ring).await;
}

async fn restart(ring: Rc<Ring>, mut dead: mpsc::UnboundedReceiver<Restart>) {
    while let Some(restart) = dead.recv().await {
        let ring = ring.clone();
        spawn_local(async move {
            ring.wait_until(restart.2).await;
            ring.start_again(restart);
        });
    }
}

/// Drops what still runs, so that no run leaves its memory behind.
async fn leave(ring: &Rc<Ring>) {
    let nodes: Vec<NodeId> = ring.places.borrow().values().map(|p| p.node).collect();
    for node in nodes {
        Handle::current().kill(node);
    }
    sleep(Duration::from_millis(10)).await;
}
