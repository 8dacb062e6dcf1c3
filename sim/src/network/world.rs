//! Puts the hosts on the network, does to them what was planned, and lets time
//! pass until every client has what it wants.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use turmoil::Sim;

use super::client;
use super::fact::{Change, Fact, Log, Role, Story};
use super::plan::Plan;
use super::provider::Vendor;
use super::server::House;

/// How finely time passes. Messages and changes come at its beginnings.
const TICK_MS: u64 = 10;
/// All turns are over so long after the calm began, at the latest.
pub(super) const CALM_MS: u64 = 20 * 60_000;
/// L8: draining, handing over, and the ends of streams.
const SHUTDOWN_MS: u64 = 60_000;
/// Of the messages on a lossy link.
const LOSS: f64 = 0.03;

/// How a run ended, before anybody judges it.
pub(super) struct Run {
    pub(super) story: Story,
    pub(super) simulated_ms: u64,
    /// What kept it from its end: an oracle's name, and why.
    pub(super) failed: Option<(&'static str, String)>,
}

/// Runs a plan to its end.
pub(super) fn run(plan: Plan, keeps_lines: bool) -> Run {
    let log = Log::new(keeps_lines);
    let dir = ScratchDir::new();
    let plan = Arc::new(plan);
    let house = Arc::new(House::new(plan.clone(), log.clone(), dir.0.join("data")));
    let mut simulated_ms = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(plan, log.clone(), house);
        let ended = world.go();
        simulated_ms = world.now_ms;
        // Before the hosts are dropped, whose parts tell of it in any order.
        (ended.err(), log.finish())
    }));
    match outcome {
        Ok((failed, story)) => Run {
            story,
            simulated_ms,
            failed,
        },
        Err(panic) => Run {
            simulated_ms: log.now_ms(),
            story: log.finish(),
            failed: Some(("no-panic", dispatch::panics::message(&*panic))),
        },
    }
}

struct World {
    plan: Arc<Plan>,
    log: Log,
    house: Arc<House>,
    sim: Sim<'static>,
    now_ms: u64,
    next_change: usize,
    held: Vec<Role>,
    vendors: Vec<Arc<Vendor>>,
    /// Gone after this tick; those with `true` begin anew then.
    dying: Vec<(Role, bool)>,
}

