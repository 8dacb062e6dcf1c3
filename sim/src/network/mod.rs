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
//! Computers reached over SSH will be one more kind of host; see `fact::Role`.

mod client;
mod entropy;
mod exec;
mod fact;
mod http;
mod lag;
mod net;
mod oracle;
mod plan;
mod provider;
mod server;
mod world;

use crate::run::{Outcome, Violation, What};

use plan::Plan;
use world::Run;

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
    let (a, b) = (&first.story.lines, &second.story.lines);
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    if same == a.len() && same == b.len() && first.story.digest == second.story.digest {
        return found;
    }
    let line = |lines: &[String]| match lines.get(same) {
        Some(line) => format!("line {same}: {line}"),
        None => format!("no line {same}"),
    };
    Outcome {
        violation: Some(Violation {
            seed,
            at_us: found.simulated_us,
            what: What::Determinism,
            expected: line(a),
            seen: line(b),
        }),
        ..found
    }
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
        violation: failed.or_else(judged),
    }
}
