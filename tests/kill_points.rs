//! The server dies at each of its fault points, once for every verb: whatever
//! was half done then, no turn is lost, none ends twice and no command runs
//! twice. Only builds with `--cfg planted` have such points.
#![cfg(planted)]
#![allow(clippy::unwrap_used)]

#[path = "chaos/caller.rs"]
#[allow(dead_code)]
mod caller;
#[path = "chaos/plan.rs"]
#[allow(dead_code)]
mod plan;
mod support;
#[path = "chaos/verdict.rs"]
#[allow(dead_code)]
mod verdict;

use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use dispatch::points::{DYING, Point, TURN};
use dispatch_core::store::Verb;
use serde_json::{Value, json};

use caller::{Caller, Field, GiveUp, locked, read_log};
use plan::{Ask, Call, Step, Talk};
use support::postgres::shared;
use support::process::{Process, Provider, Server};
use support::{config, end_commands, http};
use verdict::{Effects, judge};

/// Those that most lives meet again and again: the second time, there is
/// something behind them that could be lost.
const AGAIN: [&str; 9] = [
    "accept",
    "admission-view",
    "apply-grants",
    "load",
    "commit-step",
    "tools-started",
    "tools-finished",
    "park",
    "elect",
];

const NOTHING_LEFT: &str =
    "it is asked where a dead server has left a command, and a first life has none";
/// Cells that cannot be reached, and why.
const IMPOSSIBLE: [(Point, &str, &str); 7] = [
    (Point::BeforeCommit, "admission-view", "it only reads"),
    (Point::BeforeCommit, "load", "it only reads"),
    (Point::BeforeCommit, "requests", "it only reads"),
    (Point::BeforeSubmit, "ended", NOTHING_LEFT),
    (Point::BeforeCommit, "ended", NOTHING_LEFT),
    (Point::AfterCommit, "ended", NOTHING_LEFT),
    (Point::BeforeEffects, "ended", NOTHING_LEFT),
];

/// Servers that live and die beside each other: most of a cell is waiting.
const LANES: usize = 4;
/// A point that was not come to by then never is.
const LONGEST: Duration = Duration::from_secs(60);

/// One way to die.
#[derive(Clone, Debug)]
struct Cell {
    point: Point,
    what: &'static str,
    n: u32,
}

impl Cell {
    /// As `DISPATCH_DIE_AT` has it.
    fn spec(&self) -> String {
        format!("{}:{}:{}", self.point.name(), self.what, self.n)
    }
}

fn cells() -> Vec<Cell> {
    let mut cells = Vec::new();
    for point in Point::ALL {
        if point.is_of_verbs() {
            let is_possible = |verb: &&&str| {
                let mut listed = IMPOSSIBLE.iter();
                !listed.any(|(at, what, _)| (*at, *what) == (point, **verb))
            };
            let once = Verb::NAMES.iter().filter(is_possible).map(|what| (what, 1));
            let again = AGAIN.iter().filter(is_possible).map(|what| (what, 2));
            cells.extend(once.chain(again).map(|(what, n)| Cell { point, what, n }));
        } else {
            cells.extend([1, 2].map(|n| Cell {
                point,
                what: TURN,
                n,
            }));
        }
    }
    cells
}

#[test]
fn l4_death_at_every_point_of_every_verb_costs_no_turn() {
    let cells = cells();
    assert!(cells.len() >= 100, "{}", cells.len());
    play(&cells, || None);
}

/// A commit is another thing there: the points around it once more.
#[test]
fn l9_death_around_every_commit_to_postgres_costs_no_turn() {
    let Some(cluster) = shared() else { return };
    let mut cells = cells();
    let is_around = |cell: &Cell| matches!(cell.point, Point::BeforeCommit | Point::AfterCommit);
    cells.retain(|cell| is_around(cell) && cell.n == 1);
    assert!(cells.len() >= 30, "{}", cells.len());
    play(&cells, || Some(cluster.database()));
}

