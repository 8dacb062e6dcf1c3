//! One run: of a seed, or of a recipe.

use std::fmt;

use crate::clock::Us;
pub use crate::record::Sink;
pub use crate::scenario::Profile;

use crate::luck::Mishap;
use crate::recipe::Recipe;
use crate::record::shown_time;
use crate::scenario::Scenario;
use crate::sometimes::Counts;
use crate::timeline::Watch;
use crate::world::{Plan, World};

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
        write!(f, "  seen:     {}", self.seen)
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
    /// Rare situations that were met.
    pub points: Counts,
    /// The first broken promise.
    pub violation: Option<Violation>,
}

pub(crate) fn plan(seed: u64, profile: Profile) -> Plan {
    Plan {
        seed,
        plain: false,
        scenario: Scenario::of(seed, profile),
        mishaps: None,
    }
}

fn outcome(world: &mut World<'_>) -> Outcome {
    let violation = world.run();
    Outcome {
        digest: world.recorder.digest(),
        events: world.events,
        simulated_us: world.now_us(),
        points: world.court.sometimes.counts,
        violation,
    }
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    run_of(seed, Profile::Swarm)
}

/// Runs one seed of a profile.
pub fn run_of(seed: u64, profile: Profile) -> Outcome {
    outcome(&mut World::new(plan(seed, profile), None))
}

/// Runs one seed and hands every event to `sink`, a line each.
pub fn trace(seed: u64, profile: Profile, sink: Sink<'_>) -> Outcome {
    outcome(&mut World::new(plan(seed, profile), Some(sink)))
}

/// Runs one seed and journals every life of every replica, as a server does:
/// their names and contents, in the order of their ends.
pub fn journals(seed: u64, profile: Profile) -> (Outcome, Vec<(String, Vec<u8>)>) {
    let mut world = World::new(plan(seed, profile), None);
    world.keeps_journals = true;
    let outcome = outcome(&mut world);
    (outcome, world.into_journals())
}

/// What a run of a recipe came to.
#[derive(Clone, Debug)]
pub struct Replayed {
    /// As of any run.
    pub outcome: Outcome,
    /// What is listed in the recipe and has befallen nothing, for people: the
    /// run is not the one that it was written for.
    pub idle: Vec<String>,
}

/// Runs a recipe.
pub fn replay(recipe: &Recipe, sink: Option<Sink<'_>>) -> Replayed {
    let mut world = World::new(recipe.plan(), sink);
    let outcome = outcome(&mut world);
    let mut idle: Vec<String> = world
        .luck
        .left()
        .into_iter()
        .map(Mishap::to_string)
        .collect();
    idle.extend(recipe.too_late(outcome.simulated_us));
    Replayed { outcome, idle }
}

/// Runs one seed, and writes down what happened.
pub fn record(seed: u64, profile: Profile) -> (Outcome, Recipe) {
    recorded(plan(seed, profile))
}

/// Runs a recipe again, and keeps of it what really happened.
pub(crate) fn rerecord(recipe: &Recipe) -> (Outcome, Recipe) {
    let (outcome, again) = recorded(recipe.plan());
    let recipe = Recipe {
        about: recipe.about.clone(),
        planted: recipe.planted.clone(),
        ..again
    };
    (outcome, recipe)
}

fn recorded(plan: Plan) -> (Outcome, Recipe) {
    let mut world = World::new(plan.clone(), None);
    let outcome = outcome(&mut world);
    let broken = outcome.violation.as_ref();
    let oracle = broken.map_or("", |violation| violation.what.name());
    let recipe = Recipe::new(plan, world.luck.into_happened(), oracle);
    (outcome, recipe)
}

/// Runs one seed while somebody looks on.
pub(crate) fn watched(seed: u64, profile: Profile, watch: Box<dyn Watch + '_>) -> Outcome {
    watched_plan(plan(seed, profile), watch)
}

/// Runs a recipe while somebody looks on.
pub(crate) fn replay_watched(recipe: &Recipe, watch: Box<dyn Watch + '_>) -> Outcome {
    watched_plan(recipe.plan(), watch)
}

fn watched_plan<'w>(plan: Plan, watch: Box<dyn Watch + 'w>) -> Outcome {
    let mut world: World<'w> = World::new(plan, None);
    world.recorder.watch = Some(watch);
    outcome(&mut world)
}

/// Runs one seed twice, the second time with Dispatchers that are again and
/// again replaced by copies out of their serialised form. Both must do the same.
pub fn run_twice(seed: u64) -> Outcome {
    twice(seed, Profile::Swarm)
}

/// [`run_twice`], of a profile.
pub fn twice(seed: u64, profile: Profile) -> Outcome {
    let first = run_of(seed, profile);
    let second = outcome(&mut thawing(seed, profile, None));
    if first.digest == second.digest || first.violation.is_some() {
        return first;
    }
    Outcome {
        violation: Some(divergence(seed, profile, first.simulated_us)),
        ..first
    }
}

fn thawing(seed: u64, profile: Profile, sink: Option<Sink<'_>>) -> World<'_> {
    let mut world = World::new(plan(seed, profile), sink);
    world.thaws = true;
    world
}

/// Names the first line in which two runs differ.
fn divergence(seed: u64, profile: Profile, ended_at: Us) -> Violation {
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let keep = Box::new(|line: &str| first.push(line.to_owned()));
    outcome(&mut World::new(plan(seed, profile), Some(keep)));
    let keep = Box::new(|line: &str| second.push(line.to_owned()));
    outcome(&mut thawing(seed, profile, Some(keep)));
    let same = first
        .iter()
        .zip(&second)
        .take_while(|(a, b)| a == b)
        .count();
    let line = |lines: &[String]| {
        lines
            .get(same)
            .map_or("nothing more", |line| line)
            .to_owned()
    };
    Violation {
        seed,
        at_us: ended_at,
        what: What::Determinism,
        expected: format!("as in the first run, line {same}: {}", line(&first)),
        seen: line(&second),
    }
}
