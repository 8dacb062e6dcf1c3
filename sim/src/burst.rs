//! Panics that nobody made happen: caught, with the place where they began, so
//! that a run ends with a finding instead of the process with a backtrace.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    /// Within `caught`: what the last panic said.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
    static LISTENS: RefCell<u32> = const { RefCell::new(0) };
}

/// Runs it; a panic's place and message, if it panics.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    listen_to_panics();
    LISTENS.with_borrow_mut(|depth| *depth += 1);
    let outcome = panic::catch_unwind(AssertUnwindSafe(run));
    LISTENS.with_borrow_mut(|depth| *depth -= 1);
    outcome.map_err(|_| SAID.take().unwrap_or_else(|| "a panic".to_owned()))
}

fn listen_to_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if LISTENS.with_borrow(|depth| *depth == 0) {
                return before(info);
            }
            let payload = info.payload_as_str().unwrap_or("a panic without a message");
            let place = info.location().map(ToString::to_string);
            let place = place.unwrap_or_else(|| "somewhere".to_owned());
            SAID.set(Some(format!("{payload} ({place})")));
        }));
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place_and_those_outside_go_their_own_way() {
        let told = caught(|| panic!("it {}", "burst"));
        let told = told.expect_err("it panics");
        assert!(told.starts_with("it burst ("), "{told}");
        assert!(told.contains("burst.rs:"), "{told}");
        assert_eq!(caught(|| 7), Ok(7));
    }
}
