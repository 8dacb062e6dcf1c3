//! A command is its whole process tree, over there too (T5, S5).

use std::fs;
use std::time::{Duration, Instant};

use dispatch::exec::{Adoption, ToolEvent};
use rustix::process::Signal;

use crate::rig::{is_alive, rig, signal, until};

#[tokio::test]
async fn t10_a_deadline_ends_the_tree_and_says_so() {
    let Some(rig) = rig() else { return };
    let mut request =
        rig.bash_request("echo begun; bash -c 'sleep 1000 & echo $! > child; wait' & wait");
    request.deadline_ms = 700;
    let call = rig.start(request);
    let child = rig.pid_in("child").await;
    let done = call.done().await;
    assert!(!done.ok);
    assert_eq!(
        done.output,
        "begun\n[stopped at its deadline: the command was still running after 700 ms]"
    );
    assert!(done.duration_ms >= 700 && !is_alive(child));
}

#[tokio::test]
async fn t10_a_deadline_is_kept_without_a_link() {
    let Some(rig) = rig() else { return };
    let mut request = rig.bash_request("trap '' TERM; echo $$ > pid; sleep 1000; sleep 1000");
    request.deadline_ms = 700;
    let pid = rig.orphan(request, "pid").await;
    until("its deadline has come", || !is_alive(pid)).await;
    assert!(rig.exit_line().await.contains(" reason=deadline "));
    match rig.adopt().await.0 {
        Adoption::AlreadyFinished(done) => assert!(done.output.contains("after 700 ms")),
        other => panic!("not finished: {other:?}"),
    }
}

#[tokio::test]
async fn t5_a_kill_reaches_processes_that_left_the_session() {
    let Some(rig) = rig() else { return };
    // The second one has lost its parent as well; both ignore SIGTERM. The
    // third has no mark, but a session in common with the command.
    let command = "trap '' TERM; setsid sleep 1000 & echo $! > first; \
        (setsid bash -c 'echo $$ > second; exec sleep 1000' &); \
        (env -i sleep 1000 & echo $! > third); sleep 1000";
    let call = rig.start_bash(command);
    let mut pids = Vec::new();
    for file in ["first", "second", "third"] {
        pids.push(rig.pid_in(file).await);
    }
    let asked = Instant::now();
    call.handle.kill();
    call.handle.kill();
    let done = call.done().await;
    assert_eq!(
        done.output,
        "[stopped on request, with all that it had started]"
    );
    assert!(
        asked.elapsed() < Duration::from_secs(4),
        "{:?}",
        asked.elapsed()
    );
    assert!(!pids.into_iter().any(is_alive));
}

#[tokio::test]
async fn t5_a_command_may_tidy_up_on_sigterm() {
    let Some(rig) = rig() else { return };
    let call = rig.start_bash("trap 'echo tidied; exit 0' TERM; echo > ready; sleep 1000 & wait");
    let ready = rig.cwd().join("ready");
    until("the trap is set", || ready.exists()).await;
    call.handle.kill();
    assert_eq!(
        call.done().await.output,
        "tidied\n[stopped on request, with all that it had started]"
    );
}

#[tokio::test]
async fn t5_a_kill_at_once_still_gets_one_answer_and_leaves_nothing() {
    let Some(rig) = rig() else { return };
    let call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok, "{}", done.output);
    if let Ok(pid) = fs::read_to_string(rig.cwd().join("pid")) {
        assert!(!is_alive(pid.trim().parse().expect("a pid")));
    }
}

#[tokio::test]
async fn a_kill_is_idempotent_and_forbids_what_was_never_started() {
    let Some(rig) = rig() else { return };
    for _ in 0..2 {
        let killed = rig.tools().kill(rig.call(3, 0)).await;
        killed.expect("nothing runs");
    }
    let done = rig.bash("echo x > ran").await;
    assert!(
        !done.ok && done.output.contains("never repeated"),
        "{}",
        done.output
    );
    assert!(!rig.cwd().join("ran").exists());
    assert_eq!(rig.adopt().await.0, Adoption::NotFound);
}

