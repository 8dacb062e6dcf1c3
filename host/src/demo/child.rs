//! The demo's processes and its directory: all that must be gone afterwards.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

use super::DemoError;

/// A directory of the demo's own, removed when dropped.
#[derive(Debug)]
pub(super) struct TempDir(PathBuf);

impl TempDir {
    pub(super) fn new() -> Result<TempDir, DemoError> {
        let mut random = [0u8; 8];
        getrandom::fill(&mut random).map_err(|error| DemoError::Directory {
            path: std::env::temp_dir(),
            source: io::Error::other(error.to_string()),
        })?;
        let name = format!("dispatch-demo-{:016x}", u64::from_le_bytes(random));
        let path = std::env::temp_dir().join(name);
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => Ok(TempDir(path)),
            Err(source) => Err(DemoError::Directory { path, source }),
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A supervisor may still be writing its last file.
        for _ in 0..3 {
            if std::fs::remove_dir_all(&self.0).is_ok() {
                return;
            }
        }
        if self.0.exists() {
            eprintln!(
                "dispatch demo: could not remove {}; remove it by hand",
                self.0.display()
            );
        }
    }
}

/// One of this program's subcommands, as a process of its own.
#[derive(Debug)]
pub(super) struct Process {
    name: &'static str,
    child: Child,
    /// `http://ADDR`, as it announced it.
    pub(super) address: String,
}

const ANNOUNCEMENT: &str = "listening on ";
const START: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(4);

impl Process {
    /// Starts `dispatch NAME ARGS` in `dir` and waits for its address. Nothing
    /// of this process's environment decides what it does.
    pub(super) async fn start(
        name: &'static str,
        args: &[&str],
        dir: &Path,
        extra_env: &[(&str, &str)],
    ) -> Result<Process, DemoError> {
        let failed = |reason: String| DemoError::Start { name, reason };
        let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(dir.join(format!("{name}.log")))
            .map_err(|error| failed(error.to_string()))?;
        let kept = ["PATH", "HOME", "TMPDIR"]
            .into_iter()
            .filter_map(|key| Some((key, std::env::var_os(key)?)));
        let mut child = Command::new(program)
            .arg(name)
            .args(args)
            .current_dir(dir)
            .env_clear()
            .envs(kept)
            .envs(extra_env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            // Ctrl-C on the terminal is for the demo, which ends its processes in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| failed(error.to_string()))?;
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut lines = BufReader::new(stdout).lines();
        let announced = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if let Some(address) = line.strip_prefix(ANNOUNCEMENT) {
                    return Some(address.trim().to_owned());
                }
            }
            None
        };
        let announced = tokio::time::timeout(START, announced).await;
        let Ok(Some(address)) = announced else {
            // Dropping the child ends it.
            let said = tail(&dir.join(format!("{name}.log")));
            return Err(failed(format!("it did not say where it listens; {said}")));
        };
        // Read on, so that it never waits for a full pipe.
        tokio::spawn(async move {
            let mut rest = lines.into_inner();
            let mut buffer = [0u8; 1024];
            while rest.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        });
        Ok(Process {
            name,
            child,
            address,
        })
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// `kill -9`.
    pub(super) async fn kill(&mut self) -> Result<(), DemoError> {
        self.child.kill().await.map_err(|error| DemoError::Start {
            name: self.name,
            reason: format!("it cannot be killed: {error}"),
        })
    }

    /// SIGTERM, then SIGKILL for one that does not go.
    pub(super) async fn stop(mut self) {
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            let asked = kill_process(pid, Signal::TERM).is_ok();
            if asked && tokio::time::timeout(STOP, self.child.wait()).await.is_ok() {
                return;
            }
        }
        // It may have ended by itself meanwhile.
        let _ = self.child.kill().await;
    }
}

/// The last lines of a process's log, for an error message.
fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().rev().take(5).collect();
    if lines.is_empty() {
        return "its log is empty".to_owned();
    }
    let lines: Vec<&str> = lines.into_iter().rev().collect();
    format!("its log ends with:\n{}", lines.join("\n"))
}
