//! The core ring under `cargo test`: a thousand seeds, each a storm and a calm.

use std::collections::BTreeSet;

use dispatch_sim::run::{run, run_twice};
use dispatch_sim::sweep::{Pace, Swept, sweep};

/// To the real stderr: a ring's share is shown by a plain `cargo test`, whose
/// harness hides what passing tests print.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), $($text)*);
    }};
}

fn told(what: &str, swept: &Swept) {
    say!(
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
fn v1_v3_a_thousand_seeds_break_no_promise_and_meet_every_rare_situation() {
    let swept = sweep(0..1_000, Pace::default(), run, |_, _| {});
    told("core ring", &swept);
    assert_eq!(swept.seeds, 1_000);
    for (point, runs, times) in swept.rates.rarest_first() {
        println!("  {:32} {runs:>6} {times:>8}", point.name());
    }
    assert_eq!(swept.rates.never_met(), vec![], "never met in the sweep");
}

#[test]
fn v4_a_seed_does_the_same_twice_also_when_its_dispatchers_are_frozen_and_thawed() {
    let swept = sweep(5_000..5_050, Pace::default(), run_twice, |_, _| {});
    told("determinism", &swept);
}

#[test]
fn different_seeds_do_different_things() {
    let digests: BTreeSet<u64> = (0..20).map(|seed| run(seed).digest).collect();
    assert_eq!(digests.len(), 20);
}
