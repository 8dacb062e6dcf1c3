//! Store time: what due times and leases are measured by.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use dispatch_core::time::Timestamp;

use crate::clock::Clock;

/// Follows the wall clock forwards and never backwards; while the wall clock
/// stands behind, store time goes on at the pace of monotonic time, so that a
/// clock set back can neither un-lapse a lease nor freeze a due time.
#[derive(Debug)]
pub(super) struct StoreTime {
    clock: Arc<dyn Clock>,
    /// Wall minus monotonic time at its highest.
    offset_ms: AtomicI64,
}

impl StoreTime {
    /// Starts no earlier than `last`, the latest time that the store has on record.
    pub(super) fn new(clock: Arc<dyn Clock>, last: Timestamp) -> StoreTime {
        let mono = signed(clock.now().mono.0);
        StoreTime {
            clock,
            offset_ms: AtomicI64::new(signed(last.0).saturating_sub(mono)),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        let now = self.clock.now();
        let mono = signed(now.mono.0);
        let seen = signed(now.wall.0).saturating_sub(mono);
        let offset = self.offset_ms.fetch_max(seen, Ordering::Relaxed).max(seen);
        Timestamp(u64::try_from(mono.saturating_add(offset)).unwrap_or(0))
    }
}

fn signed(ms: u64) -> i64 {
    i64::try_from(ms).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dispatch_core::time::{Instant, Now};
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Set(Mutex<Now>);
    impl Set {
        fn to(&self, mono: u64, wall: u64) {
            *self.0.lock().unwrap() = Now {
                mono: Instant(mono),
                wall: Timestamp(wall),
            };
        }
    }
    impl Clock for Set {
        fn now(&self) -> Now {
            *self.0.lock().unwrap()
        }
    }

    #[test]
    fn a_wall_clock_set_back_neither_turns_store_time_back_nor_stops_it() {
        let clock = Arc::new(Set::default());
        clock.to(0, 1_000_000);
        let time = StoreTime::new(clock.clone(), Timestamp(0));
        assert_eq!(time.now(), Timestamp(1_000_000));
        clock.to(100, 500_000);
        assert_eq!(time.now(), Timestamp(1_000_100));
        clock.to(5_000, 2_000_000);
        assert_eq!(time.now(), Timestamp(2_000_000));
    }

    #[test]
    fn store_time_goes_on_from_what_the_store_had_on_record() {
        let clock = Arc::new(Set::default());
        clock.to(7, 1_000);
        let time = StoreTime::new(clock.clone(), Timestamp(9_000));
        assert_eq!(time.now(), Timestamp(9_000));
        clock.to(8, 1_001);
        assert_eq!(time.now(), Timestamp(9_001));
    }
}
