//! The tools `read` and `write` on another computer's files (S6): what
//! `exec::files` does here, by SFTP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use dispatch_core::reconcile::OUTCOME_UNKNOWN;
use russh_sftp::client::fs::{File, Metadata};
use russh_sftp::protocol::{FileAttributes, FileMode, OpenFlags};
use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::far::{Far, Fault, some};
use super::over::{Over, Session};
use super::question::{AskError, Question};
use super::watch::Followed;
use crate::exec::files::{self, FileError, Lines};
use crate::exec::input::{Read, Write};
use crate::exec::rundir::random_mark;
use crate::exec::{ToolDone, ToolRequest};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum FarFileError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Link(#[from] Fault),
}

/// The tool `read`, once more where nothing but its session was lost.
pub(super) async fn run_read(
    over: &Arc<Over>,
    request: &ToolRequest,
    kill: &CancellationToken,
    input: Read,
) -> Followed {
    let cwd = request.cwd.to_string_lossy().into_owned();
    let input = Arc::new(input);
    let once = || {
        let (over, cwd, input) = (over.clone(), cwd.clone(), input.clone());
        let begin = |stop| {
            tokio::spawn(async move {
                let far = Far::open(&over, Session::Tools).await?;
                far.unless_lost(read(&far, &cwd, &input, &stop)).await
            })
        };
        files::limited(request, kill, begin)
    };
    let begun = Instant::now();
    let mut done = once().await;
    if let Err(FarFileError::Link(Fault::Lost(_))) = &done
        && end_of_link(over).await.is_none()
    {
        done = once().await;
    }
    let what = format!("cannot read {}", named(request, &input.path));
    ended(over, done, &what, begun).await
}

/// The tool `write`.
pub(super) async fn run_write(
    over: &Arc<Over>,
    request: &ToolRequest,
    kill: &CancellationToken,
    input: Write,
) -> Followed {
    let begun = Instant::now();
    let path = named(request, &input.path);
    let cwd = request.cwd.to_string_lossy().into_owned();
    let begin = |stop| {
        let over = over.clone();
        tokio::spawn(async move {
            let far = Far::open(&over, Session::Tools).await?;
            far.unless_lost(write(&far, &cwd, &input, &stop)).await
        })
    };
    let done = files::limited(request, kill, begin).await;
    let what = format!("{OUTCOME_UNKNOWN}: {path} may have been written or not");
    ended(over, done, &what, begun).await
}

/// A path as people know it, whatever its home directory is.
fn named(request: &ToolRequest, path: &str) -> String {
    request.cwd.join(path).display().to_string()
}

/// What is told of a file tool. A session of its own that does not answer, or
/// ends, is that call's failure: the link serves all others as before.
async fn ended(
    over: &Over,
    done: Result<ToolDone, FarFileError>,
    what: &str,
    begun: Instant,
) -> Followed {
    let computer = over.link.computer();
    let cause = match done {
        Ok(done) => return Followed::Done(done),
        Err(FarFileError::File(e)) => return Followed::Done(ToolDone::failed(e.to_string())),
        Err(FarFileError::Link(Fault::Silent)) => format!(
            "{computer} has not answered for {} s; a file system there may hang, which df and mount in the tool bash can tell",
            begun.elapsed().as_secs()
        ),
        Err(FarFileError::Link(Fault::Lost(cause))) => match end_of_link(over).await {
            Some(cause) => return Followed::LinkLost(cause),
            None => format!(
                "file transfer with {computer} broke off ({cause}); see what is there, and try again"
            ),
        },
        Err(FarFileError::Link(fault)) => return Followed::not_begun(fault),
    };
    Followed::Done(ToolDone::failed(format!("{what}: {cause}")))
}

/// Why the link has ended, if it has, and not only a session on it.
async fn end_of_link(over: &Over) -> Option<String> {
    let opened = over.files(Session::Tools).await;
    opened.err().and_then(|fault| fault.end_of_link())
}

