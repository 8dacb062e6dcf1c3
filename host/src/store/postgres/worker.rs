//! The threads that carry out what the store is asked, and the connections that
//! go round among them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dispatch_core::store::{Outcome, Reply, StoreFault, Verb, apply};
use dispatch_core::time::Timestamp;
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::super::cells::Fault;
use super::super::queue::answer;
use super::super::{Done, Hint, ReadError};
use super::address::Address;
use super::census::Census;
use super::hints::Hints;
use super::tx::PgTx;
use super::wire::{Mode, Wire};
use super::{PostgresOpenError, PostgresOptions};
use crate::panics::locked;

/// A verb that met others so often is given back to its asker.
const MOST_ATTEMPTS: u32 = 8;
/// A read that fails for its connection's sake so often is given up.
const MOST_READS: u32 = 3;
/// A verb that has waited so long is near its deadline: it is not begun.
const STALE: Duration = Duration::from_secs(20);
/// PostgreSQL has no connection for us: one of ours is waited for so long.
const CROWDED: Duration = Duration::from_secs(5);
/// How often one of ours is looked for before PostgreSQL is asked again.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(5);
/// Slots that were left so long ago matter to no cooldown.
const RELEASES_KEPT_MS: u64 = 3_600_000;

pub(super) enum Job {
    Verb {
        verb: Verb,
        done: Done,
        since: Instant,
    },
    Query(Box<dyn FnOnce(&Worker) + Send>),
    Upkeep,
}

/// What all threads of a store have in common.
pub(super) struct Shared {
    pub(super) address: Address,
    pub(super) handle: Handle,
    pub(super) mode: Mutex<Mode>,
    pub(super) census: Census,
    pub(super) hints: Hints,
    /// Connections that no thread has at the moment, the latest last.
    pub(super) idle: Mutex<Vec<Wire>>,
    pub(super) options: PostgresOptions,
}

/// One thread. It has a connection for as long as a job lasts, so that the
/// store gets by where PostgreSQL allows fewer than there are threads.
pub(super) struct Worker {
    shared: Arc<Shared>,
}

/// How one attempt went wrong.
enum Attempt {
    /// Nothing of it has landed.
    Failed(Fault),
    /// The commit was sent, and nobody has answered.
    Unknown,
    Panicked,
}

impl From<Fault> for Attempt {
    fn from(fault: Fault) -> Attempt {
        Attempt::Failed(fault)
    }
}

impl Worker {
    fn now(&self) -> Option<Timestamp> {
        self.shared
            .options
            .clock
            .as_ref()
            .map(|clock| clock.now().wall)
    }

    fn connected(&self) -> Result<Wire, Fault> {
        let Shared {
            address, handle, ..
        } = &*self.shared;
        let give_up = Instant::now() + CROWDED;
        loop {
            if let Some(wire) = self.idle() {
                return Ok(wire);
            }
            match handle.block_on(address.connect(handle)) {
                Ok(client) => {
                    let mode = *locked(&self.shared.mode);
                    let patience = self.shared.options.patience;
                    return Ok(Wire::new(handle.clone(), client, mode, patience));
                }
                Err(fault) if fault.is_crowded() && Instant::now() < give_up => {
                    if let Some(wire) = self.given_back() {
                        return Ok(wire);
                    }
                }
                Err(fault) => return Err(Fault::Postgres(fault)),
            }
        }
    }

    /// A connection that another thread has used.
    fn idle(&self) -> Option<Wire> {
        let mode = *locked(&self.shared.mode);
        let mut idle = locked(&self.shared.idle);
        while let Some(wire) = idle.pop() {
            if !wire.is_closed() && wire.is_in(mode) {
                return Some(wire);
            }
        }
        None
    }

    /// The same, as soon as there is one; asking PostgreSQL again costs it more.
    fn given_back(&self) -> Option<Wire> {
        (0..LOOKS).find_map(|_| {
            std::thread::sleep(LOOK);
            self.idle()
        })
    }

