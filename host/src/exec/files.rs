//! The tools `read` and `write` on this computer's files (S6).

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dispatch_core::output::HeadTail;
use rustix::fs::{Gid, OFlags, Uid};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::input::{Read, Write};
use super::{ToolDone, ToolRequest};

/// Most bytes that one `write` takes.
const WRITE_LIMIT_BYTES: usize = 10 << 20;
/// How far into a file a NUL byte shows that it is no text.
const BINARY_PROBE_BYTES: usize = 8 * 1024;
/// How long a call that was stopped may take to say what it did.
const STOP_PATIENCE: Duration = Duration::from_millis(500);

/// Why a file could not be read or written. The model reads it.
#[derive(Debug, thiserror::Error)]
pub(super) enum FileError {
    #[error("there is no file {}", .0.display())]
    NotFound(PathBuf),
    #[error("{} is a directory; name a file in it (the tool bash can list it)", .0.display())]
    Directory(PathBuf),
    #[error("{} is a device, pipe or socket; only regular files can be read and written", .0.display())]
    Special(PathBuf),
    #[error("{} is not a text file: it holds NUL bytes; use a command in bash to look at it", .0.display())]
    Binary(PathBuf),
    #[error("offset {offset} is beyond the end of {}, which has {lines} lines", .path.display())]
    BeyondTheEnd {
        path: PathBuf,
        offset: u64,
        lines: u64,
    },
    #[error("content has {bytes} bytes; at most {WRITE_LIMIT_BYTES} can be written at once")]
    TooLong { bytes: usize },
    #[error("cannot {verb} {}: {source}", .path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("stopped before it was done; {0}")]
    Stopped(&'static str),
}

/// Carries out a blocking file tool under the call's deadline and kill.
pub(super) async fn run(
    request: &ToolRequest,
    kill: &CancellationToken,
    work: impl FnOnce(&Path, &CancellationToken) -> Result<ToolDone, FileError> + Send + 'static,
) -> ToolDone {
    let cwd = request.cwd.clone();
    let begin = |stop| tokio::task::spawn_blocking(move || work(&cwd, &stop));
    match limited(request, kill, begin).await {
        Ok(done) => done,
        Err(e) => ToolDone::failed(e.to_string()),
    }
}

/// Sees a file tool that `begin` starts to its end, its deadline or its kill;
/// the token tells it to stop.
pub(super) async fn limited<E>(
    request: &ToolRequest,
    kill: &CancellationToken,
    begin: impl FnOnce(CancellationToken) -> JoinHandle<Result<ToolDone, E>>,
) -> Result<ToolDone, E> {
    let stop = kill.child_token();
    let mut work = begin(stop.clone());
    let deadline = tokio::time::sleep(Duration::from_millis(request.deadline_ms));
    let finished = tokio::select! {
        done = &mut work => Some(done),
        () = kill.cancelled() => None,
        () = deadline => None,
    };
    stop.cancel();
    let finished = match finished {
        Some(done) => done,
        // It may still succeed, and then that is the truth.
        None => match tokio::time::timeout(STOP_PATIENCE, work).await {
            Ok(done) => done,
            Err(_) => {
                return Ok(ToolDone::failed(
                    "stopped while the file system did not answer; whether the file was changed is unknown",
                ));
            }
        },
    };
    finished.unwrap_or_else(|e| Ok(ToolDone::failed(format!("the tool broke off: {e}"))))
}

/// The lines of a file that a call of `read` asks for, taken from its bytes as
/// they come, wherever the file is (S1).
#[derive(Debug)]
pub(super) struct Lines {
    path: PathBuf,
    first: u64,
    end: u64,
    line: u64,
    open_line: bool,
    at_start: bool,
    more: bool,
    bound: HeadTail,
}

impl Lines {
    pub(super) fn new(path: PathBuf, input: &Read) -> Lines {
        let first = input.offset.unwrap_or(1);
        Lines {
            path,
            first,
            end: input
                .limit
                .map_or(u64::MAX, |limit| first.saturating_add(limit)),
            line: 1,
            open_line: false,
            at_start: true,
            more: false,
            bound: HeadTail::default(),
        }
    }

