//! Many seeds on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use crate::run::{Outcome, Violation};
use crate::sometimes::Rates;

/// What a sweep came to.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Seeds that were run.
    pub seeds: u64,
    /// Events of all runs.
    pub events: u64,
    /// Simulated microseconds of all runs.
    pub simulated_us: u64,
    /// Of all runs' digests, in whatever order they ended.
    pub digest: u64,
    /// Rare situations that were met.
    pub rates: Rates,
    /// Where to go on.
    pub next: u64,
    /// How long it took.
    pub took: Duration,
    /// The violation of the lowest seed that has one.
    pub violation: Option<Violation>,
}

impl Swept {
    /// Seeds a second, all threads together.
    pub fn seeds_per_s(&self) -> f64 {
        self.seeds as f64 / self.took.as_secs_f64().max(f64::EPSILON)
    }

    /// Hours of simulated time.
    pub fn simulated_hours(&self) -> f64 {
        self.simulated_us as f64 / 3.6e9
    }

    fn add(&mut self, seed: u64, outcome: Outcome) {
        self.seeds += 1;
        self.digest ^= xxh3_64(&[seed.to_le_bytes(), outcome.digest.to_le_bytes()].concat());
        self.rates.add(&outcome.points);
        self.events += outcome.events;
        self.simulated_us += outcome.simulated_us;
        self.found(outcome.violation);
    }

    fn merge(&mut self, other: Swept) {
        self.seeds += other.seeds;
        self.events += other.events;
        self.simulated_us += other.simulated_us;
        self.digest ^= other.digest;
        self.rates.merge(&other.rates);
        self.found(other.violation);
    }

    fn found(&mut self, violation: Option<Violation>) {
        if let Some(new) = violation
            && self
                .violation
                .as_ref()
                .is_none_or(|old| new.seed < old.seed)
        {
            self.violation = Some(new);
        }
    }
}

/// How a sweep is run.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Seeds that run at the same time.
    pub threads: usize,
    /// No seed is begun later than this.
    pub at_most: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            threads: 2,
            at_most: None,
        }
    }
}

/// Runs these seeds with `one`, up to the first violation or to the end of the
/// time. `progress` is told after every seed how many are done and how many
/// microseconds they simulated.
pub fn sweep(
    seeds: Range<u64>,
    pace: Pace,
    one: impl Fn(u64) -> Outcome + Sync,
    progress: impl Fn(u64, u64) + Sync,
) -> Swept {
    let started = Instant::now();
    let (next, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let simulated_us = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let shard = || {
        let mut swept = Swept::default();
        while !stop.load(Ordering::Relaxed) {
            if pace.at_most.is_some_and(|most| started.elapsed() >= most) {
                break;
            }
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = one(seed);
            if outcome.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            let more = outcome.simulated_us;
            swept.add(seed, outcome);
            let simulated_us = simulated_us.fetch_add(more, Ordering::Relaxed) + more;
            progress(done.fetch_add(1, Ordering::Relaxed) + 1, simulated_us);
        }
        swept
    };
    let mut total = Swept::default();
    std::thread::scope(|scope| {
        let threads = pace.threads.max(1);
        let shards: Vec<_> = (0..threads).map(|_| scope.spawn(shard)).collect();
        for handle in shards {
            match handle.join() {
                Ok(swept) => total.merge(swept),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    total.next = next.into_inner().min(seeds.end);
    total.took = started.elapsed();
    total
}