type Failed = (&'static str, String);

impl World {
    fn new(plan: Arc<Plan>, log: Log, house: Arc<House>) -> World {
        let ms = Duration::from_millis;
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(plan.seed)
            .tick_duration(ms(TICK_MS))
            .simulation_duration(Duration::from_secs(24 * 3_600))
            .epoch(std::time::UNIX_EPOCH + ms(crate::clock::EPOCH_MS))
            .min_message_latency(ms(plan.latency_ms.0))
            .max_message_latency(ms(plan.latency_ms.1))
            .tcp_capacity(256);
        let mut sim = builder.build();
        let mut vendors = Vec::new();
        for number in 0..plan.providers.len() {
            let vendor = Arc::new(Vendor::new(plan.clone(), number, log.clone()));
            vendors.push(vendor.clone());
            sim.host(Role::Provider(number).host(), move || vendor.clone().live());
        }
        let server = house.clone();
        sim.host(Role::Server.host(), move || server.clone().live());
        for number in 0..plan.clients.len() {
            let client = client::live(plan.clone(), number, log.clone());
            sim.client(Role::Client(number).host(), client);
        }
        World {
            plan,
            log,
            house,
            sim,
            now_ms: 0,
            next_change: 0,
            held: Vec::new(),
            vendors,
            dying: Vec::new(),
        }
    }

    fn go(&mut self) -> Result<(), Failed> {
        let limit_ms = self.plan.calm_at_ms + CALM_MS;
        while !self.step()? || self.now_ms <= self.plan.calm_at_ms {
            if self.now_ms > limit_ms {
                let late = format!("clients still wait {CALM_MS} ms after the calm began");
                return Err(("converged", late));
            }
        }
        self.house.shut_down();
        let limit_ms = self.now_ms + SHUTDOWN_MS;
        while self.sim.is_host_running(Role::Server.host()) {
            self.step()?;
            if self.now_ms > limit_ms {
                let late = format!("the server still runs {SHUTDOWN_MS} ms after it was to end");
                return Err(("shutdown", late));
            }
        }
        self.log.tell(Fact::Left {
            connections: self.house.net.open(),
        });
        Ok(())
    }

    /// One tick; whether all clients are done.
    fn step(&mut self) -> Result<bool, Failed> {
        self.log.set_now(self.now_ms);
        while let Some((at_ms, change)) = self.plan.changes.get(self.next_change)
            && *at_ms <= self.now_ms
        {
            let change = *change;
            self.next_change += 1;
            self.log.tell(Fact::Changed(change));
            self.apply(change);
        }
        let stepped = self.sim.step();
        self.now_ms += TICK_MS;
        for (role, rises) in std::mem::take(&mut self.dying) {
            self.sim.crash(role.host());
            if rises {
                self.sim.bounce(role.host());
            }
        }
        stepped.map_err(|error| ("no-failure", error.to_string()))
    }

    fn apply(&mut self, change: Change) {
        let server = || Role::Server.host();
        match change {
            Change::Hold(peer) => {
                self.held.push(peer);
                self.sim.hold(server(), peer.host());
            }
            Change::Release(peer) => {
                self.held.retain(|held| *held != peer);
                self.sim.release(server(), peer.host());
            }
            Change::Partition(peer) => self.sim.partition(server(), peer.host()),
            Change::Lossy(peer) => self.sim.set_link_fail_rate(server(), peer.host(), LOSS),
            Change::Repair(peer) => {
                self.sim.set_link_fail_rate(server(), peer.host(), 0.0);
                self.sim.repair(server(), peer.host());
            }
            Change::Crash(role) => self.fall(role, false),
            // A server that has not come to its graceful end yet is killed.
            Change::Bounce(role) if self.sim.is_host_running(role.host()) => self.fall(role, true),
            Change::Bounce(role) => self.sim.bounce(role.host()),
            Change::ShutDown => self.house.shut_down(),
            Change::Calm => self.calm(),
        }
    }

    fn fall(&mut self, role: Role, rises: bool) {
        if self.sim.is_host_running(role.host()) {
            match role {
                Role::Server => self.house.net.fall(),
                Role::Provider(number) => self.vendors[number].fall(),
                // Clients lose connections by themselves, and never die.
                Role::Client(_) => return,
            }
            self.dying.push((role, rises));
        }
    }

    fn calm(&mut self) {
        for peer in std::mem::take(&mut self.held) {
            self.apply(Change::Release(peer));
        }
        let providers = (0..self.plan.providers.len()).map(Role::Provider);
        let clients = (0..self.plan.clients.len()).map(Role::Client);
        let providers: Vec<_> = providers.collect();
        for peer in providers.iter().copied().chain(clients) {
            self.apply(Change::Repair(peer));
        }
        for role in providers.into_iter().chain([Role::Server]) {
            if !self.sim.is_host_running(role.host()) {
                self.apply(Change::Bounce(role));
            }
        }
    }
}

/// A directory for one run; gone with it.
pub(super) struct ScratchDir(PathBuf);

impl ScratchDir {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    pub(super) fn new() -> ScratchDir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let n = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dispatch-sim-{}-{n}", std::process::id());
        // In memory where there is such a place: the disk is not what is simulated.
        let shm = PathBuf::from("/dev/shm");
        let base = if shm.is_dir() {
            shm
        } else {
            std::env::temp_dir()
        };
        ScratchDir(base.join(name))
    }
}

impl Drop for ScratchDir {
    fn drop(&mut self) {
        // What cannot be removed now is the system's to clean.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
