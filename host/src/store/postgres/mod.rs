//! The store of several replicas: PostgreSQL. The core's verbs are carried out
//! by a few threads that share connections; what a verb reads for a decision it
//! locks, and it is repeated where it met another one.

mod address;
mod census;
#[cfg(test)]
#[path = "../../../../tests/support/postgres.rs"]
mod cluster;
mod hints;
mod locks;
mod schema;
mod sql;
#[cfg(test)]
mod tests;
mod tx;
mod wire;
mod worker;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{ConversationRow, Segment, Tx, Verb, WorkspaceRow};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use self::address::Address;
use self::census::Census;
use self::hints::Hints;
use self::schema::migrate;
use self::tx::PgTx;
use self::wire::Mode;
use self::worker::{Inbox, Job, Shared, Worker, serve};
use super::cells::Fault;
use super::dump::{self, Dump};
use super::queue::{Queue, Refused, queue};
use super::read::{self, Reads};
use super::{Done, Heard, Hint, LogHead, ProviderView, ReadError, ReplicaView, Store, TurnView};
use crate::clock::Clock;
use crate::panics::locked;

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

/// How often what has come due is noticed.
const UPKEEP_EVERY: Duration = Duration::from_secs(1);

/// What may be chosen about a store.
#[derive(Clone, Debug)]
pub struct PostgresOptions {
    /// Verbs, and likewise reads, that may wait; one more is refused.
    pub queue: usize,
    /// Threads for verbs: as many connections at most.
    pub writers: usize,
    /// The same, for everything that only reads.
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
    shared: Arc<Shared>,
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
            hints: Hints::default(),
            idle: Mutex::default(),
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
            shared,
            ended,
            at,
        })
    }

    /// Host and database, without credentials.
    pub fn at(&self) -> &str {
        &self.at
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
        let query = Box::new(move |worker: &Worker| {
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

    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ReadError>> {
        self.read(|tx| tx.installation())
    }

    fn listen(&self, heard: Heard) {
        let shared = self.shared.clone();
        let hear = async move { shared.hints.run(shared.address.clone(), heard).await };
        self.shared.handle.spawn(hear);
    }

    fn nudge(&self, node: &str) {
        self.shared.hints.add([Hint::Node(node.into())]);
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
        self.shared.hints.give_up();
        let (shared, mut ended) = (self.shared.clone(), self.ended.clone());
        async move {
            while ended.changed().await.is_ok() {}
            locked(&shared.idle).clear();
        }
        .boxed()
    }
}