    /// Takes the next bytes; false when no more are wanted.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<bool, FileError> {
        if self.at_start && block[..block.len().min(BINARY_PROBE_BYTES)].contains(&0) {
            return Err(FileError::Binary(self.path.clone()));
        }
        self.at_start = false;
        for piece in block.split_inclusive(|byte| *byte == b'\n') {
            if self.line >= self.end {
                self.more = true;
                return Ok(false);
            }
            if self.line >= self.first {
                self.bound.push(piece);
            }
            self.open_line = !piece.ends_with(b"\n");
            self.line += u64::from(!self.open_line);
        }
        Ok(true)
    }

    /// What the model reads.
    pub(super) fn finish(self) -> Result<ToolDone, FileError> {
        let lines = self.line - 1 + u64::from(self.open_line);
        if self.first > lines.max(1) {
            return Err(FileError::BeyondTheEnd {
                path: self.path,
                offset: self.first,
                lines,
            });
        }
        let bounded = self.bound.finish(Some(&self.path.display().to_string()));
        let mut done = ToolDone::succeeded(bounded.text);
        done.truncated = bounded.truncated;
        if self.more {
            done.output.push_str(&format!(
                "[... more lines follow; go on with offset {} ...]\n",
                self.end
            ));
        }
        if done.output.is_empty() {
            done.output.push_str("(the file is empty)");
        }
        Ok(done)
    }
}

/// The tool `read`.
pub(super) fn read(
    cwd: &Path,
    input: &Read,
    stop: &CancellationToken,
) -> Result<ToolDone, FileError> {
    let path = cwd.join(&input.path);
    let mut file = open_regular(&path)?;
    let mut lines = Lines::new(path.clone(), input);
    let mut block = vec![0u8; 64 * 1024];
    loop {
        if stop.is_cancelled() {
            return Err(FileError::Stopped("nothing was changed"));
        }
        let n = match file.read(&mut block) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        if !lines.push(&block[..n])? {
            break;
        }
    }
    lines.finish()
}

/// The tool `write`: the file is the old one or the new one, never a part.
pub(super) fn write(
    cwd: &Path,
    input: &Write,
    stop: &CancellationToken,
) -> Result<ToolDone, FileError> {
    bounded(input)?;
    let named = cwd.join(&input.path);
    let path = behind_links(&named)?;
    let old = match fs::metadata(&path) {
        Ok(old) if old.is_file() => Some(old),
        Ok(old) if old.is_dir() => return Err(FileError::Directory(named)),
        Ok(_) => return Err(FileError::Special(named)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(io_error("look at", &named)(e)),
    };
    let (Some(parent), Some(_)) = (path.parent(), path.file_name()) else {
        return Err(FileError::Directory(named));
    };
    fs::create_dir_all(parent).map_err(io_error("create the directory", parent))?;
    let temporary = Temporary::create(parent, old.as_ref())
        .map_err(io_error("create a temporary file in", parent))?;
    temporary
        .fill(input.content.as_bytes(), old.as_ref())
        .map_err(io_error("write", &named))?;
    if stop.is_cancelled() {
        return Err(FileError::Stopped("the file was not changed"));
    }
    temporary
        .replace(&path, parent)
        .map_err(io_error("replace", &named))?;
    Ok(written(&named, input, old.is_some()))
}

/// Refuses what is too long to be written at once.
pub(super) fn bounded(input: &Write) -> Result<(), FileError> {
    match input.content.len() {
        bytes if bytes > WRITE_LIMIT_BYTES => Err(FileError::TooLong { bytes }),
        _ => Ok(()),
    }
}

/// What the model reads of a file that was written.
pub(super) fn written(named: &Path, input: &Write, replaced: bool) -> ToolDone {
    let what = if replaced { "replaced" } else { "created" };
    ToolDone::succeeded(format!(
        "{what} {}: {} bytes written",
        named.display(),
        input.content.len()
    ))
}

/// Opens without waiting for the other side of a pipe, which may never come.
fn open_regular(path: &Path) -> Result<File, FileError> {
    let not_found = |e: io::Error| match e.kind() {
        io::ErrorKind::NotFound => FileError::NotFound(path.to_owned()),
        _ => io_error("open", path)(e),
    };
    let kind = fs::metadata(path).map_err(not_found)?.file_type();
    if kind.is_dir() {
        return Err(FileError::Directory(path.to_owned()));
    }
    if !kind.is_file() {
        return Err(FileError::Special(path.to_owned()));
    }
    OpenOptions::new()
        .read(true)
        .custom_flags(OFlags::NONBLOCK.bits() as i32)
        .open(path)
        .map_err(not_found)
}

/// A rename would replace a symbolic link, not the file that it stands for.
fn behind_links(path: &Path) -> Result<PathBuf, FileError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_symlink() => {
            fs::canonicalize(path).map_err(io_error("follow the symbolic link", path))
        }
        Ok(_) | Err(_) => Ok(path.to_owned()),
    }
}

