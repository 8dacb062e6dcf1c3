//! Many seeds on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::run::{Outcome, Violation};

/// What a sweep came to.
#[derive(Clone, Debug, Default)]
pub struct Swept {
    /// Seeds that were run.
    pub seeds: u64,
    /// Events of all runs.
    pub events: u64,
    /// Simulated microseconds of all runs.
    pub simulated_us: u64,
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

    fn add(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.events += outcome.events;
        self.simulated_us += outcome.simulated_us;
        self.found(outcome.violation);
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

/// Runs these seeds with `one`, up to the first violation. `progress` is told
/// after every seed how many are done.
pub fn sweep(
    seeds: Range<u64>,
    threads: usize,
    one: impl Fn(u64) -> Outcome + Sync,
    progress: impl Fn(u64) + Sync,
) -> Swept {
    let started = Instant::now();
    let (next, done) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    let stop = AtomicBool::new(false);
    let shard = || {
        let mut swept = Swept::default();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            let outcome = one(seed);
            if outcome.violation.is_some() {
                stop.store(true, Ordering::Relaxed);
            }
            swept.add(outcome);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
        }
        swept
    };
    let mut total = Swept::default();
    std::thread::scope(|scope| {
        let shards: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(shard)).collect();
        for handle in shards {
            match handle.join() {
                Ok(swept) => {
                    total.seeds += swept.seeds;
                    total.events += swept.events;
                    total.simulated_us += swept.simulated_us;
                    total.found(swept.violation);
                }
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    total.took = started.elapsed();
    total
}
