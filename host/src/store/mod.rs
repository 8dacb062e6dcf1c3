//! The durable store: the core's verbs carried out over SQLite, and the reads
//! that the API answers from.
//!
//! What a verb means is written in `dispatch_core::store`; here are the rows
//! and the durability. One writer thread commits groups of verbs, a savepoint
//! each, and answers only what is on the disk; a few read-only connections
//! serve everything that only reads.

mod alike;
mod cells;
mod columns;
mod dump;
mod postgres;
mod queue;
mod read;
mod sqlite;

use std::sync::Arc;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{
    ConversationRow, Outcome, ProviderRow, ReplicaRow, Segment, TurnRow, Verb, WorkspaceRow,
};
use dispatch_core::time::Timestamp;
use futures_util::future::BoxFuture;

pub use dump::Dump;
#[cfg(planted)]
pub use postgres::Flaw;
pub use postgres::{PostgresOpenError, PostgresOptions, PostgresStore};
pub use sqlite::{DirLock, Durability, LockError, OpenError, Options, SqliteStore};

/// Takes the answer to a verb.
pub type Done = Box<dyn FnOnce(Outcome) + Send>;

/// What another replica has done, and this one would find by looking: it may
/// come late, needlessly or not at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hint {
    /// This conversation's log, or its open step, has grown.
    Conversation(ConversationId),
    /// Something waits for this node.
    Node(Arc<str>),
}

/// Takes hints; must not block.
pub type Heard = Box<dyn Fn(Hint) + Send + Sync>;

/// What the host needs of a store.
pub trait Store: Send + Sync + 'static {
    /// Runs a verb as one transaction and hands the outcome to `done`, on a
    /// thread of the store's. Never blocks: with too many verbs in the queue,
    /// `done` is called at once with `StoreFault::Failed`.
    ///
    /// An answered verb is durable, and whatever is read or submitted after
    /// its answer sees it.
    fn submit(&self, verb: Verb, done: Done);

    /// A conversation's logged events with a `seq` above `after`, in order, at
    /// most `limit` (C2, C5). Empty for an unknown conversation.
    fn events(
        &self,
        conversation: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>>;

    /// A conversation.
    fn conversation(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>>;

    /// How far the logs of these conversations go; unknown ones are left out.
    fn heads(&self, ids: Vec<ConversationId>) -> BoxFuture<'_, Result<Vec<LogHead>, ReadError>> {
        Box::pin(async move {
            let mut heads = Vec::with_capacity(ids.len());
            for id in ids {
                heads.extend(self.conversation(&id).await?.map(LogHead::from));
            }
            Ok(heads)
        })
    }

    /// Other replicas write here too: what they do is seen by looking.
    fn is_shared(&self) -> bool {
        false
    }

    /// The name that its replicas have in common, for what they leave elsewhere;
    /// `None`: there is one server only, which has a name of its own.
    fn installation(&self) -> BoxFuture<'_, Result<Option<String>, ReadError>> {
        Box::pin(async { Ok(None) })
    }

    /// From now on `heard` is told what other replicas do, and they what is
    /// done here, as far as the store has a way to (L9).
    fn listen(&self, heard: Heard) {
        drop(heard);
    }

    /// Tells the replica of `node`, if somebody listens there, that something
    /// waits for it.
    fn nudge(&self, node: &str) {
        let _ = node;
    }

    /// A turn, with its end and its place in line.
    fn turn(&self, id: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>>;

    /// A conversation's turns without a terminal event, in their order.
    fn open_turns_of(&self, id: &ConversationId)
    -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>>;

    /// A workspace.
    fn workspace(&self, slug: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>>;

    /// Every provider that was ever configured, by name.
    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>>;

    /// Every replica that ever was, by node (L9).
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>>;

    /// What is checkpointed of a turn's open step, in order of arrival.
    fn segments(&self, turn: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>>;

    /// Carries out what is queued, refuses what comes later, and leaves the
    /// database in one file.
    fn close(&self) -> BoxFuture<'_, ()>;
}

/// How far a conversation's log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHead {
    /// The conversation.
    pub conversation: ConversationId,
    /// Its last sequence number.
    pub last_seq: Seq,
    /// The turn that owns it.
    pub turn: Option<TurnId>,
}

impl From<ConversationRow> for LogHead {
    fn from(row: ConversationRow) -> LogHead {
        LogHead {
            conversation: row.id,
            last_seq: row.last_seq,
            turn: row.turn,
        }
    }
}

/// A turn as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnView {
    /// The row.
    pub row: TurnRow,
    /// Its terminal event, once it has one (T2).
    pub terminal: Option<AgentEvent>,
    /// Its 1-based place among all parked turns of its provider, due or not;
    /// `None` unless it is parked (A6).
    pub position: Option<u64>,
}

/// A replica as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    /// Its row.
    pub row: ReplicaRow,
    /// Store time of the reading.
    pub now: Timestamp,
    /// Turns that it owns.
    pub owned: usize,
}

/// A provider's line as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderView {
    /// The row.
    pub row: ProviderRow,
    /// Turns that hold a slot.
    pub streaming: u32,
    /// Turns in line, due or not.
    pub parked: u64,
}

/// Why something could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// The bound on queued reads is reached.
    #[error("the store has too many reads in its queue; try again in a moment")]
    Busy,
    /// The store was closed.
    #[error("the store is closed, the server is shutting down")]
    Closed,
    /// SQLite or the disk said no.
    #[error("the store could not read: {0}")]
    Failed(String),
}
