//! What all nodes of a run share outside of the simulated network: time, the
//! oracles, the recorder, and everything that outlives a node's processes.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::ids::ProviderId;
use madsim::time::{TimeHandle, sleep};
use tokio::sync::{Notify, mpsc};

use super::client::Clients;
use super::plan::{Plan, Who};
use super::provider::Streams;
use super::replica::Replica;
use super::store::Disk;
use super::tools::Runs;
use super::trouble::{Place, Restart};
use crate::clock::{Us, store_time};
use crate::fact::{Fact, Life, Moment};
use crate::oracle::{Breach, Oracle, Terms, all};
use crate::record::{Recorder, Sink};
use crate::rng::{Purpose, Rng};
use crate::run::{Outcome, Violation, What};
use crate::sometimes::Point;

thread_local! {
    /// A node's first task comes from a closure that may move between threads,
    /// so it cannot hold the ring; a run never leaves its thread.
    static CURRENT: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// A run that needs more goes round in circles.
const MOST_EVENTS: u64 = 5_000_000;

/// See the module's page.
pub(super) struct Ring {
    pub(super) seed: u64,
    pub(super) plan: Plan,
    pub(super) terms: Rc<Terms>,
    pub(super) providers: Vec<ProviderId>,
    pub(super) dice: Dice,
    pub(super) places: RefCell<BTreeMap<Who, Place>>,
    /// Links that let nothing through, and how many troubles keep them so.
    pub(super) clogs: RefCell<BTreeMap<(Who, Who), u32>>,
    /// A task that a dying node spawns would die with it.
    pub(super) restarts: OnceCell<mpsc::UnboundedSender<Restart>>,
    pub(super) replicas: RefCell<Vec<Replica>>,
    pub(super) disk: RefCell<Disk>,
    pub(super) streams: RefCell<Streams>,
    pub(super) runs: RefCell<Runs>,
    pub(super) clients: RefCell<Clients>,
    pub(super) recorder: RefCell<Recorder<'static>>,
    time: TimeHandle,
    oracles: RefCell<Vec<Box<dyn Oracle>>>,
    violation: RefCell<Option<Violation>>,
    events: Cell<u64>,
    is_calm: Cell<bool>,
    is_over: Cell<bool>,
    over: Notify,
}

/// Randomness by purpose. The order of tasks and the delays of messages are
/// madsim's own, out of the same seed.
pub(super) struct Dice {
    pub(super) store: RefCell<Rng>,
    pub(super) clients: RefCell<Rng>,
    pub(super) process: RefCell<Rng>,
    pub(super) core: RefCell<Rng>,
}

impl Ring {
    /// Prepares a run; its nodes begin as soon as somebody waits.
    pub(super) fn begin(seed: u64, plan: Plan, sink: Option<Sink<'static>>) -> Rc<Ring> {
        let scenario = &plan.scenario;
        let messages = scenario.messages.iter();
        let terms = Rc::new(Terms {
            scripts: messages.map(|message| message.script.clone()).collect(),
            repeats_cuts: scenario.repeats_cuts,
            seals: scenario.seals,
            resume_limit: 3,
            retry_budget_ms: scenario.retry_budget_ms,
            step_limit_bytes: scenario.step_limit_bytes,
            step_limit: scenario.step_limit,
            endpoints: Vec::new(),
            computers: 0,
        });
        let providers = ["north", "south"].into_iter().take(scenario.limits.len());
        let dice = |purpose| RefCell::new(Rng::keyed(seed, purpose, 2, 0));
        let ring = Rc::new(Ring {
            seed,
            providers: providers
                .filter_map(|name| ProviderId::try_from(name).ok())
                .collect(),
            dice: Dice {
                store: dice(Purpose::Store),
                clients: dice(Purpose::Clients),
                process: dice(Purpose::Process),
                core: dice(Purpose::Core),
            },
            places: RefCell::default(),
            clogs: RefCell::default(),
            restarts: OnceCell::new(),
            replicas: RefCell::new(Replica::all()),
            disk: RefCell::default(),
            streams: RefCell::default(),
            runs: RefCell::default(),
            clients: RefCell::new(Clients::new(scenario)),
            recorder: RefCell::new(Recorder::new(sink)),
            time: TimeHandle::current(),
            oracles: RefCell::new(all(&terms)),
            violation: RefCell::default(),
            events: Cell::new(0),
            is_calm: Cell::new(false),
            is_over: Cell::new(false),
            over: Notify::new(),
            terms,
            plan,
        });
        CURRENT.set(Some(ring.clone()));
        ring.build_nodes();
        ring
    }

    /// The ring of this thread's run.
    pub(super) fn current() -> Rc<Ring> {
        CURRENT.with_borrow(|ring| ring.clone().expect("nodes live within a run"))
    }

    /// What the run came to. Rare situations are counted by the core ring alone.
    pub(super) fn end(&self) -> Outcome {
        CURRENT.take();
        Outcome {
            digest: self.recorder.borrow().digest(),
            events: self.events.get(),
            simulated_us: self.at(),
            points: [0; Point::ALL.len()],
            violation: self.violation.take(),
        }
    }

    /// Simulated time.
    pub(super) fn at(&self) -> Us {
        u64::try_from(self.time.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Comes back at this simulated time.
    pub(super) async fn wait_until(&self, at: Us) {
        let left_us = at.saturating_sub(self.at());
        if left_us > 0 {
            sleep(Duration::from_micros(left_us)).await;
        }
    }

    /// The storm is over.
    pub(super) fn is_calm(&self) -> bool {
        self.is_calm.get()
    }

    pub(super) fn calm_down(&self) {
        self.is_calm.set(true);
        self.line(|| "calm".to_owned());
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_over.get()
    }

    pub(super) async fn over(&self) {
        while !self.is_over() {
            self.over.notified().await;
        }
    }

    pub(super) fn stop(&self) {
        self.is_over.set(true);
        self.over.notify_one();
    }

    pub(super) fn restart_later(&self, restart: Restart) {
        if let Some(restarts) = self.restarts.get() {
            // Nobody restarts anything after the end of the run.
            let _ = restarts.send(restart);
        }
    }

    /// Counts one event of the simulation.
    pub(super) fn count(&self) {
        self.events.set(self.events.get() + 1);
        if self.events.get() == MOST_EVENTS {
            self.give_up_waiting();
        }
    }

    /// A line of the trace; costs nothing without one.
    pub(super) fn line(&self, line: impl FnOnce() -> String) {
        self.recorder.borrow_mut().line(self.at(), line);
    }

    pub(super) fn tell_life(&self, replica: usize, state: Life) {
        let (life, boot) = {
            let mut replicas = self.replicas.borrow_mut();
            let own = &mut replicas[replica];
            own.told = state;
            (own.life, own.boot)
        };
        self.line(|| format!("r{replica} life {life}: {state:?}"));
        self.tell(&Fact::Lives {
            replica,
            life,
            boot,
            state,
        });
    }

    /// Tells every oracle; what happens after the end is nobody's business.
    pub(super) fn tell(&self, fact: &Fact<'_>) {
        if self.is_over() {
            return;
        }
        let at = self.at();
        let moment = Moment {
            at,
            store_now: store_time(at),
            calm: self.is_calm(),
        };
        for oracle in self.oracles.borrow_mut().iter_mut() {
            if let Err(Breach { expected, seen }) = oracle.see(&moment, fact) {
                let violation = Violation {
                    seed: self.seed,
                    at_us: at,
                    what: What::Oracle(oracle.name()),
                    expected,
                    seen,
                };
                self.violation.replace(Some(violation));
                return self.stop();
            }
        }
    }
}