    fn give_back(&self, wire: Wire) {
        locked(&self.shared.idle).push(wire);
    }

    /// Runs it, again where it has only met another one.
    fn verb(&self, verb: &Verb) -> Outcome {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let fault = match self.once(verb) {
                Ok(reply) => return Ok(reply),
                Err(Attempt::Unknown) => return Err(StoreFault::Unknown),
                Err(Attempt::Panicked) => {
                    return Err(StoreFault::Failed(
                        "a bug in the server broke it off".into(),
                    ));
                }
                Err(Attempt::Failed(fault)) => fault,
            };
            self.learn(&fault);
            let may_pass = matches!(&fault, Fault::Postgres(fault) if fault.may_pass());
            if !may_pass || attempt >= MOST_ATTEMPTS {
                tracing::debug!(verb = verb.name(), %fault, "a verb failed");
                return Err(StoreFault::Failed(fault.to_string()));
            }
            tracing::debug!(verb = verb.name(), %fault, attempt, "a verb is repeated");
            std::thread::sleep(Duration::from_millis(u64::from(attempt * attempt)));
        }
    }

    /// A pooler that mixes sessions is met once; from then on statements have no name.
    fn learn(&self, fault: &Fault) {
        if matches!(fault, Fault::Postgres(fault) if fault.is_unprepared()) {
            let mut mode = locked(&self.shared.mode);
            if *mode == Mode::Prepared {
                tracing::warn!(
                    "PostgreSQL is behind a pooler of transactions: statements are parsed each time"
                );
                *mode = Mode::Unnamed;
                // Notifications reach a session, and there is none of ours.
                self.shared.hints.give_up();
            }
        }
    }

    fn once(&self, verb: &Verb) -> Result<Reply, Attempt> {
        let mut wire = self.connected()?;
        let now = self.now();
        let mut tx = match PgTx::of_verb(&mut wire, &self.shared.census, verb, now) {
            Ok(tx) => tx,
            Err(fault) => {
                self.put_back(wire, &fault);
                return Err(fault.into());
            }
        };
        #[cfg(planted)]
        tx.spoil(self.shared.options.flaw);
        match catch_unwind(AssertUnwindSafe(|| apply(&mut tx, verb))) {
            Ok(Ok(reply)) => {
                #[cfg(planted)]
                crate::points::reach(crate::points::Point::BeforeCommit, verb.name());
                let moved = tx.moved(verb);
                let committed = tx.commit();
                match committed {
                    Ok(()) => {
                        self.give_back(wire);
                        let hints = moved.into_iter().map(Hint::Conversation);
                        self.shared.hints.add(hints);
                        Ok(reply)
                    }
                    Err(Fault::Postgres(fault)) if fault.is_lost() => Err(Attempt::Unknown),
                    Err(fault) => {
                        // COMMIT of a failed transaction has rolled it back.
                        self.put_back(wire, &fault);
                        Err(fault.into())
                    }
                }
            }
            Ok(Err(fault)) => {
                let rolled_back = tx.roll_back();
                if rolled_back.is_ok() {
                    self.put_back(wire, &fault);
                }
                Err(fault.into())
            }
            // Its transaction ends with its connection.
            Err(_) => Err(Attempt::Panicked),
        }
    }

    /// A connection is used again unless the fault was its own.
    fn put_back(&self, wire: Wire, fault: &Fault) {
        let is_its_own =
            matches!(fault, Fault::Postgres(fault) if fault.is_lost() || fault.is_unprepared());
        if !is_its_own {
            self.give_back(wire);
        }
    }

    /// Runs `read` in one transaction: all that it sees is of one moment.
    /// Again, where only the connection was at fault.
    pub(super) fn read<T>(
        &self,
        read: impl Fn(&mut PgTx<'_>) -> Result<T, Fault>,
    ) -> Result<T, ReadError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let fault = match self.read_once(&read) {
                Ok(answer) => return Ok(answer),
                Err(fault) => fault,
            };
            self.learn(&fault);
            let may_pass = matches!(&fault, Fault::Postgres(fault) if fault.may_pass());
            if !may_pass || attempt >= MOST_READS {
                return Err(ReadError::Failed(fault.to_string()));
            }
        }
    }

    fn read_once<T>(&self, read: impl Fn(&mut PgTx<'_>) -> Result<T, Fault>) -> Result<T, Fault> {
        let mut wire = self.connected()?;
        let now = self.now();
        let answer = PgTx::of_read(&mut wire, &self.shared.census, now).and_then(|mut tx| {
            let answer = read(&mut tx);
            tx.roll_back()?;
            answer
        });
        match answer {
            Ok(_) => self.give_back(wire),
            Err(ref fault) => self.put_back(wire, fault),
        }
        answer
    }

    fn upkeep(&self) {
        let kept = self.connected().and_then(|mut wire| {
            let now = self.now();
            let mut tx = PgTx::of_upkeep(&mut wire, &self.shared.census, now)?;
            tx.notice_due()?;
            tx.forget_releases(RELEASES_KEPT_MS)?;
            tx.commit()?;
            self.give_back(wire);
            Ok(())
        });
        if let Err(fault) = kept {
            tracing::debug!(%fault, "the upkeep of the line was put off");
        }
    }

    fn run(&self, job: Job) {
        match job {
            Job::Verb { verb, done, since } => {
                let outcome = match since.elapsed() > STALE {
                    true => Err(StoreFault::Failed(
                        "PostgreSQL does not keep up: the verb was not begun".into(),
                    )),
                    false => self.verb(&verb),
                };
                answer(done, outcome);
            }
            Job::Query(query) => {
                // Its asker hears of a panic by the channel that it drops.
                let _ = catch_unwind(AssertUnwindSafe(|| query(self)));
            }
            Job::Upkeep => self.upkeep(),
        }
    }
}

