//! A data directory, and the processes that are started on it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dispatch::clock::SystemClock;
use dispatch::store::{Durability, Options, SqliteStore, Store};
use rusqlite::{Connection, OpenFlags};

use super::line::Line;
use super::process::Process;
use super::verbs;

const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct House {
    dir: PathBuf,
    data_dir: PathBuf,
    provider: Process,
    last_event: i64,
}

impl House {
    /// Makes the database, and copies it while its store is still open: WAL
    /// and all, as a kill would leave it.
    pub(crate) fn build(dir: &Path, message: &str, build: impl FnOnce(&Line<'_>)) -> House {
        let (earlier, data_dir) = (dir.join("earlier"), dir.join("data"));
        std::fs::create_dir_all(&data_dir).unwrap();
        // How it was made matters to nobody; that nothing is left unwritten does.
        let options = Options {
            durability: Durability::ProcessCrashOnly,
            ..Options::default()
        };
        let clock = Arc::new(SystemClock::new());
        let store = SqliteStore::open_with(&earlier.join("dispatch.db"), clock, options).unwrap();
        let line = Line {
            store: &store,
            message,
        };
        line.ask([verbs::boot(1_000_000)]);
        build(&line);
        let last_event = last_event(&earlier);
        for name in ["dispatch.db", "dispatch.db-wal"] {
            std::fs::copy(earlier.join(name), data_dir.join(name)).unwrap();
        }
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(store.close());
        std::fs::write(data_dir.join("node"), format!("{}\n", verbs::NODE)).unwrap();
        let provider = Process::start("provider", &["--listen", "127.0.0.1:0"], dir);
        House {
            dir: dir.to_owned(),
            data_dir,
            provider,
            last_event,
        }
    }

    /// The server, with so many streams in flight.
    pub(crate) fn start(&self, limit: u32) -> Server {
        let config = self.dir.join("dispatch.toml");
        let address = self.provider.address;
        let text = format!(
            "[providers.bench]\ndialect = \"chat\"\nbase_url = \"http://{address}/v1\"\nlimit = {limit}\nmodels = [\"scripted\"]\n"
        );
        std::fs::write(&config, text).unwrap();
        let serve = [
            "--listen",
            "127.0.0.1:0",
            "--data-dir",
            self.data_dir.to_str().unwrap(),
            "--config",
            config.to_str().unwrap(),
        ];
        Server(Process::start("serve", &serve, &self.dir))
    }

    /// Looks at the log from outside, beside the server.
    pub(crate) fn watch(&self) -> Watch {
        Watch {
            conn: outsider(&self.data_dir),
            before: self.last_event,
        }
    }

    pub(crate) fn database_mb(&self) -> f64 {
        let size = |name| std::fs::metadata(self.data_dir.join(name)).map_or(0, |m| m.len());
        (size("dispatch.db") + size("dispatch.db-wal")) as f64 / 1e6
    }
}

fn outsider(dir: &Path) -> Connection {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let conn = Connection::open_with_flags(dir.join("dispatch.db"), flags).unwrap();
    conn.busy_timeout(PATIENCE).unwrap();
    conn
}

fn last_event(dir: &Path) -> i64 {
    let last = "SELECT COALESCE(MAX(rowid), 0) FROM events";
    let last = outsider(dir).query_row(last, [], |row| row.get(0));
    last.unwrap()
}

pub(crate) struct Server(Process);

impl Server {
    /// How long after `exec` it says that it takes turns.
    pub(crate) fn ready(&self, exec: Instant) -> Duration {
        let mut stream = TcpStream::connect(self.0.address).unwrap();
        let address = self.0.address;
        let request =
            format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        exec.elapsed()
    }

    pub(crate) fn settled_mb(&self) -> f64 {
        self.0.settled_rss_kb() as f64 / 1024.0
    }
}

pub(crate) struct Watch {
    conn: Connection,
    before: i64,
}

/// What was committed since the watch began.
pub(crate) struct Seen {
    pub(crate) steps: u64,
    pub(crate) done: u64,
}

impl Watch {
    pub(crate) fn until(
        &self,
        exec: Instant,
        what: &str,
        is_seen: impl Fn(&Seen) -> bool,
    ) -> Duration {
        let since = "SELECT COALESCE(SUM(kind = 'step-complete'), 0), COALESCE(SUM(kind = 'done'), 0) \
            FROM events WHERE rowid > ?1";
        let mut since = self.conn.prepare(since).unwrap();
        loop {
            let seen = since.query_row([self.before], |row| {
                Ok(Seen {
                    steps: row.get::<_, i64>(0)?.try_into().unwrap(),
                    done: row.get::<_, i64>(1)?.try_into().unwrap(),
                })
            });
            if is_seen(&seen.unwrap()) {
                return exec.elapsed();
            }
            assert!(exec.elapsed() < PATIENCE, "waited in vain: {what}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}
