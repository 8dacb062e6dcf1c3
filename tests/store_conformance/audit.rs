//! The audit (L1) on stores that were damaged from outside.

use dispatch::store::PostgresOptions;
use dispatch_core::ids::TurnId;
use dispatch_core::store::{Reply, Verb};
use rusqlite::Connection;

use super::crowd;
use super::harness::{START, Sqlite, Subject};
use super::postgres::Postgres;
use super::support::postgres::{Cluster, shared};

/// Without the marker of turn 1, and with one of a turn that nobody knows.
const DAMAGE: [&str; 2] = [
    "DELETE FROM markers",
    "INSERT INTO markers (turn) VALUES (NOTHING)",
];

fn puts_it_right(store: &mut impl Subject, damage: impl FnOnce()) {
    store.ask(START, &crowd::boot()).unwrap();
    store.ask(START, &crowd::accept(1)).unwrap();
    let audit = |store: &mut dyn Subject| match store.ask(START, &Verb::Audit).unwrap() {
        Reply::Audited { armed, taken } => (armed, taken),
        other => panic!("{other:?}"),
    };
    assert_eq!(audit(store), (vec![], vec![]), "nothing is wrong yet");
    damage();
    assert_eq!(audit(store), (vec![TurnId(1)], vec![TurnId(7)]));
    assert_eq!(audit(store), (vec![], vec![]), "it is right now");
    let markers: Vec<TurnId> = store.dump().markers.into_iter().collect();
    assert_eq!(markers, [TurnId(1)]);
}

#[test]
fn l1_the_audit_puts_markers_right_on_sqlite() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::inline(dir.path());
    puts_it_right(&mut store, || {
        let other = Connection::open(dir.path().join("dispatch.db")).unwrap();
        for sql in DAMAGE {
            let sql = sql.replace("NOTHING", "x'00000000000000000000000000000007'");
            other.execute_batch(&sql).unwrap();
        }
    });
}

#[test]
fn l1_the_audit_puts_markers_right_on_postgresql() {
    let Some(cluster) = shared() else {
        return;
    };
    let url = cluster.database();
    let name = Cluster::name_in(&url).to_owned();
    let mut store = Postgres::at(&url, PostgresOptions::default());
    puts_it_right(&mut store, || {
        for sql in DAMAGE {
            let sql = sql
                .replace("markers", "dispatch.markers")
                .replace("NOTHING", "'\\x00000000000000000000000000000007'");
            cluster.psql(&name, &sql).unwrap();
        }
    });
}
