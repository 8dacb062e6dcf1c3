//! What the tests of commands share: a data directory, a caller, and eyes on
//! `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dispatch::exec::{
    Adoption, Exec, LocalExec, LocalExecConfig, ToolDone, ToolEvent, ToolHandle, ToolRequest,
};
use dispatch_core::ids::{Epoch, TurnId};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_dispatch");
pub(crate) const TURN: TurnId = TurnId(0x0019_3ab4_0000_0000_0000_0000_0000_0001);
pub(crate) const CALL: &str = "call_1";

/// A server's side of commands: its data directory and a working directory.
pub(crate) struct Rig {
    pub(crate) root: tempfile::TempDir,
    pub(crate) exec: LocalExec,
}

/// A call that was started.
pub(crate) struct Call {
    pub(crate) handle: ToolHandle,
    pub(crate) events: mpsc::Receiver<ToolEvent>,
}

impl Rig {
    pub(crate) fn new() -> Rig {
        Rig::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut LocalExecConfig)) -> Rig {
        let root = tempfile::tempdir().expect("a directory");
        fs::create_dir(root.path().join("cwd")).expect("a directory");
        let mut config = config(root.path());
        change(&mut config);
        let exec = LocalExec::new(config).expect("an absolute path");
        Rig { root, exec }
    }

    pub(crate) fn cwd(&self) -> PathBuf {
        self.root.path().join("cwd")
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

    pub(crate) fn start(&self, request: ToolRequest) -> Call {
        let (to, events) = mpsc::channel(64);
        let handle = self.exec.start(request, to);
        Call { handle, events }
    }

    pub(crate) fn bash_request(&self, command: &str) -> ToolRequest {
        self.request("bash", json!({ "command": command }))
    }

    pub(crate) fn start_bash(&self, command: &str) -> Call {
        self.start(self.bash_request(command))
    }

    /// Starts a command under a server that is dead as soon as `begun` is in
    /// the working directory; returns the pid that stands in it.
    pub(crate) async fn orphan(&self, request: ToolRequest, begun: &str) -> u32 {
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (to, _nobody_listens) = mpsc::channel(64);
        let exec = LocalExec::new(config(self.root.path())).expect("an absolute path");
        {
            let _in_it = server.enter();
            exec.start(request, to);
        }
        let pid = self.pid_in(begun).await;
        server.shutdown_background();
        pid
    }

    pub(crate) async fn bash(&self, command: &str) -> ToolDone {
        self.start_bash(command).done().await
    }

    /// Takes over the call that another server started.
    pub(crate) async fn adopt(&self) -> (Adoption, Call) {
        let (to, mut events) = mpsc::channel(64);
        let handle = self.exec.adopt(TURN, CALL, to);
        let first = tokio::time::timeout(Duration::from_secs(60), events.recv()).await;
        match first.expect("an answer in time") {
            Some(ToolEvent::Adopted(adoption)) => (adoption, Call { handle, events }),
            other => panic!("not what was found: {other:?}"),
        }
    }

    /// What is found once everything that nobody watches has been ended.
    pub(crate) async fn reap(&self) -> Adoption {
        let report = self.exec.end_unattended(vec![TURN]).await;
        assert_eq!(report.failures, Vec::<String>::new());
        self.adopt().await.0
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.root.path().join(format!("runs/{TURN}/{CALL}-e3"))
    }

    /// A JSON file of the run directory, once it is there.
    pub(crate) async fn run_file(&self, name: &str) -> Value {
        let path = self.run_dir().join(name);
        let read = || serde_json::from_slice::<Value>(&fs::read(&path).ok()?).ok();
        until(name, || read().is_some()).await;
        read().expect("it was there")
    }

    /// The pid of the supervisor, once its command has been started too.
    pub(crate) async fn supervisor(&self) -> u32 {
        let path = self.run_dir().join("pid");
        let read = || {
            let pids: Value = serde_json::from_slice(&fs::read(&path).ok()?).ok()?;
            pids["command"]["pid"].as_u64()?;
            u32::try_from(pids["supervisor"]["pid"].as_u64()?).ok()
        };
        until("the command is started", || read().is_some()).await;
        read().expect("it was there")
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
    /// The result; it comes once, and nothing after it.
    pub(crate) async fn done(mut self) -> ToolDone {
        let (_, done) = self.previews_and_done().await;
        done
    }

    pub(crate) async fn previews_and_done(&mut self) -> (Vec<(u64, String)>, ToolDone) {
        let mut previews = Vec::new();
        loop {
            let event = tokio::time::timeout(Duration::from_secs(60), self.events.recv()).await;
            match event
                .expect("an answer in time")
                .expect("a result before the end")
            {
                ToolEvent::Output { offset, text, .. } => previews.push((offset, text)),
                ToolEvent::Done(done) => {
                    assert_eq!(self.events.recv().await, None, "nothing follows a result");
                    return (previews, done);
                }
                other => panic!("neither output nor end: {other:?}"),
            }
        }
    }
}

/// A server in a process of its own, which runs one command and ends; `env` is
/// in its environment.
pub(crate) fn server_process(root: &Path, command: &str, env: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().expect("this test"))
        .args(["--ignored", "--exact", "recovery::a_server_of_its_own"])
        .env("EXEC_TEST_ROOT", root)
        .env("EXEC_TEST_COMMAND", command)
        .envs(env.iter().copied())
        .stdout(Stdio::null())
        .spawn()
        .expect("it starts")
}

pub(crate) fn config(root: &Path) -> LocalExecConfig {
    LocalExecConfig {
        supervisor_binary: PathBuf::from(BINARY),
        ..LocalExecConfig::new(root.to_owned())
    }
}

/// Waits for a condition; panics when it has not come about after 30 s.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
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
