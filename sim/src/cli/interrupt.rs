//! Ctrl-C and SIGTERM: the first asks for an end at the next seed, with all that
//! was found until then; a later one ends at once.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::INTERRUPTED;
use super::out::aside;

static ASKED: AtomicBool = AtomicBool::new(false);
static LISTENS: OnceLock<()> = OnceLock::new();

/// `timeout` and some shells send a signal to a program and to its group, so
/// that it comes twice.
const ONE_WISH: Duration = Duration::from_secs(1);

/// What is set once somebody asks for an end. From here on the program has to
/// look at it: signals no longer end it by themselves.
///
/// # Errors
/// The system does not let it listen.
pub(super) fn asked() -> anyhow::Result<&'static AtomicBool> {
    if LISTENS.get().is_none() {
        let signals = Signals::new([SIGINT, SIGTERM]).context("cannot listen to signals")?;
        std::thread::spawn(move || listen(signals));
        LISTENS.get_or_init(|| ());
    }
    Ok(&ASKED)
}

fn listen(mut signals: Signals) {
    let mut first = None;
    for _ in signals.forever() {
        let first = *first.get_or_insert_with(|| {
            ASKED.store(true, Ordering::Relaxed);
            aside("ends as soon as it can, with what it has; once more ends it at once");
            Instant::now()
        });
        if first.elapsed() > ONE_WISH {
            std::process::exit(i32::from(INTERRUPTED));
        }
    }
}
