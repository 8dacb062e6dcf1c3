//! Turns whose tools run on another computer, through the real binary and a
//! real sshd (S1, S4, T5).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::{Value, json};

use support::client::{Receipt, said};
use support::process::{Provider, Server, dispatch, output};
use support::sshd::{Home, Sshd};
use support::stream::{Event, EventExt};
use support::world::bash;
use support::{config, lines, until_true};

/// A server, a provider, and a computer by the name of `far`.
struct Yard {
    provider: Provider,
    server: Server,
    sshd: Sshd,
    dir: tempfile::TempDir,
    home: Home,
}

impl Yard {
    fn new() -> Option<Yard> {
        let dir = tempfile::tempdir().unwrap();
        let sshd = Sshd::start(&[])?;
        let mut home = Home::new();
        sshd.authorize(&home.key());
        home.add("far", sshd.port, &[]);
        let provider = Provider::start();
        let config = [
            config::retry(&[1], 20),
            "[server]\ndrain_s = 1\n".to_owned(),
            format!("[ssh]\nconfig = \"{}\"\n", home.config().display()),
            config::provider("mock", &provider.base_url(), 60),
        ]
        .concat();
        let server = Server::start(&dir.path().join("data"), &config);
        Some(Yard {
            provider,
            server,
            sshd,
            dir,
            home,
        })
    }

