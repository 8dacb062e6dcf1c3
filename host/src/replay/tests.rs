use std::path::PathBuf;

use dispatch_core::config::{Config, Provider};
use dispatch_core::ids::{CommandId, Owner, ProviderId};
use dispatch_core::io::{Command, Effect, FailKind, Input, Submit};
use dispatch_core::journal::{Life, START, Start};
use dispatch_core::store::{Model, ProviderSettings};
use dispatch_core::time::{Instant, Now, Timestamp};
use tempfile::TempDir;
use xxhash_rust::xxh3::xxh3_64;

use super::*;
use crate::journal::Journal;

fn start(life: Life) -> Start {
    let settings = ProviderSettings {
        id: ProviderId::try_from("mock").unwrap(),
        limit: 2,
        cooldown_ms: 0,
    };
    let owner = Owner {
        node: "here".into(),
        boot: 7,
        incarnation: u32::from(life != Life::First),
    };
    let models = vec!["m".into()];
    Start {
        config: Config::new(owner, vec![Provider { settings, models }]),
        seed: [3; 32],
        now: Now {
            mono: Instant(5),
            wall: Timestamp(1_700_000_000_000),
        },
        life,
    }
}

/// Something wrong at one input of a life.
#[derive(Clone, Copy, PartialEq)]
enum Twist {
    None,
    /// The effects differ from what the input brings.
    EffectsDiffer(usize),
    /// The journal says that the Dispatcher panicked.
    SaysPanicked(usize),
}

/// One life as a driver lives it: a message is accepted, refused, retried.
fn live(journal: &mut Journal, start: &Start, twist: Twist) {
    journal.start(start);
    let mut core = start.dispatcher();
    let (mut model, mut now) = (Model::default(), start.now);
    let submit = Submit {
        conversation: None,
        workspace: None,
        model: None,
        message: "hello".into(),
        cwd: None,
        computer: None,
        idempotency: None,
    };
    let mut inbox = vec![Input::Command {
        id: CommandId(1),
        command: Command::Submit(Box::new(submit)),
    }];
    // As a driver does: what the constructor wants is done before any input.
    carry_out(&mut core, &mut model, journal, &mut inbox);
    for n in 0..50 {
        let input = match inbox.is_empty() {
            true => Input::Tick,
            false => inbox.remove(0),
        };
        if let (Input::Tick, Some((due, _))) = (&input, core.poll_timeout()) {
            let ms = due.since_ms(now.mono);
            now = Now {
                mono: now.mono + ms,
                wall: now.wall + ms,
            };
        }
        model.now = now.wall;
        journal.input(now, &input);
        core.handle(now, input);
        if twist == Twist::EffectsDiffer(n) {
            journal.effect(&Effect::Drained);
        }
        carry_out(&mut core, &mut model, journal, &mut inbox);
        if twist == Twist::SaysPanicked(n) {
            return journal.panicked();
        }
        journal.finish(now);
    }
}

fn carry_out(
    core: &mut Dispatcher,
    model: &mut Model,
    journal: &mut Journal,
    inbox: &mut Vec<Input>,
) {
    while let Some(effect) = core.poll_effect() {
        journal.effect(&effect);
        match effect {
            Effect::Store { id, verb } => inbox.push(Input::Stored {
                id,
                outcome: Ok(model.apply(&verb)),
            }),
            Effect::OpenProvider { id, .. } => inbox.push(Input::ProviderFailed {
                id,
                kind: FailKind::Refused,
                message: "nobody listens".into(),
            }),
            _ => {}
        }
    }
}

fn journal(lives: &[(Life, Twist)]) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    for (life, twist) in lives {
        // Each life by a process of its own: the file is appended to.
        live(&mut Journal::open(&path).unwrap(), &start(*life), *twist);
    }
    (dir, path)
}

