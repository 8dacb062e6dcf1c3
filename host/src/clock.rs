//! The clock seam: whoever needs the time is handed one, so that simulations
//! can hand in their own.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use dispatch_core::time::{Instant, Now, Timestamp};

/// Tells both times that the core knows.
pub trait Clock: Send + Sync + fmt::Debug + 'static {
    /// Monotonic and wall time, read at one moment, in milliseconds.
    fn now(&self) -> Now;
}

/// The machine's clocks. Monotonic time starts at 0 when the value is made.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    pub fn new() -> SystemClock {
        SystemClock {
            start: std::time::Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        SystemClock::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let millis = |d: std::time::Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        // A wall clock before 1970 reads as 1970: the store's time does not follow it back.
        let wall = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Now {
            mono: Instant(millis(self.start.elapsed())),
            wall: Timestamp(millis(wall)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_starts_at_zero_and_wall_time_is_of_this_century() {
        let clock = SystemClock::new();
        let (first, second) = (clock.now(), clock.now());
        assert!(first.mono.0 < 60_000);
        assert!(second.mono >= first.mono);
        assert!(first.wall.0 > 946_684_800_000);
    }
}
