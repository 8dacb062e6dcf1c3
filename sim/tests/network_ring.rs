//! The network ring under `cargo test`: the real host through storms of its
//! network, of its providers and of its own deaths.
#![cfg(feature = "network")]

#[cfg(not(planted))]
mod sound {
    use std::collections::BTreeSet;

    use dispatch_sim::network::{run, run_twice, trace};
    use dispatch_sim::sweep::{Pace, sweep};

    /// To the real stderr: a ring's share is shown by a plain `cargo test`, whose
    /// harness hides what passing tests print.
    macro_rules! say {
        ($($text:tt)*) => {{
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), $($text)*);
        }};
    }

    /// V1, V3, V4: each seed twice, line by line.
    #[test]
    fn v1_v4_no_seed_breaks_a_promise_and_each_does_the_same_twice() {
        let swept = sweep(0..120, Pace::default(), run_twice, |_, _| {});
        say!(
            "network ring: {} seeds twice, {} events, {:.1} simulated hours in {:.1} s: {:.1} seeds/s",
            swept.seeds,
            swept.events,
            swept.simulated_hours(),
            swept.took.as_secs_f64(),
            swept.seeds_per_s()
        );
        if let Some(violation) = &swept.violation {
            panic!("{violation}");
        }
        assert_eq!(swept.seeds, 120);
    }

    #[test]
    fn different_seeds_do_different_things() {
        let digests: BTreeSet<u64> = (0..10).map(|seed| run(seed).digest).collect();
        assert_eq!(digests.len(), 10);
    }

    /// What a storm is there for must really happen in one of the first seeds.
    #[test]
    fn the_storms_reach_every_kind_of_fault_ending_and_recovery() {
        let mut wanted = vec![
            "Changed(Hold(Provider",
            "Changed(Hold(Client",
            "Changed(Partition(Provider",
            "Changed(Partition(Client",
            "Changed(Lossy(Provider",
            "Changed(Crash(Server))",
            "Changed(Crash(Provider",
            "Changed(ShutDown)",
            "Booted { life: 3 }",
            "status: 429",
            "status: 503",
            "\"source\":\"retry-after\"",
            "\"type\":\"provider-retry\"",
            "first-byte-timeout",
            "idle-timeout",
            "connection-refused",
            "connection-lost",
            "connect-timeout",
            "\"code\":\"stream-truncated\"",
            "\"code\":\"empty-completion\"",
            "\"code\":\"replica-lost\"",
            "\"type\":\"aborted\"",
            "\"type\":\"done\"",
            "the stream was cut",
            "the server that streamed this step is gone",
            "Finished(ToolEnd",
            "found: Running",
            "taken_over: 1",
            "replayed: true",
            "Snapshot {",
            "Drained",
        ];
        for seed in 0..200 {
            trace(seed, &mut |line| {
                wanted.retain(|text| !line.contains(text));
            });
            if wanted.is_empty() {
                return;
            }
        }
        panic!("never met: {wanted:?}");
    }
}

/// V5: planted bugs must be found by the oracles whose promises they break.
#[cfg(planted)]
mod planted {
    use dispatch_core::planted::select;
    use dispatch_sim::network::run;

    const BUDGET: u64 = 300;

    #[test]
    fn planted_bugs_are_caught_by_their_oracles() {
        let ledger: [(&str, &[&str]); 3] = [
            ("D06", &["retry-schedule", "justified"]),
            ("D12", &["one-terminal", "client-view"]),
            ("D13", &["one-terminal", "client-view"]),
        ];
        for (id, right) in ledger {
            select(&[id]);
            let found = (0..BUDGET).find_map(|seed| run(seed).violation);
            select(&[]);
            let Some(found) = found else {
                panic!("{id} not caught within {BUDGET} seeds");
            };
            assert!(right.contains(&found.what.name()), "{id}: {found}");
            println!(
                "{id} caught by {} after {} seeds",
                found.what.name(),
                found.seed + 1
            );
        }
    }
}
