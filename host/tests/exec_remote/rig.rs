//! A computer over there: a home directory, a login shell and an SFTP server.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use dispatch::exec::remote::{RemoteCall, RemoteExec};
use dispatch::exec::{Adoption, ToolDone, ToolEvent, ToolHandle, ToolRequest};
use dispatch::ssh::{ExecDone, Link, LinkError, SshFault, SshFaultKind};
use dispatch_core::ids::{Epoch, TurnId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use russh_sftp::client::SftpSession;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

pub(crate) const TURN: TurnId = TurnId(0x0019_3ab4_0000_0000_0000_0000_0000_0001);
pub(crate) const CALL: &str = "call_1";
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
const INSTALLATION: &str = "test-1";

/// A computer, and a server's side of tools on it.
pub(crate) struct Rig {
    pub(crate) root: tempfile::TempDir,
    pub(crate) exec: RemoteExec,
    shell: String,
    home: PathBuf,
}

/// `None` where there is no SFTP server to test with, loudly.
pub(crate) fn rig() -> Option<Rig> {
    rig_with("sh", 64 << 20)
}

pub(crate) fn rig_with(shell: &str, output_limit_bytes: u64) -> Option<Rig> {
    if !Path::new(SFTP_SERVER).exists() {
        let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "sshd"),
            "DISPATCH_REQUIRE names sshd, and {SFTP_SERVER} is not there: apt-get install openssh-sftp-server"
        );
        skipped("there is no SFTP server (apt-get install openssh-sftp-server)");
        return None;
    }
    let root = tempfile::tempdir().expect("a directory");
    let home = root.path().join("home");
    fs::create_dir(&home).expect("a directory");
    fs::create_dir(root.path().join("cwd")).expect("a directory");
    Some(Rig {
        exec: RemoteExec::new(INSTALLATION, output_limit_bytes),
        shell: shell.to_owned(),
        home,
        root,
    })
}

/// Says to whoever runs the tests that one was not played.
pub(crate) fn skipped(why: &str) {
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}

/// A call that was started or adopted.
pub(crate) struct Call {
    pub(crate) handle: ToolHandle,
    pub(crate) events: mpsc::Receiver<ToolEvent>,
}

impl Rig {
    pub(crate) fn home(&self) -> &Path {
        &self.home
    }

    /// Another home directory for what follows.
    pub(crate) fn move_home(&mut self, home: PathBuf) {
        self.home = home;
    }

    pub(crate) fn cwd(&self) -> PathBuf {
        self.root.path().join("cwd")
    }

    pub(crate) fn link(&self) -> Arc<FakeLink> {
        Arc::new(FakeLink {
            shell: self.shell.clone(),
            home: self.home.clone(),
            state: Arc::new(LinkState {
                left_bytes: AtomicI64::new(i64::MAX),
                is_cut: AtomicBool::new(false),
                loses_answers: AtomicBool::new(false),
                refuses: AtomicU32::new(0),
                execs: AtomicUsize::new(0),
                carried_bytes: AtomicUsize::new(0),
            }),
            sftp: Arc::default(),
        })
    }

    /// What a server knows that has just been started: nothing.
    pub(crate) fn other_server(&self) -> RemoteExec {
        RemoteExec::new(INSTALLATION, 64 << 20)
    }

    pub(crate) fn request(&self, name: &str, input: Value) -> ToolRequest {
        ToolRequest {
            turn: TURN,
            call_id: CALL.to_owned(),
            epoch: Epoch(3),
            name: name.to_owned(),
            input: input.to_string(),
            cwd: self.cwd(),
            deadline_ms: 60_000,
        }
    }

    pub(crate) fn bash_request(&self, command: &str) -> ToolRequest {
        self.request("bash", json!({ "command": command }))
    }

    pub(crate) fn start_on(&self, link: Arc<FakeLink>, request: ToolRequest) -> Call {
        let (to, events) = mpsc::channel(64);
        let handle = self.exec.start(link, request, 0, to);
        Call { handle, events }
    }

    pub(crate) fn start(&self, request: ToolRequest) -> Call {
        self.start_on(self.link(), request)
    }

    pub(crate) fn start_bash(&self, command: &str) -> Call {
        self.start(self.bash_request(command))
    }

    pub(crate) async fn bash(&self, command: &str) -> ToolDone {
        self.start_bash(command).done().await
    }

    pub(crate) async fn tool(&self, name: &str, input: Value) -> ToolDone {
        self.start(self.request(name, input)).done().await
    }

    /// Starts a command over a link that is cut once `begun` is in the working
    /// directory; returns the pid that stands in it.
    pub(crate) async fn orphan(&self, request: ToolRequest, begun: &str) -> u32 {
        let link = self.link();
        let mut call = self.start_on(link.clone(), request);
        let pid = self.pid_in(begun).await;
        call.handle.leave();
        while call.next().await != ToolEvent::Left {}
        link.cut();
        pid
    }

