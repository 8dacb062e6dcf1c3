//! Runs that nobody watches, and those that are over (L10, O5).

use std::fs;

use dispatch::exec::{RunBounds, SweepReport};
use dispatch_core::ids::TurnId;

use crate::rig::{TURN, is_alive, rig};

const OTHER_TURN: TurnId = TurnId(TURN.0 + 1);

#[tokio::test]
async fn l10_what_nobody_watches_is_found_and_ended_by_turns() {
    let Some(rig) = rig() else { return };
    let first = rig
        .orphan(
            rig.bash_request("echo $$ > first; exec sleep 1000"),
            "first",
        )
        .await;
    let mut request = rig.bash_request("echo $$ > second; exec sleep 1000");
    request.turn = OTHER_TURN;
    let second = rig.orphan(request, "second").await;
    let mut watched = rig.bash_request("echo $$ > third; exec sleep 1000");
    watched.call_id = "watched".to_owned();
    let call = rig.start(watched);
    let third = rig.pid_in("third").await;
    let found = rig.tools().unattended().await.expect("asked");
    assert_eq!(found, [TURN, OTHER_TURN]);
    let report = rig.tools().end_unattended(vec![TURN]).await;
    assert_eq!((report.killed, report.failures), (1, vec![]));
    assert!(!is_alive(first) && is_alive(second) && is_alive(third));
    let all = vec![TURN, OTHER_TURN];
    let report = rig.tools().end_unattended(all.clone()).await;
    assert_eq!((report.killed, report.failures), (1, vec![]));
    assert_eq!(rig.tools().unattended().await.expect("asked"), []);
    // Another server life watches nothing of it.
    let report = rig
        .other_server()
        .over(rig.link())
        .end_unattended(all)
        .await;
    assert_eq!(report.killed, 1);
    let done = call.done().await;
    assert!(
        done.output.starts_with("[stopped on request"),
        "{}",
        done.output
    );
    assert!(!is_alive(second) && !is_alive(third));
}

#[tokio::test]
async fn o5_finished_runs_beyond_the_bounds_are_removed_the_oldest_first() {
    let Some(rig) = rig() else { return };
    for n in 0..4 {
        let mut request = rig.bash_request("head -c 1000 /dev/zero | tr '\\0' x");
        request.call_id = format!("call_{n}");
        assert!(rig.start(request).done().await.ok);
        // Far enough apart for any clock.
        let exit = rig.runs_dir().join(format!("{TURN}/call_{n}-e3/exit"));
        let line = fs::read_to_string(&exit).expect("readable");
        let at = line
            .split("ended_ms=")
            .nth(1)
            .expect("there")
            .split(' ')
            .next()
            .expect("there");
        let later = at.parse::<u64>().expect("a number") - (3 - n) * 3_600_000;
        fs::write(&exit, line.replace(at, &later.to_string())).expect("written");
    }
    let mut request = rig.bash_request("echo $$ > pid; exec sleep 1000");
    request.turn = OTHER_TURN;
    let pid = rig.orphan(request, "pid").await;
    let sweep = |bounds| rig.tools().sweep_runs(bounds);
    let all = RunBounds::default();
    let report = |removed, kept| SweepReport {
        removed,
        kept,
        failures: vec![],
    };
    assert_eq!(sweep(all).await, report(0, 4));
    assert_eq!(sweep(RunBounds { max_runs: 3, ..all }).await, report(1, 3));
    assert_eq!(
        sweep(RunBounds {
            max_bytes: 2_500,
            ..all
        })
        .await,
        report(1, 2)
    );
    assert_eq!(
        sweep(RunBounds {
            max_age_ms: 1_800_000,
            ..all
        })
        .await,
        report(1, 1)
    );
    assert!(
        rig.runs_dir().join(format!("{TURN}/call_3-e3")).exists(),
        "the newest stays"
    );
    assert_eq!(sweep(RunBounds { max_runs: 0, ..all }).await, report(1, 0));
    assert!(!rig.runs_dir().join(TURN.to_string()).exists());
    assert!(is_alive(pid), "what runs is no finished run");
    let report = rig.tools().end_unattended(vec![OTHER_TURN]).await;
    assert_eq!(report.killed, 1);
}
