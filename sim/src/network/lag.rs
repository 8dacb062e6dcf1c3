//! A store whose answers take their time: what was asked for is done at once,
//! so that a process can die between the commit and its own knowing of it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dispatch::store::{Done, ProviderView, ReadError, ReplicaView, SqliteStore, Store, TurnView};
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq, Slug, TurnId};
use dispatch_core::store::{ConversationRow, Segment, Verb, WorkspaceRow};
use futures_util::future::BoxFuture;

use crate::rng::{Purpose, Rng};

/// See the module's page.
pub(super) struct Lagging {
    store: SqliteStore,
    seed: u64,
    life: u32,
    lag_ms: u64,
    verbs: AtomicU64,
}

impl Lagging {
    pub(super) fn new(store: SqliteStore, seed: u64, life: u32, lag_ms: u64) -> Lagging {
        Lagging {
            store,
            seed,
            life,
            lag_ms,
            verbs: AtomicU64::new(0),
        }
    }

    fn lag(&self) -> Duration {
        let n = self.verbs.fetch_add(1, Ordering::Relaxed);
        let mut rng = Rng::keyed(self.seed, Purpose::Store, u64::from(self.life), n);
        Duration::from_millis(rng.below(self.lag_ms + 1))
    }
}

impl Store for Lagging {
    fn submit(&self, verb: Verb, done: Done) {
        let lag = self.lag();
        if lag.is_zero() {
            return self.store.submit(verb, done);
        }
        let later = move |outcome| {
            tokio::spawn(async move {
                tokio::time::sleep(lag).await;
                done(outcome);
            });
        };
        self.store.submit(verb, Box::new(later));
    }

    fn events(
        &self,
        conversation: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>> {
        self.store.events(conversation, after, limit)
    }

    fn conversation(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>> {
        self.store.conversation(id)
    }

    fn turn(&self, id: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>> {
        self.store.turn(id)
    }

    fn open_turns_of(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>> {
        self.store.open_turns_of(id)
    }

    fn workspace(&self, slug: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>> {
        self.store.workspace(slug)
    }

    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>> {
        self.store.providers()
    }

    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>> {
        self.store.replicas()
    }

    fn segments(&self, turn: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>> {
        self.store.segments(turn)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.store.close()
    }
}
