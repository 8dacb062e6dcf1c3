//! A link to this very machine, on which everything that a link can do wrong
//! can be had: a shell and SFTP servers stand for the computer.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use dispatch::ssh::{ExecDone, Link, LinkError, SshFault, SshFaultKind};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use russh_sftp::client::SftpSession;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;

pub(crate) const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";
/// How long an answer is waited for, in seconds.
const ANSWER_S: u64 = 5;
/// The same where it is certain that none comes.
const SHORT_ANSWER_S: u64 = 1;

/// The server's process and the session with it.
struct OpenSftp {
    server: Child,
    session: Arc<SftpSession>,
}

/// One of the two SFTP sessions.
#[derive(Default)]
struct Slot {
    open: tokio::sync::Mutex<Option<OpenSftp>>,
    hold: Hold,
    asked_bytes: AtomicUsize,
}

/// What keeps answers back; `None`: nothing does.
#[derive(Default)]
struct Hold(Mutex<Option<Vec<Waker>>>);

impl Hold {
    fn begin(&self) {
        *self.0.lock().expect("not poisoned") = Some(Vec::new());
    }

    fn end(&self) {
        let waiting = self.0.lock().expect("not poisoned").take();
        waiting.into_iter().flatten().for_each(Waker::wake);
    }

    /// If so, `cx` hears of its end.
    fn is_on(&self, cx: &Context<'_>) -> bool {
        match &mut *self.0.lock().expect("not poisoned") {
            Some(waiting) => {
                waiting.push(cx.waker().clone());
                true
            }
            None => false,
        }
    }
}

/// A link that a test can cut, at once or after so many bytes, and more.
pub(crate) struct FakeLink {
    shell: String,
    home: PathBuf,
    files_begin: PathBuf,
    state: Arc<State>,
}

struct State {
    left_bytes: AtomicI64,
    is_cut: AtomicBool,
    loses_answers: AtomicBool,
    refuses: AtomicU32,
    refuses_sessions: AtomicU32,
    has_no_files: AtomicBool,
    breaks_at_files: AtomicBool,
    /// Commands begin only while this is true.
    runs: watch::Sender<bool>,
    asked: AtomicUsize,
    execs: AtomicUsize,
    carried_bytes: AtomicUsize,
    sessions: AtomicUsize,
    files: Slot,
    tool_files: Slot,
}

impl FakeLink {
    pub(crate) fn new(shell: &str, home: &Path, files_begin: &Path) -> FakeLink {
        FakeLink {
            shell: shell.to_owned(),
            home: home.to_owned(),
            files_begin: files_begin.to_owned(),
            state: Arc::new(State {
                left_bytes: AtomicI64::new(i64::MAX),
                is_cut: AtomicBool::new(false),
                loses_answers: AtomicBool::new(false),
                refuses: AtomicU32::new(0),
                refuses_sessions: AtomicU32::new(0),
                has_no_files: AtomicBool::new(false),
                breaks_at_files: AtomicBool::new(false),
                runs: watch::Sender::new(true),
                asked: AtomicUsize::new(0),
                execs: AtomicUsize::new(0),
                carried_bytes: AtomicUsize::new(0),
                sessions: AtomicUsize::new(0),
                files: Slot::default(),
                tool_files: Slot::default(),
            }),
        }
    }

