//! The store of several replicas: PostgreSQL. The core's verbs are carried out
//! by a few threads with a connection each; what a verb reads for a decision it
//! locks, and it is repeated where it met another one.

mod address;
mod census;
#[cfg(test)]
#[path = "../../../../tests/support/postgres.rs"]
mod cluster;
mod locks;
mod schema;
mod sql;
#[cfg(test)]
mod tests;
mod tx;
mod wire;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{
    ConversationRow, Outcome, Segment, StoreFault, Tx, Verb, WorkspaceRow, apply,
};
use dispatch_core::time::Timestamp;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use self::address::Address;
use self::census::Census;
use self::schema::migrate;
use self::tx::PgTx;
use self::wire::{Mode, Wire};
use super::cells::Fault;
use super::dump::{self, Dump};
use super::queue::{Queue, Refused, answer, locked, queue};
use super::read::{self, Reads};
use super::{Done, LogHead, ProviderView, ReadError, ReplicaView, Store, TurnView};
use crate::clock::Clock;

pub use self::schema::PostgresOpenError;
pub(super) use self::wire::PgFault;

#[cfg(test)]
fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    let since = Instant::now();
    while !probe() {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A verb that met others so often is given back to its asker.
const MOST_ATTEMPTS: u32 = 8;
/// A read that fails for its connection's sake so often is given up.
const MOST_READS: u32 = 3;
/// A verb that has waited so long is near its deadline: it is not begun.
const STALE: Duration = Duration::from_secs(20);
/// Slots that were left so long ago matter to no cooldown.
const RELEASES_KEPT_MS: u64 = 3_600_000;
/// How often what has come due is noticed.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// What may be chosen about a store.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Verbs, and likewise reads, that may wait; one more is refused.
    pub queue: usize,
    /// Connections for verbs.
    pub writers: usize,
    /// Connections for everything that only reads.
    pub readers: usize,
    /// Store time comes from here instead of the database: for comparisons
    /// with a store whose time is set.
    pub clock: Option<Arc<dyn Clock>>,
    /// An answer of the server's that takes longer is taken for none.
    pub patience: Duration,
    /// A mistake, to prove that tests of concurrent verbs find it.
    #[cfg(planted)]
    pub flaw: Option<Flaw>,
}

/// What may be wrong on purpose.
#[cfg(planted)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Verbs check, and then write, and hold nothing in between.
    NoLocks,
    /// A turn is held, and not the conversation by which its writers are fenced.
    FenceNotHeld,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        PostgresOptions {
            queue: 8_192,
            writers: 12,
            readers: 4,
            clock: None,
            patience: Duration::from_secs(25),
            #[cfg(planted)]
            flaw: None,
        }
    }
}

/// The store in a PostgreSQL database.
pub struct PostgresStore {
    verbs: Queue<Job>,
    reads: Queue<Job>,
    ended: watch::Receiver<()>,
    at: String,
}

impl fmt::Debug for PostgresStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore")
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

enum Job {
    Verb {
        verb: Verb,
        done: Done,
        since: Instant,
    },
    Query(Box<dyn FnOnce(&mut Worker) + Send>),
    Upkeep,
}

/// What all threads of a store have in common.
struct Shared {
    address: Address,
    handle: Handle,
    mode: Mutex<Mode>,
    census: Census,
    options: PostgresOptions,
}

/// One thread's connection, opened when first needed and anew after a fault.
struct Worker {
    shared: Arc<Shared>,
    wire: Option<Wire>,
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

    fn connected(&mut self) -> Result<Wire, Fault> {
        if let Some(wire) = self.wire.take().filter(|wire| !wire.is_closed()) {
            return Ok(wire);
        }
        let Shared {
            address, handle, ..
        } = &*self.shared;
        let client = handle.block_on(address.connect(handle));
        let client = client.map_err(Fault::Postgres)?;
        let mode = *locked(&self.shared.mode);
        let patience = self.shared.options.patience;
        Ok(Wire::new(handle.clone(), client, mode, patience))
    }

