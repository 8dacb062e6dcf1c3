//! What goes wrong over a good link costs the call concerned and nothing else
//! (S4, L7).

use std::fs;

use dispatch::exec::{Adoption, ToolDone, ToolEvent};
use serde_json::json;

use crate::rig::{Call, Rig, is_alive, rig, until};

/// A request of a call of its own.
fn file_request(rig: &Rig, name: &str, call: &str) -> dispatch::exec::ToolRequest {
    let input = match name {
        "read" => json!({ "path": "f" }),
        _ => json!({ "path": "f", "content": "new" }),
    };
    let mut request = rig.request(name, input);
    request.call_id = call.to_owned();
    request
}

fn is_named(rig: &Rig, done: &ToolDone, said: &str) {
    let path = rig.cwd().join("f").display().to_string();
    assert!(!done.ok, "{}", done.output);
    for part in [&path, "far", said] {
        assert!(done.output.contains(part), "{part}: {}", done.output);
    }
}

#[tokio::test]
async fn s4_a_file_that_does_not_answer_costs_its_call_and_no_command_beside_it() {
    let Some(rig) = rig() else { return };
    fs::write(rig.cwd().join("f"), "old\n").expect("written");
    let link = rig.link();
    let tools = rig.exec.over(link.clone());
    let command = rig.bash_request("until [ -e go ]; do sleep 0.01; done; echo went");
    let mut running = Call::start(&tools, command, 0);
    assert_eq!(running.next().await, ToolEvent::Adopted(Adoption::Running));
    let read = |n: &str| Call::start(&tools, file_request(&rig, "read", n), 0);
    assert_eq!(read("r1").done().await.output, "old\n");
    link.be_impatient().await;
    link.hold_tool_files();
    let (hung_read, hung_write) = (
        read("r2"),
        Call::start(&tools, file_request(&rig, "write", "w1"), 0),
    );
    fs::write(rig.cwd().join("go"), "").expect("written");
    assert_eq!(
        running.done().await.output,
        "went\n",
        "it is watched all the while"
    );
    is_named(&rig, &hung_read.done().await, "has not answered for ");
    is_named(&rig, &hung_write.done().await, "outcome unknown");
    link.release_tool_files();
    assert_eq!(read("r3").done().await.output, "old\n");
    assert_eq!(link.sessions(), 2, "one for the runs and one for the tools");
}

#[tokio::test]
async fn s4_a_file_server_that_dies_costs_no_link_and_a_read_not_even_its_call() {
    let Some(rig) = rig() else { return };
    fs::write(rig.cwd().join("f"), "old\n").expect("written");
    for name in ["read", "write"] {
        let link = rig.link();
        let tools = rig.exec.over(link.clone());
        let first = Call::start(&tools, file_request(&rig, "read", "first"), 0);
        assert!(first.done().await.ok);
        link.hold_tool_files();
        let asked = link.asked_bytes();
        let call = Call::start(&tools, file_request(&rig, name, "second"), 0);
        until("it is under way", || link.asked_bytes() > asked).await;
        link.end_tool_files();
        link.release_tool_files();
        let done = call.done().await;
        match name {
            "read" => assert_eq!(done.output, "old\n"),
            _ => is_named(&rig, &done, "outcome unknown"),
        }
        let last = Call::start(&tools, file_request(&rig, "read", "last"), 0);
        assert!(last.done().await.ok);
    }
}

#[tokio::test]
async fn s4_sessions_that_are_not_granted_at_once_are_waited_for() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    link.refuse_sessions(3);
    let call = rig.start_on(link, rig.bash_request("echo fine"));
    assert_eq!(call.done().await.output, "fine\n");
}

#[tokio::test]
async fn s4_a_look_without_file_transfer_knows_nothing_and_leaves_the_link() {
    let Some(rig) = rig() else { return };
    let pid = rig
        .orphan(rig.bash_request("echo $$ > pid; exec sleep 1000"), "pid")
        .await;
    let link = rig.link();
    link.have_no_files();
    let mut call = rig.adopt_on(link, rig.call(3, 0), 0);
    let cause = call.until_unknown().await;
    assert!(cause.contains("no file transfer"), "{cause}");
    assert!(is_alive(pid), "somebody has to see to its end");
    rig.tools().kill(rig.call(3, 0)).await.expect("killed");
}

