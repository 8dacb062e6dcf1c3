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
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use madsim::Config;
use madsim::runtime::Runtime;

use crate::record::{Sink, shown_time};
use crate::run::{Outcome, Violation, What};
use crate::sometimes::Point;
use crate::sweep::{Pace, Swept, sweep};
use plan::Plan;
use ring::Ring;

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
    sweep(seeds, Pace::default(), one, |_, _| {})
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    on_its_own_thread(seed, move || simulate(seed, None))
}

/// Runs one seed and hands every event to `sink`, a line each.
pub fn trace(seed: u64, sink: impl FnMut(&str) + Send + 'static) -> Outcome {
    on_its_own_thread(seed, move || simulate(seed, Some(Box::new(sink))))
}

/// Runs one seed twice: every Dispatcher must be told the same, at the same
/// time, and decide the same.
pub fn run_twice(seed: u64) -> Outcome {
    let (first, second) = (run(seed), run(seed));
    if first.violation.is_some() || first.digest == second.digest {
        return first;
    }
    let (one, other) = (lines(seed), lines(seed));
    let same = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
    let line = |lines: &[String]| {
        lines
            .get(same)
            .map_or("nothing more", |line| line)
            .to_owned()
    };
    Outcome {
        violation: Some(Violation {
            seed,
            at_us: first.simulated_us,
            what: What::Determinism,
            expected: format!("as in another run, line {same}: {}", line(&one)),
            seen: line(&other),
        }),
        ..first
    }
}

fn lines(seed: u64) -> Vec<String> {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let kept = lines.clone();
    trace(seed, move |line| {
        let mut lines = kept.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line.to_owned());
    });
    std::mem::take(&mut *lines.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Hash maps of a thread are ordered by the first seed that it runs: a seed
/// repeats on a fresh thread only. A panic is a violation of that seed.
fn on_its_own_thread(seed: u64, simulated: impl FnOnce() -> Outcome + Send + 'static) -> Outcome {
    thread::spawn(simulated).join().unwrap_or_else(|panic| {
        let message = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("a panic without a message");
        Outcome {
            digest: 0,
            events: 0,
            simulated_us: 0,
            points: [0; Point::ALL.len()],
            violation: Some(Violation {
                seed,
                at_us: 0,
                what: What::Oracle("panic"),
                expected: "no panic".to_owned(),
                seen: message.to_owned(),
            }),
        }
    })
}

fn simulate(seed: u64, sink: Option<Sink<'static>>) -> Outcome {
    let plan = Plan::of(seed);
    let mut config = Config::default();
    config.net.packet_loss_rate = plan.loss;
    config.net.send_latency = plan.latency.clone();
    let runtime = Runtime::with_seed_and_config(seed, config);
    runtime.block_on(async move {
        let ring = Ring::begin(seed, plan, sink);
        trouble::play(&ring).await;
        ring.end()
    })
}
