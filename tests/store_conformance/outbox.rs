//! The outbox (C7), step by step: on the Model and on a store at once.

use dispatch::store::{PostgresOptions, PostgresStore, Store};
use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{EndpointId, Epoch, Owner, TurnId};
use dispatch_core::store::{
    AbortOf, Boot, FORMAT, Model, Reply, TakeDeliveries, Verb, WantedDeliveries,
};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::{
    DELIVERED_KEPT_MS, Delivery, DeliveryState, EndpointRow, FAILED_KEPT_MS, TRIES, Tried, Wanted,
    delay_for,
};
use rusqlite::Connection;

use super::crowd;
use super::harness::{Sqlite, Subject, dump_of, model_at_start, tables_differ};
use super::postgres::Postgres;
use super::support::postgres::{Cluster, shared};

const LEASE_MS: u64 = 45_000;

fn ops() -> EndpointId {
    EndpointId::try_from("ops").unwrap()
}

fn boot(boot: u64, endpoints: &[&str]) -> Verb {
    let Verb::Boot(plain) = crowd::boot() else {
        unreachable!("a boot");
    };
    Verb::Boot(Boot {
        owner: owner(boot),
        webhooks: endpoints
            .iter()
            .map(|id| EndpointRow {
                id: EndpointId::try_from(*id).unwrap(),
                wanted: Wanted::ALL,
            })
            .collect(),
        ..plain
    })
}

fn owner(boot: u64) -> Owner {
    Owner {
        boot,
        ..crowd::owner()
    }
}

/// Another replica, with a data directory of its own.
fn other() -> Owner {
    Owner {
        node: "there".into(),
        ..crowd::owner()
    }
}

fn take(owner: Owner, at_once: u32, holding: &[TurnId]) -> Verb {
    Verb::TakeDeliveries(Box::new(TakeDeliveries {
        owner,
        wants: vec![WantedDeliveries {
            endpoint: ops(),
            at_once,
            lease_ms: LEASE_MS,
        }],
        holding: holding.iter().map(|turn| (ops(), *turn)).collect(),
    }))
}

fn settle(turn: TurnId, tries: u32, tried: Tried) -> Verb {
    Verb::SettleDelivery {
        endpoint: ops(),
        turn,
        tries,
        tried,
    }
}

/// The Model and a store, asked alike.
struct Pair<'s> {
    model: Model,
    store: &'s mut dyn Subject,
}

impl Pair<'_> {
    fn ask(&mut self, verb: Verb) -> Reply {
        let wanted = self.model.apply(&verb);
        let got = self.store.ask(self.model.now, &verb);
        assert_eq!(got, Ok(wanted.clone()), "{verb:?}");
        let differ = tables_differ(&dump_of(&self.model), &self.store.dump());
        assert_eq!(differ, None, "after {verb:?}");
        wanted
    }

    fn pass(&mut self, ms: u64) {
        self.model.now = self.model.now + ms;
    }

    /// A turn that ends in this conversation.
    fn ended(&mut self, n: u64) -> TurnId {
        self.ask(crowd::accept(n));
        let turn = TurnId(u128::from(n));
        let abort = Verb::RequestAbort(AbortOf {
            turn: Some(turn),
            conversation: None,
            by: "test".into(),
            reason: None,
            patience_ms: 0,
        });
        assert!(matches!(self.ask(abort), Reply::Ended { .. }));
        turn
    }

    fn taken(&mut self, verb: Verb) -> Vec<(TurnId, u32)> {
        match self.ask(verb) {
            Reply::Deliveries { taken, .. } => {
                let named = |delivery: Delivery| (delivery.turn, delivery.tries);
                taken.into_iter().map(named).collect()
            }
            reply => panic!("{reply:?}"),
        }
    }

    fn state(&mut self, verb: Verb) -> DeliveryState {
        match self.ask(verb) {
            Reply::Settled { row, .. } => row.state,
            reply => panic!("{reply:?}"),
        }
    }
}

