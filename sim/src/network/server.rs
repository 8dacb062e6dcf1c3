//! The server's host: the whole of Dispatch as it is served in production, but
//! for the clock, the threads of its store and the commands.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dispatch::clock::Clock;
use dispatch::computers::NoComputers;
use dispatch::config::{Settings, Sources};
use dispatch::driver::Machine;
use dispatch::serve::{Surroundings, serve_in};
use dispatch::store::{Durability, SqliteStore};
use dispatch_core::Dispatcher;
use dispatch_core::ids::TurnId;
use dispatch_core::io::{Effect, Input};
use dispatch_core::journal::{Life, Start};
use dispatch_core::time::{Instant, Now, Timestamp};
use tokio_util::sync::CancellationToken;

use super::exec::{Computer, SimExec};
use super::fact::{Fact, Log, shown_effect, shown_input};
use super::lag::Lagging;
use super::net::SimNet;
use super::plan::Plan;
use super::provider;
use crate::clock::EPOCH_MS;
use crate::request::Reading;

/// What every life of the server has in common.
pub(super) struct House {
    pub(super) plan: Arc<Plan>,
    pub(super) log: Log,
    pub(super) net: SimNet,
    pub(super) computer: Computer,
    pub(super) data_dir: PathBuf,
    lives: AtomicU32,
    shutdown: Mutex<CancellationToken>,
}

/// The port that clients know.
pub(super) const PORT: u16 = 4747;
/// What they authorise themselves with: the server is not on their machine.
pub(super) const TOKEN: &str = "token-of-the-run";

const LAST_TASKS: Duration = Duration::from_secs(1);

impl House {
    pub(super) fn new(plan: Arc<Plan>, log: Log, data_dir: PathBuf) -> House {
        House {
            net: SimNet::new(),
            computer: Computer::new(plan.seed, log.clone()),
            plan,
            log,
            data_dir,
            lives: AtomicU32::new(0),
            shutdown: Mutex::new(CancellationToken::new()),
        }
    }

    /// Asks the present life for a graceful end.
    pub(super) fn shut_down(&self) {
        self.token().cancel();
    }

    fn token(&self) -> MutexGuard<'_, CancellationToken> {
        self.shutdown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One life, from its start to its graceful end; a crash drops it.
    pub(super) async fn live(self: Arc<House>) -> turmoil::Result {
        let life = self.lives.fetch_add(1, Ordering::Relaxed);
        self.net.rise();
        tokio::spawn(self.net.clone().close_at_fall());
        let shutdown = CancellationToken::new();
        *self.token() = shutdown.clone();
        self.log.tell(Fact::Booted { life });
        let settings = settings(&self.plan, &self.data_dir)?;
        let clock = Arc::new(SimClock::new(self.log.now_ms()));
        let store = SqliteStore::inline(
            settings.places.database.file().expect("a file"),
            clock.clone(),
            Durability::ProcessCrashOnly,
        )?;
        let surroundings = Surroundings {
            store: Arc::new(Lagging::new(
                store,
                self.plan.seed,
                life,
                self.plan.store_lag_ms,
            )),
            exec: Arc::new(SimExec::new(self.computer.clone(), life)),
            computers: Arc::new(NoComputers),
            clock,
            build: watched(self.log.clone(), life),
        };
        let net = self.net.clone();
        serve_in(surroundings, settings, None, net, shutdown, |_| {}).await?;
        // What ends by itself once nobody uses it has the time to.
        tokio::time::sleep(LAST_TASKS).await;
        Ok(())
    }
}

/// The configuration, from the same environment that an operator would set.
fn settings(plan: &Plan, data_dir: &Path) -> turmoil::Result<Settings> {
    std::fs::create_dir_all(data_dir)?;
    let mut env = BTreeMap::from([
        ("DISPATCH_TOKEN".to_owned(), TOKEN.to_owned()),
        ("DISPATCH_TOOLS__CWD".to_owned(), "/simulated".to_owned()),
        // Short, so that what waits for one costs little simulated time.
        (
            "DISPATCH_DEADLINES__FIRST_BYTE_S".to_owned(),
            "15".to_owned(),
        ),
        ("DISPATCH_DEADLINES__IDLE_S".to_owned(), "15".to_owned()),
    ]);
    if plan.repeats_cuts {
        env.insert("DISPATCH_TURNS__ON_CUT".to_owned(), "restart".to_owned());
    }
    for (n, provider) in plan.providers.iter().enumerate() {
        let mut set = |key: &str, value: String| {
            env.insert(format!("DISPATCH_PROVIDERS__P{n}__{key}"), value);
        };
        set("BASE_URL", format!("http://p{n}:{}/v1", provider::PORT));
        set("MODELS", "model".to_owned());
        set("LIMIT", provider.limit.to_string());
    }
    Ok(Settings::load(&Sources {
        data_dir: Some(data_dir.to_owned()),
        listen: Some(format!("0.0.0.0:{PORT}")),
        env,
        ..Sources::default()
    })?)
}

