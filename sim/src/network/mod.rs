//! The network ring: the real host on a simulated network (turmoil).
//!
//! One host runs the whole of Dispatch: axum API, hub, driver, Dispatcher, the
//! HTTP client towards providers, and SQLite on a file that outlives a crash.
//! Others run providers and clients, all of them over real HTTP. Links are
//! held, cut and lossy, providers refuse, fall silent and die, the server is
//! killed and comes back; then everything is calm, and every turn that was
//! accepted must end. What is drawn comes from the seed, and so does all else:
//! time, latency, randomness of the system, order of tasks.
//!
//! Only what clients and providers see is judged, by the oracles in `oracle`.
//! Links to computers over SSH have a smaller world of their own, [`links`].

mod client;
mod entropy;
mod exec;
mod fact;
mod http;
mod lag;
pub mod links;
mod net;
mod oracle;
mod plan;
mod provider;
mod server;
mod world;

use crate::run::{Outcome, Violation, What};
use crate::sometimes::Point;

use fact::Story;
use plan::Plan;
use world::Run;

const _: () = assert!(
    cfg!(tokio_unstable),
    "tokio_unstable is not set, so a panic in a spawned task would go unseen: a RUSTFLAGS variable \
     overrides .cargo/config.toml; unset it and pass further cfgs by --config build.rustflags"
);

/// The names of the oracles that judge a run of this ring.
pub fn oracles() -> Vec<&'static str> {
    oracle::names()
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    outcome(seed, &apart(seed, false))
}

/// Runs one seed and hands every line of its log to `sink`.
pub fn trace(seed: u64, sink: &mut dyn FnMut(&str)) -> Outcome {
    let run = apart(seed, true);
    for line in &run.story.lines {
        sink(line);
    }
    outcome(seed, &run)
}

/// Runs one seed twice and compares the logs line by line.
pub fn run_twice(seed: u64) -> Outcome {
    let (first, second) = (apart(seed, true), apart(seed, true));
    let found = outcome(seed, &first);
    if found.violation.is_some() {
        return found;
    }
    let violation = divergence(&first.story, &second.story).map(|(expected, seen)| Violation {
        seed,
        at_us: found.simulated_us,
        what: What::Determinism,
        expected,
        seen,
    });
    Outcome { violation, ..found }
}

/// The first place at which two runs differ, as each of them has it.
fn divergence(first: &Story, second: &Story) -> Option<(String, String)> {
    let (a, b) = (&first.lines, &second.lines);
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    if same == a.len() && same == b.len() {
        // A line is bounded, the digest covers all that went into it.
        let digest = |story: &Story| format!("digest {:016x}", story.digest);
        return (first.digest != second.digest).then(|| (digest(first), digest(second)));
    }
    let line = |lines: &[String]| match lines.get(same) {
        Some(line) => format!("line {same}: {line}"),
        None => format!("no line {same}"),
    };
    Some((line(a), line(b)))
}

/// Every run has a thread of its own, because the system's randomness is given
/// out by thread, and what a thread has hashed before must not matter.
fn apart(seed: u64, keeps_lines: bool) -> Run {
    let run = move || {
        entropy::seed_this_thread(seed);
        world::run(Plan::of(seed), keeps_lines)
    };
    match std::thread::spawn(run).join() {
        Ok(run) => run,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn outcome(seed: u64, run: &Run) -> Outcome {
    let simulated_us = run.simulated_ms * 1_000;
    let failed = run.failed.clone().map(|(oracle, seen)| Violation {
        seed,
        at_us: simulated_us,
        what: What::Oracle(oracle),
        expected: "the run comes to its end".to_owned(),
        seen,
    });
    let judged = || {
        let (oracle, breach) = oracle::judge(&Plan::of(seed), &run.story.seen)?;
        Some(Violation {
            seed,
            at_us: breach.at_ms * 1_000,
            what: What::Oracle(oracle),
            expected: breach.expected,
            seen: breach.seen,
        })
    };
    Outcome {
        digest: run.story.digest,
        events: run.story.events,
        simulated_us,
        points: [0; Point::ALL.len()],
        violation: failed.or_else(judged),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(lines: &[&str], digest: u64) -> Story {
        Story {
            seen: Vec::new(),
            digest,
            events: 0,
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
        }
    }

    #[test]
    fn the_first_divergence_of_two_runs_is_named() {
        let named = |a: &Story, b: &Story| divergence(a, b).unwrap().1;
        let first = story(&["a", "b", "c"], 1);
        assert_eq!(divergence(&first, &story(&["a", "b", "c"], 1)), None);
        assert_eq!(named(&first, &story(&["a", "x", "y"], 2)), "line 1: x");
        assert_eq!(named(&first, &story(&["a", "b"], 2)), "no line 2");
        assert_eq!(
            named(&first, &story(&["a", "b", "c"], 2)),
            "digest 0000000000000002"
        );
    }

    #[test]
    fn a_panic_in_a_task_that_nobody_awaits_fails_the_simulation() {
        let panicking = || {
            let mut sim = turmoil::Builder::new().build();
            sim.client("client", async {
                tokio::spawn(async { panic!("on purpose") });
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                Ok(())
            });
            sim.run().is_ok()
        };
        let ended = std::thread::spawn(panicking).join();
        assert!(!matches!(ended, Ok(true)), "the panic went unseen");
    }

    #[test]
    fn oracles_have_names_of_their_own() {
        let names = oracles();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
    }
}
