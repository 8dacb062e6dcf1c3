//! The stores against the Model, against restarts and against `kill -9`.

// The lint's exemption for tests does not reach the functions beside them.
#![allow(clippy::unwrap_used)]

#[path = "store_conformance/audit.rs"]
mod audit;
#[path = "store_conformance/crowd.rs"]
mod crowd;
#[path = "store_conformance/durable.rs"]
mod durable;
#[path = "store_conformance/elsewhere.rs"]
mod elsewhere;
#[path = "store_conformance/faults.rs"]
mod faults;
#[path = "store_conformance/harness.rs"]
mod harness;
#[path = "store_conformance/hints.rs"]
mod hints;
#[path = "store_conformance/histories.rs"]
mod histories;
#[path = "store_conformance/links.rs"]
mod links;
#[path = "store_conformance/ops.rs"]
mod ops;
#[path = "store_conformance/outbox.rs"]
mod outbox;
#[path = "store_conformance/pooler.rs"]
mod pooler;
#[path = "store_conformance/postgres.rs"]
mod postgres;
#[path = "store_conformance/promises.rs"]
mod promises;
#[path = "support/mod.rs"]
mod support;
#[path = "store_conformance/wrong.rs"]
mod wrong;

use dispatch_core::admission::HEADS;
use dispatch_core::store::{Model, Reply, Verb};
use harness::{Reached, Sqlite, Subject, difference, model_at_start};

const SEEDS: u64 = 24;
const OPERATIONS: usize = 500;

#[test]
fn the_sqlite_store_answers_and_keeps_what_the_model_does() {
    let mut reached = Reached::new();
    for seed in 0..SEEDS {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Sqlite::inline(dir.path());
        if let Some(difference) = difference(seed, OPERATIONS, &mut store, &mut reached) {
            panic!("{difference}");
        }
    }
    let missed: Vec<_> = MUST_REACH
        .iter()
        .filter(|(verb, reply)| !reached.contains(&(*verb, (*reply).to_owned())))
        .collect();
    assert!(missed.is_empty(), "never drawn: {missed:?} of {reached:?}");
}

#[test]
fn a_crowded_line_is_cut_to_its_heads_and_looks_alike_at_the_very_moment_that_retries_are_due() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = Sqlite::inline(dir.path());
    let mut model = model_at_start();
    let mut ask = |model: &mut Model, verb: Verb| {
        let wanted = model.apply(&verb);
        assert_eq!(store.ask(model.now, &verb), Ok(wanted.clone()), "{verb:?}");
        wanted
    };
    ask(&mut model, crowd::boot());
    for n in 0..200 {
        model.now = model.now + n % 3;
        ask(&mut model, crowd::accept(n));
    }
    let view = |model: &mut Model, ask: &mut dyn FnMut(&mut Model, Verb) -> Reply| match ask(
        model,
        crowd::view(),
    ) {
        Reply::View(view) => view,
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        let seen = view(&mut model, &mut ask);
        assert_eq!(seen.unstarred.len(), HEADS);
        let granted = ask(&mut model, crowd::grant(&seen));
        let Reply::Granted(granted) = granted else {
            panic!("{granted:?}");
        };
        for turn in granted {
            ask(&mut model, crowd::retry(turn, 5_000));
        }
    }
    let before = view(&mut model, &mut ask);
    assert_eq!(before.next_due, Some(model.now + 5_000));
    // Nothing is written between the due time and the reading.
    model.now = model.now + 5_000;
    let due = view(&mut model, &mut ask);
    assert_eq!((due.unstarred.len(), due.next_due), (HEADS, None));
    assert!(due.unstarred[0].key < before.unstarred[0].key);
}

/// What the drawn operations must have come to at least once.
const MUST_REACH: [(&str, &str); 41] = [
    ("boot", "Booted"),
    ("accept", "Accepted"),
    ("accept", "Rejected"),
    ("admission-view", "View"),
    ("admission-view", "NotFound"),
    ("apply-grants", "Granted"),
    ("apply-grants", "Conflict"),
    ("load", "Loaded"),
    ("load", "Fenced"),
    ("checkpoint", "LandedBefore"),
    ("commit-step", "Landed"),
    ("commit-step", "LandedBefore"),
    ("commit-step", "Fenced"),
    ("restart-step", "Landed"),
    ("restart-step", "LandedBefore"),
    ("restart-step", "Fenced"),
    ("tools-started", "LandedBefore"),
    ("tools-started", "Fenced"),
    ("tools-finished", "Landed"),
    ("tools-finished", "LandedBefore"),
    ("park", "LandedBefore"),
    ("park", "Fenced"),
    ("schedule-retry", "Landed"),
    ("schedule-retry", "Fenced"),
    ("request-abort", "Ended"),
    ("request-abort", "EndedBefore"),
    ("request-abort", "AbortRequested"),
    ("request-abort", "NotFound"),
    ("elect", "Ended"),
    ("elect", "EndedBefore"),
    ("elect", "Fenced"),
    ("renew", "Renewed"),
    ("requests", "Requests"),
    ("sweep-one", "Swept"),
    ("sweep-one", "SweptNone"),
    ("star", "NotFound"),
    ("take-deliveries", "Deliveries"),
    ("take-deliveries", "DeliveriesNone"),
    ("settle-delivery", "SettledPending"),
    ("settle-delivery", "SettledDelivered"),
    ("settle-delivery", "NotFound"),
];