/// Starts `threads` that carry out what comes in; `running` is held until they end.
pub(super) fn serve(
    shared: &Arc<Shared>,
    name: &str,
    threads: usize,
    inbox: Inbox,
    running: &Arc<watch::Sender<()>>,
) -> Result<(), PostgresOpenError> {
    let inbox = Arc::new(Mutex::new(inbox));
    for _ in 0..threads.max(1) {
        let worker = Worker {
            shared: shared.clone(),
        };
        let (inbox, alive) = (inbox.clone(), running.clone());
        let run = move || {
            // The guard is gone before the job runs: the others wait for it.
            while let Some(job) = { locked(&inbox).next() } {
                worker.run(job);
            }
            drop(alive);
        };
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(run).map_err(PostgresOpenError::Thread)?;
    }
    Ok(())
}

/// What the threads take turns to wait at.
pub(super) struct Inbox {
    jobs: Receiver<Job>,
    upkeep_due: Option<(Instant, Duration)>,
}

impl Inbox {
    pub(super) fn new(jobs: Receiver<Job>, upkeep: Option<Duration>) -> Inbox {
        Inbox {
            jobs,
            upkeep_due: upkeep.map(|every| (Instant::now(), every)),
        }
    }

    /// `None` once the store is closed and everything is carried out.
    fn next(&mut self) -> Option<Job> {
        let Some((due, every)) = &mut self.upkeep_due else {
            return self.jobs.recv().ok();
        };
        let wait = due.saturating_duration_since(Instant::now());
        // First, when it is due: a queue that is never empty must not starve it.
        let job = match wait.is_zero() {
            true => Err(RecvTimeoutError::Timeout),
            false => self.jobs.recv_timeout(wait),
        };
        match job {
            Ok(job) => Some(job),
            Err(RecvTimeoutError::Timeout) => {
                *due = Instant::now() + *every;
                Some(Job::Upkeep)
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }
}
