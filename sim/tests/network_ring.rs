//! The network ring under `cargo test`: the real host through storms of its
//! network, its providers and its own deaths.
#![cfg(feature = "network")]

use dispatch_sim::network::{run, run_twice, trace};
use dispatch_sim::sweep::{Pace, Swept, sweep};

fn told(what: &str, swept: &Swept) {
    println!(
        "{what}: {} seeds, {} events, {:.1} simulated hours in {:.1} s: {:.1} seeds/s",
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

fn count(default: u64) -> std::ops::Range<u64> {
    let n = |name: &str, default| std::env::var(name).map_or(default, |s| s.parse().unwrap());
    let from = n("FROM", 0);
    from..from + n("SEEDS", default)
}

/// V1, V3, V4: each seed twice, so that its log proves the run deterministic.
#[cfg(not(planted))]
#[test]
fn no_seed_breaks_a_promise_and_each_does_the_same_twice() {
    let swept = sweep(count(120), Pace::default(), run_twice, |_, _| {});
    told("network ring", &swept);
}

#[test]
fn survey() {
    for n in count(60) {
        let swept = sweep(n..n + 1, Pace::default(), run, |_, _| {});
        if let Some(v) = swept.violation {
            println!("{n}: {v}");
        }
    }
}
#[test]
fn one() {
    let seed = std::env::var("SEED").map_or(0, |s| s.parse().unwrap());
    let outcome = trace(seed, &mut |line| println!("{line}"));
    println!("{outcome:?}");
}
