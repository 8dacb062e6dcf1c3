//! The two clocks that the core is handed, and nothing else that ticks.
//!
//! [`Instant`] is monotonic and belongs to one process: timers live on it.
//! [`Timestamp`] is wall time as the store tells it: due times and leases live
//! on it, because replicas share it.

use core::ops::{Add, Sub};
use serde::{Deserialize, Serialize};

/// A monotonic reading in milliseconds since an arbitrary start.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Instant(pub u64);

/// Milliseconds since the Unix epoch.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Timestamp(pub u64);

/// Both readings, taken at one moment by the driver.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// For timers.
    pub mono: Instant,
    /// For people.
    pub wall: Timestamp,
}

impl Instant {
    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Instant) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl Timestamp {
    /// Milliseconds from `earlier` to `self`; zero when `earlier` is later.
    pub fn since_ms(self, earlier: Timestamp) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

macro_rules! arithmetic {
    ($($t:ident),*) => {$(
        impl Add<u64> for $t {
            type Output = $t;
            fn add(self, ms: u64) -> $t { $t(self.0.saturating_add(ms)) }
        }
        impl Sub<u64> for $t {
            type Output = $t;
            fn sub(self, ms: u64) -> $t { $t(self.0.saturating_sub(ms)) }
        }
    )*};
}
arithmetic!(Instant, Timestamp);
