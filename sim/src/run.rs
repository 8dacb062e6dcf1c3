//! One run of one seed.

use std::fmt;

use crate::clock::Us;
pub use crate::record::Sink;

use crate::record::shown_time;
use crate::timeline::Watch;
use crate::world::World;

/// What was found to be broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A promise, by its oracle's name.
    Oracle(&'static str),
    /// Two runs of one seed differ.
    Determinism,
}

impl What {
    /// Stable, kebab case.
    pub fn name(self) -> &'static str {
        match self {
            What::Oracle(name) => name,
            What::Determinism => "determinism",
        }
    }
}

/// A promise that a run has seen broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// In the run of this seed.
    pub seed: u64,
    /// Simulated microseconds.
    pub at_us: u64,
    /// Which.
    pub what: What,
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} violated by seed {} at {}",
            self.what.name(),
            self.seed,
            shown_time(self.at_us)
        )?;
        writeln!(f, "  expected: {}", self.expected)?;
        writeln!(f, "  seen:     {}", self.seen)?;
        f.write_str(&self.command())
    }
}

impl Violation {
    /// What to type to see it again.
    pub fn command(&self) -> String {
        format!(
            "cargo run --release -p dispatch-sim -- run --seed {} --trace",
            self.seed
        )
    }
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Of everything that went into and came out of the Dispatchers.
    pub digest: u64,
    /// Events of the simulation.
    pub events: u64,
    /// Simulated microseconds.
    pub simulated_us: Us,
    /// The first broken promise.
    pub violation: Option<Violation>,
}

fn outcome(mut world: World<'_>) -> (Outcome, Option<Vec<u64>>) {
    let violation = world.run();
    let outcome = Outcome {
        digest: world.recorder.digest(),
        events: world.events,
        simulated_us: world.now_us(),
        violation,
    };
    (outcome, world.recorder.steps.take())
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    outcome(World::new(seed, false, None)).0
}

/// Runs one seed and hands every event to `sink`, a line each.
pub fn trace(seed: u64, sink: Sink<'_>) -> Outcome {
    outcome(World::new(seed, false, Some(sink))).0
}

/// Runs one seed while somebody looks on.
pub(crate) fn watched(seed: u64, watch: Box<dyn Watch + '_>) -> Outcome {
    let mut world = World::new(seed, false, None);
    world.recorder.watch = Some(watch);
    outcome(world).0
}

/// Runs one seed twice, the second time with Dispatchers that are again and
/// again replaced by copies out of their serialised form. Both must do the same.
pub fn run_twice(seed: u64) -> Outcome {
    let first = run(seed);
    let (second, _) = thawing(seed, false);
    if first.digest == second.digest || first.violation.is_some() {
        return first;
    }
    let (_, first_steps) = outcome(World::new(seed, true, None));
    let (_, second_steps) = thawing(seed, true);
    let (a, b) = (
        first_steps.unwrap_or_default(),
        second_steps.unwrap_or_default(),
    );
    let step = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    Outcome {
        violation: Some(Violation {
            seed,
            at_us: first.simulated_us,
            what: What::Determinism,
            expected: format!("digest {:016x} after {} steps", first.digest, a.len()),
            seen: format!(
                "digest {:016x} after {} steps; step {step} is the first that differs",
                second.digest,
                b.len()
            ),
        }),
        ..first
    }
}

fn thawing(seed: u64, keeps_steps: bool) -> (Outcome, Option<Vec<u64>>) {
    let mut world = World::new(seed, keeps_steps, None);
    world.thaws = true;
    outcome(world)
}