    pub(crate) fn cut(&self) {
        self.state.left_bytes.store(0, Ordering::SeqCst);
        self.state.is_cut.store(true, Ordering::SeqCst);
        for slot in [&self.state.files, &self.state.tool_files] {
            slot.end_server();
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

    /// Grants no channel for a command so many times.
    pub(crate) fn refuse(&self, times: u32) {
        self.state.refuses.store(times, Ordering::SeqCst);
    }

    /// Grants no channel for a session so many times.
    pub(crate) fn refuse_sessions(&self, times: u32) {
        self.state.refuses_sessions.store(times, Ordering::SeqCst);
    }

    /// Somebody has switched file transfer off.
    pub(crate) fn have_no_files(&self) {
        self.state.has_no_files.store(true, Ordering::SeqCst);
    }

    /// Has a bug that shows where file transfer is asked for.
    pub(crate) fn break_at_files(&self) {
        self.state.breaks_at_files.store(true, Ordering::SeqCst);
    }

    /// Commands do not begin any more.
    pub(crate) fn hold_commands(&self) {
        self.state.runs.send_replace(false);
    }

    /// Commands that were asked for, whether they have begun or not.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    /// The SFTP session of the tools answers no more, as on a file system whose
    /// server is gone.
    pub(crate) fn hold_tool_files(&self) {
        self.state.tool_files.hold.begin();
    }

    /// What is asked by it from now on is given up after a second.
    pub(crate) async fn be_impatient(&self) {
        if let Some(open) = &*self.state.tool_files.open.lock().await {
            open.session.set_timeout(SHORT_ANSWER_S);
        }
    }

    pub(crate) fn release_tool_files(&self) {
        self.state.tool_files.hold.end();
    }

    /// Bytes that the tools have asked by.
    pub(crate) fn asked_bytes(&self) -> usize {
        self.state.tool_files.asked_bytes.load(Ordering::SeqCst)
    }

    /// The SFTP server of the tools dies, and nothing else.
    pub(crate) fn end_tool_files(&self) {
        self.state.tool_files.end_server();
    }

    /// The SFTP server by which runs are watched dies, and nothing else.
    pub(crate) fn end_files(&self) {
        self.state.files.end_server();
    }

    pub(crate) fn execs(&self) -> usize {
        self.state.execs.load(Ordering::SeqCst)
    }

    /// SFTP sessions that were opened.
    pub(crate) fn sessions(&self) -> usize {
        self.state.sessions.load(Ordering::SeqCst)
    }

    pub(crate) fn carried_bytes(&self) -> usize {
        self.state.carried_bytes.load(Ordering::SeqCst)
    }

    fn open(
        &self,
        slot: fn(&State) -> &Slot,
    ) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>> {
        let (state, begin) = (self.state.clone(), self.files_begin.clone());
        async move {
            assert!(
                !state.breaks_at_files.load(Ordering::SeqCst),
                "a bug of the test's own"
            );
            if one_less(&state.refuses_sessions) {
                return Err(refused());
            }
            if state.has_no_files.load(Ordering::SeqCst) {
                let fault = SshFault::new(SshFaultKind::SftpOff, "far has no file transfer");
                return Err(LinkError::NoFiles(fault));
            }
            let mut open = slot(&state).open.lock().await;
            if state.is_cut.load(Ordering::SeqCst) {
                return Err(lost());
            }
            if let Some(open) = &mut *open
                && matches!(open.server.try_wait(), Ok(None))
            {
                return Ok(open.session.clone());
            }
            state.sessions.fetch_add(1, Ordering::SeqCst);
            let mut server = Command::new(SFTP_SERVER)
                .current_dir(begin)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("an SFTP server");
            let stream = Cuttable {
                from: server.stdout.take().expect("piped"),
                to: server.stdin.take().expect("piped"),
                state: state.clone(),
                slot,
            };
            let session = Arc::new(SftpSession::new(stream).await.map_err(|_| lost())?);
            session.set_timeout(ANSWER_S);
            let opened = session.clone();
            *open = Some(OpenSftp { server, session });
            Ok(opened)
        }
        .boxed()
    }
}

impl Slot {
    fn end_server(&self) {
        if let Ok(mut open) = self.open.try_lock()
            && let Some(open) = &mut *open
        {
            let _dead_already = open.server.start_kill();
        }
    }
}

fn one_less(left: &AtomicU32) -> bool {
    let less = |n: u32| n.checked_sub(1);
    left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less)
        .is_ok()
}

fn refused() -> LinkError {
    LinkError::Refused {
        computer: "far".to_owned(),
        reason: "open failed".to_owned(),
    }
}

fn lost() -> LinkError {
    LinkError::Down(SshFault::new(SshFaultKind::Lost, "the test cut it"))
}

impl Link for FakeLink {
    fn computer(&self) -> &str {
        "far"
    }

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
            state.asked.fetch_add(1, Ordering::SeqCst);
            let mut runs = state.runs.subscribe();
            runs.wait_for(|runs| *runs)
                .await
                .expect("the link is there");
            if state.is_cut.load(Ordering::SeqCst) {
                return Err(lost());
            }
            if one_less(&state.refuses) {
                return Err(refused());
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
        self.open(|state| &state.files)
    }

    fn tool_files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>> {
        self.open(|state| &state.tool_files)
    }
}

struct Cuttable {
    from: ChildStdout,
    to: ChildStdin,
    state: Arc<State>,
    slot: fn(&State) -> &Slot,
}

impl AsyncRead for Cuttable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        if (self.slot)(&self.state).hold.is_on(cx) {
            return Poll::Pending;
        }
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
        let asked_bytes = &(self.slot)(&self.state).asked_bytes;
        asked_bytes.fetch_add(bytes.len(), Ordering::SeqCst);
        Pin::new(&mut self.to).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.to).poll_shutdown(cx)
    }
}