    /// Runs it, again where it has only met another one.
    fn verb(&mut self, verb: &Verb) -> Outcome {
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
                tracing::error!(verb = verb.name(), %fault, "a verb failed");
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
            }
        }
    }

    fn once(&mut self, verb: &Verb) -> Result<dispatch_core::store::Reply, Attempt> {
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
                let committed = tx.commit();
                match committed {
                    Ok(()) => {
                        self.wire = Some(wire);
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
    fn put_back(&mut self, wire: Wire, fault: &Fault) {
        let is_its_own =
            matches!(fault, Fault::Postgres(fault) if fault.is_lost() || fault.is_unprepared());
        if !is_its_own {
            self.wire = Some(wire);
        }
    }

    /// Runs `read` in one transaction: all that it sees is of one moment.
    /// Again, where only the connection was at fault.
    fn read<T>(
        &mut self,
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

    fn read_once<T>(
        &mut self,
        read: impl Fn(&mut PgTx<'_>) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let mut wire = self.connected()?;
        let now = self.now();
        let answer = PgTx::of_read(&mut wire, &self.shared.census, now).and_then(|mut tx| {
            let answer = read(&mut tx);
            tx.roll_back()?;
            answer
        });
        match answer {
            Ok(_) => self.wire = Some(wire),
            Err(ref fault) => self.put_back(wire, fault),
        }
        answer
    }

    fn upkeep(&mut self) {
        let kept = self.connected().and_then(|mut wire| {
            let now = self.now();
            let mut tx = PgTx::of_upkeep(&mut wire, &self.shared.census, now)?;
            tx.notice_due()?;
            tx.forget_releases(RELEASES_KEPT_MS)?;
            tx.commit()?;
            self.wire = Some(wire);
            Ok(())
        });
        if let Err(fault) = kept {
            tracing::debug!(%fault, "the upkeep of the line was put off");
        }
    }

    fn run(&mut self, job: Job) {
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

impl PostgresStore {
    /// Connects to the database of `url`, and brings its schema up to date.
    ///
    /// # Errors
    /// Each says what to do about it.
    pub async fn open(
        url: &str,
        options: PostgresOptions,
    ) -> Result<PostgresStore, PostgresOpenError> {
        let mut address = Address::parse(url)?;
        let at = address.shown();
        let handle = Handle::current();
        let mut client = address.settle(&handle).await?;
        migrate(&mut client, &at).await?;
        drop(client);
        let (running, ended) = watch::channel(());
        let PostgresOptions {
            queue: bound,
            writers,
            readers,
            ..
        } = options;
        let shared = Arc::new(Shared {
            address,
            handle,
            mode: Mutex::new(Mode::Prepared),
            census: Census::default(),
            options,
        });
        let running = Arc::new(running);
        let (verbs, inbox) = queue(bound);
        let upkeep = Some(UPKEEP_EVERY);
        serve(
            &shared,
            "store-verb",
            writers,
            Inbox::new(inbox, upkeep),
            &running,
        )?;
        let (reads, inbox) = queue(bound);
        serve(
            &shared,
            "store-read",
            readers,
            Inbox::new(inbox, None),
            &running,
        )?;
        Ok(PostgresStore {
            verbs,
            reads,
            ended,
            at,
        })
    }

    /// Everything that the store holds, read in one transaction.
    ///
    /// # Errors
    /// [`ReadError`]; also when any payload cannot be read back.
    pub fn dump(&self) -> BoxFuture<'_, Result<Dump, ReadError>> {
        self.read(|tx| dump::dump(tx))
    }

    fn read<T: Send + 'static>(
        &self,
        read: impl Fn(&mut PgTx<'_>) -> Result<T, Fault> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, ReadError>> {
        let (answer, heard) = oneshot::channel();
        let query = Box::new(move |worker: &mut Worker| {
            // Nobody listens any more when the asking request was dropped.
            let _ = answer.send(worker.read(read));
        });
        if let Err((_, refused)) = self.reads.push(Job::Query(query)) {
            return std::future::ready(Err(refused.into())).boxed();
        }
        let broke = || ReadError::Failed("a bug in the server broke it off".to_owned());
        heard
            .map(move |heard| heard.unwrap_or_else(|_| Err(broke())))
            .boxed()
    }
}

/// Starts `threads` that carry out what comes in; `running` is held until they end.
fn serve(
    shared: &Arc<Shared>,
    name: &str,
    threads: usize,
    inbox: Inbox,
    running: &Arc<watch::Sender<()>>,
) -> Result<(), PostgresOpenError> {
    let inbox = Arc::new(Mutex::new(inbox));
    for _ in 0..threads.max(1) {
        let mut worker = Worker {
            shared: shared.clone(),
            wire: None,
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
struct Inbox {
    jobs: Receiver<Job>,
    upkeep_due: Option<(Instant, Duration)>,
}

impl Inbox {
    fn new(jobs: Receiver<Job>, upkeep: Option<Duration>) -> Inbox {
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

impl Store for PostgresStore {
    fn submit(&self, verb: Verb, done: Done) {
        let lane = match verb.is_read() {
            true => &self.reads,
            false => &self.verbs,
        };
        let since = Instant::now();
        if let Err((job, refused)) = lane.push(Job::Verb { verb, done, since })
            && let Job::Verb { done, .. } = job
        {
            done(Err(Refused::into(refused)));
        }
    }

    fn events(
        &self,
        conversation: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>> {
        let id = conversation.clone();
        self.read(move |tx| tx.events_after(&id, after, limit))
    }

    fn conversation(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>> {
        let id = id.clone();
        self.read(move |tx| tx.conversation(&id))
    }

    fn heads(&self, ids: Vec<ConversationId>) -> BoxFuture<'_, Result<Vec<LogHead>, ReadError>> {
        self.read(move |tx| tx.heads(&ids))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn turn(&self, id: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>> {
        self.read(move |tx| read::turn(tx, id))
    }

    fn open_turns_of(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>> {
        let id = id.clone();
        self.read(move |tx| read::open_turns_of(tx, &id))
    }

    fn workspace(&self, slug: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>> {
        let slug = slug.clone();
        self.read(move |tx| tx.workspace(&slug))
    }

    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>> {
        self.read(|tx| read::providers(tx))
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>> {
        self.read(|tx| read::replicas(tx))
    }

    fn segments(&self, turn: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>> {
        self.read(move |tx| tx.segments(turn))
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.verbs.close();
        self.reads.close();
        let mut ended = self.ended.clone();
        async move { while ended.changed().await.is_ok() {} }.boxed()
    }
}
