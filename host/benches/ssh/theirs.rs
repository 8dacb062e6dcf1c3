//! OpenSSH's programs, over one connection that stays open.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::sshd::Home;
use crate::until_true;

pub(crate) struct Theirs {
    config: PathBuf,
    socket: PathBuf,
}

impl Theirs {
    pub(crate) fn connect(home: &Home) -> Theirs {
        let theirs = Theirs {
            config: home.config(),
            socket: home.path().join("master"),
        };
        let mut master = theirs.command("ssh");
        master.args([
            "-o",
            "StrictHostKeyChecking=accept-new",
            "-M",
            "-N",
            "-f",
            "far",
        ]);
        ended_well(master.stdin(Stdio::null()).output().unwrap());
        until_true("the master is there", || theirs.socket.exists());
        theirs
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let path = format!("ControlPath={}", self.socket.display());
        command.arg("-F").arg(&self.config).args(["-o", &path]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    fn sftp(&self, line: &str) {
        let mut sftp = self.command("sftp");
        sftp.args(["-q", "-b", "-", "far"]).stdin(Stdio::piped());
        let mut child = sftp.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        writeln!(input, "{line}").unwrap();
        drop(input);
        ended_well(child.wait_with_output().unwrap());
    }

    pub(crate) fn put(&self, from: &Path, to: &Path) {
        self.sftp(&format!("put {} {}", from.display(), to.display()));
    }

    pub(crate) fn get(&self, from: &Path, to: &Path) {
        self.sftp(&format!("get {} {}", from.display(), to.display()));
    }

    pub(crate) fn run_true(&self) {
        let mut ssh = self.command("ssh");
        ended_well(
            ssh.args(["far", "true"])
                .stdin(Stdio::null())
                .output()
                .unwrap(),
        );
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let mut ssh = self.command("ssh");
        ssh.args(["-O", "exit", "far"]).output().ok();
    }
}

fn ended_well(output: Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}