async fn read(
    far: &Far,
    cwd: &str,
    input: &Read,
    stop: &CancellationToken,
) -> Result<ToolDone, FarFileError> {
    let path = far.absolute(cwd, &input.path);
    let fault = |verb| said(verb, &path);
    // An open of a pipe over there would block for everybody.
    let stat = far.sftp.metadata(&path).await.map_err(Fault::from);
    regular(&stat.map_err(fault("open"))?, &path)?;
    let mut lines = Lines::new(PathBuf::from(&path), input);
    let through = far.read_through(&path, |bytes| match stop.is_cancelled() {
        true => Err(FileError::Stopped("nothing was changed").into()),
        false => Ok(lines.push(bytes)?),
    });
    match through.await {
        Ok(()) => Ok(lines.finish()?),
        Err(FarFileError::Link(e)) => Err(fault("read")(e)),
        Err(e @ FarFileError::File(_)) => Err(e),
    }
}

/// The file is the old one or the new one, never a part.
async fn write(
    far: &Far,
    cwd: &str,
    input: &Write,
    stop: &CancellationToken,
) -> Result<ToolDone, FarFileError> {
    files::bounded(input)?;
    let named = far.absolute(cwd, &input.path);
    let path = behind_links(far, &named).await?;
    let old = some(far.sftp.metadata(&path).await.map_err(Fault::from));
    let old = old.map_err(said("look at", &named))?;
    if let Some(old) = &old {
        regular(old, &named)?;
    }
    let parent = match path.rsplit_once('/') {
        Some((parent, name)) if !name.is_empty() => parent,
        Some(_) | None => return Err(FileError::Directory(PathBuf::from(named)).into()),
    };
    create_dirs(far, parent).await?;
    let (temporary, file) = create_temporary(far, parent, old.as_ref()).await?;
    let placed = async {
        let written = fill(file, input.content.as_bytes(), old.as_ref()).await;
        if let Err(e) = written {
            let e = far.judged(e).await;
            return Err(said("write", &named)(explained(far, &temporary, e).await));
        }
        if stop.is_cancelled() {
            return Err(FileError::Stopped("the file was not changed").into());
        }
        replace(far, &named, &temporary, &path, old.is_some()).await
    };
    if let Err(e) = placed.await {
        tidy(far, temporary, &e).await;
        return Err(e);
    }
    Ok(files::written(Path::new(&named), input, old.is_some()))
}

/// A file system that did not answer is not waited for once more.
async fn tidy(far: &Far, temporary: String, e: &FarFileError) {
    let sftp = far.sftp.clone();
    let removing = async move {
        let _already_gone = sftp.remove_file(temporary).await;
    };
    match e {
        FarFileError::Link(_) => drop(tokio::spawn(removing)),
        FarFileError::File(_) => removing.await,
    }
}

fn regular(stat: &Metadata, path: &str) -> Result<(), FileError> {
    let kind = stat.permissions.unwrap_or(FileMode::REG.bits()) & 0xF000;
    if kind == FileMode::DIR.bits() {
        return Err(FileError::Directory(PathBuf::from(path)));
    }
    if kind != FileMode::REG.bits() {
        return Err(FileError::Special(PathBuf::from(path)));
    }
    Ok(())
}

/// A rename would replace a symbolic link, not the file that it stands for.
async fn behind_links(far: &Far, path: &str) -> Result<String, FarFileError> {
    let stat = far.sftp.symlink_metadata(path).await.map_err(Fault::from);
    match stat {
        Ok(stat) if stat.file_type().is_symlink() => {
            let target = far.sftp.canonicalize(path).await.map_err(Fault::from);
            Ok(target.map_err(said("follow the symbolic link", path))?)
        }
        Err(e) if e.is_of_the_link() => Err(e.into()),
        Ok(_) | Err(_) => Ok(path.to_owned()),
    }
}

async fn create_dirs(far: &Far, path: &str) -> Result<(), FarFileError> {
    let fault = |path: &str| said("create the directory", path);
    let mut missing = Vec::new();
    let mut at = path;
    while !at.is_empty() && far.stat(at).await.map_err(fault(at))?.is_none() {
        missing.push(at);
        at = at.rsplit_once('/').map_or("", |(parent, _)| parent);
    }
    for dir in missing.into_iter().rev() {
        let created = far.sftp.create_dir(dir).await.map_err(Fault::from);
        if let Err(e) = created
            && !matches!(far.stat(dir).await, Ok(Some(_)))
        {
            let e = explained(far, dir, e).await;
            return Err(fault(dir)(e));
        }
    }
    Ok(())
}