    pub(crate) fn call(&self, epoch: u64, attempt: u32) -> RemoteCall {
        RemoteCall {
            turn: TURN,
            call_id: CALL.to_owned(),
            epoch: Epoch(epoch),
            attempt,
        }
    }

    /// Takes over the call as a server does that knows nothing of it.
    pub(crate) async fn adopt(&self) -> (Adoption, Call) {
        self.adopt_as(self.call(4, 0), 0).await
    }

    pub(crate) async fn adopt_as(&self, call: RemoteCall, shown: u64) -> (Adoption, Call) {
        let mut call = self.adopt_on(self.link(), call, shown);
        match call.next().await {
            ToolEvent::Adopted(adoption) => (adoption, call),
            other => panic!("not what was found: {other:?}"),
        }
    }

    pub(crate) fn adopt_on(&self, link: Arc<FakeLink>, call: RemoteCall, shown: u64) -> Call {
        let (to, events) = mpsc::channel(64);
        let handle = self.other_server().adopt(link, call, shown, to);
        Call { handle, events }
    }

    pub(crate) fn runs_dir(&self) -> PathBuf {
        self.home
            .join(format!(".cache/dispatch/runs/{INSTALLATION}"))
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.runs_dir().join(format!("{TURN}/{CALL}-e3"))
    }

    /// The line of the run's `exit`, once it is there.
    pub(crate) async fn exit_line(&self) -> String {
        let path = self.run_dir().join("exit");
        until("the exit is written", || path.exists()).await;
        fs::read_to_string(path).expect("readable")
    }

    /// Pids of supervisor and guard, once both are there.
    pub(crate) async fn supervisor(&self) -> (u32, u32) {
        let path = self.run_dir().join("pid");
        until("the supervisor is there", || path.exists()).await;
        let line = fs::read_to_string(path).expect("readable");
        let pid = |name: &str| {
            let rest = line.split(name).nth(1).expect(name);
            rest.split(' ').next().expect(name).parse().expect("a pid")
        };
        (pid("main="), pid("guard="))
    }

    /// A pid that the command wrote into its working directory.
    pub(crate) async fn pid_in(&self, file: &str) -> u32 {
        let path = self.cwd().join(file);
        let read = || fs::read_to_string(&path).ok()?.trim().parse::<u32>().ok();
        until(file, || read().is_some()).await;
        read().expect("it was there")
    }
}

impl Call {
    pub(crate) async fn next(&mut self) -> ToolEvent {
        let event = tokio::time::timeout(Duration::from_secs(90), self.events.recv()).await;
        event.expect("an event in time").expect("a last event")
    }

    /// The result; it comes once, and nothing after it.
    pub(crate) async fn done(mut self) -> ToolDone {
        self.previews_and_done().await.1
    }

    pub(crate) async fn previews_and_done(&mut self) -> (Vec<(u64, String)>, ToolDone) {
        let mut previews = Vec::new();
        loop {
            match self.next().await {
                ToolEvent::Output { offset, text, .. } => previews.push((offset, text)),
                ToolEvent::Adopted(Adoption::Running) => {}
                ToolEvent::Done(done) => {
                    assert_eq!(self.events.recv().await, None, "nothing follows a result");
                    return (previews, done);
                }
                other => panic!("neither output nor end: {other:?}"),
            }
        }
    }

    /// Everything until the link is found lost, or until the result.
    pub(crate) async fn until_lost(&mut self) -> Option<ToolDone> {
        loop {
            match self.next().await {
                ToolEvent::LinkLost { .. } => return None,
                ToolEvent::Done(done) => return Some(done),
                ToolEvent::Output { .. } | ToolEvent::Adopted(_) => {}
                other @ ToolEvent::Left => panic!("{other:?}"),
            }
        }
    }
}

/// The server's process and the session with it.
type OpenSftp = (Child, Arc<SftpSession>);

/// A link that a test can cut, at once or after so many bytes.
pub(crate) struct FakeLink {
    shell: String,
    home: PathBuf,
    state: Arc<LinkState>,
    sftp: Arc<tokio::sync::Mutex<Option<OpenSftp>>>,
}

#[derive(Debug)]
struct LinkState {
    left_bytes: AtomicI64,
    is_cut: AtomicBool,
    loses_answers: AtomicBool,
    refuses: AtomicU32,
    execs: AtomicUsize,
    carried_bytes: AtomicUsize,
}

impl FakeLink {
    pub(crate) fn cut(&self) {
        self.state.left_bytes.store(0, Ordering::SeqCst);
        self.state.is_cut.store(true, Ordering::SeqCst);
        if let Ok(mut sftp) = self.sftp.try_lock()
            && let Some((server, _)) = &mut *sftp
        {
            let _dead_already = server.start_kill();
        }
    }

