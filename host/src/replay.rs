//! `dispatch replay`: runs the core again on a journal's inputs and compares
//! what it does, input by input, with what it did then.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use dispatch_core::Dispatcher;
use dispatch_core::journal::{Digest, Effects, Entry, Reader, Step, Tail, Unreadable};

use crate::journal::PIECE_BYTES;

/// Why nothing could be replayed.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the journal {path}: {cause}; check the path and its permissions")]
pub struct ReplayError {
    path: PathBuf,
    cause: io::Error,
}

/// What a replay came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplayReport {
    /// Lives of a Dispatcher that were begun.
    pub segments: u64,
    /// Inputs that were handled again.
    pub entries: u64,
    /// How it ended.
    pub verdict: Verdict,
    /// Where the file breaks off in the middle of an entry, as after a crash:
    /// legal, and not the verdict's business.
    pub torn_at: Option<u64>,
}

/// How a replay ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every input had the same effects.
    Same,
    /// One had not.
    Diverged(Box<Divergence>),
    /// The file is damaged, or no journal at all.
    Corrupt {
        /// Where the damaged entry begins.
        offset: u64,
        /// What is the matter with it.
        what: &'static str,
    },
    /// Inputs had another shape in the build that wrote it.
    OtherBuild(Unreadable),
}

/// The first input whose effects were not the recorded ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// In which of the file's segments, from 1.
    pub segment: u64,
    /// The input's number within its segment, from 0.
    pub n: u64,
    /// The input, shortened.
    pub input: String,
    /// What the journal says came of it.
    pub expected: Effects,
    /// What came of it now.
    pub got: Effects,
}

impl ReplayReport {
    /// 0 for [`Verdict::Same`], else 1: the text tells the others apart.
    pub fn exit_code(&self) -> u8 {
        match self.verdict {
            Verdict::Same => 0,
            Verdict::Diverged(_) | Verdict::Corrupt { .. } | Verdict::OtherBuild(_) => 1,
        }
    }
}

impl fmt::Display for ReplayReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (entries, segments) = (self.entries, self.segments);
        match &self.verdict {
            Verdict::Same => write!(
                f,
                "same: {entries} inputs in {segments} segments had the recorded effects"
            )?,
            Verdict::Diverged(at) => write!(
                f,
                "diverged at input {} of segment {}: expected {}, got {}\n  input: {}\n  this build's core decides differently from the one that recorded, or it is not deterministic",
                at.n, at.segment, at.expected, at.got, at.input
            )?,
            Verdict::Corrupt { offset: 0, what } => {
                write!(f, "corrupt at byte 0: {what}; is this a journal?")?;
            }
            Verdict::Corrupt { offset, what } => write!(
                f,
                "corrupt at byte {offset}: {what}; the {entries} inputs before it had the recorded effects"
            )?,
            Verdict::OtherBuild(unreadable) => {
                write!(f, "{unreadable}; replay it with the build that recorded it")?
            }
        }
        match self.torn_at {
            Some(at) => write!(
                f,
                "\nthe last entry is incomplete from byte {at} on, as after a crash"
            ),
            None => Ok(()),
        }
    }
}

/// Replays the journal at `path`.
///
/// # Errors
/// [`ReplayError`] when the file cannot be read; what is in it is the report's
/// [`Verdict`].
pub fn replay(path: &Path) -> Result<ReplayReport, ReplayError> {
    let failed = |cause| ReplayError {
        path: path.to_owned(),
        cause,
    };
    let mut file = File::open(path).map_err(failed)?;
    let mut replay = Replay::default();
    let (mut reader, mut piece) = (Reader::default(), vec![0; PIECE_BYTES]);
    loop {
        let read = file.read(&mut piece).map_err(failed)?;
        if read == 0 {
            let torn_at = match reader.tail() {
                Tail::Whole => None,
                Tail::Torn { at } => Some(at),
            };
            return Ok(replay.report(Verdict::Same, torn_at));
        }
        reader.feed(&piece[..read]);
        if let Err(verdict) = replay.read_from(&mut reader) {
            return Ok(replay.report(verdict, None));
        }
    }
}

/// A journal being run again.
#[derive(Default)]
struct Replay {
    core: Option<Dispatcher>,
    digest: Digest,
    segments: u64,
    entries: u64,
}

impl Replay {
    fn report(self, verdict: Verdict, torn_at: Option<u64>) -> ReplayReport {
        ReplayReport {
            segments: self.segments,
            entries: self.entries,
            verdict,
            torn_at,
        }
    }

    /// Every whole entry that the reader has; an `Err` ends the replay.
    fn read_from(&mut self, reader: &mut Reader) -> Result<(), Verdict> {
        loop {
            match reader.entry() {
                Ok(None) => return Ok(()),
                Ok(Some(Entry::Start(start))) => {
                    self.core = Some(start.dispatcher());
                    self.digest = Digest::default();
                    self.segments += 1;
                }
                Ok(Some(Entry::Step(step))) => self.step(*step)?,
                Err(Unreadable::Corrupt { offset, what }) => {
                    return Err(Verdict::Corrupt { offset, what });
                }
                Err(other @ Unreadable::OtherBuild { .. }) => {
                    return Err(Verdict::OtherBuild(other));
                }
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), Verdict> {
        let (n, expected) = (step.n, step.effects);
        let input = step.input.clone();
        let got = self.handle(step);
        if got == expected {
            self.entries += 1;
            return Ok(());
        }
        Err(Verdict::Diverged(Box::new(Divergence {
            segment: self.segments,
            n,
            input: shortened(format!("{input:?}")),
            expected,
            got,
        })))
    }

    fn handle(&mut self, step: Step) -> Effects {
        // A Dispatcher that has panicked is not asked again: the journal's
        // next entry is a start, or diverges.
        let Some(mut core) = self.core.take() else {
            return Effects::Panicked;
        };
        let digest = &mut self.digest;
        let handled = catch_unwind(AssertUnwindSafe(|| {
            core.handle(step.now, step.input);
            while let Some(effect) = core.poll_effect() {
                digest.effect(&effect);
            }
            core
        }));
        match handled {
            Ok(core) => {
                self.core = Some(core);
                Effects::Digest(self.digest.take())
            }
            Err(_) => {
                self.digest.take();
                Effects::Panicked
            }
        }
    }
}

fn shortened(mut text: String) -> String {
    const MOST: usize = 400;
    if let Some((at, _)) = text.char_indices().nth(MOST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests;
