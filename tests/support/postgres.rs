//! A PostgreSQL server of a test's own: from the system's `initdb`, in a
//! temporary directory, on loopback, gone with the test.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tempfile::TempDir;

/// A server with trust for everybody on loopback.
pub(crate) struct Cluster {
    dir: TempDir,
    bin: PathBuf,
    user: Option<(u32, u32)>,
    port: u16,
    /// Lives as long as its standard input: even a killed test leaves no server.
    keeper: Option<Child>,
}

/// The one that the tests of a process share; `None`, loudly, where
/// PostgreSQL is not installed and need not be.
pub(crate) fn shared() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| Cluster::start(&[])).as_ref()
}

fn bin_dir() -> Option<PathBuf> {
    let listed = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten();
    let mut versions: Vec<PathBuf> = listed.flatten().map(|e| e.path().join("bin")).collect();
    versions.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(versions.into_iter().rev());
    // Through links, to where all its programs are.
    let mut real = places.filter_map(|dir| dir.join("initdb").canonicalize().ok());
    real.find_map(|initdb| initdb.parent().map(Path::to_owned))
}

/// PostgreSQL refuses to run as root: somebody else then, who owns nothing.
fn other_user() -> Option<(u32, u32)> {
    let id = |of: &str, user: &str| {
        let out = Command::new("id").args([of, user]).output().ok()?;
        String::from_utf8(out.stdout).ok()?.trim().parse().ok()
    };
    let me = Command::new("id").arg("-u").output().unwrap();
    if me.stdout != b"0\n" {
        return None;
    }
    ["postgres", "nobody"]
        .iter()
        .find_map(|user| Some((id("-u", user)?, id("-g", user)?)))
}

impl Cluster {
    /// Makes and starts one, with further settings.
    pub(crate) fn start(settings: &[&str]) -> Option<Cluster> {
        let Some(bin) = bin_dir() else {
            let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
            assert!(
                !required.split(',').any(|name| name == "postgres"),
                "DISPATCH_REQUIRE names postgres, and initdb is not found: apt-get install postgresql"
            );
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: PostgreSQL is not installed (apt-get install postgresql)"
            );
            return None;
        };
        let dir = tempfile::tempdir().unwrap();
        let user = other_user();
        if let Some((uid, gid)) = user {
            chown(dir.path(), Some(uid), Some(gid)).unwrap();
        }
        let mut cluster = Cluster {
            dir,
            bin,
            user,
            port: free_port(),
            keeper: None,
        };
        let data = cluster.data();
        let init = cluster
            .command("initdb")
            .arg("-D")
            .arg(&data)
            .args([
                "-U",
                "postgres",
                "-A",
                "trust",
                "-E",
                "UTF8",
                "--no-sync",
                "--locale=C",
            ])
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(
            init.status.success(),
            "{}",
            String::from_utf8_lossy(&init.stderr)
        );
        cluster.up(settings);
        Some(cluster)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.bin.join(name));
        self.as_user(&mut command);
        command
    }

    /// Lets the server's user run `command`, which keeps its files in `dir`.
    pub(crate) fn hand_over(&self, command: &mut Command, dir: &Path) {
        Cluster::hand_over_all(dir);
        self.as_user(command);
        command.current_dir(dir);
    }

    /// Gives a directory and its files to the server's user.
    pub(crate) fn hand_over_all(dir: &Path) {
        if let Some((uid, gid)) = other_user() {
            let files = std::fs::read_dir(dir).unwrap().flatten();
            for path in files.map(|file| file.path()).chain([dir.to_owned()]) {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
    }

    fn as_user(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).env_remove("PGDATA");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
    }

    fn up(&mut self, settings: &[&str]) {
        let log = std::fs::File::create(self.dir.path().join("log")).unwrap();
        // The shell ends the server when its standard input ends, and leaves
        // nothing: a cluster that tests share is never dropped.
        let script = r#"dir=$1; shift; "$@" & read -r _
            server=$(head -n 1 "$dir/data/postmaster.pid") && kill -QUIT "$server"
            while kill -0 "$server" 2>/dev/null; do sleep 0.1; done
            cd /; rm -rf "$dir""#;
        let mut keeper = Command::new("/bin/sh");
        self.as_user(&mut keeper);
        keeper
            .args(["-c", script, "keeper"])
            .arg(self.dir.path())
            .arg(self.bin.join("postgres"))
            .arg("-D")
            .arg(self.data())
            .arg("-k")
            .arg(self.dir.path())
            .args(["-p", &self.port.to_string()])
            .args([
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "max_connections=200",
            ]);
        for setting in settings {
            keeper.args(["-c", setting]);
        }
        keeper
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log);
        self.keeper = Some(keeper.spawn().unwrap());
        super::until_true("PostgreSQL answers", || {
            self.psql("postgres", "SELECT 1").is_ok()
        });
    }

    /// What a statement says, or why it does not.
    pub(crate) fn psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let out = self
            .command("psql")
            .args([
                "-h",
                "127.0.0.1",
                "-p",
                &self.port.to_string(),
                "-U",
                "postgres",
            ])
            .args([
                "-d",
                database,
                "-X",
                "-q",
                "-A",
                "-t",
                "-v",
                "ON_ERROR_STOP=1",
                "-c",
                sql,
            ])
            .output()
            .unwrap();
        match out.status.success() {
            true => Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    }

    /// The address of a new, empty database.
    pub(crate) fn database(&self) -> String {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(1);
        let n = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("test_{n}");
        self.psql("postgres", &format!("CREATE DATABASE {name}"))
            .unwrap();
        self.url(&name)
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!(
            "postgres://postgres@127.0.0.1:{}/{database}?sslmode=disable",
            self.port
        )
    }

    /// The name of the database in such an address.
    pub(crate) fn name_in(url: &str) -> &str {
        let place = url.split('?').next().unwrap();
        place.rsplit('/').next().unwrap()
    }

    /// Pulls the plug and starts it again: crash recovery, every session cut.
    pub(crate) fn crash(&self) {
        let restart = self
            .command("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-m", "immediate", "-w", "restart", "-l"])
            .arg(self.dir.path().join("log2"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert!(restart.unwrap().success());
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self
            .command("pg_ctl")
            .arg("-D")
            .arg(self.data())
            .args(["-m", "immediate", "stop"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if let Some(mut keeper) = self.keeper.take() {
            drop(keeper.stdin.take());
            let _ = keeper.wait();
        }
    }
}

/// Free a moment ago; nobody else here takes ports at random.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
