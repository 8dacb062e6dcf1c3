//! Tells when a run stands still in real time: a core that loops forever over
//! one input never comes back to be judged by an oracle.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use crate::clock::Us;
use crate::record::shown_time;

/// How far one run has come.
#[derive(Debug)]
pub(crate) struct Beat {
    seed: u64,
    events: AtomicU64,
    at_us: AtomicU64,
}

static BEATS: Mutex<Vec<Weak<Beat>>> = Mutex::new(Vec::new());

fn beats() -> MutexGuard<'static, Vec<Weak<Beat>>> {
    BEATS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Beat {
    /// A run that begins.
    pub(crate) fn of(seed: u64) -> Arc<Beat> {
        let beat = Arc::new(Beat {
            seed,
            events: AtomicU64::new(0),
            at_us: AtomicU64::new(0),
        });
        let mut beats = beats();
        beats.retain(|beat| beat.strong_count() > 0);
        beats.push(Arc::downgrade(&beat));
        beat
    }

    /// It begins with its next event.
    pub(crate) fn moves(&self, events: u64, at: Us) {
        self.at_us.store(at, Ordering::Relaxed);
        self.events.store(events, Ordering::Relaxed);
    }
}

/// From now on, `tell` hears of each run that has been at one event for longer
/// than `patience`, once a `patience`.
///
/// # Errors
/// A thread cannot be started.
pub fn watch(
    patience: Duration,
    tell: impl Fn(String) + Send + 'static,
) -> Result<(), std::io::Error> {
    let look = move || {
        let mut watcher = Watcher::default();
        loop {
            std::thread::sleep(patience / LOOKS);
            for run in watcher.look() {
                tell(told(&run, patience));
            }
        }
    };
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread.spawn(look).map(drop)
}

/// Looks within one `patience`.
const LOOKS: u32 = 8;

/// A run as it was at the last look; one that is over is held by nobody, and
/// not by its watcher either.
struct Seen {
    run: Weak<Beat>,
    events: u64,
    /// For how many looks it has stood there.
    looks: u32,
}

#[derive(Default)]
struct Watcher {
    seen: Vec<Seen>,
}

impl Watcher {
    /// Those that have stood still for [`LOOKS`] looks, or a multiple of it.
    fn look(&mut self) -> Vec<Arc<Beat>> {
        let runs: Vec<Weak<Beat>> = beats().clone();
        let again = runs.into_iter().filter_map(|run| self.again(run));
        self.seen = again.collect();
        let stand = self.seen.iter_mut().filter(|seen| seen.looks == LOOKS);
        let told = stand.filter_map(|seen| {
            seen.looks = 0;
            seen.run.upgrade()
        });
        told.collect()
    }

    fn again(&self, run: Weak<Beat>) -> Option<Seen> {
        let events = run.upgrade()?.events.load(Ordering::Relaxed);
        let before = self.seen.iter().find(|seen| seen.run.ptr_eq(&run));
        let stands = before.filter(|before| before.events == events);
        Some(Seen {
            run,
            events,
            looks: stands.map_or(0, |before| before.looks + 1),
        })
    }
}

/// In the form of a violation.
fn told(run: &Beat, patience: Duration) -> String {
    let (seed, events) = (run.seed, run.events.load(Ordering::Relaxed));
    format!(
        "no-standstill violated by seed {seed} at {}\n  expected: every event is over in a moment\n  \
        seen:     event {events} has been under way for {} s: a loop without end?",
        shown_time(run.at_us.load(Ordering::Relaxed)),
        patience.as_secs()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_stands_still_is_told_of_and_one_that_moves_or_is_over_is_not() {
        const OURS: [u64; 3] = [4_710, 4_711, 4_712];
        let [is_over, stands, moves] = OURS.map(Beat::of);
        let mut is_over = Some(is_over);
        let mut watcher = Watcher::default();
        let mut told = Vec::new();
        for look in 0..=2 * u64::from(LOOKS) {
            moves.moves(look, 0);
            let ours = watcher.look();
            let ours = ours.iter().filter(|run| OURS.contains(&run.seed));
            told.extend(ours.map(|run| (look, run.seed)));
            if look == 3 {
                is_over.take();
            }
        }
        let (once, twice) = (u64::from(LOOKS), 2 * u64::from(LOOKS));
        assert_eq!(told, [(once, stands.seed), (twice, stands.seed)]);
        let text = super::told(&stands, Duration::from_secs(30));
        assert!(
            text.contains("seed 4711 ") && text.contains("for 30 s"),
            "{text}"
        );
    }
}
