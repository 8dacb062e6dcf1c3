//! The PostgreSQL store against the Model.

use std::sync::Arc;
use std::sync::mpsc::channel;

use dispatch::store::{Dump, PostgresOptions, PostgresStore, Store};
use dispatch_core::store::{Model, Outcome, Verb};
use dispatch_core::time::Timestamp;
use tokio::runtime::Runtime;

use super::harness::{Reached, START, SetClock, Subject, difference, reads_differ};
use super::support::postgres::{Cluster, shared};
use super::support::until_true;

/// A store whose time is set, in a database of its own.
pub(super) struct Postgres {
    store: PostgresStore,
    runtime: Runtime,
    clock: SetClock,
}

impl Postgres {
    /// `None` where PostgreSQL is missing.
    pub(super) fn new() -> Option<Postgres> {
        Postgres::opened(PostgresOptions::default())
    }

    #[cfg(planted)]
    pub(super) fn with(flaw: Option<dispatch::store::Flaw>) -> Option<Postgres> {
        Postgres::opened(PostgresOptions {
            flaw,
            ..PostgresOptions::default()
        })
    }

    fn opened(options: PostgresOptions) -> Option<Postgres> {
        Some(Postgres::at(&shared()?.database(), options))
    }

    /// In the database of this address, which need not lead there directly.
    pub(super) fn at(url: &str, options: PostgresOptions) -> Postgres {
        let clock = SetClock::default();
        clock.set(START);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = PostgresOptions {
            writers: 4,
            readers: 1,
            clock: Some(Arc::new(clock.clone())),
            ..options
        };
        let store = runtime.block_on(PostgresStore::open(url, options)).unwrap();
        Postgres {
            store,
            runtime,
            clock,
        }
    }

    pub(super) fn store(&self) -> &PostgresStore {
        &self.store
    }

    pub(super) fn set_time(&self, now: Timestamp) {
        self.clock.set(now);
    }
}

impl Subject for Postgres {
    fn ask(&mut self, now: Timestamp, verb: &Verb) -> Outcome {
        self.clock.set(now);
        let (tell, heard) = channel();
        self.store.submit(
            verb.clone(),
            Box::new(move |outcome| tell.send(outcome).unwrap()),
        );
        heard.recv().unwrap()
    }

    fn dump(&mut self) -> Dump {
        self.runtime.block_on(self.store.dump()).unwrap()
    }

    fn reads_differ(&mut self, model: &Model) -> Option<String> {
        self.runtime.block_on(reads_differ(&self.store, model))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.runtime.block_on(self.store.close());
    }
}

const SEEDS: u64 = 6;

#[test]
fn l9_the_postgres_store_answers_and_keeps_what_the_model_does() {
    let mut reached = Reached::new();
    for seed in 0..SEEDS {
        let Some(mut store) = Postgres::new() else {
            return;
        };
        if let Some(difference) = difference(seed, super::OPERATIONS, &mut store, &mut reached) {
            panic!("{difference}");
        }
    }
}

#[test]
fn o5_a_store_that_is_allowed_fewer_connections_than_it_has_threads_gets_by() {
    let Some(cluster) = shared() else { return };
    let url = cluster.database();
    let name = Cluster::name_in(&url);
    for sql in [
        "CREATE ROLE few LOGIN CONNECTION LIMIT 3",
        "GRANT CREATE ON DATABASE current TO few",
    ] {
        cluster.psql(name, &sql.replace("current", name)).unwrap();
    }
    let url = url.replace("postgres@", "few@");
    let store = Postgres::at(&url, PostgresOptions::default());
    let (tell, heard) = channel();
    let ask = |verb: Verb| {
        let tell = tell.clone();
        let done = move |outcome| tell.send(outcome).unwrap();
        store.store().submit(verb, Box::new(done));
    };
    ask(super::crowd::boot());
    assert!(heard.recv().unwrap().is_ok());
    for n in 0..100 {
        ask(super::crowd::accept(n));
        ask(super::crowd::view());
    }
    for outcome in heard.iter().take(200) {
        assert!(outcome.is_ok(), "{outcome:?}");
    }
    // Closed, it leaves none open, whoever still holds it.
    store.runtime.block_on(store.store.close());
    let open = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}'");
    until_true("its connections are closed", || {
        cluster.psql("postgres", &open).unwrap() == "0"
    });
}
