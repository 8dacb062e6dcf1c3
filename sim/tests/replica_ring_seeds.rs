//! The replica ring: `cargo madsim`, and with it `cargo test`.
//!
//! `REPLICA_RING_SEEDS=N` runs so many seeds, `REPLICA_RING_FROM=K` others;
//! `REPLICA_RING_SEED=N cargo madsim -- --ignored --nocapture` prints one.
#![cfg(madsim)]

use std::io::Write;
use std::ops::Range;
use std::str::FromStr;

use dispatch_sim::replicas::trace;

const _: () = assert!(
    cfg!(tokio_unstable),
    "the flags of .cargo/config.toml are lost: a RUSTFLAGS variable overrides them; unset it"
);

/// Past the test harness, which would keep it for failures.
fn say(line: &str) {
    writeln!(std::io::stdout(), "{line}").expect("somewhere to print");
}

fn asked<T: FromStr>(name: &str, or: T) -> T {
    match std::env::var(name) {
        Ok(text) => match text.parse() {
            Ok(number) => number,
            Err(_) => panic!("{name}={text} is not a number; leave it out or write one"),
        },
        Err(_) => or,
    }
}

fn seeds(count: u64) -> Range<u64> {
    let from = asked("REPLICA_RING_FROM", 0);
    from..from + asked("REPLICA_RING_SEEDS", count)
}

#[test]
#[ignore = "prints the seed that REPLICA_RING_SEED names"]
fn one_seed_is_printed_and_breaks_no_promise() {
    let seed = asked("REPLICA_RING_SEED", 0);
    let outcome = trace(seed, say);
    say(&format!(
        "seed {seed}: {} events, {:.1} simulated minutes, digest {:016x}",
        outcome.events,
        outcome.simulated_us as f64 / 6e7,
        outcome.digest
    ));
    if let Some(violation) = outcome.violation {
        panic!("{violation}");
    }
}

#[cfg(not(planted))]
mod sound {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use dispatch_sim::replicas::{found, run, run_seeds, run_twice};
    use dispatch_sim::sweep::Swept;

    use super::*;

    fn tell(what: &str, swept: &Swept) {
        say(&format!(
            "{what}: {} seeds, {} events, {:.1} simulated hours in {:.1} s: {:.1} seeds/s",
            swept.seeds,
            swept.events,
            swept.simulated_hours(),
            swept.took.as_secs_f64(),
            swept.seeds_per_s()
        ));
        if let Some(violation) = found(swept) {
            panic!("{violation}");
        }
    }

    #[test]
    fn l9_replicas_that_die_stop_and_lose_each_other_break_no_promise() {
        let seeds = seeds(60);
        let count = seeds.end - seeds.start;
        let swept = run_seeds(seeds, run);
        tell("replica ring", &swept);
        assert_eq!(swept.seeds, count);
    }

    #[test]
    fn a_seed_decides_the_same_twice() {
        tell("replica ring, twice", &run_seeds(1_000..1_012, run_twice));
    }

    #[test]
    fn different_seeds_decide_differently() {
        let digests: BTreeSet<u64> = (0..6).map(|seed| run(seed).digest).collect();
        assert_eq!(digests.len(), 6);
    }

    /// What befalls a run must really happen in one of the first seeds, and
    /// what is there to survive it, too.
    #[test]
    fn the_storms_reach_every_kind_of_trouble_and_recovery() {
        let wanted = [
            "Store dies",
            "Provider dies",
            "Replica(0) dies",
            "Replica(1) is stopped",
            "Store is stopped",
            "(Replica(2), Store)",
            "(Provider, Replica(0))",
            "(Client, Replica(1))",
            "\"type\":\"done\"",
            "\"type\":\"aborted\"",
            "the server that streamed this step is gone",
            "cause: \"connection-refused\"",
            "cause: \"connect-timeout\"",
            "cause: \"first-byte-timeout\"",
            "cause: \"idle-timeout\"",
            "cause: \"stream-cut\"",
            "cause: \"http-429\"",
            "\"code\":\"stream-truncated\"",
            "\"code\":\"replica-lost\"",
            "Finished(ToolEnd",
            "Conflict",
            "Fenced",
            "lease-unconfirmed",
            "store-silent",
            "Unconfirmed",
            "AbortRequested",
            "replayed: true",
        ];
        let missing = Arc::new(Mutex::new(wanted.to_vec()));
        for seed in 0..200 {
            let missing_still = missing.clone();
            trace(seed, move |line| {
                let mut missing = missing_still.lock().unwrap();
                missing.retain(|text| !line.contains(text));
            });
            if missing.lock().unwrap().is_empty() {
                say(&format!("every trouble was met within {} seeds", seed + 1));
                return;
            }
        }
        panic!("never met: {:?}", missing.lock().unwrap());
    }
}

/// The oracles bite: `cargo madsim --config "build.rustflags=['--cfg','planted']"`.
#[cfg(planted)]
mod unsound {
    use dispatch_sim::planted::LEDGER;
    use dispatch_sim::replicas::{run, run_seeds};

    use super::*;

    #[test]
    fn every_planted_bug_is_caught_by_the_oracle_that_it_violates() {
        let mut wrong = Vec::new();
        for (id, right) in LEDGER {
            dispatch_core::planted::select(&[id]);
            let swept = run_seeds(seeds(60), run);
            dispatch_core::planted::select(&[]);
            let violation = swept.violation.as_ref();
            let caught = violation.map(|violation| (violation.what.name(), violation.seed));
            match caught {
                Some((name, seed)) => say(&format!("{id} caught by {name} at seed {seed}")),
                None => say(&format!("{id} not caught within {} seeds", swept.seeds)),
            }
            if !caught.is_some_and(|(name, _)| right.contains(&name)) {
                wrong.push(id);
            }
        }
        assert!(
            wrong.is_empty(),
            "not caught by their own oracles: {wrong:?}"
        );
    }
}
