//! What is attacked: replicas of the real server, the provider, the database,
//! each a process of its own; and the ways to attack them.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Signal, kill_process};

use crate::caller::{Field, locked};
use crate::support::disk::Disk;
use crate::support::postgres::Cluster;
use crate::support::process::{Provider, Server, pid_of};
use crate::support::stream::EventExt;
use crate::support::{Chance, config, end_commands, until_true};
use crate::verdict::Effects;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Store {
    /// One process.
    Sqlite,
    /// Three.
    Postgres,
}

const LEASE_S: u64 = 3;
/// Past the lease, and past the sweep that finds it lapsed.
const PAST_THE_LEASE: Duration = Duration::from_millis(LEASE_S * 1_000 + 1_500);
/// More clients than slots, so that turns are also killed in line.
pub(crate) const LIMIT: u32 = 16;

pub(crate) struct House {
    pub(crate) provider: Provider,
    pub(crate) servers: Vec<Server>,
    /// With the name of the house's database.
    cluster: Option<(Cluster, String)>,
    /// Written to by the turns' commands, outside of all that is attacked.
    pub(crate) effects: PathBuf,
    /// Requests up to here had ended when the log was last read.
    read_to: u64,
    /// Where the data directory is, if not in `dir`; taken away before `dir` is.
    pub(crate) disk: Option<Disk>,
    dir: tempfile::TempDir,
}

/// What the killed process's turns were doing.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caught {
    pub(crate) streams: BTreeSet<String>,
    pub(crate) tools: BTreeSet<String>,
}

impl House {
    /// `None` where PostgreSQL is missing.
    pub(crate) fn new(store: Store) -> Option<House> {
        House::on(store, |_| Some(None))
    }

    /// One process on SQLite, on a disk of so many bytes; `None` where this
    /// user cannot have one.
    pub(crate) fn on_a_small_disk(size_bytes: u64) -> Option<House> {
        House::on(Store::Sqlite, |dir| {
            Some(Some(Disk::mount(&data_dir(dir, 0), size_bytes)?))
        })
    }

    fn on(store: Store, disk: impl FnOnce(&Path) -> Option<Option<Disk>>) -> Option<House> {
        let cluster = match store {
            Store::Sqlite => None,
            Store::Postgres => {
                // Not the shared one: it will be crashed.
                let cluster = Cluster::start(&[])?;
                let url = cluster.database();
                Some((cluster, url))
            }
        };
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let config = settings(&provider);
        let env: Vec<(&str, &str)> = cluster
            .iter()
            .map(|(_, url)| ("DATABASE_URL", url.as_str()))
            .collect();
        let replicas = match store {
            Store::Sqlite => 1,
            Store::Postgres => 3,
        };
        let disk = disk(dir.path())?;
        let server = |n: usize| Server::start_with(&data_dir(dir.path(), n), &config, &env);
        Some(House {
            servers: (0..replicas).map(server).collect(),
            provider,
            cluster,
            effects: dir.path().join("effects"),
            read_to: 0,
            disk,
            dir,
        })
    }

    pub(crate) fn addresses(&self, field: &Field) {
        *locked(&field.addrs) = self.servers.iter().map(|server| server.addr).collect();
    }

    pub(crate) fn effects(&self) -> Effects {
        Effects::read(&std::fs::read_to_string(&self.effects).unwrap_or_default())
    }

    /// `kill -9`, in two parts, so that what it met can be told: a process that
    /// stands still does nothing between the look and the kill.
    pub(crate) fn kill(&mut self, victim: usize, field: &Field) -> Caught {
        let pid = pid_of(self.servers[victim].pid());
        kill_process(pid, Signal::STOP).unwrap();
        let caught = self.caught(victim, field);
        self.servers[victim].kill();
        caught
    }

