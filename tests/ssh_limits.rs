//! What other computers are not to be overrun with, nor this server by them:
//! many commands at the same time, commands that leave something behind, and
//! output without end (S4, S5, T8).

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::json;

use support::census::memory_bytes;
use support::client::{count, said};
use support::world::bash;
use support::yard::{Yard, result};
use support::{is_alive, lines, until_true};

const COMMANDS: usize = 100;

#[test]
fn s4_a_hundred_commands_at_the_same_time_share_one_connection() {
    let Some((yard, far)) = Yard::with_far(COMMANDS as u32) else {
        return;
    };
    let (ran, go) = (yard.file("ran"), yard.file("go"));
    let turns: Vec<_> = (0..COMMANDS)
        .map(|n| {
            let command = format!(
                "echo $$ >> {}; until [ -e {} ]; do sleep 1; done; echo \"number $((3 * {n}))\"",
                ran.display(),
                go.display()
            );
            let script = json!([bash(&command), format!("{n} ends")]);
            yard.submit(&format!("c{n}"), "far", &script)
        })
        .collect();
    until_true("all of them run", || lines(&ran).len() == COMMANDS);
    until_true("all of them are watched", || {
        yard.computer("far")["runs"] == COMMANDS
    });
    assert_eq!((far.wire.made(), far.sshd.sessions().len()), (1, 1));
    std::fs::write(&go, "").unwrap();
    for (n, at) in turns.iter().enumerate() {
        let log = yard.server.outcome(at);
        assert_eq!(said(&log), format!("{n} ends"), "{log:#?}");
        assert_eq!(result(&log).trim_end(), format!("number {}", 3 * n));
    }
    assert_eq!(far.wire.made(), 1, "one connection carried it all");
    assert_eq!(lines(&ran).len(), COMMANDS, "each ran once");
}

#[test]
fn d28_a_command_that_leaves_a_process_with_its_output_open_comes_back() {
    let Some((yard, _far)) = Yard::with_far(8) else {
        return;
    };
    let pids = yard.file("pids");
    for (conversation, daemon) in [
        ("child", "sleep 1000 & echo $! >>"),
        ("daemon", "setsid sh -c 'exec sleep 1000' & echo $! >>"),
    ] {
        let command = format!("{daemon} {}; echo started; exit 3", pids.display());
        let script = json!([bash(&command), "back"]);
        let at = yard.submit(conversation, "far", &script);
        let log = yard.server.outcome(&at);
        assert_eq!(said(&log), "back", "{log:#?}");
        assert_eq!(result(&log), "started\n[exit code 3]");
    }
    let left = lines(&pids);
    assert_eq!(left.len(), 2);
    for pid in left {
        assert!(is_alive(pid.parse().unwrap()), "it was not to be ended");
    }
}

/// What is kept of one command's output on its computer.
const KEPT_BYTES: u64 = 64 << 20;

#[test]
fn t8_d27_a_gigabyte_of_output_is_bounded_there_here_and_in_between() {
    let Some((yard, far)) = Yard::with_far(8) else {
        return;
    };
    let before = memory_bytes(yard.server.pid(), "VmHWM");
    let command = "yes | head -c 1G; echo THE-END";
    let at = yard.submit("much", "far", &json!([bash(command), "seen"]));
    let log = yard.server.outcome(&at);
    assert_eq!(said(&log), "seen", "{log:#?}");
    assert_eq!(count(&log, "tool-result"), 1);
    let told = result(&log);
    assert!(told.starts_with("y\ny\n"), "{:.100}", told);
    assert!(told.trim_end().ends_with("THE-END"), "{told:?}");
    assert!(told.len() < 60_000, "{}", told.len());
    let kept = far.outputs()[0].metadata().unwrap().len();
    assert!(
        (KEPT_BYTES..KEPT_BYTES + 64 * 1024).contains(&kept),
        "{kept}"
    );
    let carried = far.wire.carried();
    assert!(carried < 1 << 20, "{carried} bytes came over the link");
    let grown = memory_bytes(yard.server.pid(), "VmHWM") - before;
    assert!(grown < 64 << 20, "the server grew by {grown} bytes");
}
