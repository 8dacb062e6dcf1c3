//! Many seeds on several threads.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
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
    /// It was asked to stop before its end.
    pub interrupted: bool,
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
    /// No seed is begun once this is set.
    pub stop: Option<&'static AtomicBool>,
}

impl Pace {
    fn is_stopped(&self) -> bool {
        self.stop.is_some_and(|stop| stop.load(Relaxed))
    }
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            threads: 2,
            at_most: None,
            stop: None,
        }
    }
}

/// Runs these seeds with `one`, up to the first violation, to the end of the
/// time, or until it is asked to stop. `progress` is told after every seed how many are done and how many
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
    let found = AtomicBool::new(false);
    let is_over = || {
        let late = pace.at_most.is_some_and(|most| started.elapsed() >= most);
        found.load(Relaxed) || late || pace.is_stopped()
    };
    // Past the last one nothing is counted on: there may be no number after it.
    let take = || {
        let after = |seed: u64| (seed < seeds.end).then(|| seed + 1);
        next.fetch_update(Relaxed, Relaxed, after).ok()
    };
    let shard = || {
        let mut swept = Swept::default();
        while !is_over()
            && let Some(seed) = take()
        {
            let outcome = one(seed);
            if outcome.violation.is_some() {
                found.store(true, Relaxed);
            }
            let more = outcome.simulated_us;
            swept.add(seed, outcome);
            let simulated_us = simulated_us.fetch_add(more, Relaxed) + more;
            progress(done.fetch_add(1, Relaxed) + 1, simulated_us);
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
    total.next = next.into_inner();
    total.interrupted = pace.is_stopped() && total.next < seeds.end;
    total.took = started.elapsed();
    total
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sometimes::Point;

    fn nothing_found(_: u64) -> Outcome {
        Outcome {
            digest: 1,
            events: 1,
            simulated_us: 1,
            points: [0; Point::ALL.len()],
            violation: None,
        }
    }

    #[test]
    fn the_last_seeds_are_run_once_each_and_then_it_is_over() {
        let seeds = u64::MAX - 3..u64::MAX;
        let swept = sweep(seeds, Pace::default(), nothing_found, |_, _| {});
        assert_eq!((swept.seeds, swept.next), (3, u64::MAX));
        assert!(!swept.interrupted);
    }

    #[test]
    fn one_that_is_asked_to_stop_ends_its_seed_and_tells_where_to_go_on() {
        static STOP: AtomicBool = AtomicBool::new(false);
        let pace = Pace {
            threads: 1,
            stop: Some(&STOP),
            ..Pace::default()
        };
        let swept = sweep(10..1_000, pace, nothing_found, |done, _| {
            STOP.store(done == 5, Relaxed);
        });
        assert_eq!((swept.seeds, swept.next), (5, 15));
        assert!(swept.interrupted);
    }
}
