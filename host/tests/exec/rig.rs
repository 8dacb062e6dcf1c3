//! What the tests of commands share: a data directory, a caller, and eyes on
//! `/proc`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use dispatch::exec::{Adoption, Exec, LocalExec, LocalExecConfig, ToolDone, ToolRequest};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[path = "../calls/mod.rs"]
mod calls;
#[allow(unused_imports, reason = "each test program uses its part")]
pub(crate) use calls::{CALL, Call, TURN, is_alive, signal, until};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_dispatch");

/// A server's side of commands: its data directory and a working directory.
pub(crate) struct Rig {
    pub(crate) root: tempfile::TempDir,
    pub(crate) exec: LocalExec,
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
        calls::request(&self.cwd(), name, &input)
    }

    pub(crate) fn start(&self, request: ToolRequest) -> Call {
        Call::begin(|events| self.exec.start(request, events))
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
        let call = Call::begin(|events| self.exec.adopt(TURN, CALL, events));
        call.found().await
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
        calls::pid_in(&self.cwd(), file).await
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