/// A file that is removed unless it takes its target's place.
#[derive(Debug)]
struct Temporary {
    path: PathBuf,
    file: File,
    placed: bool,
}

impl Temporary {
    fn create(parent: &Path, old: Option<&fs::Metadata>) -> io::Result<Temporary> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
        let path = parent.join(format!(".dispatch-{:016x}.tmp", u64::from_le_bytes(random)));
        // Never more open than the file that it replaces, not even for a moment.
        let mode = old.map_or(0o666, |old| old.mode() & 0o777);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path)?;
        Ok(Temporary {
            path,
            file,
            placed: false,
        })
    }

    fn fill(&self, content: &[u8], old: Option<&fs::Metadata>) -> io::Result<()> {
        (&self.file).write_all(content)?;
        if let Some(old) = old {
            // Only root may give a file away: for others the owner changes.
            let _not_permitted = rustix::fs::fchown(
                &self.file,
                Some(Uid::from_raw(old.uid())),
                Some(Gid::from_raw(old.gid())),
            );
            self.file
                .set_permissions(Permissions::from_mode(old.mode() & 0o7777))?;
        }
        self.file.sync_all()
    }

    fn replace(mut self, target: &Path, parent: &Path) -> io::Result<()> {
        fs::rename(&self.path, target)?;
        self.placed = true;
        File::open(parent)?.sync_all()
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _already_gone = fs::remove_file(&self.path);
        }
    }
}