#[test]
fn o3_a_recorded_life_replays_the_same() {
    let (_dir, path) = journal(&[(Life::First, Twist::None)]);
    let report = replay(&path).unwrap();
    let wanted = ReplayReport {
        segments: 1,
        entries: 50,
        verdict: Verdict::Same,
        torn_at: None,
    };
    assert_eq!(report, wanted, "{report}");
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn o3_lives_after_restarts_and_rebuilds_replay_each_from_its_own_start() {
    let rebuilt = Life::Rebuilt { seal: None };
    let (_dir, path) = journal(&[
        (Life::First, Twist::None),
        (Life::First, Twist::None),
        (rebuilt, Twist::None),
    ]);
    let report = replay(&path).unwrap();
    assert_eq!((report.segments, report.entries), (3, 150));
    assert_eq!(report.verdict, Verdict::Same, "{report}");
}

#[test]
fn o3_an_input_with_other_effects_is_named() {
    let (_dir, path) = journal(&[
        (Life::First, Twist::None),
        (Life::First, Twist::EffectsDiffer(3)),
    ]);
    let report = replay(&path).unwrap();
    let Verdict::Diverged(at) = &report.verdict else {
        panic!("{report}");
    };
    assert_eq!((at.segment, at.n, report.entries), (2, 3, 53));
    assert_ne!(at.expected, at.got);
    assert!(
        report
            .to_string()
            .starts_with("diverged at input 3 of segment 2")
    );
    assert_eq!(report.exit_code(), 1);
}

#[test]
fn l7_a_panic_that_does_not_happen_again_is_a_divergence() {
    let (_dir, path) = journal(&[(Life::First, Twist::SaysPanicked(7))]);
    let report = replay(&path).unwrap();
    let Verdict::Diverged(at) = &report.verdict else {
        panic!("{report}");
    };
    assert_eq!((at.n, at.expected), (7, Effects::Panicked));
    assert!(report.to_string().contains("expected a panic"));
}

#[test]
fn o3_damage_is_told_with_its_place_and_a_torn_end_is_no_damage() {
    let (_dir, path) = journal(&[(Life::First, Twist::None)]);
    let whole = std::fs::read(&path).unwrap();
    let middle = whole.len() / 2;
    let mut damaged = whole.clone();
    damaged[middle] ^= 0x40;
    std::fs::write(&path, &damaged).unwrap();
    let report = replay(&path).unwrap();
    let Verdict::Corrupt { offset, .. } = report.verdict else {
        panic!("{report}");
    };
    assert!((1..=middle as u64).contains(&offset));
    assert!(report.entries > 0);
    assert_eq!(report.exit_code(), 1);

    std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
    let report = replay(&path).unwrap();
    assert_eq!((report.entries, &report.verdict), (49, &Verdict::Same));
    assert!(report.torn_at.is_some());
    assert_eq!(report.exit_code(), 0);
    assert!(report.to_string().contains("incomplete"), "{report}");
}

#[test]
fn a_file_that_is_no_journal_is_called_that() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("notes.txt");
    std::fs::write(&path, "shopping list").unwrap();
    let report = replay(&path).unwrap();
    assert!(report.to_string().contains("is this a journal?"));
    let missing = replay(&dir.path().join("missing")).unwrap_err().to_string();
    assert!(missing.contains("missing"), "{missing}");
}

#[test]
fn o3_a_journal_of_another_build_is_called_that() {
    let (_dir, path) = journal(&[(Life::First, Twist::None)]);
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(bytes[..4], START);
    let version = env!("CARGO_PKG_VERSION").as_bytes();
    let at = bytes.windows(version.len()).position(|w| w == version);
    bytes[at.unwrap()] = b'9';
    let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let end = 12 + length;
    let sum = xxh3_64(&bytes[..end]);
    bytes[end..end + 8].copy_from_slice(&sum.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let report = replay(&path).unwrap();
    assert!(matches!(report.verdict, Verdict::OtherBuild(_)), "{report}");
    let text = report.to_string();
    assert!(text.contains("another build: version 9"), "{text}");
    assert_eq!(report.exit_code(), 1);
}

#[test]
#[ignore = "prints figures: cargo test -p dispatch --release --lib replay -- --ignored --nocapture"]
fn inputs_recorded_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let mut journal = Journal::open(&dir.path().join("journal")).unwrap();
    let first = start(Life::First);
    journal.start(&first);
    let input = Input::ProviderBytes {
        id: dispatch_core::ids::EffectId {
            incarnation: 0,
            n: 1,
        },
        bytes: vec![b'x'; 150],
    };
    let effect = Effect::Trace {
        code: "a-delta".into(),
        message: "x".repeat(80),
    };
    let (begun, inputs) = (std::time::Instant::now(), 1_000_000);
    for _ in 0..inputs {
        journal.input(first.now, &input);
        journal.effect(&effect);
        journal.finish(first.now);
    }
    let rate = f64::from(inputs) / begun.elapsed().as_secs_f64();
    println!("{rate:.0} inputs recorded a second");
}
