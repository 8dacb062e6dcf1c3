//! Medians and 99th percentiles.

use std::time::Duration;

use crate::caller::Measured;

/// All that was measured.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) direct: Series,
    pub(crate) through: Series,
    pub(crate) fsyncs: Vec<Duration>,
}

#[derive(Default)]
pub(crate) struct Series {
    first: Vec<Duration>,
    further: Vec<Duration>,
}

impl Series {
    pub(crate) fn add(&mut self, measured: &Measured) {
        self.first.push(measured.first);
        self.further.extend_from_slice(&measured.further);
    }
}

const FIRST_FSYNCS: f64 = 3.0;
const FIRST_MS: f64 = 1.0;
const FURTHER_MS: f64 = 1.0;

pub(crate) fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

impl Figures {
    pub(crate) fn print(&self) {
        let fsync = Spread::of(&self.fsyncs);
        println!("fsync: {fsync} (4 KiB appended, beside the database, between the turns)");

        let (direct, through) = (
            Spread::of(&self.direct.first),
            Spread::of(&self.through.first),
        );
        let aim = FIRST_FSYNCS * fsync.median_ms + FIRST_MS;
        let added = through.median_ms - direct.median_ms;
        println!(
            "first token: direct {direct}, through the server {through}; added {added:.2} ms at the median, {:.2} ms at p99; aim < 3 fsyncs + 1 ms = {aim:.2} ms: {}",
            through.p99_ms - direct.median_ms,
            verdict(added < aim)
        );

        let (direct, through) = (
            Spread::of(&self.direct.further),
            Spread::of(&self.through.further),
        );
        let added = through.median_ms - direct.median_ms;
        println!(
            "further tokens ({}): direct {direct}, through the server {through}; added {added:.3} ms at the median, {:.3} ms at p99; aim < {FURTHER_MS} ms: {}",
            self.through.further.len(),
            through.p99_ms - direct.median_ms,
            verdict(added < FURTHER_MS)
        );
    }
}

struct Spread {
    median_ms: f64,
    p99_ms: f64,
}

impl Spread {
    fn of(values: &[Duration]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_unstable();
        let at = |share: f64| {
            let n = ((sorted.len() as f64 * share).ceil() as usize).clamp(1, sorted.len());
            sorted[n - 1].as_secs_f64() * 1000.0
        };
        Spread {
            median_ms: at(0.5),
            p99_ms: at(0.99),
        }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} ms (p99 {:.3})", self.median_ms, self.p99_ms)
    }
}
