//! A lost link loses nothing, and nothing runs twice (S5, D21).

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use dispatch::exec::remote::RemoteCall;
use dispatch::exec::{Adoption, ToolDone, ToolEvent};
use dispatch_core::ids::Epoch;

use crate::rig::{Call, Rig, is_alive, random, rig, until};

#[tokio::test]
async fn s5_a_link_cut_anywhere_loses_nothing_and_the_command_runs_once() {
    let Some(rig) = rig() else { return };
    let command =
        "echo x >> ran; for i in $(seq 1 300); do echo line $i; sleep 0.005; done; exit 6";
    let done = see_through(&rig, command).await;
    let whole: String = (1..=300).map(|i| format!("line {i}\n")).collect();
    assert_eq!(done.output, format!("{whole}[exit code 6]"));
    assert_eq!(
        fs::read_to_string(rig.cwd().join("ran")).expect("readable"),
        "x\n"
    );
}

/// As the pool does: over link after link, of which three are cut at random.
async fn see_through(rig: &Rig, command: &str) -> ToolDone {
    let (mut attempt, mut may_run) = (0, false);
    for cuts in 0.. {
        let link = rig.link();
        if cuts < 3 {
            link.cut_after(random(6_000) as i64);
        }
        let mut call = if may_run {
            rig.adopt_on(link, rig.call(3, attempt), 0)
        } else {
            rig.start_try(link, rig.bash_request(command), attempt)
        };
        may_run = true;
        loop {
            match call.next().await {
                ToolEvent::Output { .. } | ToolEvent::Adopted(Adoption::Running) => {}
                ToolEvent::LinkLost { .. } => break,
                ToolEvent::Done(done) | ToolEvent::Adopted(Adoption::AlreadyFinished(done)) => {
                    return done;
                }
                ToolEvent::Adopted(Adoption::NotFound) => {
                    (attempt, may_run) = (attempt + 1, false);
                    break;
                }
                other => panic!("neither runs nor ended: {other:?}"),
            }
        }
    }
    unreachable!("the fourth link is not cut");
}

#[tokio::test]
async fn s5_a_preview_goes_on_where_it_was() {
    let Some(rig) = rig() else { return };
    let command =
        "echo begun; echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late; exit 5";
    rig.orphan(rig.bash_request(command), "pid").await;
    let (adoption, mut call) = rig.adopt_as(rig.call(3, 0), 6).await;
    assert_eq!(adoption, Adoption::Running);
    fs::write(rig.cwd().join("go"), "").expect("written");
    let (previews, done) = call.previews_and_done().await;
    assert_eq!(done.output, "begun\nlate\n[exit code 5]");
    assert!(
        previews.iter().all(|(offset, _)| *offset >= 6),
        "{previews:?}"
    );
}

#[tokio::test]
async fn l10_a_server_that_knows_nothing_finds_what_ended_and_what_runs() {
    let Some(rig) = rig() else { return };
    let pid = rig
        .orphan(
            rig.bash_request("echo $$ > pid; until [ -e go ]; do sleep 0.01; done; exit 4"),
            "pid",
        )
        .await;
    let (adoption, call) = rig.adopt().await;
    assert_eq!(adoption, Adoption::Running);
    call.handle.leave();
    fs::write(rig.cwd().join("go"), "").expect("written");
    until("it has ended", || !is_alive(pid)).await;
    rig.exit_line().await;
    for _ in 0..2 {
        match rig.adopt().await.0 {
            Adoption::AlreadyFinished(done) => assert_eq!(done.output, "[exit code 4]"),
            other => panic!("not finished: {other:?}"),
        }
    }
}

#[tokio::test]
async fn s5_a_start_whose_answer_was_lost_is_found() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    let tools = rig.exec.over(link.clone());
    let mut earlier = rig.bash_request("true");
    earlier.call_id = "an earlier one".to_owned();
    assert!(Call::start(&tools, earlier, 0).done().await.ok);
    link.lose_answers();
    let command = "echo x >> ran; until [ -e go ]; do sleep 0.01; done; echo went";
    let mut call = Call::start(&tools, rig.bash_request(command), 0);
    assert_eq!(call.until_lost().await, None);
    let (adoption, call) = rig.adopt_as(rig.call(3, 0), 0).await;
    assert_eq!(adoption, Adoption::Running);
    fs::write(rig.cwd().join("go"), "").expect("written");
    assert_eq!(call.done().await.output, "went\n");
    assert_eq!(
        fs::read_to_string(rig.cwd().join("ran")).expect("readable"),
        "x\n"
    );
}