    /// Cuts it after so many bytes of SFTP from over there.
    pub(crate) fn cut_after(&self, bytes: i64) {
        self.state.left_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Commands run, but what they say is lost with the link.
    pub(crate) fn lose_answers(&self) {
        self.state.loses_answers.store(true, Ordering::SeqCst);
    }

    /// Grants no channel so many times.
    pub(crate) fn refuse(&self, times: u32) {
        self.state.refuses.store(times, Ordering::SeqCst);
    }

    pub(crate) fn execs(&self) -> usize {
        self.state.execs.load(Ordering::SeqCst)
    }

    pub(crate) fn carried_bytes(&self) -> usize {
        self.state.carried_bytes.load(Ordering::SeqCst)
    }
}

fn lost() -> LinkError {
    LinkError::Down(SshFault::new(SshFaultKind::Lost, "the test cut it"))
}

impl Link for FakeLink {
    fn exec(
        &self,
        command: String,
        input: Vec<u8>,
    ) -> BoxFuture<'static, Result<ExecDone, LinkError>> {
        let state = self.state.clone();
        let mut shell = Command::new(&self.shell);
        shell
            .arg("-c")
            .arg(command)
            .env("HOME", &self.home)
            .current_dir(&self.home)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        async move {
            if state.is_cut.load(Ordering::SeqCst) {
                return Err(lost());
            }
            let refused = state
                .refuses
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
            if refused.is_ok() {
                return Err(LinkError::Refused {
                    computer: "far".to_owned(),
                    reason: "open failed".to_owned(),
                });
            }
            state.execs.fetch_add(1, Ordering::SeqCst);
            let mut child = shell.spawn().expect("a shell");
            let mut stdin = child.stdin.take().expect("piped");
            let feeding = tokio::spawn(async move {
                let _closed_early = stdin.write_all(&input).await;
            });
            let done = child.wait_with_output().await.expect("it ends");
            feeding.await.expect("no panic");
            if state.is_cut.load(Ordering::SeqCst) || state.loses_answers.load(Ordering::SeqCst) {
                return Err(lost());
            }
            Ok(ExecDone {
                code: done.status.code().and_then(|code| u32::try_from(code).ok()),
                signal: None,
                output: done.stdout,
                error: done.stderr,
            })
        }
        .boxed()
    }

    fn files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>> {
        let (state, sftp, home) = (self.state.clone(), self.sftp.clone(), self.home.clone());
        async move {
            let mut sftp = sftp.lock().await;
            if let Some((_, session)) = &*sftp {
                return Ok(session.clone());
            }
            if state.is_cut.load(Ordering::SeqCst) {
                return Err(lost());
            }
            let mut server = Command::new(SFTP_SERVER)
                .current_dir(home)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("an SFTP server");
            let stream = Cuttable {
                from: server.stdout.take().expect("piped"),
                to: server.stdin.take().expect("piped"),
                state,
            };
            let session = Arc::new(SftpSession::new(stream).await.map_err(|_| lost())?);
            session.set_timeout(5);
            *sftp = Some((server, session.clone()));
            Ok(session)
        }
        .boxed()
    }
}

struct Cuttable {
    from: ChildStdout,
    to: ChildStdin,
    state: Arc<LinkState>,
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let left = self.state.left_bytes.load(Ordering::SeqCst);
        if left <= 0 {
            self.state.is_cut.store(true, Ordering::SeqCst);
            return Poll::Ready(Ok(()));
        }
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buf.remaining());
        let mut own = vec![0; most.min(64 * 1024)];
        let mut part = ReadBuf::new(&mut own);
        let read = Pin::new(&mut self.from).poll_read(cx, &mut part);
        let n = part.filled().len();
        buf.put_slice(part.filled());
        self.state.left_bytes.fetch_sub(n as i64, Ordering::SeqCst);
        self.state.carried_bytes.fetch_add(n, Ordering::SeqCst);
        read
    }
}

impl AsyncWrite for Cuttable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        if self.state.left_bytes.load(Ordering::SeqCst) <= 0 {
            return Poll::Ready(Err(std::io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.to).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}

/// Waits for a condition; panics when it has not come about after 60 s.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['Z', 'X'])))
        .is_some_and(|dead| !dead)
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it can be signalled");
}

/// A number that differs from run to run, for cuts at any place.
pub(crate) fn random(below: u64) -> u64 {
    static LAST: Mutex<u64> = Mutex::new(0);
    let mut last = LAST.lock().expect("not poisoned");
    if *last == 0 {
        let since = std::time::UNIX_EPOCH.elapsed().expect("after 1970");
        *last = since.as_nanos() as u64 | 1;
        let _ = writeln!(std::io::stderr(), "random numbers from {}", *last);
    }
    *last = last
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*last >> 33) % below
}