/// Runs a story on SQLite, and on PostgreSQL where it is.
fn on_every_store(story: impl Fn(Pair<'_>)) {
    let dir = tempfile::tempdir().unwrap();
    let mut sqlite = Sqlite::inline(dir.path());
    let model = model_at_start;
    story(Pair {
        model: model(),
        store: &mut sqlite,
    });
    if let Some(mut postgres) = Postgres::new() {
        story(Pair {
            model: model(),
            store: &mut postgres,
        });
    }
}

#[test]
fn c7_a_conversations_ends_are_taken_one_after_the_other_and_a_failed_one_holds_up_nobody() {
    on_every_store(|mut pair| {
        pair.ask(boot(1, &["ops"]));
        // 1 and 1025 share a conversation.
        let (first, second, elsewhere) = (pair.ended(1), pair.ended(1_025), pair.ended(2));
        let due = pair.taken(take(owner(1), 4, &[]));
        assert_eq!(due, [(first, 1), (elsewhere, 1)]);
        let none = pair.taken(take(other(), 4, &[]));
        assert_eq!(none, [], "another replica leaves alone what is taken");
        pair.ask(settle(first, 1, Tried::Failed));
        let due = pair.taken(take(owner(1), 4, &[elsewhere]));
        assert_eq!(due, [(second, 1)]);
        pair.pass(1_000);
        let due = pair.taken(take(other(), 4, &[]));
        assert_eq!(due, [(first, 2)]);
    });
}

#[test]
fn c7_what_was_taken_in_an_answer_that_got_lost_is_handed_out_again_as_the_same_try() {
    on_every_store(|mut pair| {
        pair.ask(boot(1, &["ops"]));
        let turn = pair.ended(1);
        for _ in 0..2 {
            assert_eq!(pair.taken(take(owner(1), 4, &[])), [(turn, 1)]);
            pair.pass(1_000);
        }
        assert_eq!(pair.taken(take(owner(1), 4, &[turn])), []);
        assert_eq!(
            pair.taken(take(owner(1), 0, &[])),
            [(turn, 1)],
            "though there is no room"
        );
    });
}

#[test]
fn c7_a_lease_that_lapses_and_a_boot_of_the_same_node_leave_a_delivery_to_the_next() {
    on_every_store(|mut pair| {
        pair.ask(boot(1, &["ops"]));
        let turn = pair.ended(1);
        assert_eq!(pair.taken(take(owner(1), 4, &[])), [(turn, 1)]);
        pair.pass(LEASE_MS - 1);
        assert_eq!(pair.taken(take(other(), 4, &[])), []);
        pair.pass(1);
        assert_eq!(pair.taken(take(other(), 4, &[])), [(turn, 2)]);
        // Who was overtaken cannot fail the next one's try, but deliver it can.
        let state = pair.state(settle(turn, 1, Tried::Failed));
        assert_eq!(state, DeliveryState::Pending);
        assert_eq!(pair.taken(take(owner(1), 4, &[])), []);
        let state = pair.state(settle(turn, 1, Tried::Delivered));
        assert_eq!(state, DeliveryState::Delivered);
        let state = pair.state(settle(turn, 2, Tried::Failed));
        assert_eq!(state, DeliveryState::Delivered);

        let turn = pair.ended(2);
        assert_eq!(pair.taken(take(owner(1), 4, &[])), [(turn, 1)]);
        pair.ask(boot(2, &["ops"]));
        assert_eq!(pair.taken(take(owner(2), 4, &[])), [(turn, 2)]);
    });
}

#[test]
fn c7_a_delivery_is_given_up_after_thirty_tries_and_forgotten_later() {
    on_every_store(|mut pair| {
        pair.ask(boot(1, &["ops"]));
        let refused = pair.ended(1);
        assert_eq!(pair.taken(take(owner(1), 4, &[])), [(refused, 1)]);
        for tries in 1..TRIES {
            // Said twice it counts once.
            for _ in 0..2 {
                let state = pair.state(settle(refused, tries, Tried::Failed));
                assert_eq!(state, DeliveryState::Pending);
            }
            pair.pass(delay_for(tries).unwrap() - 1);
            assert_eq!(pair.taken(take(owner(1), 4, &[])), []);
            pair.pass(1);
            let due = pair.taken(take(owner(1), 4, &[]));
            assert_eq!(due, [(refused, tries + 1)]);
        }
        let state = pair.state(settle(refused, TRIES, Tried::Failed));
        assert_eq!(state, DeliveryState::Failed);

        let silent = pair.ended(2);
        for tries in 1..=TRIES {
            let asker = [other(), owner(1)].into_iter().cycle().nth(tries as usize);
            assert_eq!(pair.taken(take(asker.unwrap(), 4, &[])), [(silent, tries)]);
            pair.pass(LEASE_MS);
        }
        let Reply::Deliveries {
            taken, given_up, ..
        } = pair.ask(take(other(), 4, &[]))
        else {
            panic!("deliveries");
        };
        let given_up: Vec<_> = given_up.iter().map(|d| (d.turn, d.tries)).collect();
        assert_eq!((taken, given_up), (vec![], vec![(silent, TRIES)]));

        let told = pair.ended(3);
        assert_eq!(pair.taken(take(owner(1), 4, &[])), [(told, 1)]);
        pair.ask(settle(told, 1, Tried::Delivered));
        let kept = |pair: &Pair<'_>| pair.model.outbox.len();
        pair.pass(DELIVERED_KEPT_MS);
        pair.ask(take(owner(1), 4, &[]));
        assert_eq!(kept(&pair), 2);
        pair.pass(FAILED_KEPT_MS);
        pair.ask(take(owner(1), 4, &[]));
        assert_eq!(kept(&pair), 0);
    });
}

#[test]
fn c7_who_is_told_is_said_by_the_configuration_that_booted_last() {
    on_every_store(|mut pair| {
        pair.ask(boot(1, &["ops", "pager"]));
        pair.ended(1);
        pair.ask(boot(2, &["pager"]));
        pair.ended(2);
        pair.ask(boot(3, &[]));
        pair.ended(3);
        let told = pair.model.outbox.keys();
        let told: Vec<_> = told.map(|(id, turn)| (id.as_str(), turn.0)).collect();
        assert_eq!(told, [("ops", 1), ("pager", 1), ("pager", 2)]);
    });
}

/// A waiting turn of conversation `c-1`, as a build of format 1 has left it.
fn rows_of_format_1(turn: &str) -> String {
    let start = AgentEvent {
        seq: Some(1),
        conversation: "c-1".try_into().unwrap(),
        turn: TurnId(1),
        epoch: Epoch(0),
        at: Timestamp(1),
        body: EventBody::TurnStart {
            message: "hello".into(),
            model: "alpha/m".into(),
            workspace_id: "default".try_into().unwrap(),
        },
    };
    format!(
        "INSERT INTO workspaces VALUES ('default', NULL, 0, NULL, 1);
        INSERT INTO providers VALUES ('alpha', 1, 64, 64, 0, 0);
        INSERT INTO conversations VALUES ('c-1', 'default', 'hello', 1, 1, 'alpha', 'm', NULL, 1, NULL, 0, 1);
        INSERT INTO turns VALUES ({turn}, 'c-1', 0, 'alpha', 'm', 1, 0, 1, 1, 1, 1, NULL, NULL, NULL,
            0, 0, 0, 1, 0, 0, 0, 0, NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL, 1, 1,
            0, 0, 0, 0, 0, 0, 0, 0);
        INSERT INTO markers VALUES ({turn});
        INSERT INTO events VALUES ('c-1', 1, {turn}, 'turn-start', 0, '{}');
        INSERT INTO items VALUES ('c-1', 0, 0, {turn}, '{{\"User\":{{\"text\":\"hello\"}}}}');",
        start.to_json()
    )
}

/// The turn is there, ends, and its end is told to who is configured now.
fn goes_on(store: &mut dyn Subject) {
    let now = super::harness::START;
    assert_eq!(store.dump().turns.len(), 1);
    store.ask(now, &boot(1, &["ops"])).unwrap();
    let abort = Verb::RequestAbort(AbortOf {
        turn: Some(TurnId(1)),
        conversation: None,
        by: "test".into(),
        reason: None,
        patience_ms: 0,
    });
    let ended = store.ask(now, &abort).unwrap();
    assert!(matches!(ended, Reply::Ended { .. }), "{ended:?}");
    let Reply::Deliveries { taken, .. } = store.ask(now, &take(owner(1), 4, &[])).unwrap() else {
        panic!("deliveries");
    };
    assert_eq!((taken[0].turn, taken[0].seq), (TurnId(1), 2));
}

#[test]
fn c7_an_sqlite_file_of_format_1_opens_with_its_rows_and_is_told_of_from_then_on() {
    let dir = tempfile::tempdir().unwrap();
    let old = Connection::open(dir.path().join("dispatch.db")).unwrap();
    old.execute_batch(include_str!("../../host/src/store/sqlite/schema.sql"))
        .unwrap();
    old.execute_batch(&rows_of_format_1("x'00000000000000000000000000000001'"))
        .unwrap();
    let dspt = 0x4453_5054;
    old.pragma_update(None, "application_id", dspt).unwrap();
    old.pragma_update(None, "user_version", 1).unwrap();
    drop(old);
    goes_on(&mut Sqlite::inline(dir.path()));
}

#[test]
fn c7_a_postgresql_database_of_format_1_opens_with_its_rows_and_is_told_of_from_then_on() {
    let Some(cluster) = shared() else { return };
    let url = cluster.database();
    let name = Cluster::name_in(&url);
    let schema = include_str!("../../host/src/store/postgres/schema.sql");
    let old = format!(
        "CREATE SCHEMA dispatch; SET search_path TO dispatch; {schema} {}",
        rows_of_format_1("'\\x00000000000000000000000000000001'")
    );
    cluster.psql(name, &old).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    // As a first start of the newer build does it, and as a second finds it.
    for _ in 0..2 {
        let options = PostgresOptions::default();
        let store = runtime
            .block_on(PostgresStore::open(&url, options))
            .unwrap();
        runtime.block_on(store.close());
    }
    goes_on(&mut Postgres::at(&url, PostgresOptions::default()));
    let format = cluster.psql(name, "SELECT format, oldest FROM dispatch.meta");
    let wanted = format!("{FORMAT}|1");
    assert_eq!(format.unwrap(), wanted, "it serves builds of format 1");
}
