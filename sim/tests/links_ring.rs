//! Links over SSH on the simulated network, under `cargo test`.
#![cfg(feature = "network")]

use dispatch_sim::network::links::{run_twice, trace};
use dispatch_sim::sweep::{Pace, sweep};

/// S4: each seed twice.
#[test]
fn s4_no_link_breaks_a_promise_and_each_seed_does_the_same_twice() {
    let swept = sweep(0..300, Pace::default(), run_twice, |_, _| {});
    if let Some(violation) = &swept.violation {
        panic!("{violation}\n{}", trace(violation.seed).join("\n"));
    }
    assert_eq!(swept.seeds, 300);
}

/// What the ring is there for must really happen.
#[test]
fn the_troubles_reach_every_stage_of_a_link() {
    let mut wanted = vec![
        "handshake was not done within 15000 ms (while waiting for its SSH greeting and key)",
        "(while logging in)",
        "no connection to",
        "did not let somebody in",
        "the connection was closed",
        "it did not answer within 15000 ms",
        "PingEnded(Ok(()))",
        "it was closed here",
        "Again(Ok(",
    ];
    for seed in 0..300 {
        for line in trace(seed) {
            wanted.retain(|text| !line.contains(text));
        }
        if wanted.is_empty() {
            return;
        }
    }
    panic!("never met: {wanted:?}");
}
