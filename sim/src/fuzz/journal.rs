//! The journal (O3): what was recorded is read again, in any chunks; a torn
//! tail is told from damage; a flipped bit is always noticed; no bytes, sealed
//! with right checksums or not, make the reader fail.
//!
//! Input: a byte that chooses what, a byte that chooses cuts; then raw bytes,
//! or payloads to be sealed into frames, or what a journal is drawn from.

use arbitrary::{Result, Unstructured};
use dispatch_core::config::{Config, Provider};
use dispatch_core::ids::Owner;
use dispatch_core::io::{Effect, Input};
use dispatch_core::journal::{
    Build, Effects, Entry, FORMAT, Life, Reader, Recorder, START, STEP, Start, Tail, Unreadable,
};
use dispatch_core::store::{ProviderSettings, StoreFault};
use dispatch_core::time::Now;
use xxhash_rust::xxh3::xxh3_64;

use super::{cuts, draw, rest};

/// See the module's page.
///
/// # Errors
/// Too few bytes.
pub fn target(u: &mut Unstructured<'_>) -> Result<()> {
    let what: u8 = u.arbitrary()?;
    let choice: u8 = u.arbitrary()?;
    match what % 3 {
        0 => {
            check_any(choice, rest(u)?);
        }
        1 => {
            check_any(choice, &sealed(u)?);
        }
        _ => check_recorded(choice, u)?,
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Read {
    entries: Vec<Entry>,
    end: std::result::Result<Tail, Unreadable>,
}

fn read(chunks: &[&[u8]]) -> Read {
    let mut reader = Reader::default();
    let mut entries = Vec::new();
    for chunk in chunks {
        reader.feed(chunk);
        loop {
            match reader.entry() {
                Ok(Some(entry)) => entries.push(entry),
                Ok(None) => break,
                Err(unreadable) => {
                    let end = Err(unreadable);
                    return Read { entries, end };
                }
            }
        }
    }
    let end = Ok(reader.tail());
    Read { entries, end }
}

/// Whole frames and the bytes that they take, decoded or not.
fn skipped(bytes: &[u8]) -> (usize, std::result::Result<Tail, Unreadable>) {
    let mut reader = Reader::default();
    reader.feed(bytes);
    let mut frames = 0;
    loop {
        match reader.skip() {
            Ok(true) => frames += 1,
            Ok(false) => return (frames, Ok(reader.tail())),
            Err(unreadable) => return (frames, Err(unreadable)),
        }
    }
}

/// What holds for any bytes; gives what was read.
fn check_any(choice: u8, bytes: &[u8]) -> Read {
    let whole = read(&[bytes]);
    for cut in cuts(choice) {
        assert_eq!(
            read(&cut.chunks(bytes)),
            whole,
            "{cut:?} differs from one chunk"
        );
    }
    let (frames, end) = skipped(bytes);
    assert!(
        frames >= whole.entries.len(),
        "a frame is read that cannot be skipped"
    );
    match &whole.end {
        Ok(tail) => {
            assert_eq!((frames, &end), (whole.entries.len(), &Ok(*tail)));
            if let Tail::Torn { at } = tail {
                assert!(*at < bytes.len() as u64, "torn beyond the end");
                let good = usize::try_from(*at).expect("below the length");
                let kept = read(&[&bytes[..good]]);
                assert_eq!(
                    (kept.entries, kept.end),
                    (whole.entries.clone(), Ok(Tail::Whole))
                );
            }
        }
        Err(Unreadable::Corrupt { offset, .. }) => assert!(*offset < bytes.len() as u64),
        Err(Unreadable::OtherBuild { format, build }) => {
            assert!(*format != FORMAT || build.as_ref().is_some_and(|b| *b != Build::this()));
        }
    }
    check_recordable(&whole.entries);
    whole
}

/// Whatever can be read can be recorded, and is the same when it is read again.
fn check_recordable(entries: &[Entry]) {
    let mut recorder = Recorder::default();
    for entry in entries {
        let recorded = match entry {
            Entry::Start(start) => recorder.start(start),
            Entry::Step(step) => {
                recorder
                    .input(step.now, &step.input)
                    .and_then(|()| match step.effects {
                        Effects::Digest(_) => recorder.finish(),
                        Effects::Panicked => recorder.panicked(),
                    })
            }
        };
        recorded.expect("what was read has a binary form");
    }
    let again = read(&[recorder.frames()]);
    assert_eq!(again.end, Ok(Tail::Whole));
    assert_eq!(
        without_digests(again.entries),
        without_digests(entries.to_vec())
    );
}

fn without_digests(mut entries: Vec<Entry>) -> Vec<Entry> {
    for entry in &mut entries {
        if let Entry::Step(step) = entry
            && let Effects::Digest(digest) = &mut step.effects
        {
            *digest = 0;
        }
    }
    entries
}

fn framed(kind: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("an input is short");
    let mut frame = kind.to_vec();
    frame.extend(length.to_le_bytes());
    frame.extend(&xxh3_64(&frame).to_le_bytes()[..4]);
    frame.extend(payload);
    frame.extend(xxh3_64(&frame).to_le_bytes());
    frame
}

/// Frames in good order around payloads that may say anything.
fn sealed(u: &mut Unstructured<'_>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let prefix =
        postcard::to_allocvec(&(FORMAT, Build::this())).expect("a build has a binary form");
    let frames = u.int_in_range(1..=4)?;
    for n in 0..frames {
        let payload: &[u8] = if n + 1 == frames {
            rest(u)?
        } else {
            u.arbitrary()?
        };
        match payload.split_first() {
            // Behind this build's own name, or the name itself is drawn.
            Some((b's', payload)) => bytes.extend(framed(START, &[&prefix, payload].concat())),
            Some((b'b', payload)) => bytes.extend(framed(START, payload)),
            Some((b'd', _)) => bytes.extend(framed(START, &start_payload(&prefix))),
            Some((_, payload)) => bytes.extend(framed(STEP, payload)),
            None => bytes.extend([0; 3]),
        }
    }
    Ok(bytes)
}

fn start_payload(prefix: &[u8]) -> Vec<u8> {
    let start = postcard::to_allocvec(&start(Now::default(), Life::First));
    [prefix, &start.expect("a start has a binary form")].concat()
}

fn start(now: Now, life: Life) -> Start {
    let settings = ProviderSettings {
        id: "north".try_into().expect("a provider id"),
        limit: 4,
        cooldown_ms: 200,
    };
    let owner = Owner {
        node: "node".into(),
        boot: 1,
        incarnation: 0,
    };
    let provider = Provider {
        settings,
        models: vec!["m".to_owned()],
    };
    Start {
        config: Config::new(owner, vec![provider]),
        seed: [7; 32],
        now,
        life,
    }
}

/// A journal as a driver writes it, and what becomes of it.
fn check_recorded(choice: u8, u: &mut Unstructured<'_>) -> Result<()> {
    let mut recorder = Recorder::default();
    let mut wanted = Vec::new();
    let mut ends = Vec::new();
    let damage: u16 = u.arbitrary()?;
    for _ in 0..u.int_in_range(1..=3)? {
        let life = match u.int_in_range(0..=2)? {
            0 => Life::First,
            1 => Life::Rebuilt { seal: None },
            _ => Life::Rebuilt {
                seal: Some(draw::turn(u)?),
            },
        };
        let start = start(draw::now(u)?, life);
        recorder.start(&start).expect("a start can be recorded");
        wanted.push(Entry::Start(Box::new(start)));
        ends.push(recorder.frames().len());
        for n in 0..u.int_in_range(0..=6u64)? {
            let (now, input) = (draw::now(u)?, any_input(u)?);
            recorder
                .input(now, &input)
                .expect("an input can be recorded");
            let panicked = u.ratio(1, 8)?;
            if panicked {
                recorder.panicked().expect("a panic can be recorded");
            } else {
                let code = draw::text(u)?;
                recorder.effect(&Effect::Trace {
                    code: code.clone(),
                    message: code,
                });
                recorder.finish().expect("effects can be recorded");
            }
            // The digest is not known here; the reader's word is taken for it below.
            let effects = if panicked {
                Effects::Panicked
            } else {
                Effects::Digest(0)
            };
            wanted.push(Entry::Step(Box::new(dispatch_core::journal::Step {
                n,
                now,
                input,
                effects,
            })));
            ends.push(recorder.frames().len());
        }
    }
    let bytes = recorder.frames();
    let whole = check_any(choice, bytes);
    assert_eq!(whole.end, Ok(Tail::Whole));
    assert_eq!(without_digests(whole.entries.clone()), wanted);

    let at = usize::from(damage) % bytes.len();
    check_torn(bytes, at, &ends, &whole.entries);
    check_flipped(bytes, at, choice, &ends, &whole.entries);
    check_lost_frame(
        bytes,
        usize::from(damage) % ends.len(),
        &ends,
        &whole.entries,
    );
    Ok(())
}

/// Every way of storing a reply is in the core's own tests; here its frame counts.
fn any_input(u: &mut Unstructured<'_>) -> Result<Input> {
    let id = draw::effect_id(u)?;
    Ok(match u.int_in_range(0..=7)? {
        0 => Input::Stored {
            id,
            outcome: Err(StoreFault::Unknown),
        },
        1 => Input::Stored {
            id,
            outcome: Err(StoreFault::Failed(draw::text(u)?)),
        },
        _ => draw::input(u, id)?,
    })
}

/// After a crash the file ends anywhere, or in zeros.
fn check_torn(bytes: &[u8], at: usize, ends: &[usize], entries: &[Entry]) {
    let frames = ends.iter().filter(|end| **end <= at).count();
    let good = if frames == 0 { 0 } else { ends[frames - 1] };
    let torn = Tail::Torn { at: good as u64 };
    let expected = if good == at { Tail::Whole } else { torn };
    let cut = read(&[&bytes[..at]]);
    assert_eq!(
        (cut.end, &cut.entries[..]),
        (Ok(expected), &entries[..frames])
    );

    let zeros = read(&[&bytes[..good], &[0; 40]]);
    assert_eq!(
        (zeros.end, &zeros.entries[..]),
        (Ok(torn), &entries[..frames])
    );
}

fn check_flipped(bytes: &[u8], at: usize, choice: u8, ends: &[usize], entries: &[Entry]) {
    let mut damaged = bytes.to_vec();
    damaged[at] ^= 1 << (choice % 8);
    let frames = ends.iter().filter(|end| **end <= at).count();
    let offset = if frames == 0 {
        0
    } else {
        ends[frames - 1] as u64
    };
    let seen = read(&[&damaged]);
    assert_eq!(
        seen.entries,
        entries[..frames],
        "what stands before the damage"
    );
    match seen.end {
        Err(Unreadable::Corrupt { offset: named, .. }) => assert_eq!(named, offset),
        Err(Unreadable::OtherBuild { .. }) | Ok(_) => panic!("a flipped bit goes unnoticed"),
    }
}

/// An input that is missing is missed, unless the next frame is a start.
fn check_lost_frame(bytes: &[u8], lost: usize, ends: &[usize], entries: &[Entry]) {
    let from = if lost == 0 { 0 } else { ends[lost - 1] };
    let seen = read(&[&bytes[..from], &bytes[ends[lost]..]]);
    assert_eq!(seen.entries[..lost], entries[..lost]);
    let awaited = match lost.checked_sub(1).map(|before| &entries[before]) {
        None => None,
        Some(Entry::Start(_)) => Some(0),
        Some(Entry::Step(step)) => Some(step.n + 1),
    };
    match entries.get(lost + 1) {
        None | Some(Entry::Start(_)) => assert_eq!(seen.end, Ok(Tail::Whole)),
        Some(Entry::Step(step)) if Some(step.n) == awaited => {}
        Some(Entry::Step(_)) => assert!(
            matches!(seen.end, Err(Unreadable::Corrupt { .. })),
            "a missing input goes unnoticed"
        ),
    }
}
