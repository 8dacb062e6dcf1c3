//! The run directory: what a command's supervisor and its server agree on, on
//! disk, so that either may die.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use dispatch_core::ids::{Epoch, TurnId};
use rustix::fs::{Mode, OFlags};
use serde::{Serialize, de::DeserializeOwned};

use super::format::{Exit, Meta, Pids, TurnName, VERSION, now_ms};

/// Most bytes of a JSON file of a run directory that are read.
const FILE_LIMIT_BYTES: u64 = 4 << 20;

/// Why a run directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RunDirError {
    #[error(
        "{} exists already: this call was started before under the same epoch and is never repeated", .0.display()
    )]
    AlreadyStarted(PathBuf),
    #[error("cannot {verb} {}: {source}; check the data directory's space and permissions", .path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} is not a run file of this build: {cause}; another version wrote it, or it is damaged", .path.display())]
    Unreadable { path: PathBuf, cause: String },
}

/// Whether somebody heard a request to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Poke {
    /// A supervisor is there and will hear it.
    Heard,
    /// No supervisor lives here, or none has come so far that it could start
    /// anything without seeing `revoked` first.
    NobodyThere,
}

/// One run directory. Cheap to clone; holds no file open.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RunDir(PathBuf);

/// What a new run is to do.
#[derive(Clone, Debug)]
pub(super) struct NewRun {
    pub(super) turn: TurnId,
    pub(super) call_id: String,
    pub(super) epoch: Epoch,
    pub(super) command: String,
    pub(super) cwd: PathBuf,
    pub(super) deadline_ms: u64,
    pub(super) output_limit_bytes: u64,
}

impl RunDir {
    /// Where the run of one call under one epoch has its place.
    pub(super) fn for_call(runs: &Path, turn: TurnId, call_id: &str, epoch: Epoch) -> RunDir {
        let name = format!("{}-e{}", call_name(call_id), epoch.0);
        RunDir(runs.join(turn.to_string()).join(name))
    }

    /// Makes a directory that a supervisor can be pointed at. Refuses one that
    /// exists: a call is started once (D21). Returns the run's mark with it.
    pub(super) fn create(runs: &Path, run: NewRun) -> Result<(RunDir, String), RunDirError> {
        let dir = RunDir::for_call(runs, run.turn, &run.call_id, run.epoch);
        let turn_dir = runs.join(run.turn.to_string());
        private_dir(&turn_dir, true).map_err(io_error("create", &turn_dir))?;
        private_dir(&dir.0, false).map_err(|e| match e.kind() {
            io::ErrorKind::AlreadyExists => RunDirError::AlreadyStarted(dir.0.clone()),
            _ => io_error("create", &dir.0)(e),
        })?;
        let control = dir.path("control");
        rustix::fs::mkfifoat(rustix::fs::CWD, &control, Mode::RUSR | Mode::WUSR)
            .map_err(|e| io_error("create", &control)(e.into()))?;
        let meta = Meta {
            version: VERSION,
            turn: TurnName(run.turn),
            call: run.call_id,
            epoch: run.epoch,
            command: run.command,
            cwd: run.cwd,
            deadline_ms: run.deadline_ms,
            output_limit_bytes: run.output_limit_bytes,
            started_ms: now_ms(),
            mark: random_mark()?,
        };
        // Durable: a torn one would leave nothing to find the processes by.
        dir.write_json("meta.json", &meta, true)?;
        Ok((dir, meta.mark))
    }

    pub(super) fn at(path: PathBuf) -> RunDir {
        RunDir(path)
    }

    /// Every run directory of one call, the oldest epoch first.
    pub(super) fn of_call(
        runs: &Path,
        turn: TurnId,
        call_id: &str,
    ) -> Result<Vec<RunDir>, RunDirError> {
        let turn_dir = runs.join(turn.to_string());
        let name = call_name(call_id);
        let mut found: Vec<(u64, RunDir)> = list(&turn_dir)?
            .into_iter()
            .filter_map(|path| {
                let (call, epoch) = path.file_name()?.to_str()?.rsplit_once("-e")?;
                (call == name)
                    .then(|| Some((epoch.parse().ok()?, RunDir(path.clone()))))
                    .flatten()
            })
            .collect();
        found.sort();
        Ok(found.into_iter().map(|(_, dir)| dir).collect())
    }