#[tokio::test]
async fn a_kill_after_the_end_changes_nothing() {
    let Some(rig) = rig() else { return };
    assert!(rig.bash("echo fine").await.ok);
    rig.tools().kill(rig.call(3, 0)).await.expect("it is over");
    assert!(rig.exit_line().await.contains(" reason=exited code=0 "));
}

#[tokio::test]
async fn d28_a_background_process_that_holds_the_output_does_not_hold_the_result() {
    let Some(rig) = rig() else { return };
    let begun = Instant::now();
    // Were its output closed, SIGPIPE would end it at the second echo.
    let command = "(echo $BASHPID > child; until [ -e go ]; do sleep 0.01; done; echo one; echo two; \
        echo > wrote) & until [ -e child ]; do sleep 0.01; done; echo started";
    let done = rig.bash(command).await;
    assert_eq!((done.ok, done.output.as_str()), (true, "started\n"));
    assert!(
        begun.elapsed() < Duration::from_secs(8),
        "{:?}",
        begun.elapsed()
    );
    let child = rig.pid_in("child").await;
    assert!(is_alive(child), "it was left in the background on purpose");
    fs::write(rig.cwd().join("go"), "").expect("written");
    let wrote = rig.cwd().join("wrote");
    until("it has written on", || wrote.exists()).await;
    let output = fs::read_to_string(rig.run_dir().join("output")).expect("readable");
    assert_eq!(output, "started\n", "a settled run does not change");
    let (main, _) = rig.supervisor().await;
    until("the supervisor goes with the last holder", || {
        !is_alive(main)
    })
    .await;
}

#[tokio::test]
async fn a_background_process_that_floods_its_output_does_not_hold_the_result() {
    let Some(rig) = rig() else { return };
    let done = rig.bash("yes & echo $! > child").await;
    assert!(done.ok, "{:.300}", done.output);
    let child = rig.pid_in("child").await;
    assert!(is_alive(child));
    signal(child, Signal::KILL);
}

#[tokio::test]
async fn l10_a_dead_supervisor_is_an_answer_and_its_tree_dies() {
    let Some(rig) = rig() else { return };
    let mut call = rig.start_bash(
        "(setsid bash -c 'echo $$ > far; exec sleep 1000' &); echo $$ > pid; sleep 1000",
    );
    let (pid, far) = (rig.pid_in("pid").await, rig.pid_in("far").await);
    let (main, guard) = rig.supervisor().await;
    signal(main, Signal::KILL);
    signal(guard, Signal::KILL);
    let (_, done) = call.previews_and_done().await;
    assert!(!done.ok);
    assert!(
        done.output.contains("the supervisor of this command died"),
        "{}",
        done.output
    );
    assert!(!is_alive(pid) && !is_alive(far));
}

#[tokio::test]
async fn l10_the_guard_buries_a_supervisor_without_anybody_asking() {
    let Some(rig) = rig() else { return };
    let pid = rig
        .orphan(rig.bash_request("echo $$ > pid; exec sleep 1000"), "pid")
        .await;
    let (main, _) = rig.supervisor().await;
    signal(main, Signal::KILL);
    assert!(rig.exit_line().await.contains(" reason=supervisor-lost "));
    until("it is dead", || !is_alive(pid)).await;
}

#[tokio::test]
async fn a_run_directory_that_vanishes_is_an_answer() {
    let Some(rig) = rig() else { return };
    let mut call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    let pid = rig.pid_in("pid").await;
    assert_eq!(call.next().await, ToolEvent::Adopted(Adoption::Running));
    fs::remove_dir_all(rig.run_dir()).expect("removed");
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    assert!(
        done.output.starts_with("interrupted, outcome unknown"),
        "{}",
        done.output
    );
    until("its guard has missed the directory", || !is_alive(pid)).await;
}
