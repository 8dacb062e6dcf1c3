//! Several replicas on one PostgreSQL database (L9): any of them accepts,
//! serves and continues any turn, and its clients notice no difference.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};

use support::client::{Receipt, Screen, receipt};
use support::postgres::{Cluster, shared};
use support::process::{Process, Provider, Server};
use support::stream::EventExt;
use support::{config, end_commands, is_alive, lines, until_true};

/// Replicas of one house; the first is `servers[0]`.
struct Replicas {
    provider: Provider,
    servers: Vec<Server>,
    dir: tempfile::TempDir,
    /// Of the database.
    url: String,
}

impl Drop for Replicas {
    fn drop(&mut self) {
        end_commands(self.dir.path());
    }
}

impl Replicas {
    /// `None` where PostgreSQL is missing.
    fn new(count: usize) -> Option<Replicas> {
        Replicas::with_patience(count, 600)
    }

    /// For nodes that are away so long their turns are waited for.
    fn with_patience(count: usize, node_patience_s: u64) -> Option<Replicas> {
        let cluster: &Cluster = shared()?;
        let url = cluster.database();
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let config = [
            config::retry(&[1], 20),
            "[server]\ndrain_s = 1\n[liveness]\nlease_s = 3\nrenew_s = 1\nsweep_s = 1\n".to_owned(),
            format!("node_patience_s = {node_patience_s}\n"),
            config::provider("mock", &provider.base_url(), 8),
        ]
        .concat();
        let server = |n: usize| {
            let data = dir.path().join(format!("replica-{n}"));
            Server::start_with(&data, &config, &[("DATABASE_URL", &url)])
        };
        Some(Replicas {
            servers: (0..count).map(server).collect(),
            provider,
            dir,
            url,
        })
    }

    /// Does to the schema what a later build would.
    fn alter(&self, sql: &str) {
        let cluster = shared().expect("its database runs");
        cluster.psql(Cluster::name_in(&self.url), sql).unwrap();
    }

    fn submit(&self, to: usize, conversation: &str, script: &Value) -> Receipt {
        let message = format!("{conversation} script: {script}");
        self.servers[to].submit(&json!({ "conversationId": conversation, "message": message }))
    }

    /// As that replica shows them, in the order of their names.
    fn states(&self, at: usize) -> Vec<String> {
        let shown = self.servers[at].get("/replicas").expect(200);
        let all = shown["replicas"].as_array().unwrap().clone();
        all.iter().map(|one| one["state"].to_string()).collect()
    }

    /// A turn whose command waits for a file, and has begun to.
    fn with_command(&self, to: usize, conversation: &str) -> (Receipt, PathBuf, PathBuf) {
        let file = |kind: &str| self.dir.path().join(format!("{conversation}.{kind}"));
        let (ran, gate) = (file("ran"), file("gate"));
        let command = format!(
            "echo $$ >> {}; while [ ! -e {} ]; do sleep 0.02; done; echo passed",
            ran.display(),
            gate.display()
        );
        let call = json!({ "tool_call": { "name": "bash", "arguments": { "command": command } } });
        let receipt = self.submit(to, conversation, &json!([call, "It is done."]));
        until_true("the command runs", || !lines(&ran).is_empty());
        (receipt, ran, gate)
    }

    /// A client of that replica sees the whole turn: log, text and end.
    fn sees_it_through(&self, at: usize, receipt: &Receipt, text: &str) {
        let mut screen = Screen::default();
        for event in self.servers[at].follow(receipt, receipt.seq - 1).all() {
            screen.show(&event);
        }
        assert_eq!(screen.log, self.servers[at].log(&receipt.conversation));
        let shown: Vec<&str> = screen.steps.values().map(String::as_str).collect();
        assert_eq!(shown, [text], "{:#?}", screen.log);
        let ends = screen.log.iter().filter(|event| event.is_terminal());
        assert_eq!(ends.count(), 1);
        assert!(
            screen.log.iter().any(|event| event.kind() == "done"),
            "{:#?}",
            screen.log
        );
    }
}

#[test]
fn l9_a_client_of_any_replica_follows_what_any_other_streams() {
    let Some(replicas) = Replicas::new(2) else {
        return;
    };
    let script = json!([{"text": "Es sind 2 → fertig.", "chunk": 3, "delay_ms": 30}]);
    let receipts: Vec<Receipt> = (0..12)
        .map(|n| replicas.submit(n % 2, &format!("both-{n}"), &script))
        .collect();
    for (n, receipt) in receipts.iter().enumerate() {
        replicas.sees_it_through((n + 1) % 2, receipt, "Es sind 2 → fertig.");
    }
}

