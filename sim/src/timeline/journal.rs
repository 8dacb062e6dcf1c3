//! Production journals (O3): the core is run again on what it was told then,
//! and what it does is drawn. Several journals of one incident, one of each
//! replica, are put side by side by the time of their clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use dispatch_core::Dispatcher;
use dispatch_core::io::Input;
use dispatch_core::journal::{
    Digest, Effects, Entry, Life, Reader, START, Start, Step, Tail, Unreadable,
};
use dispatch_core::time::{Instant, Timestamp};

use super::builder::{Draft, Place};
use super::model::{Field, Kind};
use super::{Builder, Timeline};
use crate::clock::Us;

/// Why a journal cannot be drawn.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The system said no.
    #[error("cannot read the journal {path}: {cause}; check the path and its permissions")]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A directory with nothing in it that begins like a journal.
    #[error(
        "no journal in {0}; name the file that was given to `dispatch serve --journal`, or a directory that holds such files"
    )]
    None(PathBuf),
    /// Damage, or another build's.
    #[error("cannot draw {path}, it is {cause}; {}", remedy(.cause))]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Where and how.
        cause: Unreadable,
    },
    /// Nothing was recorded.
    #[error("the journal {0} is empty: nothing was recorded")]
    Empty(PathBuf),
}

fn remedy(cause: &Unreadable) -> &'static str {
    match cause {
        Unreadable::Corrupt { offset: 0, .. } => "is this a journal?",
        Unreadable::Corrupt { .. } => {
            "restore it from a copy, or draw what stands before the damage: cut the file off at that byte"
        }
        Unreadable::OtherBuild { .. } => "use the dispatch-sim of the build that recorded it",
    }
}

/// At most so many replicas' journals are read at once.
const MOST_FILES: usize = 64;
const PIECE_BYTES: usize = 256 * 1024;

