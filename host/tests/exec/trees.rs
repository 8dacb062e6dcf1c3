//! A command is its whole process tree.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::rig::{Rig, is_alive, signal, until};

#[tokio::test]
async fn t5_a_deadline_kills_grandchildren() {
    let rig = Rig::new();
    let command = "bash -c 'sleep 1000 & echo $! > child; wait' & wait";
    let mut request = rig.request("bash", json!({ "command": command }));
    request.deadline_ms = 500;
    let call = rig.start(request);
    let child = rig.pid_in("child").await;
    assert!(is_alive(child));
    let done = call.done().await;
    assert!(!done.ok);
    assert!(!is_alive(child));
}

#[tokio::test]
async fn t5_what_ignores_sigterm_is_killed_after_its_grace() {
    let rig = Rig::new();
    let command = "trap '' TERM; sleep 1000 & echo $! > child; echo caught; wait; sleep 1000";
    let mut request = rig.request("bash", json!({ "command": command }));
    request.deadline_ms = 200;
    let call = rig.start(request);
    let child = rig.pid_in("child").await;
    let done = call.done().await;
    assert!(
        done.output.starts_with("caught\n[stopped at its deadline"),
        "{}",
        done.output
    );
    assert!(!is_alive(child));
}

#[tokio::test]
async fn t5_a_command_may_tidy_up_on_sigterm() {
    let rig = Rig::new();
    let command = "trap 'echo tidied; exit 0' TERM; echo > ready; sleep 1000 & wait";
    let call = rig.start_bash(command);
    let ready = rig.cwd().join("ready");
    until("the trap is set", || ready.exists()).await;
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    assert_eq!(
        done.output,
        "tidied\n[stopped on request, with all that it had started]"
    );
}

#[tokio::test]
async fn t5_a_kill_reaches_processes_that_left_the_session_within_a_second() {
    let rig = Rig::new();
    // The second one has lost its parent as well; both ignore SIGTERM.
    let command = "trap '' TERM; setsid sleep 1000 & echo $! > first; \
        (setsid bash -c 'echo $$ > second; exec sleep 1000' &); sleep 1000";
    let call = rig.start_bash(command);
    let (first, second) = (rig.pid_in("first").await, rig.pid_in("second").await);
    let asked = Instant::now();
    call.handle.kill();
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    assert!(
        asked.elapsed() < Duration::from_millis(1_900),
        "{:?}",
        asked.elapsed()
    );
    assert!(!is_alive(first) && !is_alive(second));
}

#[tokio::test]
async fn t5_a_kill_at_once_still_gets_one_answer_and_leaves_nothing() {
    let rig = Rig::new();
    let call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    assert!(
        done.output
            .ends_with("[stopped on request, with all that it had started]"),
        "{}",
        done.output
    );
    if let Ok(pid) = std::fs::read_to_string(rig.cwd().join("pid")) {
        assert!(!is_alive(pid.trim().parse().expect("a pid")));
    }
}

#[tokio::test]
async fn a_kill_after_the_end_changes_nothing() {
    let rig = Rig::new();
    let mut call = rig.start_bash("echo fine");
    let (_, done) = call.previews_and_done().await;
    call.handle.kill();
    assert!(done.ok);
    assert_eq!(rig.run_file("exit").await["reason"], "exited");
}

#[tokio::test]
async fn d28_a_background_process_that_holds_the_output_does_not_hold_the_result() {
    let rig = Rig::new();
    let begun = Instant::now();
    let done = rig.bash("sleep 1000 & echo $! > child; echo started").await;
    assert!(done.ok, "{}", done.output);
    assert_eq!(done.output, "started\n");
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
    let child = rig.pid_in("child").await;
    assert!(is_alive(child), "it was left in the background on purpose");
    let supervisor = rig.supervisor().await;
    signal(child, Signal::KILL);
    until("the supervisor goes with the last holder", || {
        !is_alive(supervisor)
    })
    .await;
}

#[tokio::test]
async fn d28_a_background_process_may_go_on_writing() {
    let rig = Rig::new();
    // Were its output closed, SIGPIPE would end it at the second echo.
    let command =
        "(until [ -e go ]; do sleep 0.01; done; echo one; echo two; echo > wrote) & exit 0";
    let done = rig.bash(command).await;
    assert!(done.ok);
    std::fs::write(rig.cwd().join("go"), "").expect("written");
    let wrote = rig.cwd().join("wrote");
    until("it has written on", || wrote.exists()).await;
    let output = std::fs::read_to_string(rig.run_dir().join("output")).expect("readable");
    assert_eq!(output, "", "a settled run does not change");
}

#[tokio::test]
async fn a_background_process_that_floods_its_output_does_not_hold_the_result() {
    let rig = Rig::new();
    let begun = Instant::now();
    let done = rig.bash("yes & echo $! > child").await;
    assert!(done.ok);
    assert!(
        begun.elapsed() < Duration::from_secs(10),
        "{:?}",
        begun.elapsed()
    );
    let child = rig.pid_in("child").await;
    assert!(is_alive(child));
    signal(child, Signal::KILL);
}
