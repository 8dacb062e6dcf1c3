//! The network ring under `cargo test`.
#![cfg(feature = "network")]

use dispatch_sim::network::{run_twice, trace};
use dispatch_sim::sweep::sweep;

#[test]
fn one() {
    let seed = std::env::var("SEED").map_or(0, |s| s.parse().unwrap());
    let outcome = trace(seed, &mut |line| println!("{line}"));
    println!("{outcome:?}");
}

#[test]
fn many() {
    let from = std::env::var("FROM").map_or(0, |s| s.parse().unwrap());
    for n in from..from + 60 {
        let swept = sweep(n..n + 1, 1, run_twice, |_| {});
        println!(
            "{n}: {} ev {} s in {:?} {:?}",
            swept.events,
            swept.simulated_us / 1_000_000,
            swept.took,
            swept.violation.map(|v| v.to_string())
        );
    }
}