/// Each of them, with a new database where there is one.
fn play(cells: &[Cell], database: impl Fn() -> Option<String> + Sync) {
    let (next, failed) = (Mutex::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                let provider = Provider::start();
                loop {
                    let n = {
                        let mut next = next.lock().unwrap();
                        *next += 1;
                        *next - 1
                    };
                    let Some(cell) = cells.get(n) else { break };
                    let database = database();
                    if let Err(why) = die(cell, &provider, database.as_deref(), None) {
                        failed
                            .lock()
                            .unwrap()
                            .push(format!("{}: {why}", cell.spec()));
                    }
                }
                assert_eq!(provider.stat("invalid"), 0, "a transcript was refused");
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let all = cells.len();
    assert!(
        failed.is_empty(),
        "{} of {all}:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// A matrix that lets a known bug pass would prove nothing.
#[test]
fn d21_a_command_that_is_run_again_is_found_where_its_end_is_lost() {
    let cell = Cell {
        point: Point::ToolEnded,
        what: TURN,
        n: 1,
    };
    let provider = Provider::start();
    let found = die(&cell, &provider, None, Some("D21"));
    assert!(found.is_err_and(|why| why.contains("RanTwice")));
}

/// One server's two lives.
struct House {
    dir: tempfile::TempDir,
    settings: String,
    database: Option<String>,
    field: Field,
}

impl House {
    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn stderr(&self) -> String {
        std::fs::read_to_string(self.data().with_extension("stderr")).unwrap_or_default()
    }

    /// The life that ends at the cell's point; `Err`: it never listened.
    fn first_life(&self, cell: &Cell) -> Result<Process, ExitStatus> {
        std::fs::create_dir_all(self.data()).unwrap();
        std::fs::write(self.data().join("dispatch.toml"), &self.settings).unwrap();
        let mut env = vec![("DISPATCH_DIE_AT".to_owned(), cell.spec())];
        env.extend(
            self.database
                .iter()
                .map(|url| ("DATABASE_URL".to_owned(), url.clone())),
        );
        let mut command = Server::command(&self.data(), &env);
        Process::try_start(&mut command, &self.data().with_extension("stderr"))
    }

    fn is_at(&self, addr: SocketAddr) {
        *locked(&self.field.addrs) = vec![addr];
    }
}

impl Drop for House {
    fn drop(&mut self) {
        end_commands(self.dir.path());
    }
}

fn settings(provider: &Provider) -> String {
    [
        config::retry(&[1], 60),
        "[server]\ndrain_s = 1\n[liveness]\nlease_s = 3\nrenew_s = 1\nsweep_s = 1\n".to_owned(),
        // Nobody listens there: every end of a turn is tried, and its try settled.
        "[[webhooks]]\nname = \"nobody\"\nurl = \"http://127.0.0.1:9/\"\n".to_owned(),
        config::provider("mock", &provider.base_url(), 4),
    ]
    .concat()
}

/// Lives until the cell's point, then once more until all is quiet, with a bug
/// in that second life if so wished.
fn die(
    cell: &Cell,
    provider: &Provider,
    database: Option<&str>,
    bug: Option<&str>,
) -> Result<(), String> {
    let house = House {
        dir: tempfile::tempdir().unwrap(),
        settings: settings(provider),
        database: database.map(str::to_owned),
        field: Field::default(),
    };
    let database = database.map(|url| ("DATABASE_URL", url));
    let bug = bug.map(|id| ("DISPATCH_PLANT", id));
    let second_life: Vec<(&str, &str)> = database.into_iter().chain(bug).collect();
    let effects = house.dir.path().join("effects");
    let talk = talk(cell, &effects);
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    house.is_at(nowhere);
    let mut lost = Ok(());
    let (talked, _server) = std::thread::scope(|scope| {
        let _give_up = GiveUp(&house.field);
        let first = house.first_life(cell);
        if let Ok(process) = &first {
            house.is_at(process.addr);
        }
        let client = scope.spawn(|| Caller::talk(&house.field, 1, &talk));
        let status = match first {
            Ok(process) => live(cell, process, &talk),
            Err(status) => Some(status),
        };
        lost = dead_there(cell, status, &house);
        let server = Server::start_with(&house.data(), &house.settings, &second_life);
        house.is_at(server.addr);
        (client.join().unwrap(), server)
    });
    lost?;
    let mut talked = talked;
    talked.log = read_log(&house.field, &talked.name).unwrap_or_default();
    let effects = Effects::read(&std::fs::read_to_string(&effects).unwrap_or_default());
    let found = judge(&talked, &effects);
    if talked.asked.iter().any(|asked| asked.receipt.is_none()) {
        return Err("a submit was never acknowledged".to_owned());
    }
    match found.is_empty() {
        true => Ok(()),
        false => Err(format!("{found:#?}\n{}", house.stderr())),
    }
}

/// Does what makes the point be reached, until the process is dead.
fn live(cell: &Cell, mut process: Process, talk: &Talk) -> Option<ExitStatus> {
    let json = [("content-type", "application/json")];
    let since = Instant::now();
    while since.elapsed() < LONGEST {
        if let Some(status) = process.ended() {
            return Some(status);
        }
        let (method, path, body) = match cell.what {
            "put-workspace" => (
                "PUT",
                "/workspaces/default".to_owned(),
                json!({"title": "t"}),
            ),
            "star" => ("PUT", "/workspaces/default/star".to_owned(), json!({})),
            "set-limit" => (
                "PUT",
                "/providers/mock/limit".to_owned(),
                json!({"limit": 5}),
            ),
            "request-abort" => {
                let path = format!("/conversations/{}/abort", talk.name);
                ("POST", path, json!({"reason": "a test says so"}))
            }
            _ => {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
        };
        // Dead, or not there yet.
        let _ = http::request(
            process.addr,
            method,
            &path,
            &json,
            body.to_string().as_bytes(),
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    process.kill();
    None
}

/// That it died where it should, and of nothing else.
fn dead_there(cell: &Cell, status: Option<ExitStatus>, house: &House) -> Result<(), String> {
    let Some(status) = status else {
        return Err("never reached".to_owned());
    };
    let told = format!("{DYING}{}\n", cell.spec());
    match status.signal() == Some(9) && house.stderr().contains(&told) {
        true => Ok(()),
        false => Err(format!("ended with {status}: {}", house.stderr())),
    }
}

/// A conversation in which the cell's verb is met soon; two turns of it where
/// each has the verb once.
fn talk(cell: &Cell, effects: &Path) -> Talk {
    let name = cell.spec().replace(':', "-");
    let turns = match cell.what {
        "accept" | "elect" => cell.n,
        _ => 1,
    };
    let asks = (0..turns).map(|n| ask(cell, &format!("{name}.{n}"), effects));
    Talk {
        asks: asks.collect(),
        name,
        is_eager: false,
    }
}

fn ask(cell: &Cell, tag: &str, effects: &Path) -> Ask {
    let call = |n: usize| {
        let (uid, file) = (format!("{tag}/{n}/0"), effects.display());
        Call {
            command: format!(
                "echo 'begin {uid}' >> '{file}'; echo 'end {uid}' >> '{file}'; echo '{uid}'"
            ),
            uid,
        }
    };
    let said = [
        "first a command, please",
        "and then another one",
        "that is all",
    ];
    let steps: Vec<Step> = (0..)
        .zip(said)
        .map(|(n, text)| Step {
            text: text.to_owned(),
            calls: (n < 2).then(|| call(n)).into_iter().collect(),
        })
        .collect();
    let script: Vec<Value> = (0..)
        .zip(&steps)
        .map(|(n, step)| played(cell, n, step))
        .collect();
    Ask {
        tag: tag.to_owned(),
        message: format!("{tag} script: {}", Value::from(script)),
        steps,
        detach: true,
    }
}

fn played(cell: &Cell, n: usize, step: &Step) -> Value {
    // Long enough for what happens only now and then.
    let is_slow = matches!(
        cell.what,
        "checkpoint" | "renew" | "requests" | "request-abort"
    );
    let delay_ms = if is_slow && n == 0 { 450 } else { 1 };
    let mut actions = vec![json!({ "text": step.text, "chunk": 6, "delay_ms": delay_ms })];
    actions.extend(step.calls.iter().map(
        |call| json!({ "tool_call": { "name": "bash", "arguments": { "command": call.command } } }),
    ));
    match (cell.what, n) {
        ("schedule-retry", 0) => json!({ "attempts": [{ "status": 503 }, actions] }),
        ("restart-step", 0) => json!({ "attempts": [{ "reasoning": "hm" }, actions] }),
        _ => Value::from(actions),
    }
}
