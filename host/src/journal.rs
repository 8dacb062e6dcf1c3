//! The journal's file (O3): what the core was told, and digests of what it
//! did, for `dispatch replay`. Off unless asked for; it holds what people and
//! models said, so only its owner may read it.

use std::fs::{File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use dispatch_core::io::{Effect, Input};
use dispatch_core::journal::{Reader, Recorder, Start, Tail, Unreadable, Unwritable};
use dispatch_core::time::{Instant, Now};

/// So many recorded bytes are written without waiting for a pause.
const FLUSH_BYTES: usize = 256 * 1024;
/// So long a recorded entry may stay in memory while there is no pause.
const FLUSH_MS: u64 = 1_000;
/// Bytes read at once.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// Why a journal cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// Another server writes it.
    #[error("the journal {0} is in use by another server; name another file with --journal")]
    InUse(PathBuf),
    /// The system said no.
    #[error("cannot open the journal {path}: {cause}; check its directory and permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A device, a pipe or a directory.
    #[error("the journal {0} is no regular file; name another --journal")]
    NotAFile(PathBuf),
    /// What is in the file is damaged: entries after it could never be replayed.
    #[error("{path} cannot be continued, it is {cause}; move it away, or name another --journal")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and how.
        cause: Unreadable,
    },
}

/// An open journal. The server outlives it: after a write that fails it says
/// so, once and loudly, and records nothing more.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    file: File,
    recorder: Recorder,
    flushed_at: Instant,
    /// Still recording.
    live: bool,
}

impl Journal {
    /// Opens `path` for appending, mode 0600. What an earlier process left is
    /// kept; the torn end of it, if there is one, is cut off.
    ///
    /// # Errors
    /// [`JournalError`]: the system's, or damage in the middle of the file.
    pub fn open(path: &Path) -> Result<Journal, JournalError> {
        let io = |cause| JournalError::Io {
            path: path.to_owned(),
            cause,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        // Before its mode is changed: it could be a device that others need.
        if !file.metadata().map_err(io)?.is_file() {
            return Err(JournalError::NotAFile(path.to_owned()));
        }
        // Two servers that append to one file would damage it.
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(JournalError::InUse(path.to_owned()));
            }
            Err(errno) => return Err(io(errno.into())),
        }
        file.set_permissions(Permissions::from_mode(0o600))
            .map_err(io)?;
        let good = good_bytes(&mut file).map_err(io)?;
        let good = good.map_err(|cause| JournalError::Damaged {
            path: path.to_owned(),
            cause,
        })?;
        file.set_len(good).map_err(io)?;
        file.seek(SeekFrom::Start(good)).map_err(io)?;
        Ok(Journal {
            path: path.to_owned(),
            file,
            recorder: Recorder::default(),
            flushed_at: Instant::default(),
            live: true,
        })
    }

    /// A Dispatcher begins: a process's first, or one rebuilt after a panic.
    pub fn start(&mut self, start: &Start) {
        self.flushed_at = start.now.mono;
        self.record(|recorder| recorder.start(start));
        self.flush();
    }

    /// Before an input is handled.
    pub fn input(&mut self, now: Now, input: &Input) {
        self.record(|recorder| recorder.input(now, input));
    }

    /// For each effect that is drained.
    pub fn effect(&mut self, effect: &Effect) {
        if self.live {
            self.recorder.effect(effect);
        }
    }

    /// When an input's effects are all drained; `now` is the input's.
    pub fn finish(&mut self, now: Now) {
        self.record(Recorder::finish);
        let waited_ms = now.mono.since_ms(self.flushed_at);
        if self.recorder.frames().len() >= FLUSH_BYTES || waited_ms >= FLUSH_MS {
            self.flushed_at = now.mono;
            self.flush();
        }
    }

    /// The Dispatcher panicked at the input.
    pub fn panicked(&mut self) {
        self.record(Recorder::panicked);
        self.flush();
    }

    /// Writes what is recorded: when the driver has nothing else to do, and at its end.
    pub fn flush(&mut self) {
        if !self.live || self.recorder.frames().is_empty() {
            return;
        }
        match self.file.write_all(self.recorder.frames()) {
            Ok(()) => self.recorder.clear(),
            Err(cause) => self.give_up(&cause),
        }
    }

    /// Whether it still records.
    pub fn is_live(&self) -> bool {
        self.live
    }

    fn record(&mut self, record: impl FnOnce(&mut Recorder) -> Result<(), Unwritable>) {
        if self.live
            && let Err(cause) = record(&mut self.recorder)
        {
            self.give_up(&cause);
        }
    }

    /// An entry missing in the middle would make the rest worthless.
    fn give_up(&mut self, cause: &dyn std::error::Error) {
        self.live = false;
        self.recorder = Recorder::default();
        tracing::error!(
            path = %self.path.display(),
            %cause,
            "THE JOURNAL IS OFF from here on: it could not be written; the server goes on without it"
        );
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.flush();
    }
}