    /// Every run directory there is.
    pub(super) fn all(runs: &Path) -> Result<Vec<RunDir>, RunDirError> {
        let mut found = Vec::new();
        for turn_dir in list(runs)? {
            if TurnId::try_from(file_name(&turn_dir)).is_ok() {
                found.extend(list(&turn_dir)?.into_iter().map(RunDir));
            }
        }
        Ok(found)
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    /// The turn that it was made for.
    pub(super) fn turn(&self) -> Option<TurnId> {
        TurnId::try_from(file_name(self.0.parent()?)).ok()
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn output_path(&self) -> PathBuf {
        self.path("output")
    }

    pub(super) fn meta(&self) -> Result<Option<Meta>, RunDirError> {
        self.read_json("meta.json", |meta: &Meta| meta.version)
    }

    pub(super) fn pids(&self) -> Result<Option<Pids>, RunDirError> {
        self.read_json("pid", |pids: &Pids| pids.version)
    }

    pub(super) fn exit(&self) -> Result<Option<Exit>, RunDirError> {
        self.read_json("exit", |exit: &Exit| exit.version)
    }

    pub(super) fn write_pids(&self, pids: &Pids) -> Result<(), RunDirError> {
        self.write_json("pid", pids, false)
    }

    /// Settles the run, durably.
    pub(super) fn write_exit(&self, exit: &Exit) -> Result<(), RunDirError> {
        self.write_json("exit", exit, true)
    }

    /// Forbids that anything be started here from now on.
    pub(super) fn revoke(&self) -> Result<(), RunDirError> {
        let path = self.path("revoked");
        match OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
        {
            Ok(_) => Ok(()),
            Err(e) => Err(io_error("create", &path)(e)),
        }
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.path("revoked").exists()
    }

    /// Asks the supervisor to stop the command. Call after [`RunDir::revoke`]:
    /// a supervisor that opens its end later finds that file.
    pub(super) fn poke(&self) -> Poke {
        let opened = OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(self.path("control"));
        match opened {
            Ok(mut control) => match control.write(b"k") {
                Ok(_) => Poke::Heard,
                // Full of earlier requests: as good as heard.
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => Poke::Heard,
                Err(_) => Poke::NobodyThere,
            },
            Err(_) => Poke::NobodyThere,
        }
    }

    /// Whether a supervisor lives here.
    pub(super) fn is_supervised(&self) -> bool {
        OpenOptions::new()
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(self.path("control"))
            .is_ok()
    }

    /// The supervisor's end of `control`, which shows that it lives. Opened for
    /// writing too, so that it never sees an end of file.
    pub(super) fn open_control(&self) -> Result<OwnedFd, RunDirError> {
        let path = self.path("control");
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(OFlags::NONBLOCK.bits() as i32)
            .open(&path)
            .map(OwnedFd::from)
            .map_err(io_error("open", &path))
    }

    /// Removes the directory, and its turn's if that was the last one.
    pub(super) fn remove(&self) -> Result<(), RunDirError> {
        fs::remove_dir_all(&self.0).map_err(io_error("remove", &self.0))?;
        if let Some(turn_dir) = self.0.parent() {
            let _others_are_left = fs::remove_dir(turn_dir);
        }
        Ok(())
    }

    /// Bytes in `output`; zero when there is none.
    pub(super) fn output_bytes(&self) -> u64 {
        fs::metadata(self.output_path()).map_or(0, |meta| meta.len())
    }

    fn write_json(
        &self,
        name: &str,
        value: &impl Serialize,
        durable: bool,
    ) -> Result<(), RunDirError> {
        let path = self.path(name);
        let temporary = self.path(&format!("{name}.{}.tmp", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            serde_json::to_writer(&mut file, value)?;
            file.write_all(b"\n")?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, &path)?;
            if durable {
                File::open(&self.0)?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(io_error("write", &path))
    }

    fn read_json<T: DeserializeOwned>(
        &self,
        name: &str,
        version: fn(&T) -> u32,
    ) -> Result<Option<T>, RunDirError> {
        let path = self.path(name);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        let mut bytes = Vec::new();
        file.take(FILE_LIMIT_BYTES)
            .read_to_end(&mut bytes)
            .map_err(io_error("read", &path))?;
        let unreadable = |cause: String| RunDirError::Unreadable {
            path: path.clone(),
            cause,
        };
        let value: T = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
        match version(&value) {
            VERSION => Ok(Some(value)),
            other => Err(unreadable(format!(
                "it has version {other}, this build reads {VERSION}"
            ))),
        }
    }
}

/// A call id as a file name: vendors' ids may hold anything. What is not plain
/// is told apart by a digest.
pub(super) fn call_name(call_id: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let kept: String = call_id
        .chars()
        .take(64)
        .map(|c| if plain(c) { c } else { '_' })
        .collect();
    if kept == call_id && !kept.is_empty() {
        return kept;
    }
    // The dot keeps these apart from plain ids, which have none.
    format!("{kept}.{:016x}", fnv1a(call_id.as_bytes()))
}

/// FNV-1a, 64 bits: the name must be the same in every build, which the
/// standard library's hasher does not promise.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(super) fn random_mark() -> Result<String, RunDirError> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| RunDirError::Io {
        verb: "draw randomness from",
        path: PathBuf::from("the operating system"),
        source: io::Error::other(e.to_string()),
    })?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Commands and their output are nobody else's to read (P4).
fn private_dir(path: &Path, may_exist: bool) -> io::Result<()> {
    fs::DirBuilder::new()
        .mode(0o700)
        .recursive(may_exist)
        .create(path)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, RunDirError> {
    match fs::read_dir(dir) {
        Ok(entries) => Ok(entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.is_dir())
            .collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(io_error("list", dir)(e)),
    }
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

fn io_error(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError::Io {
        verb,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::super::format::Reason;
    use super::*;

    fn run(call_id: &str, epoch: u64) -> NewRun {
        NewRun {
            turn: TurnId(7),
            call_id: call_id.to_owned(),
            epoch: Epoch(epoch),
            command: "true".to_owned(),
            cwd: PathBuf::from("/"),
            deadline_ms: 1_000,
            output_limit_bytes: 1_000,
        }
    }

    #[test]
    fn a_call_id_becomes_a_harmless_name_of_its_own() {
        assert_eq!(call_name("call_Ab-9"), "call_Ab-9");
        let odd = ["", "../../etc", "a/b", "a_b.", "a b", &"x".repeat(300)];
        let mut names: Vec<String> = odd.iter().map(|id| call_name(id)).collect();
        for name in &names {
            assert!(name.len() <= 64 + 17, "{name}");
            assert!(!name.contains('/') && !name.contains(".."), "{name}");
        }
        names.sort();
        names.dedup();
        assert_eq!(names.len(), odd.len());
    }

    #[test]
    fn d21_a_call_is_started_once_an_epoch() {
        let runs = tempfile::tempdir().expect("a directory");
        RunDir::create(runs.path(), run("c", 1)).expect("the first time");
        let again = RunDir::create(runs.path(), run("c", 1));
        assert!(matches!(again, Err(RunDirError::AlreadyStarted(_))));
    }

    #[test]
    fn a_calls_runs_are_found_by_epoch_and_not_mixed_with_other_calls() {
        let runs = tempfile::tempdir().expect("a directory");
        for (call, epoch) in [("c", 10), ("c", 9), ("c-e1", 3), ("c/", 1)] {
            RunDir::create(runs.path(), run(call, epoch)).expect("created");
        }
        let found = RunDir::of_call(runs.path(), TurnId(7), "c").expect("listed");
        let epochs: Vec<u64> = found
            .iter()
            .map(|dir| dir.meta().expect("readable").expect("there").epoch.0)
            .collect();
        assert_eq!(epochs, vec![9, 10]);
        assert_eq!(RunDir::all(runs.path()).expect("listed").len(), 4);
        let none = RunDir::of_call(runs.path(), TurnId(8), "c").expect("listed");
        assert_eq!(none, vec![]);
    }

    #[test]
    fn a_run_file_of_another_version_or_damaged_is_named() {
        let runs = tempfile::tempdir().expect("a directory");
        let (dir, _) = RunDir::create(runs.path(), run("c", 1)).expect("created");
        assert_eq!(dir.exit().expect("absent is fine"), None);
        let mut exit = Exit::new(Reason::Exited, 0);
        exit.version = 2;
        dir.write_exit(&exit).expect("written");
        let error = dir.exit().expect_err("another version").to_string();
        assert!(error.contains("version 2"), "{error}");
        fs::write(dir.path("exit"), "{\"version\":1,").expect("written");
        let error = dir.exit().expect_err("torn").to_string();
        assert!(error.contains("exit is not a run file"), "{error}");
    }

    #[test]
    fn a_poke_is_heard_exactly_while_a_supervisor_holds_its_end() {
        let runs = tempfile::tempdir().expect("a directory");
        let (dir, _) = RunDir::create(runs.path(), run("c", 1)).expect("created");
        assert_eq!(dir.poke(), Poke::NobodyThere);
        let held = dir.open_control().expect("opened");
        assert_eq!(dir.poke(), Poke::Heard);
        drop(held);
        assert_eq!(dir.poke(), Poke::NobodyThere);
    }

    #[test]
    fn p4_a_run_directory_is_private() {
        use std::os::unix::fs::PermissionsExt;
        let runs = tempfile::tempdir().expect("a directory");
        let (dir, _) = RunDir::create(runs.path(), run("c", 1)).expect("created");
        let mode = fs::metadata(dir.root())
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
