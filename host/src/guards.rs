//! An eye on this process: systemd's watchdog, fed by the driver's progress
//! and not by a timer, and a line in the log that tells what is open and what
//! it takes (O4, O7).

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::driver::{Census, Handle};
use crate::panics;

/// How often what is open is counted, for panics to tell of.
const COUNT: Duration = Duration::from_secs(5);
/// How often the log may tell of memory.
const TELL: Duration = Duration::from_secs(60);
/// Of the time that systemd waits, how much passes between two signs of life.
const SIGNS: u32 = 3;

/// Tells systemd something about this process, where it is systemd's. In a
/// thread that may block: nobody waits for a systemd that does not listen. And in
/// none elsewhere, since with threads no simulation is the same twice.
pub(crate) fn tell_systemd(state: NotifyState<'static>) -> Option<JoinHandle<()>> {
    std::env::var_os("NOTIFY_SOCKET")?;
    Some(tokio::task::spawn_blocking(move || {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "systemd could not be told; is NOTIFY_SOCKET right?");
        }
    }))
}

/// Gives systemd a sign of life each time that the driver has shown one: a
/// driver that is stuck gives none, and systemd starts the server anew, which
/// costs no turn.
pub(crate) async fn feed_watchdog(handle: Handle) {
    let Some(patience) = sd_notify::watchdog_enabled() else {
        return;
    };
    while handle.census().await.is_some() {
        // One at a time, or threads would gather.
        if let Some(told) = tell_systemd(NotifyState::Watchdog) {
            let _it_is_told_or_logged = told.await;
        }
        tokio::time::sleep(patience / SIGNS).await;
    }
}

/// A line a minute while anything is open or memory has moved by an eighth.
pub(crate) async fn tell_memory(handle: Handle) {
    let (mut told_kib, mut told_at) = (0, None::<Instant>);
    while let Some(census) = handle.census().await {
        panics::count_open_turns(census.turns);
        let resident_kib = panics::resident_kib().unwrap_or(0);
        let is_time = told_at.is_none_or(|at| at.elapsed() >= TELL);
        if is_time && is_worth_a_line(&census, told_kib, resident_kib) {
            (told_kib, told_at) = (resident_kib, Some(Instant::now()));
            tracing::info!(
                resident_kib,
                turns = census.turns,
                streams = census.streams,
                tools = census.tools,
                deliveries = census.deliveries,
                links = census.links,
                "memory"
            );
        }
        tokio::time::sleep(COUNT).await;
    }
}

fn is_worth_a_line(census: &Census, told_kib: u64, resident_kib: u64) -> bool {
    census.turns > 0 || resident_kib.abs_diff(told_kib) > told_kib / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn o4_an_idle_server_of_steady_size_is_silent() {
        let idle = Census::default();
        assert!(is_worth_a_line(&idle, 0, 15_000), "the first line");
        assert!(!is_worth_a_line(&idle, 15_000, 15_500));
        assert!(is_worth_a_line(&idle, 15_000, 30_000), "it has grown");
        assert!(is_worth_a_line(&idle, 30_000, 15_000), "it has shrunk");
        let busy = Census { turns: 1, ..idle };
        assert!(is_worth_a_line(&busy, 15_000, 15_000));
    }
}