    /// Told by the provider and by what commands have left outside; of several
    /// replicas, the database tells whose turns they are.
    fn caught(&mut self, victim: usize, field: &Field) -> Caught {
        let mut caught = Caught::default();
        let log = self.provider.log(self.read_to);
        let open = |entry: &&serde_json::Value| entry["state"] == "open";
        let first_open = log.iter().find(open).or(log.last());
        self.read_to = first_open.map_or(self.read_to, |entry| entry.number("n") - 1);
        for entry in log.iter().filter(open) {
            let tag = entry.text("message").split(' ').next().unwrap_or_default();
            caught.streams.insert(tag.to_owned());
        }
        let open_turns: BTreeSet<String> = {
            let turns = locked(&field.turns);
            let open = turns.iter().filter(|(_, turn)| turn.end.is_none());
            open.map(|(tag, _)| tag.clone()).collect()
        };
        for uid in self.effects().running() {
            caught
                .tools
                .insert(uid.split('/').next().unwrap_or(uid).to_owned());
        }
        let owned = self.owned_by(victim);
        let conversation = |tag: &str| tag.rsplit_once('.').map_or(tag, |(c, _)| c).to_owned();
        let is_hit = |tag: &String, state: &str| {
            let of = (conversation(tag), state.to_owned());
            open_turns.contains(tag) && owned.as_ref().is_none_or(|owned| owned.contains(&of))
        };
        caught.streams.retain(|tag| is_hit(tag, "2"));
        // A command that an earlier kill cut short never ends.
        let streams = &caught.streams;
        caught
            .tools
            .retain(|tag| is_hit(tag, "3") && !streams.contains(tag));
        caught
    }

    /// Conversation and state of the turns that a replica owns.
    fn owned_by(&self, victim: usize) -> Option<BTreeSet<(String, String)>> {
        let (cluster, url) = self.cluster.as_ref()?;
        let node = std::fs::read_to_string(self.servers[victim].dir.join("node")).unwrap();
        // The name, and the number of the file's inode.
        let node = node.split_whitespace().next().unwrap();
        let sql = format!(
            "SELECT conversation, state FROM dispatch.turns WHERE state IN (2, 3) AND owner_node = '{}'",
            node
        );
        let rows = cluster
            .psql(Cluster::name_in(url), &sql)
            .unwrap_or_default();
        let rows = rows.lines().filter_map(|row| row.split_once('|'));
        Some(rows.map(|(c, s)| (c.to_owned(), s.to_owned())).collect())
    }

    /// At once, or when the other replicas must have taken its turns over.
    pub(crate) fn restart(&mut self, victim: usize, field: &Field, late: bool) {
        if late {
            let since = Instant::now();
            until_true("the lease has lapsed", || since.elapsed() > PAST_THE_LEASE);
        }
        self.servers[victim].restart();
        self.addresses(field);
    }

    /// Stands still past its lease, and then goes on as if nothing had been.
    pub(crate) fn freeze(&self, victim: usize) {
        let pid = pid_of(self.servers[victim].pid());
        kill_process(pid, Signal::STOP).unwrap();
        let since = Instant::now();
        until_true("the lease has lapsed", || since.elapsed() > PAST_THE_LEASE);
        kill_process(pid, Signal::CONT).unwrap();
    }

    /// The database is killed and recovers; `false` where there is none.
    pub(crate) fn crash_database(&self) -> bool {
        self.cluster
            .as_ref()
            .map(|(cluster, _)| cluster.crash())
            .is_some()
    }

    /// Every session of every replica is cut; `false` where there is none.
    pub(crate) fn cut_sessions(&self) -> bool {
        let Some((cluster, url)) = &self.cluster else {
            return false;
        };
        let name = Cluster::name_in(url);
        let sql = format!(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{name}'"
        );
        // From another database, or it would cut itself.
        cluster.psql("postgres", &sql).unwrap();
        true
    }

    /// Anyone of them.
    pub(crate) fn any(&self, chance: &mut Chance) -> usize {
        chance.below(self.servers.len())
    }
}

impl Drop for House {
    fn drop(&mut self) {
        for server in &mut self.servers {
            server.kill();
        }
        end_commands(self.dir.path());
        drop(self.disk.take());
        // A supervisor that outlives its server writes to its run directory
        // until its command has ended: what it does meanwhile would stay.
        for _ in 0..100 {
            match std::fs::remove_dir_all(self.dir.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                _ => return,
            }
        }
    }
}

fn data_dir(dir: &Path, n: usize) -> PathBuf {
    dir.join(format!("replica-{n}"))
}

fn settings(provider: &Provider) -> String {
    [
        config::retry(&[1], 60),
        format!(
            "[server]\ndrain_s = 1\n[liveness]\nlease_s = {LEASE_S}\nrenew_s = 1\nsweep_s = 1\n"
        ),
        "[deadlines]\nconnect_s = 5\nfirst_byte_s = 20\nidle_s = 20\ntool_s = 30\nstore_s = 3\n"
            .to_owned(),
        config::provider("mock", &provider.base_url(), LIMIT),
    ]
    .concat()
}
