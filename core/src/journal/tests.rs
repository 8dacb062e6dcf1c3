use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use proptest::prelude::*;

use super::*;
use crate::config::Provider;
use crate::ids::{CommandId, EffectId, Epoch, Owner, ProviderId};
use crate::io::{Command, Effect, FailKind, Submit, ToolAdopt};
use crate::store::{Model, ProviderSettings};
use crate::time::{Instant, Timestamp};

fn start_of(incarnation: u32, life: Life) -> Start {
    let owner = Owner {
        node: "here".into(),
        boot: 7,
        incarnation,
    };
    let settings = ProviderSettings {
        id: ProviderId::try_from("mock").unwrap(),
        limit: 2,
        cooldown_ms: 0,
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

/// A life in which a message is accepted, refused by its provider and retried.
fn record(recorder: &mut Recorder, start: &Start) -> Vec<Input> {
    recorder.start(start).unwrap();
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
    let mut told = vec![];
    for _ in 0..60 {
        let input = match inbox.is_empty() {
            true => Input::Tick,
            false => inbox.remove(0),
        };
        if input == Input::Tick
            && let Some((due, _)) = core.poll_timeout()
        {
            let ms = due.since_ms(now.mono);
            now = Now {
                mono: now.mono + ms,
                wall: now.wall + ms,
            };
        }
        model.now = now.wall;
        recorder.input(now, &input).unwrap();
        core.handle(now, input.clone());
        told.push(input);
        while let Some(effect) = core.poll_effect() {
            recorder.effect(&effect);
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
        recorder.finish().unwrap();
    }
    told
}

fn recorded() -> Vec<u8> {
    let mut recorder = Recorder::default();
    record(&mut recorder, &start_of(0, Life::First));
    recorder.frames().to_vec()
}

fn read_all(journal: &[u8], piece: usize) -> (Vec<Entry>, Result<Tail, Unreadable>) {
    let (mut reader, mut entries) = (Reader::default(), vec![]);
    for bytes in journal.chunks(piece) {
        reader.feed(bytes);
        loop {
            match reader.entry() {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => break,
                Err(unreadable) => return (entries, Err(unreadable)),
            }
        }
    }
    (entries, Ok(reader.tail()))
}

/// Where each frame begins, and the end.
fn boundaries(journal: &[u8]) -> Vec<usize> {
    let (mut reader, mut at) = (Reader::default(), vec![0]);
    reader.feed(journal);
    while reader.skip().unwrap() {
        at.push(reader.at() as usize);
    }
    at
}

#[test]
fn o3_what_was_recorded_is_read_back_in_pieces_of_any_size() {
    let start = start_of(0, Life::First);
    let mut recorder = Recorder::default();
    let told = record(&mut recorder, &start);
    for piece in [1, 7, 4_096, usize::MAX] {
        let (entries, tail) = read_all(recorder.frames(), piece);
        assert_eq!(tail, Ok(Tail::Whole));
        assert_eq!(entries[0], Entry::Start(Box::new(start.clone())));
        let inputs = entries[1..]
            .iter()
            .enumerate()
            .map(|(n, entry)| match entry {
                Entry::Step(step) => {
                    assert_eq!(step.n, n as u64);
                    step.input.clone()
                }
                Entry::Start(_) => panic!("a second start"),
            });
        assert!(inputs.eq(told.iter().cloned()));
    }
}

#[test]
fn o3_the_same_inputs_bring_the_same_digests_and_another_seed_brings_others() {
    let digests = |journal: &[u8], seed: u8| {
        let (entries, _) = read_all(journal, usize::MAX);
        let Some(Entry::Start(start)) = entries.first() else {
            panic!("no start");
        };
        let mut core = Start {
            seed: [seed; 32],
            ..(**start).clone()
        }
        .dispatcher();
        let mut digest = Digest::default();
        let same = entries[1..].iter().filter(|entry| {
            let Entry::Step(step) = entry else {
                return false;
            };
            core.handle(step.now, step.input.clone());
            while let Some(effect) = core.poll_effect() {
                digest.effect(&effect);
            }
            step.effects == Effects::Digest(digest.take())
        });
        (same.count(), entries.len() - 1)
    };
    let journal = recorded();
    let (same, all) = digests(&journal, 3);
    assert_eq!(same, all);
    let (same, all) = digests(&journal, 4);
    assert!(same < all);
}

#[test]
fn a_digest_depends_on_the_effects_and_not_on_what_came_before_it() {
    let effect = |n: u64, length: usize| Effect::OpenProvider {
        id: EffectId { incarnation: 0, n },
        provider: ProviderId::try_from("mock").unwrap(),
        turn: TurnId(1),
        body: vec![b'x'; length],
        connect_ms: 1,
        not_after: Instant(9),
    };
    let mut digest = Digest::default();
    let mut of = |effects: &[Effect]| {
        effects.iter().for_each(|effect| digest.effect(effect));
        digest.take()
    };
    let lengths = [0, 1, 100, 127, 128, 129, 300, 5_000];
    let first: Vec<u64> = lengths.iter().map(|l| of(&[effect(1, *l)])).collect();
    let again: Vec<u64> = lengths.iter().map(|l| of(&[effect(1, *l)])).collect();
    assert_eq!(first, again);
    let other = of(&[effect(2, 100)]);
    assert!(!first.contains(&other));
    assert_ne!(
        of(&[effect(1, 1), effect(1, 2)]),
        of(&[effect(1, 2), effect(1, 1)])
    );
    assert_eq!(
        of(&[effect(1, 5_000)]),
        xxh3_64(&postcard::to_allocvec(&effect(1, 5_000)).unwrap()),
        "the digest is XXH3 of the postcard, as the format says"
    );
}

#[test]
fn o3_a_journal_may_hold_several_lives_and_a_panicking_input_ends_one() {
    let mut recorder = Recorder::default();
    record(&mut recorder, &start_of(0, Life::First));
    let now = start_of(0, Life::First).now;
    recorder.input(now, &Input::Tick).unwrap();
    recorder.panicked().unwrap();
    let seal = Some(TurnId(9));
    record(&mut recorder, &start_of(1, Life::Rebuilt { seal }));
    let (entries, tail) = read_all(recorder.frames(), 1_000);
    assert_eq!(tail, Ok(Tail::Whole));
    let starts = entries.iter().filter(|e| matches!(e, Entry::Start(_)));
    assert_eq!(starts.count(), 2);
    let panics = |e: &&Entry| matches!(e, Entry::Step(s) if s.effects == Effects::Panicked);
    assert_eq!(entries.iter().filter(panics).count(), 1);
}

#[test]
fn an_input_that_was_begun_and_not_finished_is_no_frame() {
    let mut recorder = Recorder::default();
    recorder.start(&start_of(0, Life::First)).unwrap();
    let whole = recorder.frames().len();
    recorder.input(Now::default(), &Input::Tick).unwrap();
    assert_eq!(recorder.frames().len(), whole);
    recorder.clear();
    recorder.finish().unwrap();
    let mut reader = Reader::default();
    reader.feed(recorder.frames());
    assert!(reader.skip().unwrap());
    assert_eq!(reader.tail(), Tail::Whole);
}

#[test]
fn o3_wherever_a_journal_is_cut_its_tail_is_torn_and_all_before_is_good() {
    let journal = recorded();
    let boundaries = boundaries(&journal);
    for end in 0..journal.len() {
        let (entries, tail) = read_all(&journal[..end], 97);
        let good = boundaries.iter().filter(|at| **at <= end).count() - 1;
        assert_eq!(entries.len(), good, "cut at {end}");
        let wanted = match boundaries.contains(&end) {
            true => Tail::Whole,
            false => Tail::Torn {
                at: boundaries[good] as u64,
            },
        };
        assert_eq!(tail, Ok(wanted), "cut at {end}");
    }
}

#[test]
fn a_tail_of_zeros_is_torn_and_zeros_before_an_entry_are_not() {
    let mut journal = recorded();
    let whole = journal.len() as u64;
    journal.extend([0; 10_000]);
    let (_, tail) = read_all(&journal, 333);
    assert_eq!(tail, Ok(Tail::Torn { at: whole }));
    journal.extend(recorded());
    let (_, tail) = read_all(&journal, 333);
    let corrupt = Unreadable::Corrupt {
        offset: whole,
        what: "no entry begins here",
    };
    assert_eq!(tail, Err(corrupt));
}

#[test]
fn o3_entries_that_were_taken_out_are_missed() {
    let journal = recorded();
    let at = boundaries(&journal);
    let mut cut = journal[..at[5]].to_vec();
    cut.extend_from_slice(&journal[at[6]..]);
    let corrupt = |offset: usize, what| {
        Err(Unreadable::Corrupt {
            offset: offset as u64,
            what,
        })
    };
    let (entries, tail) = read_all(&cut, 64);
    assert_eq!(entries.len(), 5);
    assert_eq!(tail, corrupt(at[5], "inputs are missing before it"));
    let (_, tail) = read_all(&journal[at[1]..], 64);
    assert_eq!(tail, corrupt(0, "an input before any start"));
}

/// A start frame with right checksums and another beginning.
fn start_frame(format: u32, build: &Build) -> Vec<u8> {
    let mut recorder = Recorder::default();
    recorder.begin(START);
    recorder.put(&format).unwrap();
    recorder.put(build).unwrap();
    recorder
        .put(&"a shape that this build does not know")
        .unwrap();
    recorder.end().unwrap();
    recorder.frames().to_vec()
}

#[test]
fn o3_another_build_and_another_format_are_told_from_damage() {
    let mut build = Build::this();
    build.codec ^= 1;
    let (_, tail) = read_all(&start_frame(FORMAT, &build), 64);
    let wanted = Unreadable::OtherBuild {
        format: FORMAT,
        build: Some(build),
    };
    assert_eq!(tail, Err(wanted.clone()));
    assert!(alloc::format!("{wanted}").contains(env!("CARGO_PKG_VERSION")));
    let (_, tail) = read_all(&start_frame(FORMAT + 1, &Build::this()), 64);
    let wanted = Unreadable::OtherBuild {
        format: FORMAT + 1,
        build: None,
    };
    assert_eq!(tail, Err(wanted));
    let (_, tail) = read_all(&start_frame(FORMAT, &Build::this()), 64);
    assert!(matches!(tail, Err(Unreadable::Corrupt { offset: 0, .. })));
}

proptest! {
    #[test]
    fn o3_no_flipped_byte_goes_unnoticed(place in any::<prop::sample::Index>(), flip in 1u8..) {
        let journal = recorded();
        let mut damaged = journal.clone();
        let at = place.index(damaged.len());
        damaged[at] ^= flip;
        let (entries, tail) = read_all(&damaged, 200);
        let frame = boundaries(&journal).into_iter().filter(|start| *start <= at).max().unwrap();
        let found = matches!(tail, Err(Unreadable::Corrupt { offset, .. }) if offset == frame as u64);
        prop_assert!(found, "{tail:?} after {} entries", entries.len());
    }

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (_, _) = read_all(&bytes, 16);
        let mut headed = START.to_vec();
        headed.extend_from_slice(&bytes);
        let (_, _) = read_all(&headed, 16);
    }

    #[test]
    fn any_payload_with_right_checksums_is_read_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut recorder = Recorder::default();
        recorder.start(&start_of(0, Life::First)).unwrap();
        recorder.begin(STEP);
        recorder.out.extend_from_slice(&bytes);
        recorder.end().unwrap();
        let (entries, tail) = read_all(recorder.frames(), 1_000);
        prop_assert!(entries.len() == 2 || tail.is_err());
    }
}

#[test]
fn an_epoch_is_part_of_the_digest() {
    let adopt = |epoch| Effect::AdoptTool {
        id: EffectId {
            incarnation: 0,
            n: 0,
        },
        adopt: Box::new(ToolAdopt {
            turn: TurnId(1),
            epoch: Epoch(epoch),
            call_id: "a".into(),
            computer: None,
            link: None,
            started: Epoch(1),
            attempt: 0,
            shown_bytes: 0,
            not_after: Instant(0),
        }),
    };
    let mut digest = Digest::default();
    digest.effect(&adopt(1));
    let one = digest.take();
    digest.effect(&adopt(2));
    assert_ne!(one, digest.take());
}
