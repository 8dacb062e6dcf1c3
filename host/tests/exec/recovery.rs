//! What a server finds of commands that an earlier one left.

use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dispatch::exec::{Adoption, Exec, LocalExec, RunBounds, SweepReport, ToolDone, ToolEvent};
use dispatch_core::ids::TurnId;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::rig::{BINARY, Rig, TURN, config, is_alive, server_process, signal, until};

const OTHER_TURN: TurnId = TurnId(TURN.0 + 1);

fn killed(outcome: Adoption) -> ToolDone {
    match outcome {
        Adoption::Killed(done) => done,
        other => panic!("not killed: {other:?}"),
    }
}

/// A process that belongs to no run, and to the test even when that fails.
struct Innocent(Child);

impl Innocent {
    fn new() -> Innocent {
        let child = Command::new("sleep")
            .arg("1000")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Innocent(child.expect("it starts"))
    }
}

impl Drop for Innocent {
    fn drop(&mut self) {
        let _dead_already = self.0.kill();
        let _reaped_already = self.0.wait();
    }
}

fn start_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let field = stat
        .split(' ')
        .nth(21)
        .expect("field 22, as sleep has no spaces");
    field.parse().expect("a number")
}

#[tokio::test]
async fn a_call_that_was_never_started_is_not_found() {
    assert_eq!(Rig::new().reap().await, Adoption::NotFound);
}

#[tokio::test]
async fn l10_a_finished_command_is_found_with_its_whole_result() {
    let rig = Rig::new();
    let done = rig.bash("echo out; exit 4").await;
    for _ in 0..2 {
        match rig.reap().await {
            Adoption::AlreadyFinished(found) => {
                assert_eq!(found.output, done.output);
                assert!(!found.ok);
            }
            other => panic!("not finished: {other:?}"),
        }
    }
}

#[tokio::test]
async fn d37_a_command_outlives_its_server_and_is_dead_before_reap_returns() {
    let rig = Rig::new();
    let command = "echo begun; (setsid sleep 1000 & echo $! > far); echo $$ > pid; exec sleep 1000";
    let pid = rig.orphan(rig.bash_request(command), "pid").await;
    let far = rig.pid_in("far").await;
    assert!(is_alive(pid) && is_alive(far));
    let done = killed(rig.reap().await);
    assert!(!is_alive(pid) && !is_alive(far));
    assert_eq!(
        done.output,
        "begun\n[stopped on request, with all that it had started]"
    );
    // Asked again, it answers the same.
    assert_eq!(killed(rig.reap().await), done);
}

/// The part of other tests that is a process of its own.
#[tokio::test]
#[ignore = "started by tests that need a server of its own process"]
async fn a_server_of_its_own() {
    let root = std::env::var_os("EXEC_TEST_ROOT").expect("set by the test that starts this");
    let command = std::env::var("EXEC_TEST_COMMAND").expect("set by the test that starts this");
    let exec = LocalExec::new(config(root.as_ref())).expect("an absolute path");
    let rig = Rig {
        root: tempfile::tempdir().expect("a directory"),
        exec,
    };
    let mut request = rig.bash_request(&command);
    request.cwd = std::path::Path::new(&root).join("cwd");
    assert!(rig.start(request).done().await.ok);
}