/// A file that is to take its target's place.
async fn create_temporary(
    far: &Far,
    parent: &str,
    old: Option<&Metadata>,
) -> Result<(String, File), FarFileError> {
    let fault = said("create a temporary file in", parent);
    let random = random_mark().map_err(|e| fault(Fault::Failed(e.to_string())))?;
    let path = format!("{parent}/.dispatch-{}.tmp", &random[..16]);
    let flags = OpenFlags::CREATE | OpenFlags::EXCLUDE | OpenFlags::WRITE;
    // Never more open than the file that it replaces, not even for a moment.
    let mode = old.and_then(|old| old.permissions);
    let attributes = FileAttributes {
        permissions: Some(mode.map_or(0o666, |mode| mode & 0o777)),
        ..FileAttributes::empty()
    };
    let opened = far
        .sftp
        .open_with_flags_and_attributes(&path, flags, attributes);
    match opened.await.map_err(Fault::from) {
        Ok(file) => Ok((path, file)),
        Err(e) => Err(fault(explained(far, parent, e).await)),
    }
}

async fn fill(mut file: File, content: &[u8], old: Option<&Metadata>) -> io::Result<()> {
    file.write_all(content).await?;
    // Waits for all answers, and syncs where that is offered.
    file.flush().await?;
    if let Some(old) = old {
        keep_owner_and_mode(&file, old).await?;
    }
    file.close().await
}

/// SFTP's own rename does not replace, so another file's place is taken by a
/// command.
async fn replace(
    far: &Far,
    named: &str,
    temporary: &str,
    target: &str,
    replaces: bool,
) -> Result<(), FarFileError> {
    if !replaces {
        match far
            .sftp
            .rename(temporary, target)
            .await
            .map_err(Fault::from)
        {
            Ok(()) => return Ok(()),
            Err(e) if e.is_of_the_link() => return Err(e.into()),
            // Somebody may have created it meanwhile.
            Err(_) => {}
        }
    }
    let fault = |cause: String| said("replace", named)(Fault::Failed(cause));
    let question = Question::new().map_err(|e| fault(e.to_string()))?;
    let question = question.with("from", temporary).with("to", target);
    let answers = match question.ask(&far.over.link, "replace").await {
        Ok(answers) => answers,
        Err(AskError::Link(e)) => return Err(Fault::Link(e).into()),
        // It may have been replaced.
        Err(e) => return Err(fault(format!("{OUTCOME_UNKNOWN}: {e}"))),
    };
    match answers
        .iter()
        .find_map(|said| said.strip_prefix("refused "))
    {
        Some(cause) => Err(fault(cause.trim().to_owned())),
        None => Ok(()),
    }
}

async fn keep_owner_and_mode(file: &File, old: &Metadata) -> io::Result<()> {
    let owner = FileAttributes {
        uid: old.uid,
        gid: old.gid,
        ..FileAttributes::empty()
    };
    // Only root may give a file away: for others the owner changes.
    let _not_permitted = file.set_metadata(owner).await;
    let mode = FileAttributes {
        permissions: old.permissions.map(|mode| mode & 0o7777),
        ..FileAttributes::empty()
    };
    file.set_metadata(mode)
        .await
        .map_err(|e| io::Error::other(e.to_string()))
}

/// SFTP has no word for a full disk.
async fn explained(far: &Far, path: &str, e: Fault) -> Fault {
    let Fault::Failed(cause) = e else {
        return e;
    };
    match far.sftp.fs_info(path).await {
        Ok(Some(info)) if info.blocks_avail == 0 || info.inodes > 0 && info.inodes_avail == 0 => {
            Fault::Failed("No space left on device".to_owned())
        }
        Ok(_) | Err(_) => Fault::Failed(cause),
    }
}

/// What the model reads of a fault; one of the link stays one.
fn said(verb: &'static str, path: &str) -> impl Fn(Fault) -> FarFileError + use<> {
    let path = PathBuf::from(path);
    move |fault| {
        let source = match fault {
            Fault::Missing if verb == "open" => return FileError::NotFound(path.clone()).into(),
            Fault::Missing => io::Error::from_raw_os_error(rustix::io::Errno::NOENT.raw_os_error()),
            Fault::Denied => io::Error::from_raw_os_error(rustix::io::Errno::ACCESS.raw_os_error()),
            Fault::Failed(cause) => io::Error::other(cause),
            fault @ (Fault::Silent | Fault::Lost(_) | Fault::Link(_)) => return fault.into(),
        };
        let path = path.clone();
        FileError::Io { verb, path, source }.into()
    }
}
