//! Panics that nobody guards against, as the log of a server tells them (L7).

#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn l7_a_panic_in_any_thread_is_a_line_with_message_stack_open_turns_and_memory() {
    let log = Log::default();
    let to = log.clone();
    tracing_subscriber::fmt()
        .with_writer(move || to.clone())
        .with_ansi(false)
        .init();
    dispatch::panics::log_unguarded();
    let thread = std::thread::Builder::new().name("left alone".to_owned());
    let ended = thread.spawn(|| panic!("nine is {}", 9)).unwrap().join();
    assert!(ended.is_err());
    let told = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for part in [
        "ERROR",
        "nine is 9",
        "unguarded.rs",
        "left alone",
        "open_turns=0",
        "resident_kib=",
        "up_s=0",
        "unguarded::l7_a_panic_in_any_thread",
    ] {
        assert!(told.contains(part), "no `{part}` in:\n{told}");
    }
}