#[test]
fn l9_c6_a_key_means_the_same_turn_at_every_replica() {
    let Some(replicas) = Replicas::new(2) else {
        return;
    };
    let body = json!({ "conversationId": "keyed", "message": "hello", "detach": true });
    let body = body.to_string();
    let headers = [
        ("idempotency-key", "once"),
        ("content-type", "application/json"),
    ];
    let turns: Vec<String> = replicas
        .servers
        .iter()
        .map(|server| {
            let answer = server.ask("POST", "/chat", &headers, body.as_bytes());
            receipt(&answer.expect(202)).turn
        })
        .collect();
    assert_eq!(turns[0], turns[1]);
}

#[test]
fn l4_l9_the_turns_of_a_killed_replica_go_on_at_another() {
    let Some(mut replicas) = Replicas::new(2) else {
        return;
    };
    let script = json!([{"attempts": [
        [{"text": "halb "}, {"hold": "for-ever"}],
        [{"text": "ganz"}],
    ]}]);
    let receipts: Vec<Receipt> = (0..6)
        .map(|n| replicas.submit(0, &format!("kill-{n}"), &script))
        .collect();
    until_true("all are asked", || {
        replicas.provider.requests("kill-").len() == 6
    });
    replicas.servers[0].kill();
    // Those that the survivor streams itself go on when they are let.
    replicas.provider.release("for-ever");
    for receipt in &receipts {
        let mut screen = Screen::default();
        for event in replicas.servers[1].follow(receipt, receipt.seq - 1).all() {
            screen.show(&event);
        }
        let kinds: Vec<&str> = screen.log.iter().map(|event| event.kind()).collect();
        assert_eq!(kinds.last(), Some(&"done"), "{kinds:?}");
        assert_eq!(screen.log.iter().filter(|e| e.is_terminal()).count(), 1);
    }
}

#[test]
fn l8_l9_a_rolling_restart_costs_no_turn_and_shows_no_error() {
    let Some(mut replicas) = Replicas::new(2) else {
        return;
    };
    let script = json!([{"text": "eins zwei drei vier fünf", "chunk": 2, "delay_ms": 100}]);
    let receipts: Vec<Receipt> = (0..8)
        .map(|n| replicas.submit(n % 2, &format!("roll-{n}"), &script))
        .collect();
    for n in 0..2 {
        assert!(replicas.servers[n].terminate().success());
        replicas.servers[n].restart();
    }
    for receipt in &receipts {
        replicas.sees_it_through(0, receipt, "eins zwei drei vier fünf");
    }
}

#[test]
fn l9_a_build_goes_on_beside_a_later_one_until_that_one_says_it_cannot() {
    let Some(mut replicas) = Replicas::new(1) else {
        return;
    };
    let script = json!([[{"text": "one "}, {"hold": "rest"}, "two"]]);
    let running = replicas.submit(0, "running", &script);
    until_true("it streams", || {
        replicas.provider.requests("running").len() == 1
    });
    // Expand: columns and a table that this build does not know of.
    let tables = [
        "turns",
        "conversations",
        "events",
        "items",
        "calls",
        "segments",
        "outbox",
    ];
    for table in tables {
        replicas.alter(&format!(
            "ALTER TABLE dispatch.{table} ADD COLUMN later TEXT"
        ));
    }
    replicas.alter("CREATE TABLE dispatch.later (id BIGINT PRIMARY KEY)");
    replicas.alter("UPDATE dispatch.meta SET format = format + 1");
    replicas.provider.release("rest");
    replicas.sees_it_through(0, &running, "one two");
    assert!(replicas.servers[0].terminate().success());
    replicas.servers[0].restart();
    let after = replicas.submit(0, "after", &json!(["It still serves."]));
    replicas.sees_it_through(0, &after, "It still serves.");
    // Contract: what only earlier builds needed is gone.
    replicas.alter("UPDATE dispatch.meta SET oldest = format");
    assert!(replicas.servers[0].terminate().success());
    let said = replicas.servers[0].refuses_to_start();
    assert!(said.contains("run the newer build"), "{said}");
}

