//! A replica's clocks: monotonic with an offset and a drift, wall with jumps.

use dispatch_core::time::{Instant, Now, Timestamp};

/// Simulated microseconds since the run's start.
pub(crate) type Us = u64;

/// Wall time at the run's start.
pub(crate) const EPOCH_MS: u64 = 1_800_000_000_000;

/// Store time at a moment of the run.
pub(crate) fn store_time(at: Us) -> Timestamp {
    Timestamp(EPOCH_MS + at / 1_000)
}

/// One life's clocks. A new life has a new monotonic clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    born_at: Us,
    offset_ms: u64,
    drift_ppm: i64,
    wall_ahead_ms: i64,
}

impl Clock {
    pub(crate) fn new(born_at: Us, offset_ms: u64, drift_ppm: i64, wall_ahead_ms: i64) -> Clock {
        Clock {
            born_at,
            offset_ms,
            drift_ppm,
            wall_ahead_ms,
        }
    }

    /// The wall clock is set by somebody.
    pub(crate) fn jump_wall(&mut self, by_ms: i64) {
        self.wall_ahead_ms += by_ms;
    }

    pub(crate) fn wall_ahead_ms(&self) -> i64 {
        self.wall_ahead_ms
    }

    pub(crate) fn now(&self, at: Us) -> Now {
        let wall = store_time(at).0.saturating_add_signed(self.wall_ahead_ms);
        Now {
            mono: self.mono(at),
            wall: Timestamp(wall),
        }
    }

    fn mono(&self, at: Us) -> Instant {
        // Days of microseconds times hundreds of parts fit with room to spare.
        let elapsed = at.saturating_sub(self.born_at).cast_signed();
        let drifted = elapsed + elapsed * self.drift_ppm / 1_000_000;
        let ms = u64::try_from(drifted / 1_000).unwrap_or(0);
        Instant(self.offset_ms + ms)
    }

    /// The first moment, `from` or later, at which the monotonic clock shows `target`.
    pub(crate) fn when(&self, target: Instant, from: Us) -> Us {
        if self.mono(from) >= target {
            return from;
        }
        let wanted = i128::from(target.0.saturating_sub(self.offset_ms)) * 1_000;
        let elapsed = wanted * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let mut at = (self.born_at + u64::try_from(elapsed).unwrap_or(0)).max(from);
        while self.mono(at) < target {
            at += 1;
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timer_fires_at_the_first_moment_that_shows_its_time() {
        for drift in [-200, 0, 137] {
            let clock = Clock::new(5_000_003, 777, drift, 0);
            for target in [778, 1_000, 60_777, 3_600_777] {
                let at = clock.when(Instant(target), 5_000_003);
                assert!(clock.mono(at) >= Instant(target));
                assert!(clock.mono(at - 2) < Instant(target), "{drift} {target}");
            }
        }
    }
}