#[tokio::test]
async fn l7_a_bug_in_a_start_or_a_look_is_told_as_a_command_that_may_run() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    let request = rig.bash_request("echo $$ > pid; exec sleep 1000");
    let mut call = rig.start_on(link.clone(), request);
    let pid = rig.pid_in("pid").await;
    assert_eq!(call.next().await, ToolEvent::Adopted(Adoption::Running));
    link.break_at_files();
    link.end_files();
    let cause = call.until_unknown().await;
    assert!(cause.contains("broke off"), "{cause}");
    let mut look = rig.adopt_on(link, rig.call(3, 0), 0);
    let cause = look.until_unknown().await;
    assert!(cause.contains("broke off"), "{cause}");
    assert!(is_alive(pid), "somebody has to see to its end");
    rig.tools().kill(rig.call(3, 0)).await.expect("killed");
}

#[tokio::test]
async fn s4_a_computer_that_does_not_answer_holds_up_no_other_and_no_command_of_its_own() {
    let Some(rig) = rig() else { return };
    let (slow, other) = (rig.link(), rig.link());
    let (slow_tools, other_tools) = (rig.exec.over(slow.clone()), rig.exec.over(other));
    let command = rig.bash_request("until [ -e go ]; do sleep 0.01; done; echo went");
    let mut running = Call::start(&slow_tools, command, 0);
    assert_eq!(running.next().await, ToolEvent::Adopted(Adoption::Running));
    slow.hold_commands();
    let asked = slow.asked();
    let questions: Vec<_> = (0..3)
        .map(|_| tokio::spawn(slow_tools.unattended()))
        .collect();
    until("one has been asked", || slow.asked() > asked).await;
    assert_eq!(other_tools.unattended().await.expect("asked"), []);
    assert_eq!(slow.asked(), asked + 1, "one question at a time");
    fs::write(rig.cwd().join("go"), "").expect("written");
    assert_eq!(running.done().await.output, "went\n");
    questions.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn s5_runs_are_where_file_transfer_begins_whatever_the_shell_calls_home() {
    let Some(rig) = rig() else { return };
    let elsewhere = rig.root.path().join("it's elsewhere");
    fs::create_dir(&elsewhere).expect("a directory");
    let mut request = rig.bash_request("pwd; until [ -e go ]; do sleep 0.01; done; echo went");
    request.cwd = "".into();
    let link = rig.link_beginning_at(&elsewhere);
    let mut call = rig.start_on(link.clone(), request);
    assert_eq!(call.next().await, ToolEvent::Adopted(Adoption::Running));
    call.handle.leave();
    let call = rig.adopt_on(link.clone(), rig.call(4, 0), 0);
    let tools = rig.other_server().over(link);
    assert_eq!(tools.unattended().await.expect("asked"), [crate::rig::TURN]);
    fs::write(elsewhere.join("go"), "").expect("written");
    let done = call.done().await;
    assert_eq!(done.output, format!("{}\nwent\n", elsewhere.display()));
    assert!(!rig.home().join(".cache").exists());
}

#[tokio::test]
async fn s5_a_computer_that_shows_two_views_of_itself_is_refused_in_words() {
    for (there, wanted) in [
        (true, "stopped as soon as it was started"),
        (false, "was not started"),
    ] {
        let Some(rig) = rig() else { return };
        let other = rig.root.path().join("other");
        if there {
            fs::create_dir(&other).expect("a directory");
        }
        let script = format!(
            "#!/bin/sh\nsed 's#{}#{}#g' | sh -c 'eval \"$(cat)\"'\n",
            rig.home().display(),
            other.display()
        );
        let link = rig.link_by(&rig.script(&script));
        let call = rig.start_on(link, rig.bash_request("echo $$ > pid; exec sleep 1000"));
        let done = call.done().await;
        assert!(!done.ok);
        for part in [wanted, "see different files"] {
            assert!(done.output.contains(part), "{}", done.output);
        }
        if let Ok(pid) = fs::read_to_string(rig.cwd().join("pid")) {
            assert!(!is_alive(pid.trim().parse().expect("a pid")));
        }
    }
}