#[test]
fn l9_a_copied_data_directory_does_not_take_its_originals_turns() {
    let Some(replicas) = Replicas::new(1) else {
        return;
    };
    let (receipt, ran, gate) = replicas.with_command(0, "copied");
    let (original, copy) = (&replicas.servers[0].dir, replicas.dir.path().join("copy"));
    std::fs::create_dir(&copy).unwrap();
    for file in ["node", "dispatch.toml"] {
        std::fs::copy(original.join(file), copy.join(file)).unwrap();
    }
    let env = [("DATABASE_URL".to_owned(), replicas.url.clone())];
    let stderr = replicas.dir.path().join("copy.stderr");
    let mut command = Server::command(&copy, &env);
    assert!(Process::try_start(&mut command, &stderr).is_err());
    let said = std::fs::read_to_string(&stderr).unwrap();
    assert!(
        said.contains("is a copy") && said.contains("`node`"),
        "{said}"
    );
    replicas.servers[0].turn_is(&receipt.turn, "tools");
    std::fs::write(&gate, "").unwrap();
    let events = replicas.servers[0].outcome(&receipt);
    assert_eq!(events.last().unwrap().kind(), "done", "{events:#?}");
    assert_eq!(lines(&ran).len(), 1);
    // With a name of its own it is a replica like any other.
    std::fs::remove_file(copy.join("node")).unwrap();
    let mut command = Server::command(&copy, &env);
    let mut second = Process::try_start(&mut command, &stderr).unwrap();
    assert_eq!(replicas.states(0).len(), 2);
    second.kill();
}

/// Which replica runs a turn's command: the one whose data directory has its run.
fn home_of(replicas: &Replicas, receipt: &Receipt) -> usize {
    let has_run = |n: &usize| {
        let data = replicas.dir.path().join(format!("replica-{n}"));
        data.join("runs").join(&receipt.turn).exists()
    };
    (0..replicas.servers.len()).find(has_run).unwrap()
}

#[test]
fn l9_l10_a_turn_whose_command_runs_waits_for_its_node_and_goes_on_there() {
    let Some(mut replicas) = Replicas::new(2) else {
        return;
    };
    let (receipt, ran, gate) = replicas.with_command(0, "home");
    let home = home_of(&replicas, &receipt);
    let other = 1 - home;
    replicas.servers[home].kill();
    until_true("its node is away", || {
        let states = replicas.states(other);
        states.contains(&"\"away\"".to_owned())
    });
    // What is bound elsewhere is in nobody's way.
    let free = replicas.submit(other, "free", &json!(["Nothing holds me."]));
    replicas.sees_it_through(other, &free, "Nothing holds me.");
    let waits = replicas.servers[other].turn_is(&receipt.turn, "parked");
    let node = waits["node"].as_str().unwrap();
    let why = replicas.servers[other].get(&format!("/turns/{}/why", receipt.turn));
    let why = why.expect(200)["why"].to_string();
    assert!(
        why.contains(node) && why.contains("start it again"),
        "{why}"
    );
    replicas.servers[home].restart();
    replicas.servers[other].turn_is(&receipt.turn, "tools");
    std::fs::write(&gate, "").unwrap();
    let events = replicas.servers[other].outcome(&receipt);
    let result = events.iter().find(|event| event.kind() == "tool-result");
    let result = result.unwrap();
    assert_eq!(result["ok"], true, "{result}");
    assert_eq!(result.text("output").trim(), "passed");
    assert_eq!(events.last().unwrap().kind(), "done", "{events:#?}");
    assert_eq!(lines(&ran).len(), 1);
}

#[test]
fn l9_a_turn_is_given_up_when_its_node_stays_away() {
    let Some(mut replicas) = Replicas::with_patience(2, 5) else {
        return;
    };
    let (receipt, ran, gate) = replicas.with_command(0, "lost");
    let home = home_of(&replicas, &receipt);
    replicas.servers[home].kill();
    let events = replicas.servers[1 - home].outcome(&receipt);
    let end = events.last().unwrap();
    assert_eq!((end.kind(), end.text("code")), ("error", "node-lost"));
    // Nobody will adopt its command: back, its node ends it.
    replicas.servers[home].restart();
    let pid: u32 = lines(&ran)[0].parse().unwrap();
    until_true("its command is dead", || !is_alive(pid));
    assert!(!gate.exists());
}

#[test]
fn l8_l9_a_rolling_restart_leaves_commands_running_and_adopts_them() {
    let Some(mut replicas) = Replicas::new(2) else {
        return;
    };
    let begun: Vec<_> = (0..4)
        .map(|n| replicas.with_command(n % 2, &format!("left-{n}")))
        .collect();
    for n in 0..2 {
        assert!(replicas.servers[n].terminate().success());
        replicas.servers[n].restart();
    }
    for (_, _, gate) in &begun {
        std::fs::write(gate, "").unwrap();
    }
    for (receipt, ran, _) in &begun {
        let events = replicas.servers[0].outcome(receipt);
        let result = events.iter().find(|event| event.kind() == "tool-result");
        assert_eq!(result.unwrap()["ok"], true, "{events:#?}");
        assert_eq!(events.last().unwrap().kind(), "done", "{events:#?}");
        assert_eq!(lines(ran).len(), 1);
    }
}
