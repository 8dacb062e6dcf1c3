//! A command on another computer whose link is cut three times, each time at a
//! random byte, and whose server is killed between two of the cuts (S5, L10).
//! `SSH_CUTS_SEED` chooses the bytes; `--ignored` plays a minute of it.

#![allow(clippy::unwrap_used)]

mod support;

use std::fmt::Write as _;
use std::io::Write as _;

use dispatch_core::output::HeadTail;
use serde_json::json;
use xxhash_rust::xxh3::xxh3_64;

use support::client::{count, said};
use support::world::bash;
use support::yard::{Far, Plot, Yard, result};
use support::{Chance, lines, until_true};

const CUTS: u64 = 3;
/// Beyond this a cut falls behind the next handshake and what is said first.
const MOST_BYTES: usize = 9_000;
/// Of ten each second.
const LINES_A_TICK: usize = 20;

#[test]
fn s5_a_command_survives_cuts_at_any_byte_and_its_server_and_is_answered_whole_and_once() {
    play(4);
}

#[test]
#[ignore = "takes more than a minute"]
fn s5_a_command_of_a_minute_survives_the_same() {
    play(60);
}

#[test]
fn s5_commands_whose_start_is_cut_at_any_byte_run_once() {
    starts(12);
}

#[test]
#[ignore = "takes minutes"]
fn s5_many_commands_whose_start_is_cut_at_any_byte_run_once() {
    starts(300);
}

/// Whatever is said until a command runs, its scripts among it.
const START_BYTES: usize = 45_000;

fn starts(rounds: usize) {
    let Some((yard, far, mut chance)) = scene() else {
        return;
    };
    for n in 0..rounds {
        let ran = yard.file(&format!("ran-{n}"));
        let command = format!("echo $$ >> {}; seq 1 200; exit 4", ran.display());
        // Over a link that is there, and over one that is not.
        if chance.one_in(2) {
            far.wire.cut();
        }
        let (before, byte) = (far.wire.cuts(), 1 + chance.below(START_BYTES) as u64);
        far.wire.cut_after(byte);
        let at = yard.submit(
            &format!("start-{n}"),
            "far",
            &json!([bash(&command), "told"]),
        );
        let log = yard.server.outcome(&at);
        let cuts = far.wire.cuts() - before;
        tell(&format!(
            "{n}: {cuts} cuts, {byte} bytes from its beginning"
        ));
        assert_eq!(said(&log), "told", "{log:#?}");
        let numbers: String = (1..=200).map(|n| format!("{n}\n")).collect();
        assert_eq!(result(&log), numbers + "[exit code 4]", "{log:#?}");
        assert_eq!(lines(&ran).len(), 1, "it ran once");
    }
}

/// A server, a computer, and a source of bytes to cut at.
fn scene() -> Option<(Yard, Far, Chance)> {
    let seed = std::env::var("SSH_CUTS_SEED").unwrap_or_else(|_| "1".to_owned());
    tell(&format!("seed {seed}"));
    let far = Far::start(&[])?;
    let mut plot = Plot::new();
    plot.add("far", &far, &[]);
    let terms = "backoff_ms = 100\nbackoff_max_ms = 400\nflaps = 100000\n";
    let yard = plot.open(8, terms, "");
    Some((yard, far, Chance::new(seed.parse().unwrap())))
}

fn play(seconds: usize) {
    let Some((mut yard, far, mut chance)) = scene() else {
        return;
    };
    let (ran, go) = (yard.file("ran"), yard.file("go"));
    let command = format!(
        "echo $$ >> {}; for ((n = 0; n < {}; n++)); do \
         for ((m = 0; m < {LINES_A_TICK}; m++)); do echo \"line $m of tick $n\"; done; sleep 0.1; \
         done; until [ -e {} ]; do sleep 0.05; done; exit 4",
        ran.display(),
        10 * seconds,
        go.display()
    );
    let expected = expected(10 * seconds);
    let at = yard.submit("long", "far", &json!([bash(&command), "told"]));
    for cut in 1..=CUTS {
        written(&far, expected.len() as u64 * (2 * cut - 1) / (2 * CUTS));
        let byte = 1 + chance.below(MOST_BYTES) as u64;
        tell(&format!("cut {cut} {byte} bytes from here"));
        far.wire.cut_after(byte);
        until_true("the link is cut", || far.wire.cuts() as u64 == cut);
        if cut == 1 {
            yard.server.crash_and_restart();
        }
    }
    written(&far, expected.len() as u64);
    std::fs::write(&go, "").unwrap();
    let log = yard.server.outcome(&at);
    assert_eq!(said(&log), "told", "{log:#?}");
    assert_eq!(count(&log, "tool-result"), 1);
    assert_eq!(lines(&ran).len(), 1, "it ran once");
    whole(&yard, &far, &expected, result(&log));
}

/// What the command writes.
fn expected(ticks: usize) -> String {
    let mut text = String::new();
    for n in 0..ticks {
        for m in 0..LINES_A_TICK {
            writeln!(text, "line {m} of tick {n}").unwrap();
        }
    }
    text
}

/// Waits until the command has written so much.
fn written(far: &Far, bytes: u64) {
    until_true("the command writes", || {
        let outputs = far.outputs();
        assert!(outputs.len() <= 1, "started twice: {outputs:?}");
        let sizes = outputs.iter().map(|path| path.metadata().unwrap().len());
        sizes.sum::<u64>() >= bytes
    });
}

/// Neither the file over there nor what the model was told lacks anything.
fn whole(yard: &Yard, far: &Far, expected: &str, told: &str) {
    let outputs = far.outputs();
    let kept = std::fs::read(&outputs[0]).unwrap();
    let (kept, hash) = (xxh3_64(&kept), xxh3_64(expected.as_bytes()));
    tell(&format!(
        "{} bytes, hash {kept:x}; expected {hash:x}; {} links of the last server's {}",
        expected.len(),
        far.wire.made(),
        yard.computer("far")
    ));
    assert_eq!(kept, hash);
    let mut bound = HeadTail::default();
    bound.push(expected.as_bytes());
    let bound = bound.finish(outputs[0].to_str());
    assert_eq!(told, format!("{}\n[exit code 4]", bound.text.trim_end()));
}

/// Not by the macro, which the test harness keeps to itself.
fn tell(line: &str) {
    let line = format!("{line}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
}