fn io_error(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io {
        verb,
        path: path.clone(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(path: &str, offset: Option<u64>, limit: Option<u64>) -> Read {
        Read {
            path: path.to_owned(),
            offset,
            limit,
        }
    }

    fn read_text(dir: &Path, offset: Option<u64>, limit: Option<u64>) -> Result<String, String> {
        read(dir, &input("f", offset, limit), &CancellationToken::new())
            .map(|done| done.output)
            .map_err(|e| e.to_string())
    }

    fn write_text(dir: &Path, path: &str, content: &str) -> Result<String, FileError> {
        let input = Write {
            path: path.to_owned(),
            content: content.to_owned(),
        };
        write(dir, &input, &CancellationToken::new()).map(|done| done.output)
    }

    #[test]
    fn a_part_of_a_file_is_read_by_lines() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("f"), "one\ntwo\nthree\nfour").expect("written");
        assert_eq!(
            read_text(dir.path(), None, None).expect("read"),
            "one\ntwo\nthree\nfour"
        );
        assert_eq!(
            read_text(dir.path(), Some(2), Some(2)).expect("read"),
            "two\nthree\n[... more lines follow; go on with offset 4 ...]\n"
        );
        assert_eq!(
            read_text(dir.path(), Some(4), Some(9)).expect("read"),
            "four"
        );
        let error = read_text(dir.path(), Some(5), None).expect_err("beyond");
        assert!(error.contains("which has 4 lines"), "{error}");
    }

    #[test]
    fn an_empty_file_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("f"), "").expect("written");
        assert_eq!(
            read_text(dir.path(), None, None).expect("read"),
            "(the file is empty)"
        );
    }

    #[test]
    fn t8_a_long_file_is_bounded() {
        let dir = tempfile::tempdir().expect("a directory");
        let all: String = (1..=100_000).map(|n| format!("line {n}\n")).collect();
        fs::write(dir.path().join("f"), all).expect("written");
        let stop = CancellationToken::new();
        let done = read(dir.path(), &input("f", None, None), &stop).expect("read");
        assert!(done.truncated && done.ok);
        assert!(done.output.len() < 52 * 1024);
        assert!(done.output.starts_with("line 1\n"));
        assert!(done.output.ends_with("line 100000\n"));
    }

    #[test]
    fn what_is_no_text_file_is_refused_by_its_kind() {
        let dir = tempfile::tempdir().expect("a directory");
        let stop = CancellationToken::new();
        let refused =
            |path: &str| read(dir.path(), &input(path, None, None), &stop).expect_err("no");
        assert!(matches!(refused("nothing"), FileError::NotFound(_)));
        assert!(matches!(refused("."), FileError::Directory(_)));
        assert!(matches!(refused("/dev/zero"), FileError::Special(_)));
        fs::write(dir.path().join("b"), b"ELF\0\0").expect("written");
        assert!(matches!(refused("b"), FileError::Binary(_)));
        // An open of a pipe that nobody writes to would wait for ever.
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RWXU;
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).expect("a pipe");
        assert!(matches!(refused("pipe"), FileError::Special(_)));
    }

    #[test]
    fn s6_a_write_creates_parents_and_leaves_no_temporary_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let said = write_text(dir.path(), "a/b/c.txt", "héllo").expect("written");
        assert!(
            said.starts_with("created ") && said.ends_with(": 6 bytes written"),
            "{said}"
        );
        let names: Vec<_> = fs::read_dir(dir.path().join("a/b"))
            .expect("listed")
            .map(|entry| entry.expect("an entry").file_name())
            .collect();
        assert_eq!(names, vec!["c.txt"]);
    }

    #[test]
    fn s6_a_write_keeps_the_mode_and_follows_a_symbolic_link() {
        let dir = tempfile::tempdir().expect("a directory");
        let script = dir.path().join("script");
        fs::write(&script, "old").expect("written");
        fs::set_permissions(&script, Permissions::from_mode(0o750)).expect("set");
        std::os::unix::fs::symlink(&script, dir.path().join("link")).expect("linked");
        write_text(dir.path(), "link", "new").expect("written");
        assert_eq!(fs::read_to_string(&script).expect("read"), "new");
        let mode = fs::metadata(&script).expect("there").mode();
        assert_eq!(mode & 0o7777, 0o750);
        let link = fs::symlink_metadata(dir.path().join("link")).expect("there");
        assert!(link.is_symlink());
    }

    #[test]
    fn s6_a_write_that_fails_or_is_stopped_leaves_the_old_file_whole() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("f"), "old").expect("written");
        let stop = CancellationToken::new();
        stop.cancel();
        let input = Write {
            path: "f".to_owned(),
            content: "new".to_owned(),
        };
        let stopped = write(dir.path(), &input, &stop).expect_err("stopped");
        assert!(matches!(stopped, FileError::Stopped(_)));
        let long = "x".repeat(WRITE_LIMIT_BYTES + 1);
        let refused = write_text(dir.path(), "f", &long).expect_err("too long");
        assert!(matches!(refused, FileError::TooLong { .. }));
        let below = write_text(dir.path(), "f/g", "x").expect_err("not a directory");
        assert!(matches!(below, FileError::Io { .. }));
        assert_eq!(
            fs::read_to_string(dir.path().join("f")).expect("read"),
            "old"
        );
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 1);
        let directory = write_text(dir.path(), ".", "x").expect_err("a directory");
        assert!(matches!(directory, FileError::Directory(_)));
    }
}