    /// What its commands leave there.
    fn runs(&self) -> PathBuf {
        let home = std::env::home_dir().unwrap();
        let node = std::fs::read_to_string(self.server.dir.join("node")).unwrap();
        let node = node.split_whitespace().next().unwrap();
        home.join(".cache/dispatch/runs").join(node)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn submit(&self, conversation: &str, computer: &str, script: &Value) -> Receipt {
        self.server.submit(&json!({
            "conversationId": conversation,
            "computerId": computer,
            "message": format!("{conversation} script: {script}"),
        }))
    }

    fn far(&self) -> Value {
        self.server.get("/computers/far").expect(200)
    }

    fn test(&self, alias: &str) -> Value {
        self.server
            .write("POST", &format!("/computers/{alias}/test"), &json!({}))
            .expect(200)
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        self.server.kill();
        let _none_was_run = std::fs::remove_dir_all(self.runs());
    }
}

fn result(log: &[Event]) -> &Event {
    log.iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap_or_else(|| panic!("no result: {log:#?}"))
}

#[test]
fn s1_the_tools_of_a_turn_run_on_its_computer_and_nothing_else_is_different() {
    let Some(yard) = Yard::new() else { return };
    let at = yard.submit(
        "there",
        "far",
        &json!([bash("echo $SSH_CONNECTION; exit 3"), "seen"]),
    );
    let log = yard.server.outcome(&at);
    assert_eq!(said(&log), "seen", "{log:#?}");
    let output = result(&log).text("output");
    assert!(output.starts_with("127.0.0.1 "), "{output}");
    assert!(output.ends_with("[exit code 3]"), "{output}");
    let far = yard.far();
    assert_eq!(
        (far["state"].as_str(), &far["lastError"]),
        (Some("open"), &Value::Null),
        "{far}"
    );
    let at = yard.submit(
        "files",
        "far",
        &json!([
            { "tool_call": { "name": "write", "arguments": { "path": "a/b.txt", "content": "one\ntwo\n" } } },
            { "tool_call": { "name": "read", "arguments": { "path": "a/b.txt", "offset": 2 } } },
            "read"
        ]),
    );
    let log = yard.server.outcome(&at);
    let outputs: Vec<&str> = log
        .iter()
        .filter(|event| event.kind() == "tool-result")
        .map(|event| event.text("output"))
        .collect();
    assert!(outputs[1].starts_with("two"), "{outputs:?}");
    // The next turn of the conversation runs there too.
    let at = yard.server.submit(&json!({
        "conversationId": "there",
        "message": format!("there script: {}", json!([bash("echo $SSH_CONNECTION"), "again"])),
    }));
    let log = yard.server.outcome(&at);
    assert!(log.iter().any(
        |event| event.kind() == "tool-result" && event.text("output").starts_with("127.0.0.1 ")
    ));
}

#[test]
fn t5_an_abort_ends_the_whole_tree_over_there() {
    let Some(yard) = Yard::new() else { return };
    let pids = yard.file("pids");
    let command = format!(
        "echo $$ >> {0}; setsid sh -c 'echo $$ >> {0}; sleep 1000' & wait",
        pids.display()
    );
    let at = yard.submit("aborted", "far", &json!([bash(&command), "never"]));
    until_true("both run", || lines(&pids).len() == 2);
    yard.server.abort(&at);
    assert_eq!(yard.server.outcome(&at).last().unwrap().kind(), "aborted");
    until_true("both are gone", || {
        lines(&pids)
            .iter()
            .all(|pid| !support::is_alive(pid.parse().unwrap()))
    });
}

#[test]
fn s2_s4_a_computer_that_fails_costs_its_call_only_and_says_what_is_wrong() {
    let Some(mut yard) = Yard::new() else { return };
    let tested = yard.test("far");
    assert_eq!(tested, json!({ "alias": "far", "ok": true }));
    let unknown = yard.test("nobody");
    assert_eq!(unknown["ok"], false);
    assert_eq!(unknown["code"], "ssh-config", "{unknown}");
    let shown = yard.server.get("/computers").expect(200);
    assert_eq!(shown["computers"][0]["alias"], "far", "{shown}");
    assert_eq!(shown["computers"].as_array().unwrap().len(), 1, "{shown}");
    let missing = yard.server.get("/computers/nobody").expect(404);
    assert_eq!(missing["code"], "computer-not-found");
    // Another computer answers under its name.
    yard.sshd.cut();
    until_true("the link has ended", || yard.far()["state"] != "open");
    yard.sshd.change_host_key("ed25519");
    let there = yard.submit("there", "far", &json!([bash("echo never"), "told of it"]));
    let here = yard.submit("here", "local", &json!([bash("echo here"), "fine"]));
    let log = yard.server.outcome(&there);
    assert_eq!(said(&log), "told of it");
    let why = result(&log).text("output");
    assert!(why.contains("far") && why.contains("SHA256:"), "{why}");
    let log = yard.server.outcome(&here);
    assert_eq!(said(&log), "fine");
    assert!(result(&log).text("output").starts_with("here"));
    assert_eq!(
        yard.far()["lastError"]["code"],
        "ssh-host-key",
        "{}",
        yard.far()
    );
}

#[test]
fn t10_a_computer_that_stands_still_in_the_handshake_is_given_up() {
    let Some(yard) = Yard::new() else { return };
    yard.sshd.signal(Signal::STOP);
    let tested = yard.test("far");
    yard.sshd.signal(Signal::CONT);
    assert_eq!(tested["ok"], false);
    assert_eq!(tested["code"], "ssh-timeout", "{tested}");
    assert_eq!(yard.provider.stat("invalid"), 0);
}

#[test]
fn s2_a_name_that_means_no_computer_is_refused_before_a_turn_begins() {
    let Some(mut yard) = Yard::new() else { return };
    let chat = |yard: &Yard, computer: &str| {
        let body = json!({ "message": "hi", "computerId": computer, "detach": true });
        yard.server.write("POST", "/chat", &body)
    };
    let refused = chat(&yard, "fra").expect(400);
    assert_eq!(refused["code"], "invalid-field", "{refused}");
    let why = refused["detail"].as_str().unwrap();
    for part in ["`computerId`", "\"fra\"", "GET /computers"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    let workspace = |yard: &Yard, computer: &str| {
        let body = json!({ "defaultComputer": computer });
        yard.server.write("PUT", "/workspaces/w", &body)
    };
    let refused = workspace(&yard, "fra").expect(400);
    let why = refused["detail"].as_str().unwrap();
    assert!(why.contains("`defaultComputer`"), "{why}");
    for known in ["far", "local"] {
        workspace(&yard, known).expect(200);
        chat(&yard, known).expect(202);
    }
    // A pattern may mean anything, and what is sent again was accepted before.
    let body = json!({ "message": "hi", "computerId": "gone", "detach": true }).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "k"),
    ];
    let again = yard.server.ask("POST", "/chat", &headers, body.as_bytes());
    again.expect(202);
    yard.home.add("*.lab", 1, &[]);
    chat(&yard, "one.lab").expect(202);
    chat(&yard, "one.bal").expect(400);
}

