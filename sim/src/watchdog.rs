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
        let mut seen: Vec<Seen> = Vec::new();
        loop {
            std::thread::sleep(patience / LOOKS);
            let runs: Vec<Arc<Beat>> = beats().iter().filter_map(Weak::upgrade).collect();
            let again = |run| {
                let before = seen.iter().find(|seen| Arc::ptr_eq(&seen.run, &run));
                Seen::again(run, before)
            };
            seen = runs.into_iter().map(again).collect();
            for stands in seen.iter_mut().filter(|seen| seen.looks == LOOKS) {
                stands.looks = 0;
                tell(told(&stands.run, patience));
            }
        }
    };
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread.spawn(look).map(drop)
}

/// Looks within one `patience`.
const LOOKS: u32 = 8;

/// A run as it was at the last look.
struct Seen {
    run: Arc<Beat>,
    events: u64,
    /// For how many looks it has stood there.
    looks: u32,
}

impl Seen {
    fn again(run: Arc<Beat>, before: Option<&Seen>) -> Seen {
        let events = run.events.load(Ordering::Relaxed);
        let stands = before.filter(|before| before.events == events);
        Seen {
            run,
            events,
            looks: stands.map_or(0, |before| before.looks + 1),
        }
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
    use std::sync::mpsc::channel;

    #[test]
    fn a_run_that_stands_still_is_told_of_and_one_that_moves_is_not() {
        let (tell, heard) = channel();
        let stands = Beat::of(4_711);
        stands.moves(3, 1_000_000);
        let moves = Beat::of(4_712);
        watch(Duration::from_millis(20), move |told| {
            let _ = tell.send(told);
        })
        .expect("a thread");
        let mut events = 0;
        let told = loop {
            events += 1;
            moves.moves(events, 0);
            match heard.try_recv() {
                Ok(told) if told.contains("seed 4711 ") => break told,
                Ok(_) | Err(_) => std::thread::yield_now(),
            }
        };
        assert!(told.contains("event 3 has been under way"), "{told}");
    }
}
