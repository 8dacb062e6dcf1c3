//! The supervisor: one small process a command, which outlives the server.
//!
//! It leads a session of its own, so that neither the server's death nor its
//! terminal's ends it, and is the reaper of its descendants
//! (`PR_SET_CHILD_SUBREAPER`, prctl(2)), so that a process that called setsid
//! or lost its parent is still found when the tree is killed (T5).
//!
//! A process that a command leaves in the background goes on after the command
//! has ended normally, and the result does not wait for it (D28). It keeps its
//! standard output: the supervisor stays and discards what comes until nobody
//! holds it any more. At a deadline or a kill such processes die with the tree.

use std::ffi::OsString;
use std::io::{self, PipeReader, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, Signal, WaitOptions, WaitStatus};

use super::format::{Exit, Meta, Pids, Reason};
use super::proc::{self, MARK};
use super::rundir::{RunDir, RunDirError};
use super::sink::Sink;

/// From SIGTERM to SIGKILL at the deadline.
const DEADLINE_GRACE: Duration = Duration::from_secs(2);
/// From SIGTERM to SIGKILL when asked to stop: an abort has a second (T5).
const KILL_GRACE: Duration = Duration::from_millis(500);
/// How long processes may take to die of SIGKILL.
pub(super) const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// After the command's end: how long its output may pause, and last.
const DRAIN_QUIET: Duration = Duration::from_millis(100);
const DRAIN_MOST: Duration = Duration::from_millis(500);
const OOM_SCORE: &str = "/proc/self/oom_score_adj";
/// Longest sleep: orphans that were handed to us are reaped this often.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
enum SupervisorError {
    #[error(
        "usage: dispatch {} RUN_DIRECTORY; the server calls this, people do not",
        super::SUPERVISE
    )]
    Usage,
    #[error("{} holds no meta.json; the server writes it before it starts a supervisor", .0.display())]
    NoMeta(PathBuf),
    #[error(transparent)]
    RunDir(#[from] RunDirError),
    #[error("cannot {verb}: {source}")]
    System {
        verb: &'static str,
        source: io::Error,
    },
}

/// Runs the command of one run directory to its end; `args` are those after
/// [`SUPERVISE`](super::SUPERVISE). What goes wrong stands in the directory's
/// `exit`, or on standard error if that cannot be written.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            match e {
                SupervisorError::Usage => ExitCode::from(2),
                SupervisorError::NoMeta(_)
                | SupervisorError::RunDir(_)
                | SupervisorError::System { .. } => ExitCode::FAILURE,
            }
        }
    }
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<(), SupervisorError> {
    let mut args = args.into_iter();
    let (Some(path), None) = (args.next(), args.next()) else {
        return Err(SupervisorError::Usage);
    };
    let dir = RunDir::at(PathBuf::from(path));
    let meta = dir
        .meta()?
        .ok_or_else(|| SupervisorError::NoMeta(dir.root().to_owned()))?;
    // The order is the protocol: who revokes and then finds nobody at `control`
    // may rely on `revoked` being seen below.
    let control = dir.open_control()?;
    let mut pids = detach()?;
    dir.write_pids(&pids)?;
    if dir.exit()?.is_some() {
        return Ok(());
    }
    if dir.is_revoked() {
        return Ok(dir.write_exit(&Exit::new(Reason::Killed, meta.started_ms))?);
    }
    match Supervision::start(&dir, &meta, &mut pids, control) {
        Ok(supervision) => supervision.see_through(&dir, &meta),
        Err(cause) => {
            let mut exit = Exit::new(Reason::SpawnFailed, meta.started_ms);
            exit.message = Some(cause.to_string());
            exit.survivors = kill_tree(Duration::ZERO, &mut std::thread::sleep);
            Ok(dir.write_exit(&exit)?)
        }
    }
}

fn detach() -> Result<Pids, SupervisorError> {
    // Fails only for a process that leads a group already, as when a person
    // tries this by hand: then that group is the tree's.
    let _leads_already = rustix::process::setsid();
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|e| system("become the reaper of the command's processes")(e.into()))?;
    let boot_id = proc::boot_id().map_err(system("read the boot id"))?;
    let me = proc::name_of(std::process::id()).map_err(system("read /proc"))?;
    Ok(Pids::new(boot_id, me))
}

/// A command that runs, and all that tells of it.
#[derive(Debug)]
struct Supervision {
    command: Pid,
    /// `None` where the kernel has no pidfds; then the housekeeping finds out.
    command_fd: Option<OwnedFd>,
    status: Option<WaitStatus>,
    output: Option<PipeReader>,
    control: OwnedFd,
    sink: Sink,
    started: Instant,
}