#[tokio::test]
async fn d37_a_command_survives_kill_9_of_its_server_and_is_found() {
    let rig = Rig::new();
    let mut server = server_process(rig.root.path(), "echo $$ > pid; exec sleep 1000", &[]);
    let pid = rig.pid_in("pid").await;
    server.kill().expect("SIGKILL");
    server.wait().expect("it is dead");
    assert!(is_alive(pid), "a command belongs to its run directory");
    killed(rig.reap().await);
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn l10_a_command_that_ends_after_its_server_leaves_its_result() {
    let rig = Rig::new();
    let command = "echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late; exit 5";
    let pid = rig.orphan(rig.bash_request(command), "pid").await;
    fs::write(rig.cwd().join("go"), "").expect("written");
    until("it has ended by itself", || !is_alive(pid)).await;
    rig.run_file("exit").await;
    match rig.reap().await {
        Adoption::AlreadyFinished(done) => assert_eq!(done.output, "late\n[exit code 5]"),
        other => panic!("not finished: {other:?}"),
    }
}

#[tokio::test]
async fn l10_a_command_that_runs_is_adopted_and_streamed_on() {
    let rig = Rig::new();
    let command =
        "echo begun; echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late; exit 5";
    rig.orphan(rig.bash_request(command), "pid").await;
    let (adoption, mut call) = rig.adopt().await;
    assert_eq!(adoption, Adoption::Running);
    // Watched by somebody, it is nobody's to end.
    assert_eq!(rig.exec.unattended().await, []);
    assert_eq!(rig.exec.end_unattended(vec![TURN]).await.killed, 0);
    fs::write(rig.cwd().join("go"), "").expect("written");
    let (previews, done) = call.previews_and_done().await;
    assert_eq!(done.output, "begun\nlate\n[exit code 5]");
    assert_eq!(previews.first().map(|(offset, _)| *offset), Some(0));
}

#[tokio::test]
async fn l10_an_adopted_command_can_be_killed_with_all_that_it_has_started() {
    let rig = Rig::new();
    let command = "(setsid sleep 1000 & echo $! > far); echo $$ > pid; exec sleep 1000";
    let pid = rig.orphan(rig.bash_request(command), "pid").await;
    let far = rig.pid_in("far").await;
    let (adoption, call) = rig.adopt().await;
    assert_eq!(adoption, Adoption::Running);
    call.handle.kill();
    assert!(call.done().await.output.starts_with("[stopped on request"));
    assert!(!is_alive(pid) && !is_alive(far));
}

#[tokio::test]
async fn l10_an_adopted_command_whose_supervisor_dies_is_an_answer() {
    let rig = Rig::new();
    let pid = rig
        .orphan(rig.bash_request("echo $$ > pid; exec sleep 1000"), "pid")
        .await;
    let (adoption, call) = rig.adopt().await;
    assert_eq!(adoption, Adoption::Running);
    signal(rig.supervisor().await, Signal::KILL);
    let done = call.done().await;
    assert!(
        done.output.contains("the supervisor of this command died"),
        "{}",
        done.output
    );
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn l8_a_command_that_is_left_runs_on_until_it_is_adopted() {
    let rig = Rig::new();
    let command = "echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late";
    let mut call = rig.start_bash(command);
    let pid = rig.pid_in("pid").await;
    call.handle.leave();
    loop {
        match call.events.recv().await.expect("a last event") {
            ToolEvent::Left => break,
            ToolEvent::Output { .. } => {}
            other => panic!("not left: {other:?}"),
        }
    }
    assert!(is_alive(pid));
    let (adoption, call) = rig.adopt().await;
    assert_eq!(adoption, Adoption::Running);
    fs::write(rig.cwd().join("go"), "").expect("written");
    assert_eq!(call.done().await.output, "late\n");
}

#[tokio::test]
async fn l10_a_watcher_that_was_told_to_stop_its_command_is_waited_for() {
    let rig = Rig::new();
    let call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    let pid = rig.pid_in("pid").await;
    call.handle.kill();
    let (adoption, _) = rig.adopt().await;
    assert!(matches!(adoption, Adoption::Killed(_)), "{adoption:?}");
    assert!(!is_alive(pid));
}

#[tokio::test]
async fn t10_a_deadline_is_kept_without_a_server() {
    let rig = Rig::new();
    let mut request = rig.bash_request("echo $$ > pid; exec sleep 1000");
    request.deadline_ms = 700;
    let pid = rig.orphan(request, "pid").await;
    until("its deadline has come", || !is_alive(pid)).await;
    assert_eq!(rig.run_file("exit").await["reason"], "deadline");
}

#[tokio::test]
async fn p4_secrets_of_the_server_are_not_in_a_commands_environment() {
    let rig = Rig::new();
    // Its parent's, the supervisor's, is open to it as well.
    let command = "env > seen; tr '\\0' '\\n' < /proc/$PPID/environ >> seen";
    let secrets = [
        ("OPENAI_API_KEY", "sk-hidden"),
        ("DATABASE_URL", "postgres://me:hidden@db"),
        ("DISPATCH_TOKEN", "t-hidden"),
        ("Mail_Password", "p-hidden"),
        ("PLAIN_SETTING", "shown"),
    ];
    let mut server = server_process(rig.root.path(), command, &secrets);
    assert!(server.wait().expect("it ends").success());
    let seen = fs::read_to_string(rig.cwd().join("seen")).expect("readable");
    assert_eq!(seen.matches("PLAIN_SETTING=shown").count(), 2, "{seen}");
    assert!(!seen.contains("hidden"), "{seen}");
}

#[tokio::test]
async fn a_run_directory_that_vanishes_is_an_answer_and_leaves_nothing_behind() {
    let rig = Rig::new();
    let call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    let pid = rig.pid_in("pid").await;
    let supervisor = rig.supervisor().await;
    fs::remove_dir_all(rig.run_dir()).expect("removed");
    call.handle.kill();
    let done = call.done().await;
    assert!(!done.ok);
    // It had been started: the model must not take it for undone.
    assert!(
        done.output.starts_with("interrupted, outcome unknown")
            && done.output.contains("check the data directory"),
        "{}",
        done.output
    );
    assert!(!is_alive(pid) && !is_alive(supervisor));
}

#[tokio::test]
async fn l10_a_dead_supervisor_is_an_answer_and_its_tree_dies() {
    let rig = Rig::new();
    // Without parent, session and group: only its mark tells whose it is.
    let call = rig.start_bash(
        "(setsid bash -c 'echo $$ > far; exec sleep 1000' &); echo $$ > pid; sleep 1000",
    );
    let (pid, far) = (rig.pid_in("pid").await, rig.pid_in("far").await);
    signal(rig.supervisor().await, Signal::KILL);
    let done = call.done().await;
    assert!(!done.ok);
    assert!(
        done.output.contains("the supervisor of this command died"),
        "{}",
        done.output
    );
    assert!(!is_alive(pid) && !is_alive(far));
}

#[tokio::test]
async fn l10_reap_ends_what_a_dead_supervisor_left() {
    let rig = Rig::new();
    let command = "sleep 1000 & echo $! > child; env -i sleep 1000 & echo $! > bare; wait";
    let bare = rig.orphan(rig.bash_request(command), "bare").await;
    let child = rig.pid_in("child").await;
    let supervisor = rig.supervisor().await;
    signal(supervisor, Signal::KILL);
    until("it is dead", || !is_alive(supervisor)).await;
    assert!(is_alive(child) && is_alive(bare));
    let done = killed(rig.reap().await);
    assert!(
        done.output.contains("the outcome is unknown"),
        "{}",
        done.output
    );
    assert!(!is_alive(child) && !is_alive(bare));
}

#[tokio::test]
async fn l10_a_supervisor_that_is_stopped_is_killed_with_its_tree() {
    let rig = Rig::new();
    let pid = rig
        .orphan(rig.bash_request("echo $$ > pid; exec sleep 1000"), "pid")
        .await;
    let supervisor = rig.supervisor().await;
    signal(supervisor, Signal::STOP);
    killed(rig.reap().await);
    assert!(!is_alive(pid) && !is_alive(supervisor));
}

#[tokio::test]
async fn l10_a_pid_that_was_reused_is_not_killed() {
    let rig = Rig::new();
    let pid = rig
        .orphan(rig.bash_request("echo $$ > pid; exec sleep 1000"), "pid")
        .await;
    let supervisor = rig.supervisor().await;
    let innocent = Innocent::new();
    // The files now claim an innocent process, under a start time that is a
    // tick before its own: it took over the pid.
    let mut pids: Value = rig.run_file("pid").await;
    let before = start_ticks(innocent.0.id()) - 1;
    let claimed = json!({ "pid": innocent.0.id(), "pgid": innocent.0.id(), "start_ticks": before });
    for role in ["supervisor", "command"] {
        pids[role] = claimed.clone();
    }
    fs::write(rig.run_dir().join("pid"), pids.to_string()).expect("written");
    signal(supervisor, Signal::KILL);
    until("it is dead", || !is_alive(supervisor)).await;
    rig.reap().await;
    assert!(!is_alive(pid), "its mark still tells whose it is");
    assert!(is_alive(innocent.0.id()));
}

#[tokio::test]
async fn l10_pids_of_an_earlier_boot_name_nobody() {
    let rig = Rig::new();
    rig.orphan(
        rig.bash_request("echo $$ > pid; exec env -i sleep 1000"),
        "pid",
    )
    .await;
    let supervisor = rig.supervisor().await;
    let innocent = Innocent::new();
    let mut pids: Value = rig.run_file("pid").await;
    let claimed = json!({
        "pid": innocent.0.id(), "pgid": innocent.0.id(), "start_ticks": start_ticks(innocent.0.id()),
    });
    let command = pids["command"]["pid"].as_u64().expect("a pid");
    pids["command"] = claimed;
    pids["boot_id"] = json!("another-boot");
    fs::write(rig.run_dir().join("pid"), pids.to_string()).expect("written");
    signal(supervisor, Signal::KILL);
    until("it is dead", || !is_alive(supervisor)).await;
    rig.reap().await;
    assert!(is_alive(innocent.0.id()));
    // Neither mark nor trusted pid: left alone by the rule, ended by the test.
    signal(u32::try_from(command).expect("a pid"), Signal::KILL);
}

/// A supervisor that waits for a file `go` before it begins.
struct SlowSupervisor {
    dir: tempfile::TempDir,
}

impl SlowSupervisor {
    fn new() -> SlowSupervisor {
        let dir = tempfile::tempdir().expect("a directory");
        let script = format!(
            "#!/bin/sh\necho $$ > {0}/pid\nuntil [ -e {0}/go ]; do sleep 0.01; done\nexec {BINARY} \"$@\"\n",
            dir.path().display()
        );
        // Written by another process: while a parallel test forks, its child
        // would hold our own writer open, and execution fail with ETXTBSY.
        let written = Command::new("sh")
            .args(["-c", "printf %s \"$1\" > \"$2\" && chmod 700 \"$2\"", "sh"])
            .arg(&script)
            .arg(dir.path().join("slow"))
            .status();
        assert!(written.expect("sh runs").success());
        SlowSupervisor { dir }
    }

    fn rig(&self) -> Rig {
        Rig::with(|config| config.supervisor_binary = self.dir.path().join("slow"))
    }

    async fn pid(&self) -> u32 {
        let file = self.dir.path().join("pid");
        let read = || fs::read_to_string(&file).ok()?.trim().parse::<u32>().ok();
        until("the slow one has begun", || read().is_some()).await;
        read().expect("a pid")
    }

    async fn go_and_end(&self) {
        let pid = self.pid().await;
        fs::write(self.dir.path().join("go"), "").expect("written");
        until("the supervisor has come and gone", || !is_alive(pid)).await;
    }
}

#[tokio::test]
async fn l10_a_supervisor_that_starts_after_the_reaper_starts_nothing() {
    let slow = SlowSupervisor::new();
    let rig = slow.rig();
    let mut call = rig.start_bash("echo > ran");
    slow.pid().await;
    call.handle.leave();
    assert_eq!(call.events.recv().await, Some(ToolEvent::Left));
    // Nobody is at `control` yet: as a dead server's run that never began.
    killed(rig.adopt().await.0);
    slow.go_and_end().await;
    assert!(!rig.cwd().join("ran").exists());
}

#[tokio::test]
async fn l10_a_supervisor_that_starts_while_its_run_is_being_revoked_starts_nothing() {
    let slow = SlowSupervisor::new();
    let rig = slow.rig();
    let call = rig.start_bash("echo > ran");
    slow.pid().await;
    fs::write(rig.run_dir().join("revoked"), "").expect("written");
    slow.go_and_end().await;
    assert!(call.done().await.output.starts_with("[stopped on request"));
    assert!(!rig.cwd().join("ran").exists());
    assert_eq!(rig.run_file("exit").await["reason"], "killed");
}

#[tokio::test]
async fn d37_what_nobody_watches_is_found_and_ended_turn_by_turn() {
    let rig = Rig::new();
    let mut pids = Vec::new();
    for n in 0..3 {
        let command = format!("echo $$ > pid{n}; exec sleep 1000");
        let mut request = rig.request("bash", json!({ "command": command }));
        request.call_id = format!("call_{n}");
        if n == 2 {
            request.turn = OTHER_TURN;
        }
        pids.push(rig.orphan(request, &format!("pid{n}")).await);
    }
    assert_eq!(rig.exec.unattended().await, [TURN, OTHER_TURN]);
    let report = rig.exec.end_unattended(vec![TURN]).await;
    assert_eq!((report.killed, report.failures), (2, Vec::new()));
    assert!(!is_alive(pids[0]) && !is_alive(pids[1]) && is_alive(pids[2]));
    assert_eq!(rig.exec.unattended().await, [OTHER_TURN]);
    assert_eq!(rig.exec.end_unattended(vec![OTHER_TURN]).await.killed, 1);
    assert!(!is_alive(pids[2]));
    assert_eq!(rig.exec.unattended().await, []);
    let report = rig.exec.sweep_runs(RunBounds::default()).await;
    assert_eq!(report.kept, 3, "their results are kept");
}

#[tokio::test]
async fn a_sweep_leaves_this_servers_own_commands_alone() {
    let rig = Rig::new();
    let call = rig.start_bash("echo $$ > pid; exec sleep 1000");
    let pid = rig.pid_in("pid").await;
    let none = RunBounds {
        max_age_ms: 0,
        max_runs: 0,
        max_bytes: 0,
    };
    let report = rig.exec.sweep_runs(none).await;
    assert_eq!(report, SweepReport::default());
    assert!(is_alive(pid));
    call.handle.kill();
    assert!(!call.done().await.ok);
}

#[tokio::test]
async fn o5_a_sweep_removes_the_oldest_runs_beyond_its_bounds() {
    let rig = Rig::new();
    for n in 0..5 {
        let mut request = rig.request("bash", json!({"command": "printf 0123456789"}));
        request.call_id = format!("call_{n}");
        assert!(rig.start(request).done().await.ok);
    }
    let turn_dir = rig
        .run_dir()
        .parent()
        .expect("a turn's directory")
        .to_owned();
    let left = || {
        let mut names: Vec<String> = fs::read_dir(&turn_dir)
            .map(|entries| {
                entries
                    .flatten()
                    .map(|e| e.file_name().to_string_lossy().into_owned())
            })
            .map(Iterator::collect)
            .unwrap_or_default();
        names.sort();
        names
    };
    let by_count = RunBounds {
        max_runs: 3,
        ..RunBounds::default()
    };
    assert_eq!(rig.exec.sweep_runs(by_count).await.removed, 2);
    assert_eq!(left(), ["call_2-e3", "call_3-e3", "call_4-e3"]);
    let by_bytes = RunBounds {
        max_bytes: 25,
        ..RunBounds::default()
    };
    assert_eq!(rig.exec.sweep_runs(by_bytes).await.removed, 1);
    assert_eq!(left(), ["call_3-e3", "call_4-e3"]);
    let begun = std::time::SystemTime::now();
    until("the clock has moved", || {
        begun.elapsed().is_ok_and(|d| d > Duration::from_millis(2))
    })
    .await;
    let by_age = RunBounds {
        max_age_ms: 1,
        ..RunBounds::default()
    };
    assert_eq!(rig.exec.sweep_runs(by_age).await.removed, 2);
    assert!(
        !turn_dir.exists(),
        "the turn's directory went with its last run"
    );
}

#[tokio::test]
async fn a_damaged_run_does_not_stop_the_sweep_and_is_named() {
    let rig = Rig::new();
    assert!(rig.bash("true").await.ok);
    fs::write(rig.run_dir().join("exit"), "{").expect("written");
    let report = rig.exec.sweep_runs(RunBounds::default()).await;
    assert_eq!(report.kept, 1);
    assert!(
        report.failures[0].contains("is not a run file"),
        "{report:?}"
    );
    match rig.adopt().await.0 {
        Adoption::Stuck { cause } => assert!(cause.contains("damaged"), "{cause}"),
        other => panic!("not stuck: {other:?}"),
    }
}
