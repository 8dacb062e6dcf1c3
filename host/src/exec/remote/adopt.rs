//! Finds what became of a call on another computer, or makes sure that nothing
//! of it will ever start (L10, S5).

use std::time::Duration;

use russh_sftp::protocol::{FileAttributes, OpenFlags};
use tokio::time::Instant;

use super::far::{Far, Fault};
use super::run::{Ending, RemoteCall, RemoteExit, Run, claim_line, turn_dir};
use crate::exec::format::{Reason, now_ms};
use crate::exec::{Adoption, ToolDone};

/// How long a start that has its directory may take to show its supervisor.
const START_PATIENCE: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// What there is of a call.
#[derive(Debug)]
pub(super) enum Found {
    /// Nothing was started, and nothing sent until now will be.
    Nothing,
    Running(Run),
    Over(Run, RemoteExit),
}

/// What one directory shows.
enum State {
    Nothing,
    /// Somebody made it, and has not shown what for.
    Undecided,
    Running,
    Over(RemoteExit),
}

/// Looks at all directories of the call, the newest first. Where nothing was
/// started, it makes the directory of the last start that may be on its way: a
/// start gives way to a directory of its own name or a newer one. Either that
/// start sees this directory, or this look sees the start's.
pub(super) async fn find(far: &Far, call: &RemoteCall) -> Result<Found, Fault> {
    if let Seen::Started(found) = see(far, runs_of(far, call).await?).await? {
        return Ok(found);
    }
    claim(far, call).await?;
    let give_up = Instant::now() + START_PATIENCE;
    loop {
        let undecided = match see(far, runs_of(far, call).await?).await? {
            Seen::Started(found) => return Ok(found),
            Seen::Undecided(runs) if runs.is_empty() => return Ok(Found::Nothing),
            Seen::Undecided(runs) => runs,
        };
        if Instant::now() >= give_up {
            for run in &undecided {
                revoke(far, run).await?;
            }
            // One that shows its supervisor only now sees that it is revoked.
            return Ok(match see(far, undecided).await? {
                Seen::Started(found) => found,
                Seen::Undecided(_) => Found::Nothing,
            });
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was found, as its owner is told.
pub(super) async fn adoption(far: &Far, run: &Run, over: &RemoteExit) -> Result<Adoption, Fault> {
    let done: ToolDone = run.result(far, over).await?;
    Ok(match over.exit.reason {
        Reason::Exited | Reason::Deadline | Reason::SpawnFailed => Adoption::AlreadyFinished(done),
        Reason::Killed | Reason::SupervisorLost => Adoption::Killed(done),
    })
}

/// Every directory of the call, the newest first.
async fn runs_of(far: &Far, call: &RemoteCall) -> Result<Vec<Run>, Fault> {
    let names = far.list(&turn_dir(far, call)).await?;
    let mut ranked: Vec<_> = names
        .into_iter()
        .filter_map(|name| Some((call.rank(&name)?, name)))
        .collect();
    ranked.sort();
    Ok(ranked
        .into_iter()
        .rev()
        .map(|(_, name)| Run::new(far, call, name))
        .collect())
}

/// What the directories of a call show, each looked at once.
enum Seen {
    Started(Found),
    /// Nothing was started but, maybe, in these.
    Undecided(Vec<Run>),
}

async fn see(far: &Far, runs: Vec<Run>) -> Result<Seen, Fault> {
    let mut undecided = Vec::new();
    for run in runs {
        match state(far, &run).await? {
            State::Running => return Ok(Seen::Started(Found::Running(run))),
            State::Over(over) => return Ok(Seen::Started(Found::Over(run, over))),
            State::Undecided => undecided.push(run),
            State::Nothing => {}
        }
    }
    Ok(Seen::Undecided(undecided))
}

/// In this order: `exit` is written after `pid`, and `pid` before its writer
/// looks for `revoked`.
async fn state(far: &Far, run: &Run) -> Result<State, Fault> {
    let revoked = far.stat(&run.file("revoked")).await?.is_some();
    let has_pid = far.stat(&run.file("pid")).await?.is_some();
    Ok(match run.ending(far).await? {
        Some(Ending::Claimed) => State::Nothing,
        Some(Ending::Over(over)) => State::Over(over),
        None if has_pid => State::Running,
        None if revoked => State::Nothing,
        None => State::Undecided,
    })
}

/// Makes the call's directory, if nobody has, and says in it that it is nobody's.
async fn claim(far: &Far, call: &RemoteCall) -> Result<(), Fault> {
    private_dirs(far, &turn_dir(far, call)).await?;
    let run = Run::new(far, call, call.dir_name());
    match far.sftp.create_dir(&run.path).await.map_err(Fault::from) {
        Ok(()) => {}
        // Somebody was faster, as will be seen.
        Err(fault) if fault.is_of_the_link() => return Err(fault),
        Err(_) if far.stat(&run.path).await?.is_some() => return Ok(()),
        Err(fault) => return Err(fault),
    }
    revoke(far, &run).await?;
    let temporary = run.file("exit.tmp");
    let line = claim_line(now_ms());
    let written = async {
        let mut file = far.sftp.create(&temporary).await?;
        tokio::io::AsyncWriteExt::write_all(&mut file, line.as_bytes()).await?;
        file.close().await?;
        far.sftp.rename(&temporary, run.file("exit")).await
    };
    // `revoked` alone is enough; this is for whoever sweeps.
    match written.await.map_err(Fault::from) {
        Err(fault) if fault.is_of_the_link() => Err(fault),
        Ok(()) | Err(_) => Ok(()),
    }
}

async fn revoke(far: &Far, run: &Run) -> Result<(), Fault> {
    let flags = OpenFlags::CREATE | OpenFlags::WRITE;
    far.open_file(&run.file("revoked"), flags).await.map(drop)
}

/// Commands and their output are nobody else's to read (P4).
async fn private_dirs(far: &Far, path: &str) -> Result<(), Fault> {
    let mut missing = Vec::new();
    let mut at = path;
    while far.stat(at).await?.is_none() {
        missing.push(at);
        match at.rsplit_once('/') {
            Some((parent, _)) if !parent.is_empty() => at = parent,
            Some(_) | None => break,
        }
    }
    let private = FileAttributes {
        permissions: Some(0o700),
        ..FileAttributes::empty()
    };
    for dir in missing.into_iter().rev() {
        match far.sftp.create_dir(dir).await.map_err(Fault::from) {
            Ok(()) => far.sftp.set_metadata(dir, private.clone()).await?,
            Err(fault) if fault.is_of_the_link() => return Err(fault),
            Err(_) if far.stat(dir).await?.is_some() => {}
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}