#[tokio::test]
async fn d21_a_start_that_comes_after_a_look_starts_nothing() {
    let Some(rig) = rig() else { return };
    assert_eq!(rig.adopt_as(rig.call(4, 1), 0).await.0, Adoption::NotFound);
    for (epoch, attempt, runs) in [
        (3, 0, false),
        (3, 7, false),
        (4, 0, false),
        (4, 1, false),
        (4, 2, true),
    ] {
        let mut request = rig.bash_request("echo x >> ran");
        request.epoch = Epoch(epoch);
        let done = rig.start_try(rig.link(), request, attempt).done().await;
        assert_eq!(done.ok, runs, "{epoch}.{attempt}: {}", done.output);
    }
    assert_eq!(
        fs::read_to_string(rig.cwd().join("ran")).expect("readable"),
        "x\n"
    );
    // Asked again, it is what was started that is found.
    let found = rig.adopt_as(rig.call(5, 0), 0).await.0;
    assert!(matches!(found, Adoption::AlreadyFinished(_)), "{found:?}");
}

#[tokio::test]
async fn d21_a_start_that_races_a_look_is_either_found_or_starts_nothing() {
    let Some(rig) = rig() else { return };
    let rig = Arc::new(rig);
    for n in 0..40u64 {
        let call_id = format!("race_{n}");
        let mut request = rig.bash_request(&format!("echo x > ran_{n}"));
        request.call_id = call_id.clone();
        let call = rig.start(request);
        tokio::time::sleep(std::time::Duration::from_millis(random(60))).await;
        let look = RemoteCall {
            call_id,
            ..rig.call(4, 0)
        };
        let (adoption, looking) = rig.adopt_as(look, 0).await;
        let found = match adoption {
            Adoption::NotFound => false,
            Adoption::Running => looking.done().await.ok,
            Adoption::AlreadyFinished(done) | Adoption::Killed(done) => done.ok,
            other @ Adoption::Stuck { .. } => panic!("{other:?}"),
        };
        let started = call.done().await;
        assert_eq!(started.ok, found, "{}", started.output);
        assert_eq!(rig.cwd().join(format!("ran_{n}")).exists(), found);
    }
}

#[tokio::test]
async fn channels_that_are_not_granted_at_once_are_waited_for() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    link.refuse(3);
    let done = rig
        .start_on(link.clone(), rig.bash_request("echo fine"))
        .done()
        .await;
    assert_eq!(done.output, "fine\n");
    // Its clock, and the start.
    assert_eq!(link.execs(), 2);
}

#[tokio::test]
async fn l8_a_command_that_is_left_runs_on_until_it_is_adopted() {
    let Some(rig) = rig() else { return };
    let mut call = rig.start_bash("echo $$ > pid; until [ -e go ]; do sleep 0.01; done; echo late");
    let pid = rig.pid_in("pid").await;
    call.handle.leave();
    loop {
        match call.next().await {
            ToolEvent::Left => break,
            ToolEvent::Output { .. } | ToolEvent::Adopted(Adoption::Running) => {}
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
async fn s5_a_hundred_commands_over_one_link_each_get_their_own_answer() {
    let Some(rig) = rig() else { return };
    let link = rig.link();
    let tools = rig.exec.over(link.clone());
    let calls: Vec<_> = (0..100)
        .map(|n| {
            let mut request = rig.bash_request(&format!("echo {n}; exit {n}"));
            request.call_id = format!("call_{n}");
            Call::start(&tools, request, 0)
        })
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        let done = call.done().await;
        assert_eq!(done.ok, n == 0);
        assert!(
            done.output.starts_with(&format!("{n}\n")),
            "{}",
            done.output
        );
    }
    // One for the clock, one for each start and none to watch; on a machine that is this busy, a
    // guard may be silent for so long that it is asked after.
    assert!((101..111).contains(&link.execs()), "{}", link.execs());
}

/// What is on its way when its link is lost may arrive much later.
#[tokio::test]
async fn l2_a_start_that_arrives_when_it_is_nobodys_any_more_begins_nothing() {
    let Some(rig) = rig() else { return };
    let request = || rig.bash_request("echo x >> ran");
    let tools = rig.tools();
    let done = Call::start_within(&tools, request(), 0, Duration::ZERO)
        .done()
        .await;
    assert!(!done.ok, "{done:?}");
    assert!(done.output.contains("came too late"), "{}", done.output);
    assert!(!rig.cwd().join("ran").exists());
    assert!(Call::start(&tools, request(), 1).done().await.ok);
    let ran = fs::read_to_string(rig.cwd().join("ran")).expect("readable");
    assert_eq!(ran, "x\n");
}
