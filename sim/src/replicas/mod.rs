//! The replica ring: three replicas around one store node, on madsim.
//!
//! Where the core ring moves everything with one queue of events, here every
//! replica is a node with its own asynchronous loop around a Dispatcher, and
//! verbs, requests and commands travel over a simulated network. Nodes are
//! killed, restarted and stopped, links are clogged, messages are lost; then
//! comes a calm. The oracles are those of the core ring, all of them; graceful
//! shutdowns, jumps of wall clocks and stores that answer "unknown" at once are
//! left to that ring.
//!
//! Scripts, answers of the provider and what clients do come from the core
//! ring's scenarios; only what befalls nodes and links is drawn here.

mod client;
mod driver;
mod follow;
mod plan;
mod provider;
mod replica;
mod rest;
mod ring;
mod store;
mod stream;
mod tools;
mod trouble;
mod wire;

use std::fmt;
use std::ops::Range;
use std::sync::mpsc;
use std::thread;

use madsim::Config;
use madsim::runtime::Runtime;

use crate::record::{Sink, shown_time};
use crate::run::{Outcome, Violation, What};
use crate::sweep::{Swept, sweep};
use plan::Plan;
use ring::Ring;

/// How one seed is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Keep {
    #[default]
    Digest,
    /// The digest after every step, too.
    Steps,
}

/// A violation, with what to type to see it again.
#[derive(Clone, Debug)]
pub struct Found(Violation);

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Found(violation) = self;
        let (name, at) = (violation.what.name(), shown_time(violation.at_us));
        writeln!(f, "{name} violated by seed {} at {at}", violation.seed)?;
        writeln!(f, "  expected: {}", violation.expected)?;
        writeln!(f, "  seen:     {}", violation.seen)?;
        write!(
            f,
            "REPLICA_RING_SEED={} cargo madsim -- --ignored --nocapture",
            violation.seed
        )
    }
}

/// The violation that a sweep has found, if any.
pub fn found(swept: &Swept) -> Option<Found> {
    swept.violation.clone().map(Found)
}

/// Runs these seeds on two threads, up to the first violation.
pub fn run_seeds(seeds: Range<u64>, one: fn(u64) -> Outcome) -> Swept {
    sweep(seeds, 2, one, |_| {})
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    on_its_own_thread(seed, move || simulate(seed, Keep::Digest, None)).0
}

/// Runs one seed and hands every event to `sink`, a line each.
pub fn trace(seed: u64, sink: impl FnMut(&str) + Send + 'static) -> Outcome {
    let traced = move || simulate(seed, Keep::Digest, Some(Box::new(sink)));
    on_its_own_thread(seed, traced).0
}

/// Runs one seed twice: every Dispatcher must be told the same, at the same
/// time, and decide the same.
pub fn run_twice(seed: u64) -> Outcome {
    let once = move || simulate(seed, Keep::Steps, None);
    let (first, steps) = on_its_own_thread(seed, once);
    if first.violation.is_some() {
        return first;
    }
    let (second, repeated) = on_its_own_thread(seed, once);
    if first.digest == second.digest {
        return first;
    }
    let step = steps
        .iter()
        .zip(&repeated)
        .take_while(|(a, b)| a == b)
        .count();
    let line = line_of_step(seed, step);
    Outcome {
        violation: Some(Violation {
            seed,
            at_us: first.simulated_us,
            what: What::Determinism,
            expected: format!("digest {:016x} after {} steps", first.digest, steps.len()),
            seen: format!(
                "digest {:016x} after {} steps; step {step} is the first that differs, in a third run it is: {line}",
                second.digest,
                repeated.len(),
            ),
        }),
        ..first
    }
}

/// The input of the step with this number.
fn line_of_step(seed: u64, step: usize) -> String {
    let (lines, inputs) = mpsc::channel();
    let sink = move |line: &str| {
        if line.contains(" <- ") {
            // The receiver may have what it wants already.
            let _ = lines.send(line.to_owned());
        }
    };
    trace(seed, sink);
    let line = inputs.into_iter().nth(step);
    line.unwrap_or_else(|| "none".to_owned())
}

/// Hash maps of a thread are ordered by the first seed that it runs: a seed
/// repeats on a fresh thread only. A panic is a violation of that seed.
fn on_its_own_thread(
    seed: u64,
    simulated: impl FnOnce() -> (Outcome, Vec<u64>) + Send + 'static,
) -> (Outcome, Vec<u64>) {
    thread::spawn(simulated).join().unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        let outcome = Outcome {
            digest: 0,
            events: 0,
            simulated_us: 0,
            violation: Some(Violation {
                seed,
                at_us: 0,
                what: What::Oracle("panic"),
                expected: "no panic".to_owned(),
                seen: message.to_owned(),
            }),
        };
        (outcome, Vec::new())
    })
}

fn simulate(seed: u64, keep: Keep, sink: Option<Sink<'static>>) -> (Outcome, Vec<u64>) {
    let plan = Plan::of(seed);
    let mut config = Config::default();
    config.net.packet_loss_rate = plan.loss;
    config.net.send_latency = plan.latency.clone();
    let runtime = Runtime::with_seed_and_config(seed, config);
    runtime.block_on(async move {
        let ring = Ring::begin(seed, plan, keep == Keep::Steps, sink);
        trouble::play(&ring).await;
        ring.end()
    })
}
