//! Another computer's clock, as far as it must be known: a start that arrives
//! late must not begin, and only that computer can tell that it is late (L2).

use std::time::Duration;

use tokio::time::Instant;

/// No lease lasts longer.
const MOST: Duration = Duration::from_secs(3_600);

/// This long from now.
pub(super) fn after(within: Duration) -> Instant {
    Instant::now() + within.min(MOST)
}

/// What the clock over there showed, when that was heard here: it shows no less
/// now than this and the time since.
#[derive(Clone, Copy, Debug)]
pub(super) struct FarClock {
    showed_ms: u64,
    heard: Instant,
}

impl FarClock {
    /// From what has just been heard.
    pub(super) fn heard(showed_ms: u64) -> FarClock {
        FarClock {
            showed_ms,
            heard: Instant::now(),
        }
    }

    /// What it shows at `at`, or a little later: by the time that its word was on
    /// its way.
    pub(super) fn at(&self, at: Instant) -> u64 {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let since = ms(at.saturating_duration_since(self.heard));
        let before = ms(self.heard.saturating_duration_since(at));
        self.showed_ms.saturating_add(since).saturating_sub(before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn l2_a_far_clock_goes_on_from_what_it_showed() {
        let clock = FarClock::heard(1_000_000);
        let second = Duration::from_secs(1);
        assert_eq!(clock.at(Instant::now() + second), 1_001_000);
        tokio::time::advance(5 * second).await;
        assert_eq!(clock.at(Instant::now()), 1_005_000);
        assert_eq!(clock.at(Instant::now() - 10 * second), 995_000);
        assert_eq!(clock.at(after(Duration::MAX)), 1_005_000 + 3_600_000);
    }
}
