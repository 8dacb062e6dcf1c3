//! Requirements that rest on the store alone, shown on SQLite itself.

use std::path::Path;

use dispatch::store::Dump;
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{Accept, Fence, Granted, Outcome, Rejection, Reply, TurnState, Verb};
use dispatch_core::time::Timestamp;
use rusqlite::Connection;

use super::crowd;
use super::harness::{START, Sqlite, Subject};

const LEASE_MS: u64 = 60_000;

fn ask(store: &mut Sqlite, now: Timestamp, verb: Verb) -> Reply {
    store.ask(now, &verb).unwrap()
}

fn booted(dir: &Path) -> Sqlite {
    let mut store = Sqlite::inline(dir);
    ask(&mut store, START, crowd::boot());
    store
}

/// Every turn in line, granted.
fn granted(store: &mut Sqlite, now: Timestamp) -> Vec<Granted> {
    let Reply::View(view) = ask(store, now, crowd::view()) else {
        panic!("no view");
    };
    match ask(store, now, crowd::grant(&view)) {
        Reply::Granted(granted) => granted,
        other => panic!("{other:?}"),
    }
}

fn keyed(n: u64, digest: u64) -> Verb {
    match crowd::accept(n) {
        Verb::Accept(request) => Verb::Accept(Box::new(Accept {
            idempotency: Some(("a key".to_owned(), digest)),
            ..*request
        })),
        other => other,
    }
}

#[test]
fn l1_a_turn_and_its_marker_are_accepted_together_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = booted(dir.path());
    ask(&mut store, START, crowd::accept(1));
    let other = Connection::open(dir.path().join("dispatch.db")).unwrap();
    other
        .execute_batch(
            "CREATE TRIGGER poison BEFORE INSERT ON events \
             BEGIN SELECT RAISE(ABORT, 'a planted fault'); END",
        )
        .unwrap();
    let failed: Outcome = store.ask(START, &crowd::accept(2));
    assert!(failed.is_err());
    let kept: Dump = store.dump();
    assert!(kept.turns.keys().eq([&TurnId(1)]));
    assert!(kept.markers.iter().eq([&TurnId(1)]));
    assert!(kept.conversations.len() == 1 && kept.items.len() == 1);
}

#[test]
fn c6_a_key_gives_the_same_turn_after_a_restart_and_refuses_another_body() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = booted(dir.path());
    let Reply::Accepted(first, _) = ask(&mut store, START, keyed(1, 77)) else {
        panic!("not accepted");
    };
    drop(store);
    let mut store = Sqlite::inline(dir.path());
    let Reply::Accepted(again, events) = ask(&mut store, START, keyed(2, 77)) else {
        panic!("not accepted");
    };
    assert_eq!((again.turn, again.seq), (first.turn, first.seq));
    assert!(again.replayed && events.is_empty());
    let refused = ask(&mut store, START, keyed(3, 78));
    assert_eq!(refused, Reply::Rejected(Rejection::IdempotencyMismatch));
    assert_eq!(store.dump().turns.len(), 1);
}

#[test]
fn l6_due_time_attempt_and_sum_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = booted(dir.path());
    ask(&mut store, START, crowd::accept(1));
    let turn = granted(&mut store, START).remove(0);
    ask(&mut store, START, crowd::retry(turn, 5_000));
    drop(store);
    let mut store = Sqlite::inline(dir.path());
    let row = store.dump().turns.remove(&TurnId(1)).unwrap();
    assert_eq!(row.due_at, START + 5_000);
    assert_eq!((row.retry.attempt, row.retry.sum_ms), (1, 5_000));
    assert_eq!(row.retry.first_failure_at, Some(START));
    assert!(row.retry.last.is_some());
    let view = |store: &mut Sqlite, now| match ask(store, now, crowd::view()) {
        Reply::View(view) => (view.unstarred.len(), view.next_due),
        other => panic!("{other:?}"),
    };
    let due = START + 5_000;
    assert_eq!(view(&mut store, due - 1), (0, Some(due)));
    assert_eq!(view(&mut store, due), (1, None));
}

#[test]
fn l3_a_renewed_lease_holds_and_a_lapsed_one_is_swept_one_marker_a_transaction() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = booted(dir.path());
    for n in 1..=3 {
        ask(&mut store, START, crowd::accept(n));
    }
    let turns = granted(&mut store, START);
    assert_eq!(turns.len(), 3);
    let kept = Fence {
        turn: turns[0].turn,
        epoch: turns[0].epoch,
    };
    let renew = |turns: Vec<Fence>| Verb::Renew {
        owner: crowd::owner(),
        turns,
        lease_ms: LEASE_MS,
        serving: true,
    };
    let stale = Fence {
        epoch: Epoch(kept.epoch.0 - 1),
        ..kept
    };
    let renewed = ask(&mut store, START + 20_000, renew(vec![kept, stale]));
    assert_eq!(renewed, Reply::Renewed(vec![kept]));
    let sweep = Verb::SweepOne {
        policy: SweepPolicy {
            on_crash: OnCrash::Resume,
            resume_limit: 3,
            counts: true,
            node_patience_ms: 600_000,
        },
    };
    let nothing = Reply::Swept(None);
    assert_eq!(ask(&mut store, START + LEASE_MS, sweep.clone()), nothing);
    let late = START + LEASE_MS + 1;
    for parked in 1..=2 {
        let swept = ask(&mut store, late, sweep.clone());
        assert!(matches!(swept, Reply::Swept(Some(_))));
        let rows = store.dump().turns;
        let back = rows.values().filter(|row| row.state == TurnState::Parked);
        assert_eq!(back.count(), parked);
    }
    assert_eq!(
        ask(&mut store, late, sweep),
        nothing,
        "the renewed one holds"
    );
    let row = &store.dump().turns[&kept.turn];
    assert_eq!(row.lease_until, START + 20_000 + LEASE_MS);
    assert_eq!(row.state, TurnState::Streaming);
}
