//! Computers of a test's own: OpenSSH's sshd on loopback, with keys, known
//! hosts, an agent and a configuration that are nobody else's, gone with the
//! test.

#![allow(dead_code, clippy::unwrap_used)]

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Signal, kill_process};
use tempfile::TempDir;

use super::process::pid_of;

/// A server that lets the test's own user in, by key.
pub(crate) struct Sshd {
    dir: TempDir,
    program: PathBuf,
    pub(crate) port: u16,
    settings: Vec<String>,
    /// Lives as long as its standard input: even a killed test leaves no server.
    keeper: Option<Child>,
}

/// Where sshd is; `None`, loudly, where it is not installed and need not be.
pub(crate) fn program() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian keeps it off the PATH.
    let places = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
    let mut programs = places.map(|dir| dir.join("sshd"));
    let found = programs.find(|program| program.is_file());
    if found.is_none() {
        let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
        assert!(
            !required.split(',').any(|name| name == "sshd"),
            "DISPATCH_REQUIRE names sshd, and it is not found: apt-get install openssh-server"
        );
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: sshd is not installed (apt-get install openssh-server)"
        );
    }
    found
}

/// Who runs the test, and who logs in.
pub(crate) fn user() -> String {
    let out = Command::new("id").arg("-un").output().unwrap();
    String::from_utf8(out.stdout).unwrap().trim().to_owned()
}

