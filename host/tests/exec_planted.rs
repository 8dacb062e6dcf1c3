//! Known bugs of commands, which only builds with `--cfg planted` have: the
//! checks below find each, and nothing where none is switched on. In a process
//! of their own, since a bug is switched on for all of it.
#![cfg(planted)]

#[path = "exec/rig.rs"]
#[allow(dead_code)]
mod rig;

use std::time::Duration;

use rig::{Rig, until};

/// A command that was told to stop is not one that could not be started.
async fn a_stop_is_told_as_one() -> bool {
    let rig = Rig::new();
    let call = rig.start_bash("echo > ready; exec sleep 1000");
    let ready = rig.cwd().join("ready");
    until("it runs", || ready.exists()).await;
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    done.output.contains("[stopped on request")
}

/// The result does not wait for what a command leaves in the background.
async fn a_background_child_keeps_nobody_waiting() -> bool {
    let rig = Rig::new();
    let call = rig.start_bash("sleep 1000 & echo $! > child; echo done");
    let kill = call.handle.clone();
    let done = tokio::time::timeout(Duration::from_secs(4), call.done()).await;
    let child = rig.pid_in("child").await;
    kill.kill();
    rig::signal(child, rustix::process::Signal::KILL);
    done.is_ok_and(|done| done.ok && done.output == "done\n")
}

#[tokio::test]
async fn d19_and_d28_are_found_and_nothing_where_there_is_nothing() {
    for (id, stop_is_told, nobody_waits) in [
        (None, true, true),
        (Some("D19"), false, true),
        (Some("D28"), true, false),
    ] {
        dispatch_core::planted::select(&Vec::from_iter(id));
        let seen = (
            a_stop_is_told_as_one().await,
            a_background_child_keeps_nobody_waiting().await,
        );
        assert_eq!(seen, (stop_is_told, nobody_waits), "{id:?}");
    }
}