/// What woke the supervisor.
#[derive(Clone, Copy, Debug, Default)]
struct Woken {
    output: bool,
    asked_to_stop: bool,
}

impl Supervision {
    fn start(
        dir: &RunDir,
        meta: &Meta,
        pids: &mut Pids,
        control: OwnedFd,
    ) -> Result<Supervision, SupervisorError> {
        let sink = Sink::create(&dir.output_path(), meta.output_limit_bytes)
            .map_err(system("create the output file"))?;
        let (output, theirs) = io::pipe().map_err(system("create a pipe"))?;
        rustix::io::ioctl_fionbio(&output, true).map_err(|e| system("prepare a pipe")(e.into()))?;
        let started = Instant::now();
        let command = expendable(|| spawn(meta, theirs))?;
        let raw = i32::try_from(command).ok().and_then(Pid::from_raw);
        let command_pid = raw.ok_or_else(|| SupervisorError::System {
            verb: "name the command's process",
            source: io::ErrorKind::InvalidData.into(),
        })?;
        pids.command = Some(proc::name_of(command).map_err(system("read /proc"))?);
        dir.write_pids(pids)?;
        Ok(Supervision {
            command: command_pid,
            command_fd: rustix::process::pidfd_open(command_pid, PidfdFlags::empty()).ok(),
            status: None,
            output: Some(output),
            control,
            sink,
            started,
        })
    }

    fn see_through(mut self, dir: &RunDir, meta: &Meta) -> Result<(), SupervisorError> {
        let mut reason = self.until_over(Duration::from_millis(meta.deadline_ms));
        let mut survivors = match reason {
            Reason::Deadline => self.kill(DEADLINE_GRACE),
            Reason::Killed => self.kill(KILL_GRACE),
            Reason::Exited | Reason::SpawnFailed | Reason::SupervisorLost => 0,
        };
        if self.drain() && reason == Reason::Exited {
            reason = Reason::Killed;
            survivors = self.kill(KILL_GRACE);
        }
        let mut exit = Exit::new(reason, meta.started_ms);
        exit.survivors = survivors;
        exit.code = self.status.and_then(WaitStatus::exit_status);
        exit.signal = self.status.and_then(WaitStatus::terminating_signal);
        let written = self.sink.finish();
        exit.output_bytes = written.output_bytes;
        exit.dropped_bytes = written.dropped_bytes;
        exit.message = written
            .disk_error
            .map(|e| format!("the disk took no more output: {e}"));
        dir.write_exit(&exit)?;
        if let Some(output) = self.output {
            linger(output, &self.control);
        }
        Ok(())
    }

    /// Waits for the command's end, its deadline or a request to stop.
    fn until_over(&mut self, deadline: Duration) -> Reason {
        loop {
            let left = deadline.saturating_sub(self.started.elapsed());
            let woken = self.wait(left.min(HOUSEKEEPING));
            if woken.asked_to_stop {
                return Reason::Killed;
            }
            if self.status.is_some() {
                return Reason::Exited;
            }
            if self.started.elapsed() >= deadline {
                return Reason::Deadline;
            }
        }
    }

    /// One turn of the loop: sleeps, takes what has come, reaps.
    fn wait(&mut self, most: Duration) -> Woken {
        let command_fd = self.command_fd.as_ref().filter(|_| self.status.is_none());
        let asked_to_stop = wait_for(
            self.output.as_ref().map(AsFd::as_fd),
            &self.control,
            command_fd.map(AsFd::as_fd),
            most,
        );
        let sink = &mut self.sink;
        let output = take(&mut self.output, &mut |bytes| sink.push(bytes));
        self.reap();
        Woken {
            output,
            asked_to_stop,
        }
    }

    fn reap(&mut self) {
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if pid == self.command {
                self.status = Some(status);
            }
        }
    }

    fn kill(&mut self, grace: Duration) -> u32 {
        kill_tree(grace, &mut |pause| {
            self.wait(pause);
        })
    }

    /// Takes what is still in the pipe; says whether a request to stop came
    /// meanwhile. A process in the background may hold the pipe for ever (D28).
    fn drain(&mut self) -> bool {
        let give_up = Instant::now() + DRAIN_MOST;
        let mut quiet_at = Instant::now() + DRAIN_QUIET;
        while self.output.is_some() {
            let now = Instant::now();
            let until = quiet_at.min(give_up);
            if now >= until {
                break;
            }
            let woken = self.wait(until - now);
            if woken.asked_to_stop {
                return true;
            }
            if woken.output {
                quiet_at = Instant::now() + DRAIN_QUIET;
            }
        }
        false
    }
}

