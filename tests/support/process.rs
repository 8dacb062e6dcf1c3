//! The binary's processes. Each is ended by its pid when its owner goes.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{PATIENCE, http, until};

/// Variables that would change what the server does.
const FOREIGN: [&str; 8] = [
    "OPENAI_API_KEY",
    "OPENAI_BASE_URL",
    "ANTHROPIC_API_KEY",
    "ANTHROPIC_BASE_URL",
    "DATABASE_URL",
    "DISPATCH_TOKEN",
    "DISPATCH_LOG",
    "DISPATCH_REQUIRE",
];

const BINARY: &str = env!("CARGO_BIN_EXE_dispatch");
static PINNED: OnceLock<PathBuf> = OnceLock::new();

/// From now on this process starts the binary as it is now, by another link in
/// `dir`: a build beside a long run must not change the server under it.
pub(crate) fn pin(dir: &Path) {
    let link = dir.join("dispatch");
    std::fs::hard_link(BINARY, &link)
        .or_else(|_| std::fs::copy(BINARY, &link).map(|_| ()))
        .unwrap();
    PINNED.set(link).unwrap();
}

/// `dispatch ARGS` in a clean environment.
pub(crate) fn dispatch(args: &[&str]) -> Command {
    let mut command = Command::new(PINNED.get().map_or(BINARY.as_ref(), PathBuf::as_path));
    command.args(args).stdin(Stdio::null());
    for name in FOREIGN {
        command.env_remove(name);
    }
    command
}

/// Runs `command` to its end.
#[track_caller]
pub(crate) fn output(mut command: Command) -> Output {
    let child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = pid_of(child.id());
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        kill_process(pid, Signal::KILL).ok();
        panic!("{command:?} does not end");
    };
    output.unwrap()
}

pub(crate) fn pid_of(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
}

/// A process that announced an address.
pub(crate) struct Process {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Process {
    /// Starts `command` and waits for its `listening on http://ADDR`; what it
    /// writes to stderr is appended to `stderr`.
    pub(crate) fn start(mut command: Command, stderr: &Path) -> Process {
        match Process::try_start(&mut command, stderr) {
            Ok(process) => process,
            Err(status) => {
                let said = std::fs::read_to_string(stderr).unwrap_or_default();
                panic!("{command:?} ended with {status} instead of listening; it said:\n{said}");
            }
        }
    }

    /// The exit status of a process that ends instead of listening.
    pub(crate) fn try_start(command: &mut Command, stderr: &Path) -> Result<Process, ExitStatus> {
        let log = File::options()
            .create(true)
            .append(true)
            .open(stderr)
            .unwrap();
        command.stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (lines, stdout) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                // Read on when nobody listens: a full pipe would stop the process.
                lines.send(line).ok();
            }
        });
        match stdout.recv_timeout(PATIENCE) {
            Ok(line) => {
                let addr = line.strip_prefix("listening on http://").map(str::parse);
                let Some(Ok(addr)) = addr else {
                    panic!("the first line on stdout is {line:?}");
                };
                Ok(Process { child, addr })
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => Err(child.wait().unwrap()),
            Err(mpsc::RecvTimeoutError::Timeout) => {
                child.kill().ok();
                child.wait().ok();
                panic!("{command:?} announces no address");
            }
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has one.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -9`, and the wait until it is gone.
    pub(crate) fn kill(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.pid()), signal).unwrap();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        until("the process ends", || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// `dispatch provider`: the scripted provider as a process of its own.
pub(crate) struct Provider {
    pub(crate) process: Process,
    _dir: tempfile::TempDir,
}

impl Provider {
    pub(crate) fn start() -> Provider {
        Provider::started(dispatch(&["provider", "--listen", "127.0.0.1:0"]))
    }

    pub(crate) fn with_script(script: &Path) -> Provider {
        let script = script.to_str().unwrap();
        Provider::started(dispatch(&[
            "provider",
            "--listen",
            "127.0.0.1:0",
            "--script",
            script,
        ]))
    }

    fn started(command: Command) -> Provider {
        let dir = tempfile::tempdir().unwrap();
        let process = Process::start(command, &dir.path().join("provider.stderr"));
        Provider { process, _dir: dir }
    }

    pub(crate) fn base_url(&self) -> String {
        format!("http://{}/v1", self.process.addr)
    }

    fn get(&self, path: &str) -> Value {
        let answer = http::request(self.process.addr, "GET", path, &[], b"").unwrap();
        answer.read().unwrap().expect(200)
    }

    fn post(&self, path: &str) {
        let answer = http::request(self.process.addr, "POST", path, &[], b"").unwrap();
        answer.read().unwrap().expect(200);
    }

    /// Requests after entry `after`, in the order of their arrival.
    pub(crate) fn log(&self, after: u64) -> Vec<Value> {
        match self.get(&format!("/log?after={after}")) {
            Value::Array(entries) => entries,
            other => panic!("no log: {other}"),
        }
    }

    /// The requests whose message begins with `tag`.
    pub(crate) fn requests(&self, tag: &str) -> Vec<Value> {
        let mut log = self.log(0);
        log.retain(|entry| entry["message"].as_str().unwrap().starts_with(tag));
        log
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.get("/stats")[name].as_u64().unwrap()
    }

    pub(crate) fn release(&self, hold: &str) {
        self.post(&format!("/release/{hold}"));
    }
}

/// `dispatch serve` on a data directory that outlives the process.
pub(crate) struct Server {
    pub(crate) dir: PathBuf,
    pub(crate) addr: SocketAddr,
    process: Process,
    env: Vec<(String, String)>,
}

impl Server {
    /// Serves `dir` with `config` as its `dispatch.toml`.
    pub(crate) fn start(dir: &Path, config: &str) -> Server {
        Server::start_with(dir, config, &[])
    }

    pub(crate) fn start_with(dir: &Path, config: &str, env: &[(&str, &str)]) -> Server {
        std::fs::create_dir_all(dir).unwrap();
        std::fs::write(dir.join("dispatch.toml"), config).unwrap();
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let env: Vec<(String, String)> = env.iter().map(own).collect();
        let process = Process::start(Server::command(dir, &env), &stderr(dir));
        Server {
            dir: dir.to_owned(),
            addr: process.addr,
            process,
            env,
        }
    }

    /// What [`Server::start`] runs.
    pub(crate) fn command(dir: &Path, env: &[(String, String)]) -> Command {
        let dir = dir.to_str().unwrap();
        let mut command = dispatch(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir]);
        command.envs(env.iter().cloned());
        command
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill();
    }

    /// SIGTERM, and the exit status.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait()
    }

    /// A new process on the same data directory; the old one must be gone.
    pub(crate) fn restart(&mut self) {
        self.process = Process::start(Server::command(&self.dir, &self.env), &stderr(&self.dir));
        self.addr = self.process.addr;
    }

    /// What it says instead of listening; the old process must be gone.
    pub(crate) fn refuses_to_start(&self) -> String {
        let before = self.stderr().len();
        let mut command = Server::command(&self.dir, &self.env);
        match Process::try_start(&mut command, &stderr(&self.dir)) {
            Ok(_) => panic!("it serves"),
            Err(status) => assert!(!status.success()),
        }
        self.stderr().split_off(before)
    }

    pub(crate) fn crash_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    /// All that the server has written to stderr, over all its lives.
    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(stderr(&self.dir)).unwrap_or_default()
    }
}

/// Beside the data directory, not in it.
fn stderr(dir: &Path) -> PathBuf {
    dir.with_extension("stderr")
}
