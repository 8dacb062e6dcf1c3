//! The PostgreSQL store against the Model.

use std::sync::Arc;
use std::sync::mpsc::channel;

use dispatch::store::{Dump, PostgresOptions, PostgresStore, Store};
use dispatch_core::store::{Model, Outcome, Verb};
use dispatch_core::time::Timestamp;
use tokio::runtime::Runtime;

use super::harness::{Reached, START, SetClock, Subject, difference, reads_differ};
use super::support::postgres::shared;

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
        Some(Postgres::with_options(&shared()?.database(), options))
    }

    /// In a database that somebody has prepared.
    pub(super) fn at(url: &str) -> Postgres {
        Postgres::with_options(url, PostgresOptions::default())
    }

    fn with_options(url: &str, options: PostgresOptions) -> Postgres {
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
