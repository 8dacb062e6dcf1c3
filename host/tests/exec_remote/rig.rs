//! A computer over there: a home directory, a login shell and an SFTP server.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use dispatch::exec::remote::{RemoteCall, RemoteExec, RemoteTools};
use dispatch::exec::{Adoption, ToolDone, ToolEvent, ToolRequest};
use dispatch_core::ids::Epoch;
use serde_json::{Value, json};

use crate::fake::{FakeLink, SFTP_SERVER};

#[path = "../calls/mod.rs"]
mod calls;
pub(crate) use calls::{CALL, Call, TURN, is_alive, signal, until};

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
        Arc::new(FakeLink::new(&self.shell, &self.home, &self.home))
    }

    /// One whose file transfer begins elsewhere than its commands.
    pub(crate) fn link_beginning_at(&self, files: &Path) -> Arc<FakeLink> {
        Arc::new(FakeLink::new(&self.shell, &self.home, files))
    }

    /// What a server knows that has just been started: nothing.
    pub(crate) fn other_server(&self) -> RemoteExec {
        RemoteExec::new(INSTALLATION, 64 << 20)
    }

    pub(crate) fn request(&self, name: &str, input: Value) -> ToolRequest {
        calls::request(&self.cwd(), name, &input)
    }

    pub(crate) fn bash_request(&self, command: &str) -> ToolRequest {
        self.request("bash", json!({ "command": command }))
    }

    pub(crate) fn start_on(&self, link: Arc<FakeLink>, request: ToolRequest) -> Call {
        self.start_try(link, request, 0)
    }

    pub(crate) fn start_try(&self, link: Arc<FakeLink>, request: ToolRequest, n: u32) -> Call {
        Call::start(&self.exec.over(link), request, n)
    }

    /// All that runs over one link.
    pub(crate) fn tools(&self) -> RemoteTools {
        self.exec.over(self.link())
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
        self.adopt_on(self.link(), call, shown).found().await
    }

    pub(crate) fn adopt_on(&self, link: Arc<FakeLink>, call: RemoteCall, shown: u64) -> Call {
        let tools = self.other_server().over(link);
        Call::begin(|events| tools.adopt(call, shown, events))
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

    /// A program for a login shell; by way of a shell, since a file that this
    /// process has just written may be busy.
    pub(crate) fn script(&self, text: &str) -> PathBuf {
        let path = self.root.path().join("login-shell");
        let write = "printf %s \"$1\" > \"$2\" && chmod 700 \"$2\"";
        let written = std::process::Command::new("sh")
            .args(["-c", write, "sh", text])
            .arg(&path)
            .status();
        assert!(written.expect("sh runs").success());
        path
    }

    /// The same computer with another login shell.
    pub(crate) fn link_by(&self, shell: &Path) -> Arc<FakeLink> {
        let shell = shell.to_str().expect("plain");
        Arc::new(FakeLink::new(shell, &self.home, &self.home))
    }

    /// A pid that the command wrote into its working directory.
    pub(crate) async fn pid_in(&self, file: &str) -> u32 {
        calls::pid_in(&self.cwd(), file).await
    }
}

impl Call {
    pub(crate) fn start(tools: &RemoteTools, request: ToolRequest, attempt: u32) -> Call {
        Call::begin(|events| tools.start(request, attempt, events))
    }

    /// Everything until nothing can be told any more.
    pub(crate) async fn until_unknown(&mut self) -> String {
        loop {
            match self.next().await {
                ToolEvent::Unknown { cause } => {
                    assert_eq!(self.events.recv().await, None, "it is the last word");
                    return cause;
                }
                ToolEvent::Output { .. } | ToolEvent::Adopted(Adoption::Running) => {}
                other => panic!("it is known: {other:?}"),
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
                other @ (ToolEvent::Left | ToolEvent::Unknown { .. }) => panic!("{other:?}"),
            }
        }
    }
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
