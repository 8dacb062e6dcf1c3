//! The core ring under `cargo test`: a thousand seeds, each a storm and a calm.

use std::collections::BTreeSet;

use dispatch_sim::run::{run, run_twice, trace};
use dispatch_sim::sweep::{Swept, sweep};

fn told(what: &str, swept: &Swept) {
    println!(
        "{what}: {} seeds, {} events, {:.0} simulated hours in {:.1} s: {:.0} seeds/s",
        swept.seeds,
        swept.events,
        swept.simulated_hours(),
        swept.took.as_secs_f64(),
        swept.seeds_per_s()
    );
    if let Some(violation) = &swept.violation {
        panic!("{violation}");
    }
}

#[test]
fn a_thousand_seeds_break_no_promise() {
    let swept = sweep(0..1_000, 2, run, |_| {});
    told("core ring", &swept);
    assert_eq!(swept.seeds, 1_000);
}

#[test]
fn a_seed_does_the_same_twice_also_when_its_dispatchers_are_frozen_and_thawed() {
    let swept = sweep(5_000..5_050, 2, run_twice, |_| {});
    told("determinism", &swept);
}

#[test]
fn different_seeds_do_different_things() {
    let digests: BTreeSet<u64> = (0..20).map(|seed| run(seed).digest).collect();
    assert_eq!(digests.len(), 20);
}

/// What a storm is there for must really happen in one of the first seeds.
#[test]
fn the_storms_reach_every_kind_of_ending_and_recovery() {
    let mut wanted = vec![
        "\"type\":\"done\"",
        "\"type\":\"aborted\"",
        "\"type\":\"provider-retry\"",
        "\"type\":\"tool-result\"",
        "the server that streamed this step is gone",
        "the model answered nothing",
        "the stream was cut",
        "\"code\":\"stream-truncated\"",
        "\"code\":\"empty-completion\"",
        "\"code\":\"provider-unauthorized\"",
        "\"code\":\"provider-unavailable\"",
        "\"code\":\"replica-lost\"",
        "\"code\":\"step-too-large\"",
        "\"cause\":\"panic\"",
        "\"source\":\"retry-after\"",
        "Killed {",
        "Finished(ToolEnd",
        "Conflict",
        "Fenced",
        "Drained",
        "lease-unconfirmed",
        "store-silent",
        "Unconfirmed",
        "AbortRequested",
        "replayed: true",
    ];
    for seed in 0..400 {
        let see = |line: &str| wanted.retain(|text| !line.contains(text));
        trace(seed, Box::new(see));
        if wanted.is_empty() {
            return;
        }
    }
    panic!("never met: {wanted:?}");
}