/// How much of a file is whole frames, whichever builds wrote them.
fn good_bytes(file: &mut File) -> io::Result<Result<u64, Unreadable>> {
    let length = file.metadata()?.len();
    let (mut reader, mut piece) = (Reader::default(), vec![0; PIECE_BYTES]);
    loop {
        let read = file.read(&mut piece)?;
        if read == 0 {
            return Ok(Ok(match reader.tail() {
                Tail::Whole => length,
                Tail::Torn { at } => at,
            }));
        }
        reader.feed(&piece[..read]);
        loop {
            match reader.skip() {
                Ok(true) => {}
                Ok(false) => break,
                Err(unreadable) => return Ok(Err(unreadable)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dispatch_core::config::{Config, Provider};
    use dispatch_core::ids::{Owner, ProviderId};
    use dispatch_core::journal::Life;
    use dispatch_core::store::ProviderSettings;

    fn start() -> Start {
        let owner = Owner {
            node: "here".into(),
            boot: 1,
            incarnation: 0,
        };
        let settings = ProviderSettings {
            id: ProviderId::try_from("mock").unwrap(),
            limit: 1,
            cooldown_ms: 0,
        };
        let models = vec!["m".into()];
        Start {
            config: Config::new(owner, vec![Provider { settings, models }]),
            seed: [0; 32],
            now: Now::default(),
            life: Life::First,
        }
    }

    fn at(ms: u64) -> Now {
        Now {
            mono: Instant(ms),
            ..Now::default()
        }
    }

    fn tick(journal: &mut Journal, ms: u64) {
        journal.input(at(ms), &Input::Tick);
        journal.finish(at(ms));
    }

    #[test]
    fn p4_only_its_owner_may_read_a_journal_even_one_that_was_open_to_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        std::fs::write(&path, "").unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let journal = Journal::open(&path).unwrap();
        let mode = |file: &File| file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&journal.file), 0o600);
        let fresh = Journal::open(&dir.path().join("fresh")).unwrap();
        assert_eq!(mode(&fresh.file), 0o600);
    }

    #[test]
    fn entries_reach_the_file_within_a_second_and_at_every_flush() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let length = || std::fs::metadata(&path).unwrap().len();
        let mut journal = Journal::open(&path).unwrap();
        journal.start(&start());
        let started = length();
        assert!(started > 0);
        tick(&mut journal, 10);
        assert_eq!(length(), started, "buffered");
        journal.flush();
        let flushed = length();
        assert!(flushed > started);
        tick(&mut journal, 900);
        assert_eq!(length(), flushed);
        tick(&mut journal, 1_000);
        assert!(length() > flushed);
        let before = length();
        tick(&mut journal, 1_001);
        drop(journal);
        assert!(length() > before, "the last entries are written at the end");
    }

    #[test]
    fn a_torn_end_is_cut_off_before_the_next_life_is_appended() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.start(&start());
        tick(&mut journal, 1);
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        let mut torn = whole.clone();
        torn.extend_from_slice(&whole[..20]);
        std::fs::write(&path, &torn).unwrap();
        drop(Journal::open(&path).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_damaged_journal_is_not_appended_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let mut journal = Journal::open(&path).unwrap();
        journal.start(&start());
        drop(journal);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[30] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let refused = Journal::open(&path).unwrap_err().to_string();
        assert!(refused.contains("corrupt at byte 0"), "{refused}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes, "left as it was");
    }

    #[test]
    fn a_device_is_refused_and_left_as_it_is() {
        let mode = || std::fs::metadata("/dev/null").unwrap().permissions().mode();
        let before = mode();
        let refused = Journal::open(Path::new("/dev/null"));
        assert!(matches!(refused, Err(JournalError::NotAFile(_))));
        assert_eq!(mode(), before);
    }

    #[test]
    fn a_write_that_fails_turns_the_journal_off_and_nothing_else() {
        // Every write to this device fails for want of space.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut journal = Journal {
            path: "/dev/full".into(),
            file,
            recorder: Recorder::default(),
            flushed_at: Instant::default(),
            live: true,
        };
        journal.start(&start());
        assert!(!journal.is_live());
        tick(&mut journal, 5_000);
        assert!(journal.recorder.frames().is_empty());
    }
}