/// Makes a key pair without a passphrase, or with one.
pub(crate) fn make_key(path: &Path, kind: &str, passphrase: &str) {
    let _ = fs::remove_file(path);
    let made = Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-C", "a test", "-N", passphrase, "-f"])
        .arg(path)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

impl Sshd {
    /// Starts one, with further lines for its configuration; they come first,
    /// and in sshd_config the first one counts.
    pub(crate) fn start(settings: &[&str]) -> Option<Sshd> {
        // It takes a second subsystem of the same name for an error.
        let is_sftp = |line: &&str| line.starts_with("Subsystem sftp");
        let sftp = (!settings.iter().any(is_sftp)).then_some("Subsystem sftp internal-sftp");
        let settings: Vec<&str> = settings.iter().copied().chain(sftp).collect();
        Sshd::start_without_sftp(&settings)
    }

    /// [`Sshd::start`], with no file transfer unless `settings` have it.
    pub(crate) fn start_without_sftp(settings: &[&str]) -> Option<Sshd> {
        let program = program()?;
        let dir = tempfile::tempdir().unwrap();
        make_key(&dir.path().join("host_key"), "ed25519", "");
        fs::write(dir.path().join("authorized_keys"), "").unwrap();
        let mut sshd = Sshd {
            dir,
            program,
            port: free_port(),
            settings: settings.iter().map(|line| (*line).to_owned()).collect(),
            keeper: None,
        };
        sshd.up();
        Some(sshd)
    }

    /// [`Sshd::start`], with this directory as the home of who logs in.
    pub(crate) fn start_at(home: &Path, settings: &[&str]) -> Option<Sshd> {
        let env = format!("SetEnv HOME={}", home.display());
        let sftp = format!("Subsystem sftp internal-sftp -d {}", home.display());
        let is_sftp = |line: &&str| line.starts_with("Subsystem sftp");
        let own = (!settings.iter().any(is_sftp)).then_some(sftp.as_str());
        let lines = [env.as_str()].into_iter().chain(own);
        Sshd::start_without_sftp(&lines.chain(settings.iter().copied()).collect::<Vec<_>>())
    }

    /// Starts it, again after [`Sshd::stop`] or [`Sshd::die`].
    pub(crate) fn up(&mut self) {
        let path = |name: &str| self.dir.path().join(name);
        let config = format!(
            "{}\nPort {}\nListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile {}\n\
             UsePAM no\nStrictModes no\nPermitRootLogin yes\nPasswordAuthentication no\n\
             KbdInteractiveAuthentication no\nMaxStartups 100\nPrintMotd no\n",
            self.settings.join("\n"),
            self.port,
            path("host_key").display(),
            path("authorized_keys").display(),
            path("pid").display(),
        );
        fs::write(path("sshd_config"), config).unwrap();
        // A killed one has left it.
        let _ = fs::remove_file(path("pid"));
        // Where it separates its privileges, and will not make it itself.
        if fs::create_dir_all("/run/sshd").is_ok() {
            let _ = fs::set_permissions("/run/sshd", fs::Permissions::from_mode(0o755));
        }
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(path("log"));
        let script = r#""$@" & server=$!; read -r _; kill -CONT $server; kill $server"#;
        let keeper = Command::new("/bin/sh")
            .args(["-c", script, "keeper"])
            .arg(&self.program)
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log.unwrap())
            .spawn();
        self.keeper = Some(keeper.unwrap());
        super::until_true("sshd listens", || {
            TcpStream::connect(("127.0.0.1", self.port)).is_ok()
        });
    }

    /// Stops listening; what is connected stays so.
    pub(crate) fn stop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
            let port = self.port;
            super::until_true("sshd has ended", || {
                TcpStream::connect(("127.0.0.1", port)).is_err()
            });
        }
    }

    /// The process that listens.
    pub(crate) fn pid(&self) -> u32 {
        let path = self.dir.path().join("pid");
        super::until("sshd's pid file", || {
            fs::read_to_string(&path).ok()?.trim().parse().ok()
        })
    }

    /// Ends every session, as a link that breaks does; it listens on.
    pub(crate) fn cut(&self) {
        self.signal_sessions(Signal::KILL);
    }

    /// One process for each connection.
    pub(crate) fn sessions(&self) -> Vec<u32> {
        children(self.pid())
    }

    fn signal_sessions(&self, signal: Signal) {
        let mut left = self.sessions();
        while let Some(session) = left.pop() {
            // Who is no root is served by a child of it.
            let is_sshd = |pid: &u32| {
                let name = fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "sshd")
            };
            left.extend(children(session).into_iter().filter(is_sshd));
            // One may have ended by itself meanwhile.
            let _ = kill_process(pid_of(session), signal);
        }
    }

    /// It stands still, with all its sessions: it takes connections and bytes,
    /// and answers nothing.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::STOP);
        self.signal_sessions(Signal::STOP);
    }

    pub(crate) fn thaw(&self) {
        self.signal_sessions(Signal::CONT);
        self.signal(Signal::CONT);
    }

    /// `kill -9`, with all its sessions.
    pub(crate) fn die(&mut self) {
        // Stopped, it begins no further session.
        self.signal(Signal::STOP);
        self.signal_sessions(Signal::KILL);
        self.signal(Signal::KILL);
        self.stop();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid_of(self.pid()), signal).unwrap();
    }

    /// Lets the holder of this key in.
    pub(crate) fn authorize(&self, key: &Path) {
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let path = self.dir.path().join("authorized_keys");
        let mut file = fs::OpenOptions::new().append(true).open(path).unwrap();
        file.write_all(public.as_bytes()).unwrap();
    }

    /// Gives it another host key, from its next connection on.
    pub(crate) fn change_host_key(&mut self, kind: &str) {
        self.stop();
        make_key(&self.dir.path().join("host_key"), kind, "");
        self.up();
    }

    /// Its host key as a line of known hosts.
    pub(crate) fn known_line(&self) -> String {
        let public = fs::read_to_string(self.dir.path().join("host_key.pub")).unwrap();
        format!("[127.0.0.1]:{} {public}", self.port)
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// The user's side: a home with keys and an SSH configuration.
pub(crate) struct Home {
    dir: TempDir,
    config: String,
}

impl Home {
    /// With one key, that a server still has to be told of.
    pub(crate) fn new() -> Home {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".ssh")).unwrap();
        let home = Home {
            dir,
            config: String::new(),
        };
        make_key(&home.key(), "ed25519", "");
        fs::write(home.known_hosts(), "").unwrap();
        home
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    fn ssh(&self, name: &str) -> PathBuf {
        self.dir.path().join(".ssh").join(name)
    }

    /// Its usual key.
    pub(crate) fn key(&self) -> PathBuf {
        self.ssh("id_test")
    }

    /// A further key.
    pub(crate) fn make_key(&self, name: &str, kind: &str, passphrase: &str) -> PathBuf {
        let path = self.ssh(name);
        make_key(&path, kind, passphrase);
        path
    }

    pub(crate) fn known_hosts(&self) -> PathBuf {
        self.ssh("known_hosts")
    }

    /// To be named as `ssh.config`: OpenSSH takes no HOME for an answer.
    pub(crate) fn config(&self) -> PathBuf {
        self.ssh("config")
    }

    /// Adds a `Host` with the usual key and nothing of this machine's own.
    pub(crate) fn add(&mut self, alias: &str, port: u16, lines: &[&str]) {
        let mut block = format!("Host {alias}\n");
        for line in lines {
            let _ = writeln!(block, "  {line}");
        }
        let _ = write!(
            block,
            "  HostName 127.0.0.1\n  Port {port}\n  User {}\n  IdentityFile {}\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile none\n\n",
            user(),
            self.key().display(),
            self.known_hosts().display(),
        );
        self.config.push_str(&block);
        fs::write(self.config(), &self.config).unwrap();
    }
}

/// An agent of a test's own.
pub(crate) struct Agent {
    child: Child,
    pub(crate) socket: PathBuf,
}

impl Agent {
    pub(crate) fn start(dir: &Path) -> Agent {
        let socket = dir.join("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        super::until_true("the agent listens", || socket.exists());
        Agent { child, socket }
    }

    /// Gives it a key, by its passphrase where it has one.
    pub(crate) fn add(&self, key: &Path, passphrase: &str) {
        let ask = self.socket.with_extension("ask");
        fs::write(&ask, format!("#!/bin/sh\necho '{passphrase}'\n")).unwrap();
        fs::set_permissions(&ask, fs::Permissions::from_mode(0o700)).unwrap();
        let added = Command::new("ssh-add")
            .arg(key)
            .env("SSH_AUTH_SOCK", &self.socket)
            .env("SSH_ASKPASS", &ask)
            .env("SSH_ASKPASS_REQUIRE", "force")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(
            added.status.success(),
            "{}",
            String::from_utf8_lossy(&added.stderr)
        );
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn children(of: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children"));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace();
    pids.map(|pid| pid.parse().unwrap()).collect()
}

/// Free a moment ago; nobody else here takes ports at random.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
