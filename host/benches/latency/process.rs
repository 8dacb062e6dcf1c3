//! One of the program's subcommands as a process of its own.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Process {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Process {
    /// Waits till it says where it listens.
    pub(crate) fn start(name: &str, args: &[&str], dir: &Path) -> Process {
        let log = File::create(dir.join(format!("{name}.log"))).unwrap();
        let kept = ["PATH", "HOME", "TMPDIR"];
        let kept = kept
            .into_iter()
            .filter_map(|k| Some((k, std::env::var_os(k)?)));
        let mut child = Command::new(env!("CARGO_BIN_EXE_dispatch"))
            .arg(name)
            .args(args)
            .current_dir(dir)
            .env_clear()
            .envs(kept)
            .env("DISPATCH_LOG", "warn")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on http://");
        let Some(address) = address.and_then(|address| address.parse().ok()) else {
            let log = std::fs::read_to_string(dir.join(format!("{name}.log")));
            panic!("dispatch {name} said {line:?}: {}", log.unwrap_or_default());
        };
        Process { child, address }
    }

    /// Resident memory once it has stopped changing.
    pub(crate) fn settled_rss_kb(&self) -> u64 {
        let deadline = Instant::now() + Duration::from_secs(10);
        let mut last = self.rss_kb();
        loop {
            std::thread::sleep(Duration::from_millis(1_000));
            let now = self.rss_kb();
            if now == last || Instant::now() > deadline {
                return now;
            }
            last = now;
        }
    }

    fn rss_kb(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        number.and_then(|number| number.parse().ok()).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