/// `dispatch computers ARGS` on a data directory, with its exit code and all
/// that it has said.
fn computers(data: &Path, home: &Home, args: &[&str]) -> (i32, String) {
    let mut command = dispatch(&["computers"]);
    command.args(args).arg("--data-dir").arg(data);
    command.env("HOME", home.path());
    let ran = output(command);
    let said = [ran.stdout, ran.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    (ran.status.code().unwrap(), said)
}

/// A data directory whose configuration names no provider: it takes none.
fn data_dir(dir: &Path, home: &Home) -> PathBuf {
    let data = dir.join("data");
    std::fs::create_dir(&data).unwrap();
    let config = format!("[ssh]\nconfig = \"{}\"\n", home.config().display());
    std::fs::write(data.join("dispatch.toml"), config).unwrap();
    data
}

#[test]
fn s2_the_command_line_lists_computers_and_shows_how_one_is_reached() {
    let dir = tempfile::tempdir().unwrap();
    let mut home = Home::new();
    home.add("near", 2201, &["IdentitiesOnly yes"]);
    home.add("far", 2202, &["ProxyJump near", "HostKeyAlias the-far-one"]);
    home.add("odd", 2203, &["ProxyCommand sshpass -p hunter2 nc %h %p"]);
    let data = data_dir(dir.path(), &home);
    let (code, said) = computers(&data, &home, &[]);
    assert_eq!(code, 0, "{said}");
    let words: Vec<Vec<&str>> = said
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    let row = |alias| vec![alias, "127.0.0.1", "config", "-"];
    assert_eq!(words, [row("near"), row("far"), row("odd")], "{said}");

    let (code, said) = computers(&data, &home, &["show", "far"]);
    assert_eq!(code, 0, "{said}");
    let key = home.key().display().to_string();
    let jump = format!("through {}@near (127.0.0.1:2201)", support::sshd::user());
    for shown in ["2202", "the-far-one", &key, &jump] {
        assert!(said.contains(shown), "{shown}: {said}");
    }
    let (code, said) = computers(&data, &home, &["show", "odd"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("the proxy command `sshpass ...`"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");

    let (code, said) = computers(&data, &home, &["show", "fra"]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("did you mean \"far\"?"), "{said}");
    let (code, said) = computers(&data, &home, &["test", "near"]);
    assert_eq!(code, 1, "nobody listens there: {said}");
    assert!(
        said.contains("check that sshd runs there") && said.contains("[ssh-unreachable]"),
        "{said}"
    );
    std::fs::write(data.join("dispatch.toml"), "[ssh]\nflaps = 0\n").unwrap();
    let (code, said) = computers(&data, &home, &[]);
    assert_eq!(code, 3, "{said}");
}

#[test]
fn s2_the_command_line_tests_a_computer_without_a_server() {
    let Some(mut sshd) = Sshd::start(&[]) else {
        return;
    };
    let Some(without) = Sshd::start_without_sftp(&[]) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut home = Home::new();
    for (alias, sshd) in [("far", &sshd), ("bare", &without)] {
        sshd.authorize(&home.key());
        home.add(alias, sshd.port, &[]);
    }
    let data = data_dir(dir.path(), &home);
    let (code, said) = computers(&data, &home, &["test", "far"]);
    assert_eq!(code, 0, "{said}");
    let ok = format!("far (127.0.0.1:{}): OK, ", sshd.port);
    assert!(said.contains(&ok), "{said}");
    let pinned = std::fs::read_to_string(data.join("known_hosts")).unwrap();
    assert!(pinned.contains(&sshd.port.to_string()), "{pinned}");

    let (code, said) = computers(&data, &home, &["test", "bare"]);
    assert_eq!(code, 1, "tools need files: {said}");
    assert!(
        said.contains("Subsystem sftp") && said.contains("[ssh-sftp-off]"),
        "{said}"
    );
    sshd.change_host_key("ed25519");
    let (code, said) = computers(&data, &home, &["test", "far"]);
    assert_eq!(code, 1, "it is another one now: {said}");
    assert!(said.contains("[ssh-host-key]"), "{said}");
}

#[test]
fn s2_the_command_line_asks_a_server_that_runs_how_its_computers_stand() {
    let Some(mut yard) = Yard::new() else { return };
    assert_eq!(yard.test("far")["ok"], true);
    let list = |yard: &Yard, args: &[&str]| computers(&yard.server.dir, &yard.home, args);
    let (code, said) = list(&yard, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.trim_end().ends_with(" open"), "{said}");
    // One that is gone is done without, unless it was named.
    yard.server.kill();
    let (code, said) = list(&yard, &[]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("far") && !said.contains(" open"), "{said}");
    let named = yard.server.addr.to_string();
    let (code, said) = list(&yard, &["--server", &named]);
    assert_eq!(code, 4, "{said}");
}