/// Draws a journal, or all the journals of a directory. One of several that
/// cannot be read is left out, from the damage on, with a remark.
///
/// # Errors
/// [`JournalError`].
pub fn of_journal(path: &Path) -> Result<Timeline, JournalError> {
    let mut files = journals_at(path)?;
    let name = path.file_name().unwrap_or(path.as_os_str()).display();
    let title = format!("Journal {name}");
    let shown = path.display();
    let command = format!("cargo run --release -p dispatch-sim -- show --journal {shown}");
    let mut builder = Builder::recorded(&title, &command, 0);
    let too_many = files.split_off(files.len().min(MOST_FILES));
    if let Some(first) = too_many.first() {
        builder.leave_out(too_many.len(), &format!(
            "{} journals are left out, {} and those after it by name: a page is made of {MOST_FILES}",
            too_many.len(),
            first.display()
        ));
    }
    let mut sources = Vec::new();
    let is_one_of_many = files.len() > 1;
    for file in files {
        match Source::open(file) {
            Ok(source) => sources.push(source),
            Err(error) if is_one_of_many => builder.leave_out(1, &error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let first = sources.iter().filter_map(Source::begins_at).min();
    let Some(begin) = first else {
        return Err(JournalError::Empty(path.to_owned()));
    };
    builder.epoch_ms = begin.0;
    let end = play_all(&mut builder, &mut sources, begin, is_one_of_many)?;
    Ok(builder.finish(end))
}

/// The next entry of all again and again; the last one's moment.
fn play_all(
    builder: &mut Builder,
    sources: &mut [Source],
    begin: Timestamp,
    is_one_of_many: bool,
) -> Result<Us, JournalError> {
    let mut lives = Lives::default();
    let mut end = 0;
    // The replica that was first goes first.
    while let Some(index) = (0..sources.len())
        .filter(|n| sources[*n].next.is_some())
        .min_by_key(|n| sources[*n].at)
    {
        let source = &mut sources[index];
        let at = source.at.0.saturating_sub(begin.0).saturating_mul(1_000);
        end = end.max(at);
        match source.play(builder, at) {
            Ok(()) => lives.compare(builder, sources, index),
            Err(error) if is_one_of_many => {
                builder.leave_out(1, &error.to_string());
                builder.segment_over(at, source.replica, "the journal is damaged from here on");
            }
            Err(error) => return Err(error),
        }
    }
    Ok(end)
}

/// Which file tells of a replica, so that two that do so at the same time are
/// not silently drawn as one.
#[derive(Default)]
struct Lives {
    told_by: BTreeMap<usize, usize>,
    mixed: BTreeSet<(usize, usize)>,
}

impl Lives {
    fn compare(&mut self, builder: &mut Builder, sources: &[Source], index: usize) {
        let source = &sources[index];
        let Some(other) = self.told_by.insert(source.replica, index) else {
            return;
        };
        let is_over = other == index || sources[other].next.is_none();
        if is_over || !self.mixed.insert((other.min(index), other.max(index))) {
            return;
        }
        builder.remark(format!(
            "{} and {} tell of the same replica at the same time, and are drawn as one: copies of one journal, lives of different runs, or a clock that was set",
            sources[other].path.display(),
            source.path.display()
        ));
    }
}

/// The journals of a directory, by name; a file is one whatever it holds.
///
/// # Errors
/// [`JournalError`].
pub fn journals_at(path: &Path) -> Result<Vec<PathBuf>, JournalError> {
    let failed = |cause| JournalError::Io {
        path: path.to_owned(),
        cause,
    };
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let mut head = [0; START.len()];
        let begins = |mut file: File| file.read_exact(&mut head).is_ok() && head == START;
        if path.is_file() && File::open(&path).is_ok_and(begins) {
            files.push(path);
        }
    }
    files.sort();
    match files.is_empty() {
        true => Err(JournalError::None(path.to_owned())),
        false => Ok(files),
    }
}

/// One journal, read entry by entry.
struct Source {
    path: PathBuf,
    file: File,
    reader: Reader,
    is_read: bool,
    next: Option<Entry>,
    /// When the next entry happened.
    at: Timestamp,
    /// Which wall time this monotonic reading was, in the current segment.
    anchor: (Instant, Timestamp),
    core: Option<Dispatcher>,
    digest: Digest,
    /// Its replica, once a start has named it.
    replica: usize,
}

impl Source {
    fn open(path: PathBuf) -> Result<Source, JournalError> {
        let file = File::open(&path).map_err(|cause| JournalError::Io {
            path: path.clone(),
            cause,
        })?;
        let mut source = Source {
            path,
            file,
            reader: Reader::default(),
            is_read: false,
            next: None,
            at: Timestamp(0),
            anchor: (Instant(0), Timestamp(0)),
            core: None,
            digest: Digest::default(),
            replica: 0,
        };
        source.advance()?;
        Ok(source)
    }

    fn begins_at(&self) -> Option<Timestamp> {
        self.next.is_some().then_some(self.at)
    }

    fn advance(&mut self) -> Result<(), JournalError> {
        self.next = self.entry()?;
        let at = match &self.next {
            Some(Entry::Start(start)) => {
                self.anchor = (start.now.mono, start.now.wall);
                start.now.wall
            }
            // The wall clock may jump; the monotonic one does not.
            Some(Entry::Step(step)) => {
                let (mono, wall) = self.anchor;
                wall + step.now.mono.since_ms(mono)
            }
            None => self.at,
        };
        self.at = self.at.max(at);
        Ok(())
    }

    fn entry(&mut self) -> Result<Option<Entry>, JournalError> {
        loop {
            let entry = self.reader.entry();
            let entry = entry.map_err(|cause| JournalError::Unreadable {
                path: self.path.clone(),
                cause,
            })?;
            if entry.is_some() || self.is_read {
                return Ok(entry);
            }
            let mut piece = vec![0; PIECE_BYTES];
            let read = self
                .file
                .read(&mut piece)
                .map_err(|cause| JournalError::Io {
                    path: self.path.clone(),
                    cause,
                })?;
            self.is_read = read == 0;
            self.reader.feed(&piece[..read]);
        }
    }

    /// Plays the next entry and reads the one after it.
    fn play(&mut self, builder: &mut Builder, at: Us) -> Result<(), JournalError> {
        let Some(entry) = self.next.take() else {
            return Ok(());
        };
        let stays = match entry {
            Entry::Start(start) => {
                self.start(builder, at, &start);
                true
            }
            Entry::Step(step) => self.step(builder, at, *step),
        };
        if !stays {
            return Ok(());
        }
        self.advance()?;
        match &self.next {
            Some(Entry::Start(_)) => builder.segment_over(at, self.replica, "the segment ends"),
            Some(Entry::Step(_)) => {}
            None => {
                builder.segment_over(at, self.replica, "the journal ends");
                if let Tail::Torn { at } = self.reader.tail() {
                    builder.remark(format!(
                        "the last entry of {} is incomplete from byte {at} on, as after a crash",
                        self.path.display()
                    ));
                }
            }
        }
        Ok(())
    }

    fn start(&mut self, builder: &mut Builder, at: Us, start: &Start) {
        let core = start.dispatcher();
        self.replica = builder.segment(at, start);
        self.digest = Digest::default();
        self.core = Some(core);
    }

    /// Whether the rest of the journal still tells of what this build does.
    fn step(&mut self, builder: &mut Builder, at: Us, step: Step) -> bool {
        let replica = self.replica;
        let Some(mut core) = self.core.take() else {
            return true;
        };
        let wake = core.poll_timeout();
        let wake = wake.filter(|(due, _)| step.input == Input::Tick && *due <= step.now.mono);
        let wake = wake.map(|(_, wake)| wake);
        // What its start wanted done was carried out before the first input,
        // and is part of the first input's digest.
        drain(&mut core, &mut self.digest, builder, replica, at);
        builder.input(at, replica, &step.input, wake.as_ref());
        let handled = catch_unwind(AssertUnwindSafe(|| {
            core.handle(step.now, step.input);
            core
        }));
        let got = match handled {
            Ok(mut core) => {
                drain(&mut core, &mut self.digest, builder, replica, at);
                self.core = Some(core);
                Effects::Digest(self.digest.take())
            }
            Err(_) => {
                self.digest.take();
                builder.panicked(at, replica);
                Effects::Panicked
            }
        };
        if got == step.effects {
            return true;
        }
        let life = builder.replica(replica).life;
        builder.broken(
            "replay",
            at,
            &format!("{} of input {} of life {life}", step.effects, step.n),
            &format!("{got}: this build decides differently from the one that recorded; what came later is not drawn"),
        );
        false
    }
}

fn drain(
    core: &mut Dispatcher,
    digest: &mut Digest,
    builder: &mut Builder,
    replica: usize,
    at: Us,
) {
    while let Some(effect) = core.poll_effect() {
        digest.effect(&effect);
        builder.effect(at, replica, &effect);
    }
}

impl Builder {
    /// So many journals are not, or not wholly, in the picture.
    fn leave_out(&mut self, journals: usize, why: &str) {
        self.dropped.journals += journals as u64;
        self.remark(why);
    }

    /// A life of a replica begins; the replica.
    fn segment(&mut self, at: Us, start: &Start) -> usize {
        let owner = &start.config.owner;
        // A file after another's end may tell of the same replica.
        let known = |place: &Place| place.node == *owner.node;
        let known = self.replicas.iter().position(known);
        let replica = known.unwrap_or(self.replicas.len());
        self.name_replica(replica, &owner.node);
        let life = self.replicas[replica].life + 1;
        let place = self.replica(replica);
        let title = match start.life {
            Life::First => "starts".to_owned(),
            Life::Rebuilt { seal } => match seal {
                Some(turn) => format!("is rebuilt after a panic, seals {turn}"),
                None => "is rebuilt after a panic".to_owned(),
            },
        };
        self.add(Draft {
            detail: format!(
                "boot {:016x}, incarnation {}",
                owner.boot, owner.incarnation
            ),
            ..Draft::new(at, Kind::Life, place.lane, title)
        });
        self.set(place.lane, Field::State, "up");
        let boot = format!("{life} ({:016x})", owner.boot);
        self.set(place.lane, Field::Boot, boot);
        self.replicas[replica].life = life;
        self.replicas[replica].input = None;
        replica
    }

    /// Nothing more is told of this life.
    fn segment_over(&mut self, at: Us, replica: usize, title: &str) {
        let place = self.replica(replica);
        self.add(Draft::new(at, Kind::Life, place.lane, title));
        self.set(place.lane, Field::State, "down");
        for lane in self.end_requests(replica, at, "its replica is gone") {
            self.count(lane, Field::Running, -1);
        }
    }

    fn panicked(&mut self, at: Us, replica: usize) {
        let place = self.replica(replica);
        self.add(Draft {
            cause: place.input,
            ..Draft::new(at, Kind::Fault, place.lane, "the Dispatcher panics")
        });
    }
}
