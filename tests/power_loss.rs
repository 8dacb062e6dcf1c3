//! The SQLite store when the power goes: on a disk that keeps what was synced
//! and any part of the rest, what was answered is there, and what was not is
//! there wholly or not at all.
//!
//! More seeds: `POWER_LOSS_SEEDS=5000 POWER_LOSS_FROM=1000 cargo test --test power_loss`.

// The lint's exemption for tests does not reach the functions beside them.
#![allow(clippy::unwrap_used)]

#[path = "power_loss/disk.rs"]
mod disk;
#[path = "store_conformance/harness.rs"]
#[expect(dead_code, reason = "the rest of it compares verb by verb")]
mod harness;
#[path = "power_loss/life.rs"]
mod life;
#[path = "store_conformance/ops.rs"]
mod ops;
#[path = "support/mod.rs"]
mod support;
#[path = "power_loss/verdict.rs"]
mod verdict;
#[path = "power_loss/vfs.rs"]
mod vfs;

use disk::{Honesty, Reached};
use dispatch::store::Durability;
use life::{Setting, play};

const HONEST: Setting = Setting {
    honesty: Honesty::Honest,
    durability: Durability::Full,
};

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().unwrap())
}

#[test]
fn l1_what_was_answered_survives_a_loss_of_power_and_the_rest_is_there_wholly_or_not_at_all() {
    let (from, seeds) = (
        number("POWER_LOSS_FROM", 0),
        number("POWER_LOSS_SEEDS", 100),
    );
    let mut reached = Reached::new();
    for seed in from..from + seeds {
        if let Err(violation) = play(seed, HONEST, &mut reached) {
            panic!(
                "{violation}\nagain: POWER_LOSS_FROM={seed} POWER_LOSS_SEEDS=1 cargo test --test power_loss l1"
            );
        }
    }
    println!("{seeds} seeds: {reached:#?}");
    let missed = MUST_REACH
        .iter()
        .filter(|what| !reached.contains_key(*what));
    let missed: Vec<_> = missed.collect();
    assert!(missed.is_empty() || seeds < 100, "never met: {missed:?}");
}

#[test]
fn the_same_seed_loses_the_same() {
    let once = |seed| {
        let mut reached = Reached::new();
        play(seed, HONEST, &mut reached).map(|()| reached)
    };
    for seed in 0..3 {
        assert_eq!(once(seed), once(seed), "seed {seed}");
    }
}

#[test]
fn a_disk_whose_fsync_lies_now_and_then_is_found_out() {
    let setting = Setting {
        honesty: Honesty::LiesOneIn(8),
        ..HONEST
    };
    found_out("a sync in eight does nothing", setting, 40);
}

#[test]
fn a_store_that_never_syncs_is_found_out() {
    let setting = Setting {
        durability: Durability::ProcessCrashOnly,
        ..HONEST
    };
    found_out("no verb is synced", setting, 10);
}

/// The checks must bite within so many seeds; and by what they are there for,
/// not by anything that happens to look odd.
fn found_out(what: &str, setting: Setting, seeds: u64) {
    let found = (0..seeds).find_map(|seed| {
        let violation = play(seed, setting, &mut Reached::new()).err()?;
        Some((seed, violation))
    });
    let (seed, violation) = found.unwrap_or_else(|| panic!("{what}: not found in {seeds} seeds"));
    println!("{what}: found by seed {seed}: {violation}");
}

/// What a hundred seeds must have come to.
const MUST_REACH: [&str; 17] = [
    "creating a file",
    "keeping a rollback journal",
    "writing the WAL",
    "syncing the WAL",
    "truncating the WAL",
    "writing the database file",
    "syncing the database file",
    "nothing under way",
    "lost while opening",
    "lost while closing",
    "unanswered verbs landed",
    "unanswered verbs did not land",
    "write kept",
    "write lost",
    "write torn",
    "write garbled",
    "name lost",
];
