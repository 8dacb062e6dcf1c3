//! How far a sweep is, told now and then.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Where lines stay, the first one soon, the others ever more rarely.
const FIRST_S: u64 = 2;
const MOST_BETWEEN_S: u64 = 60;

/// See the module's page.
pub(super) struct Progress {
    seeds: u64,
    started: Instant,
    is_seen: bool,
    due_s: AtomicU64,
}

impl Progress {
    pub(super) fn of(seeds: u64) -> Progress {
        let is_seen = std::io::stderr().is_terminal();
        Progress {
            seeds,
            started: Instant::now(),
            is_seen,
            due_s: AtomicU64::new(first(is_seen)),
        }
    }

    /// What to say after so many seeds, if anything is due.
    pub(super) fn line(&self, done: u64, simulated_us: u64) -> Option<String> {
        let elapsed = self.started.elapsed();
        let due = |due_s| {
            let is_due = elapsed.as_secs() >= due_s;
            is_due.then(|| after(elapsed.as_secs(), self.is_seen))
        };
        let relaxed = Ordering::Relaxed;
        self.due_s.fetch_update(relaxed, relaxed, due).ok()?;
        let (seeds, hours) = (self.seeds, simulated_us as f64 / 3.6e9);
        let rate = done as f64 / elapsed.as_secs_f64();
        Some(format!(
            "{done} of {seeds} seeds, {rate:.0} a second; {hours:.0} h simulated"
        ))
    }
}

fn first(is_seen: bool) -> u64 {
    match is_seen {
        true => 1,
        false => FIRST_S,
    }
}

fn after(now_s: u64, is_seen: bool) -> u64 {
    match is_seen {
        true => now_s + 1,
        false => now_s + now_s.clamp(FIRST_S, MOST_BETWEEN_S),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_a_terminal_the_first_line_comes_soon_and_then_one_a_minute() {
        let mut due = vec![first(false)];
        while due.len() < 9 {
            due.push(after(due[due.len() - 1], false));
        }
        assert_eq!(due, [2, 4, 8, 16, 32, 64, 124, 184, 244]);
        assert_eq!(after(7, true), 8);
    }
}
