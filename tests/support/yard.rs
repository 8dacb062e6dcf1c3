//! A server with other computers to run tools on: each an sshd of its own, with
//! a home of its own, at the end of a wire that can be cut.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::Receipt;
use super::disk::Disk;
use super::process::{Provider, Server};
use super::sshd::{Home, Sshd};
use super::stream::{Event, EventExt};
use super::wire::Wire;
use super::{config, end_commands};

/// A computer.
pub(crate) struct Far {
    pub(crate) sshd: Sshd,
    pub(crate) wire: Wire,
    /// Of its own, where it has one.
    pub(crate) disk: Option<Disk>,
    home: tempfile::TempDir,
}

impl Far {
    pub(crate) fn start(settings: &[&str]) -> Option<Far> {
        let settings: Vec<String> = settings.iter().map(|&line| line.to_owned()).collect();
        Far::on(|_| settings, |_| Some(None))
    }

    /// With its home on a disk that a test can fill.
    pub(crate) fn on_small_disk(size_bytes: u64) -> Option<Far> {
        let disk = |home: &Path| Some(Some(Disk::mount(home, size_bytes)?));
        Far::on(|_| Vec::new(), disk)
    }

    /// Where SFTP is a process of its own, which shows the home in its name;
    /// `before` is said to the shell that starts it.
    pub(crate) fn with_sftp_server(before: &str) -> Option<Far> {
        const PROGRAM: &str = "/usr/lib/openssh/sftp-server";
        if !Path::new(PROGRAM).exists() {
            let skipped = b"SKIPPED: openssh's sftp-server is not where Debian has it\n";
            std::io::stderr().write_all(skipped).unwrap();
            return None;
        }
        let line = |home: &Path| format!("Subsystem sftp {before}{PROGRAM} -d {}", home.display());
        Far::on(|home| vec![line(home)], |_| Some(None))
    }

    fn on(
        settings: impl FnOnce(&Path) -> Vec<String>,
        disk: impl FnOnce(&Path) -> Option<Option<Disk>>,
    ) -> Option<Far> {
        super::sshd::program()?;
        let home = tempfile::tempdir().unwrap();
        let disk = disk(home.path())?;
        let settings = settings(home.path());
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let sshd = Sshd::start_at(home.path(), &settings)?;
        Some(Far {
            wire: Wire::to(sshd.port),
            sshd,
            disk,
            home,
        })
    }

    /// Of whoever logs in.
    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    /// Processes there that show the home in their command line: supervisors and
    /// their helpers, and SFTP servers where they are processes of their own.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let home = self.home.path().to_str().unwrap();
        let pids = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let names = |pid: &u32| std::fs::read(format!("/proc/{pid}/cmdline"));
        pids.filter(|pid| {
            names(pid).is_ok_and(|name| String::from_utf8_lossy(&name).contains(home))
        })
        .collect()
    }

    /// What commands have written there, a file for each.
    pub(crate) fn outputs(&self) -> Vec<PathBuf> {
        files(self.home.path(), "output")
    }
}

/// All files of this name below a directory.
fn files(dir: &Path, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, name));
        } else if path.ends_with(name) {
            found.push(path);
        }
    }
    found
}

/// See the module's page. Computers are added before it is opened.
pub(crate) struct Plot {
    pub(crate) home: Home,
    pub(crate) dir: tempfile::TempDir,
}

impl Plot {
    pub(crate) fn new() -> Plot {
        Plot {
            home: Home::new(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Lets a server reach a computer, over its wire.
    pub(crate) fn add(&mut self, alias: &str, far: &Far, lines: &[&str]) {
        far.sshd.authorize(&self.home.key());
        self.home.add(alias, far.wire.port, lines);
    }

    /// Starts the server, with these lines in its configuration.
    pub(crate) fn open(self, limit: u32, ssh: &str, sections: &str) -> Yard {
        let provider = Provider::start();
        let config = [
            config::retry(&[1], 20),
            "[server]\ndrain_s = 1\n".to_owned(),
            format!(
                "[ssh]\nconfig = \"{}\"\n{ssh}",
                self.home.config().display()
            ),
            sections.to_owned(),
            config::provider("mock", &provider.base_url(), limit),
        ]
        .concat();
        let server = Server::start(&self.dir.path().join("data"), &config);
        Yard {
            provider,
            server,
            dir: self.dir,
            _home: self.home,
        }
    }
}

/// A server that runs, and its provider.
pub(crate) struct Yard {
    pub(crate) provider: Provider,
    pub(crate) server: Server,
    pub(crate) dir: tempfile::TempDir,
    _home: Home,
}

impl Yard {
    /// With one computer, `far`.
    pub(crate) fn with_far(limit: u32) -> Option<(Yard, Far)> {
        let far = Far::start(&[])?;
        let mut plot = Plot::new();
        plot.add("far", &far, &[]);
        Some((plot.open(limit, "", ""), far))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn submit(&self, conversation: &str, computer: &str, script: &Value) -> Receipt {
        self.server.submit(&json!({
            "conversationId": conversation,
            "computerId": computer,
            "message": format!("{conversation} script: {script}"),
        }))
    }

    /// How a computer stands.
    pub(crate) fn computer(&self, alias: &str) -> Value {
        self.server.get(&format!("/computers/{alias}")).expect(200)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.server.kill();
        end_commands(self.dir.path());
    }
}

/// What the first tool of a turn was answered.
#[track_caller]
pub(crate) fn result(log: &[Event]) -> &str {
    let results = log.iter().filter(|event| event.kind() == "tool-result");
    let first = results.map(|event| event.text("output")).next();
    first.unwrap_or_else(|| panic!("no result: {log:#?}"))
}