/// One life's clock: turmoil's time, wall time beginning in the run's epoch.
#[derive(Debug)]
struct SimClock {
    start: tokio::time::Instant,
    wall_at_start_ms: u64,
}

impl SimClock {
    fn new(now_ms: u64) -> SimClock {
        SimClock {
            start: tokio::time::Instant::now(),
            wall_at_start_ms: EPOCH_MS + now_ms,
        }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Now {
        let lived_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        Now {
            mono: Instant(lived_ms),
            wall: Timestamp(self.wall_at_start_ms + lived_ms),
        }
    }
}

/// A Dispatcher that is looked at from outside.
struct Watched {
    machine: Dispatcher,
    log: Log,
    life: u32,
    now: Now,
}

fn watched(log: Log, life: u32) -> impl FnMut(Start) -> Watched + Send + 'static {
    move |start| {
        if let Life::Rebuilt { seal } = start.life {
            log.tell(Fact::Panicked {
                what: format!("the core panicked on an input of {seal:?}"),
            });
        }
        Watched {
            machine: start.dispatcher(),
            log: log.clone(),
            life,
            now: start.now,
        }
    }
}

impl Watched {
    fn tell_of_input(&self, input: &Input) {
        if let Input::ProviderEnd { id } | Input::ProviderFailed { id, .. } = input {
            self.tell_closed(*id);
        }
    }

    fn tell_of_effect(&self, effect: &Effect) {
        match effect {
            Effect::OpenProvider {
                id, provider, body, ..
            } => {
                let number = provider.as_str().trim_start_matches('p').parse();
                match (number, Reading::of(body).asked) {
                    (Ok(provider), Ok(asked)) => self.log.tell(Fact::Opened {
                        life: self.life,
                        id: *id,
                        provider,
                        asked,
                        mono_ms: self.now.mono.0,
                    }),
                    (_, asked) => self.log.tell(Fact::Broken {
                        what: format!("a request to {provider} that is about {asked:?}"),
                    }),
                }
            }
            Effect::CloseProvider { id, .. } => self.tell_closed(*id),
            Effect::Store { .. }
            | Effect::StartTool { .. }
            | Effect::KillTool { .. }
            | Effect::AdoptTool { .. }
            | Effect::LeaveTool { .. }
            | Effect::FindUnattended { .. }
            | Effect::EndUnattended { .. }
            | Effect::ConnectComputer { .. }
            | Effect::PingComputer { .. }
            | Effect::CloseComputer { .. }
            | Effect::ComputerChanged { .. }
            | Effect::Deliver { .. }
            | Effect::CancelDelivery { .. }
            | Effect::Publish { .. }
            | Effect::Wake { .. }
            | Effect::Nudge { .. }
            | Effect::Answer { .. }
            | Effect::Trace { .. }
            | Effect::Ready { .. }
            | Effect::Drained => {}
        }
    }

    fn tell_closed(&self, id: dispatch_core::ids::EffectId) {
        self.log.tell(Fact::Closed {
            life: self.life,
            id,
            mono_ms: self.now.mono.0,
        });
    }

    fn step(&self, value: &impl serde::Serialize, shown: impl FnOnce() -> String) {
        // Every type here serialises; a failure would show as a changed digest.
        let bytes = postcard::to_allocvec(value).unwrap_or_default();
        self.log.step(self.life, self.now, &bytes, shown);
    }
}

impl Machine for Watched {
    fn handle(&mut self, now: Now, input: Input) {
        self.now = now;
        self.step(&input, || shown_input(&input));
        self.tell_of_input(&input);
        self.machine.handle(now, input);
        if let Err(broken) = self.machine.check() {
            self.log.tell(Fact::Broken {
                what: format!("{broken:?}"),
            });
        }
    }

    fn poll_effect(&mut self) -> Option<Effect> {
        let effect = self.machine.poll_effect()?;
        self.step(&effect, || shown_effect(&effect));
        self.tell_of_effect(&effect);
        Some(effect)
    }

    fn acting_on(&self) -> Option<TurnId> {
        self.machine.acting_on()
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.machine.poll_timeout().map(|(at, _)| at)
    }
}
