//! Panics that are caught tell where they came from (L7).

use std::any::Any;
use std::backtrace::Backtrace;
use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

/// A panic that was stopped.
#[derive(Clone, Debug)]
pub struct Caught {
    /// What it said.
    pub message: String,
    /// Where, and how it came there.
    pub trace: String,
}

/// Whether panics that nobody guards against go to the log.
static IS_LOGGED: AtomicBool = AtomicBool::new(false);
/// Open turns as the driver last counted them: a panic elsewhere tells of them.
static OPEN_TURNS: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static IS_GUARDED: Cell<bool> = const { Cell::new(false) };
    static TRACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `act`; a panic in it becomes a value with its stack.
///
/// # Errors
/// [`Caught`].
pub fn guard<T>(act: impl FnOnce() -> T) -> Result<T, Caught> {
    install();
    let before = IS_GUARDED.replace(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(act));
    IS_GUARDED.set(before);
    outcome.map_err(|payload| Caught {
        message: message(&*payload),
        trace: TRACE.take().unwrap_or_default(),
    })
}

/// The value behind a lock, also where a holder of it panicked: the critical
/// sections of this crate leave their values whole, wherever they are left.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a panic's payload says.
pub fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

/// Resident memory of this process in KiB, as the kernel counts it; `None`
/// where there is no /proc.
pub fn resident_kib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// From now on a panic that nobody guards against, in any thread or task, is a
/// line in the log that says what the process was like (L7).
pub fn log_unguarded() {
    install();
    IS_LOGGED.store(true, Ordering::Relaxed);
}

/// For what panics tell.
pub(crate) fn count_open_turns(turns: usize) {
    OPEN_TURNS.store(turns, Ordering::Relaxed);
}

fn log(info: &PanicHookInfo<'_>, began: Instant) {
    let place = info.location().map(ToString::to_string);
    tracing::error!(
        message = message(info.payload()),
        at = place.unwrap_or_default(),
        thread = std::thread::current().name().unwrap_or("unnamed"),
        open_turns = OPEN_TURNS.load(Ordering::Relaxed),
        resident_kib = resident_kib(),
        up_s = began.elapsed().as_secs(),
        "a panic outside of the core; the server goes on\n{}",
        Backtrace::force_capture()
    );
}

/// Guarded panics keep their stack for whoever catches them; all others are
/// logged, or reported as before.
fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let (report, began) = (panic::take_hook(), Instant::now());
        panic::set_hook(Box::new(move |info| {
            if IS_GUARDED.get() {
                let place = info.location().map(ToString::to_string);
                let stack = Backtrace::force_capture();
                TRACE.set(Some(format!("{}\n{stack}", place.unwrap_or_default())));
            } else if IS_LOGGED.load(Ordering::Relaxed) {
                log(info, began);
            } else {
                report(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guarded_panic_is_a_value_with_message_and_stack() {
        let caught = guard(|| -> u32 { panic!("nine is {}", 9) }).unwrap_err();
        assert_eq!(caught.message, "nine is 9");
        assert!(caught.trace.contains("panics.rs"), "{}", caught.trace);
        assert_eq!(guard(|| 3).unwrap(), 3);
    }

    #[test]
    fn the_process_knows_its_size() {
        assert!(resident_kib().is_some_and(|kib| kib > 100));
    }
}