/// What is started meanwhile is the first to go where memory runs out, and not
/// the server (proc(5), `oom_score_adj`). Without that file nothing changes.
fn expendable<T>(start: impl FnOnce() -> T) -> T {
    let own = std::fs::read_to_string(OOM_SCORE).unwrap_or_default();
    let is_raised = !own.is_empty() && std::fs::write(OOM_SCORE, "500").is_ok();
    let started = start();
    if is_raised {
        let _it_stays_expendable = std::fs::write(OOM_SCORE, own.trim());
    }
    started
}

fn spawn(meta: &Meta, output: io::PipeWriter) -> Result<u32, SupervisorError> {
    let start = |shell: &str| -> io::Result<u32> {
        let mut command = Command::new(shell);
        command
            .arg("-c")
            .arg(&meta.command)
            .current_dir(&meta.cwd)
            .env(MARK, &meta.mark)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?)
            .process_group(0);
        super::env::scrub(&mut command, &[]);
        Ok(command.spawn()?.id())
    };
    match start("bash") {
        Err(e) if e.kind() == io::ErrorKind::NotFound && meta.cwd.is_dir() => start("sh"),
        result => result,
    }
    .map_err(system("start the command's shell"))
}

/// Waits until something happens; true if it was a request to stop.
fn wait_for(
    output: Option<BorrowedFd<'_>>,
    control: &OwnedFd,
    command: Option<BorrowedFd<'_>>,
    most: Duration,
) -> bool {
    let mut fds = vec![PollFd::new(control, PollFlags::IN)];
    fds.extend(
        [output, command]
            .into_iter()
            .flatten()
            .map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)),
    );
    let timeout = Timespec {
        tv_sec: i64::try_from(most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(most.subsec_nanos()),
    };
    if rustix::event::poll(&mut fds, Some(&timeout)).is_err() {
        return false;
    }
    if !fds[0].revents().contains(PollFlags::IN) {
        return false;
    }
    let mut requests = [0u8; 64];
    while rustix::io::read(control, &mut requests).is_ok_and(|n| n == requests.len()) {}
    true
}

/// Takes what the pipe holds, at most a few blocks, so that a flood cannot keep
/// the supervisor from its deadline; closes it at its end.
fn take(output: &mut Option<PipeReader>, push: &mut impl FnMut(&[u8])) -> bool {
    let Some(pipe) = output else {
        return false;
    };
    let mut block = [0u8; 64 * 1024];
    let mut any = false;
    for _ in 0..16 {
        match pipe.read(&mut block) {
            Ok(0) => {
                *output = None;
                return any;
            }
            Ok(n) => {
                push(&block[..n]);
                any = true;
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return any,
            Err(_) => {
                *output = None;
                return any;
            }
        }
    }
    any
}

/// SIGTERM to every descendant, SIGKILL to those that are left after `grace`;
/// `pause` keeps the output flowing and reaps. Returns how many would not die.
fn kill_tree(grace: Duration, pause: &mut impl FnMut(Duration)) -> u32 {
    let me = std::process::id();
    let kill_at = Instant::now() + grace;
    let give_up = kill_at + DEATH_PATIENCE;
    if !grace.is_zero() {
        for name in proc::descendants(me) {
            proc::signal(name, Signal::TERM);
        }
    }
    loop {
        let now = Instant::now();
        let left = proc::descendants(me);
        if left.is_empty() || now >= give_up {
            return u32::try_from(left.len()).unwrap_or(u32::MAX);
        }
        if now >= kill_at {
            for name in left {
                proc::signal(name, Signal::KILL);
            }
        }
        pause(Duration::from_millis(10));
    }
}

/// Keeps the standard output of processes in the background open, so that they
/// do not die of SIGPIPE, until the last of them lets go of it.
fn linger(output: PipeReader, control: &OwnedFd) {
    let mut output = Some(output);
    while let Some(pipe) = &output {
        if wait_for(Some(pipe.as_fd()), control, None, HOUSEKEEPING) {
            kill_tree(KILL_GRACE, &mut |pause| {
                wait_for(None, control, None, pause);
                take(&mut output, &mut |_| {});
                while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
            });
            return;
        }
        take(&mut output, &mut |_| {});
        while let Ok(Some(_)) = rustix::process::wait(WaitOptions::NOHANG) {}
    }
}

fn system(verb: &'static str) -> impl Fn(io::Error) -> SupervisorError {
    move |source| SupervisorError::System { verb, source }
}
