//! The PostgreSQL store over links that fail: lost outcomes one after the
//! other, against the Model.

use std::time::Duration;

use dispatch::store::{Dump, PostgresOptions};
use dispatch_core::store::{Outcome, Verb};
use dispatch_core::time::Timestamp;

use super::faults::{Fault, Faulty, Lost, difference, missing};
use super::harness::Subject;
use super::postgres::Postgres;
use super::support::postgres::{Cluster, shared};
use super::support::proxy::{Act, Proxy, Seen};

/// A store, and the link that it has to its database.
pub(super) struct Linked {
    pub(super) store: Postgres,
    pub(super) proxy: Proxy,
    pub(super) cluster: &'static Cluster,
    pub(super) database: String,
    /// Messages until the next cut.
    cut_after: u32,
    is_held: bool,
    killer: Option<std::thread::JoinHandle<()>>,
}

impl Linked {
    /// `None` where PostgreSQL is missing.
    pub(super) fn new(options: PostgresOptions) -> Option<Linked> {
        let cluster = shared()?;
        let url = cluster.database();
        let proxy = Proxy::before(&url);
        Some(Linked {
            store: Postgres::at(&proxy.url(&url), options),
            proxy,
            cluster,
            database: Cluster::name_in(&url).to_owned(),
            cut_after: 0,
            is_held: false,
            killer: None,
        })
    }

    fn terminate(&mut self) {
        let (cluster, database) = (self.cluster, self.database.clone());
        self.killer = Some(std::thread::spawn(move || {
            const END: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                WHERE datname = current_database() AND pid <> pg_backend_pid()";
            cluster.psql(&database, END).unwrap();
        }));
    }
}

impl Subject for Linked {
    fn ask(&mut self, now: Timestamp, verb: &Verb) -> Outcome {
        self.store.ask(now, verb)
    }

    fn dump(&mut self) -> Dump {
        self.store.dump()
    }
}

impl Faulty for Linked {
    fn arm(&mut self, fault: Fault) {
        // Only the first one: others are the store's upkeep, or come later.
        let mut is_met = false;
        let at_commit = move |act: Act| {
            move |seen: Seen| match seen {
                Seen::Commit if !std::mem::replace(&mut is_met, true) => act,
                Seen::Commit | Seen::Other => Act::Pass,
            }
        };
        match fault {
            Fault::BeforeCommit => self.proxy.plan(at_commit(Act::Cut)),
            Fault::AfterCommit => self.proxy.plan(at_commit(Act::CutAfterAnswer)),
            Fault::LateCommit => {
                self.proxy.plan(at_commit(Act::Hold));
                self.is_held = true;
            }
            Fault::Cut => {
                self.cut_after = (self.cut_after + 1) % 12;
                let mut left = self.cut_after;
                self.proxy.plan(move |_| {
                    left = left.wrapping_sub(1);
                    match left == u32::MAX {
                        true => Act::Cut,
                        false => Act::Pass,
                    }
                });
            }
            Fault::Terminate => self.terminate(),
        }
    }

    fn disarm(&mut self) {
        self.proxy.plan(|_| Act::Pass);
        // It lands while the verb is asked again.
        if std::mem::take(&mut self.is_held) {
            self.proxy.release();
        }
        if let Some(killer) = self.killer.take() {
            killer.join().unwrap();
        }
    }
}

#[test]
fn l2_on_postgres_a_verb_asked_again_after_a_lost_outcome_lands_once() {
    const KINDS: [Fault; 2] = [Fault::BeforeCommit, Fault::AfterCommit];
    let mut lost = Lost::new();
    // Which verb a fault meets depends on the store's upkeep, too: on, until
    // every verb has met every kind.
    for seed in 100..125 {
        let Some(mut store) = Linked::new(PostgresOptions::default()) else {
            return;
        };
        let difference = difference(seed, 250, &mut store, &KINDS, &mut lost);
        assert_eq!(difference, None);
        if seed >= 104 && missing(&lost, &KINDS).is_empty() {
            return;
        }
    }
    assert_eq!(missing(&lost, &KINDS), []);
}

#[test]
fn l2_on_postgres_links_and_sessions_may_be_cut_anywhere() {
    let mut lost = Lost::new();
    for seed in 200..205 {
        let Some(mut store) = Linked::new(PostgresOptions::default()) else {
            return;
        };
        let kinds = [Fault::Cut, Fault::Cut, Fault::Cut, Fault::Terminate];
        let difference = difference(seed, 150, &mut store, &kinds, &mut lost);
        assert_eq!(difference, None);
    }
    assert!(!lost.is_empty(), "no cut met a commit");
}

#[test]
fn l2_on_postgres_a_commit_may_land_while_its_verb_is_asked_again() {
    let options = PostgresOptions {
        patience: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let mut lost = Lost::new();
    for seed in 300..302 {
        let Some(mut store) = Linked::new(options.clone()) else {
            return;
        };
        let difference = difference(seed, 60, &mut store, &[Fault::LateCommit], &mut lost);
        assert_eq!(difference, None);
    }
    assert!(lost.len() > 8, "{lost:?}");
}
