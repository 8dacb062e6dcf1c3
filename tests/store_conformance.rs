//! The SQLite store against the Model, against restarts and against `kill -9`.

#[path = "store_conformance/durable.rs"]
mod durable;
#[path = "store_conformance/harness.rs"]
mod harness;
#[path = "store_conformance/ops.rs"]
mod ops;
#[path = "store_conformance/wrong.rs"]
mod wrong;

use harness::{Reached, Sqlite, difference};

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

/// What the drawn operations must have come to at least once.
const MUST_REACH: [(&str, &str); 36] = [
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
];
