//! The server as its operator meets it: stopping, starting, exit codes (L8,
//! L10, O1, O2, P3).

#![allow(clippy::unwrap_used)]

mod support;

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use serde_json::json;

use support::client::{count, logged, open_text, said, started};
use support::process::{Process, Server, dispatch, output};
use support::stream::{End, Event, EventExt, Stream};
use support::world::{World, bash, lingering};
use support::{PATIENCE, is_alive, lines, until, until_true};

#[test]
fn l8_a_terminated_server_ends_its_streams_and_its_turns_go_on_after_a_restart() {
    let mut world = World::new();
    let script = json!([[{"text": "half"}, {"hold": "rest"}, " whole"]]);
    let streaming = world.chat("streaming", &script);
    streaming.wait("the first words", |events| open_text(events, 0) == "half");
    let at = started(&streaming);
    let waits = world.submit(
        "waits",
        &json!([{"attempts": [{"status": 503}, "at last"]}]),
    );
    until_true("it waits to try again", || {
        count(&world.server.log("waits"), "provider-retry") == 1
    });
    let follower = Stream::read(world.server.events("streaming", "after=0", None));
    follower.wait_for("synced");
    let status = world.server.terminate();
    assert_eq!(status.code(), Some(0), "{}", world.server.stderr());
    assert_eq!(follower.finish().1, End::Clean);
    let (seen, end) = streaming.finish();
    assert_eq!(end, End::Clean);
    assert!(!seen.iter().any(EventExt::is_terminal), "{seen:#?}");
    world.provider.release("rest");
    world.server.restart();
    let log = world.server.outcome(&at);
    assert_eq!(
        (log.last().unwrap().kind(), said(&log)),
        ("done", "half whole".to_owned())
    );
    assert_eq!(said(&world.server.outcome(&waits)), "at last");
}

#[test]
fn l8_l10_a_terminated_server_leaves_its_command_to_the_next_one() {
    let mut world = World::new();
    let pids = world.file("pids");
    let at = world.submit("command", &json!([lingering(&pids), "told"]));
    let running = until("the command and its child run", || {
        Some(lines(&pids)).filter(|l| l.len() == 2)
    });
    let lives = || running.iter().all(|pid| is_alive(pid.parse().unwrap()));
    assert_eq!(world.server.terminate().code(), Some(0));
    assert!(lives(), "a shutdown ends no command");
    world.server.restart();
    world.server.turn_is(&at.turn, "tools");
    assert!(lives(), "it is watched on over");
    world.server.abort(&at);
    let log = world.server.outcome(&at);
    assert_eq!(log.last().unwrap().kind(), "aborted", "{log:#?}");
    for pid in &running {
        assert!(!is_alive(pid.parse().unwrap()), "{pid} outlives its turn");
    }
    assert_eq!(lines(&pids), running, "nothing ran twice");
}

#[test]
fn l2_a_conversation_that_rots_in_the_store_ends_its_turns_by_name_and_no_others() {
    let mut world = World::new();
    world.server.says("rots", "remember the number seven");
    let db = rusqlite::Connection::open(world.server.dir.join("dispatch.db")).unwrap();
    db.execute("UPDATE items SET item = '{' WHERE n = 0", [])
        .unwrap();
    let at = world.submit("rots", &json!(["which number?"]));
    let log = world.server.outcome(&at);
    let end = log.last().unwrap();
    let (code, why) = (end.text("code"), end.text("message"));
    assert_eq!((end.kind(), code), ("error", "transcript-unreadable"));
    assert!(
        why.contains("item 0 of turn") && why.contains("new conversation"),
        "{why}"
    );
    world.server.crash_and_restart();
    assert_eq!(world.server.turn(&at.turn)["state"], "ended");
    assert_eq!(
        world.provider.requests("rots ").len(),
        0,
        "no model is asked"
    );
    let fine = world.server.says("another", "still there?");
    assert_eq!(said(&fine), "You said: still there?");
    // An end that cannot be read back is still an end.
    db.execute("UPDATE events SET json = '{' WHERE terminal = 1", [])
        .unwrap();
    let shown = world.server.turn(&at.turn);
    assert_eq!(shown["terminal"]["code"], "unreadable-event", "{shown}");
}

#[test]
fn l10_a_copy_of_a_served_data_directory_leaves_the_originals_commands_alone() {
    let world = World::new();
    let pids = world.file("pids");
    let at = world.submit("copied", &json!([lingering(&pids), "told"]));
    let running = until("the command and its child run", || {
        Some(lines(&pids)).filter(|l| l.len() == 2)
    });
    let copy = world.file("copy");
    let cp = std::process::Command::new("cp")
        .arg("-a")
        .args([&world.server.dir, &copy])
        .status();
    assert!(cp.unwrap().success());
    let config = std::fs::read_to_string(world.server.dir.join("dispatch.toml")).unwrap();
    let mut second = Server::start(&copy, &config);
    until_true("the copy has asked what became of the command", || {
        count(&second.log("copied"), "tool-result") == 1
    });
    for pid in &running {
        assert!(is_alive(pid.parse().unwrap()), "{pid} is the original's");
    }
    world.server.turn_is(&at.turn, "tools");
    assert!(second.stderr().contains("is a copy"), "{}", second.stderr());
    second.kill();
    world.server.abort(&at);
    world.server.outcome(&at);
}

#[test]
fn l1_a_database_that_was_deleted_takes_nothing_and_says_so() {
    let mut world = World::new();
    world.server.says("before", "good morning");
    assert_eq!(world.server.get("/readyz").status, 200);
    for file in ["dispatch.db", "dispatch.db-wal", "dispatch.db-shm"] {
        std::fs::remove_file(world.server.dir.join(file)).ok();
    }
    // Whatever writes next finds it out; clients need not wait for that.
    let workspace = world.server.write("PUT", "/workspaces/lab", &json!({}));
    let said = workspace.expect(503).to_string();
    assert!(said.contains("deleted or replaced"), "{said}");
    let ready = world.server.get("/readyz").expect(503).to_string();
    assert!(ready.contains("dispatch.db"), "{ready}");
    assert_eq!(
        world.server.get("/health").json()["status"],
        "store-failing"
    );
    assert!(!world.server.dir.join("dispatch.db").exists(), "no new one");
    world.server.kill();
}

#[test]
fn o1_a_data_directory_serves_one_server_at_a_time() {
    let world = World::new();
    let dir = world.server.dir.to_str().unwrap();
    let stderr = world.file("second.stderr");
    let mut second = dispatch(&["serve", "--listen", "127.0.0.1:0", "--data-dir", dir]);
    let Err(status) = Process::try_start(&mut second, &stderr) else {
        panic!("a second server serves the same data directory");
    };
    assert!(!status.success());
    let said_why = std::fs::read_to_string(&stderr).unwrap();
    assert!(said_why.contains(dir), "it names the directory: {said_why}");
    assert_eq!(
        said(&world.server.says("first", "still there?")),
        "You said: still there?"
    );
}

#[test]
fn o2_run_prints_the_answer_and_its_exit_code_tells_how_it_went() {
    let world = World::new();
    let dir = world.server.dir.to_str().unwrap().to_owned();
    let server = format!("http://{}", world.server.addr);
    let run = |message: &str| output(dispatch(&["run", message, "--server", &server]));
    let fine = run("good morning");
    assert_eq!(fine.status.code(), Some(0), "{fine:?}");
    assert_eq!(
        String::from_utf8_lossy(&fine.stdout).trim_end(),
        "You said: good morning"
    );
    let failed = run("script: [{\"status\": 400}]");
    assert_eq!(failed.status.code(), Some(5), "{failed:?}");
    let nowhere = output(dispatch(&[
        "run",
        "hello",
        "--server",
        "http://127.0.0.1:1",
    ]));
    assert_eq!(nowhere.status.code(), Some(4), "{nowhere:?}");
    let usage = output(dispatch(&["run"]));
    assert_eq!(usage.status.code(), Some(2), "{usage:?}");
    let address = std::fs::read_to_string(format!("{dir}/address")).unwrap();
    assert!(
        address.contains(&world.server.addr.to_string()),
        "{address}"
    );
}

#[test]
fn p3_the_scripted_provider_says_the_same_inside_the_server_and_as_a_process() {
    let world = World::new();
    let dir = world.file("inside");
    let config =
        "[providers.mock]\ndialect = \"scripted\"\nmodels = [\"m\"]\n[retry]\nschedule_s = [1]\n";
    let inside = Server::start(&dir, config);
    let messages = [
        "good morning".to_owned(),
        format!(
            "script: {}",
            json!([["I look. ", bash("echo found")], "Found."])
        ),
        format!(
            "script: {}",
            json!([{"attempts": [{"status": 503}, "Here."]}])
        ),
        format!("script: {}", json!([["half", {"cut": true}]])),
    ];
    for message in messages {
        let told = |server: &Server| -> Vec<Vec<String>> {
            let log = server.says("same", &message);
            let shown = |event: &Event| {
                let fields = ["type", "chunks", "output", "delayMs", "code", "cause"];
                fields.map(|field| event[field].to_string()).to_vec()
            };
            logged(&log).iter().map(shown).collect()
        };
        assert_eq!(told(&inside), told(&world.server), "{message}");
    }
}

/// What a server tells systemd, in the order in which it does.
struct Systemd {
    path: PathBuf,
    socket: UnixDatagram,
}

impl Systemd {
    fn new(path: PathBuf) -> Systemd {
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Systemd { path, socket }
    }

    fn hears(&self) -> String {
        let mut message = [0; 256];
        let n = self.socket.recv(&mut message).unwrap();
        String::from_utf8(message[..n].to_vec()).unwrap()
    }

    fn hears_in_the_end(&self, wanted: &str) {
        until_true(wanted, || self.hears().trim() == wanted);
    }
}

#[test]
fn o7_systemd_is_told_when_requests_are_answered_that_the_server_lives_and_that_it_stops() {
    let dir = tempfile::tempdir().unwrap();
    let systemd = Systemd::new(dir.path().join("notify"));
    let env = [
        ("NOTIFY_SOCKET", systemd.path.to_str().unwrap()),
        // A third of it passes between two signs of life.
        ("WATCHDOG_USEC", "300000"),
    ];
    let config = "[providers.local]\ndialect = \"scripted\"\n";
    let mut server = Server::start_with(&dir.path().join("data"), config, &env);
    systemd.hears_in_the_end("READY=1");
    for _ in 0..3 {
        systemd.hears_in_the_end("WATCHDOG=1");
    }
    server.terminate();
    systemd.hears_in_the_end("STOPPING=1");
}

#[test]
fn o7_the_unit_keeps_to_what_the_server_needs() {
    let unit = include_str!("../packaging/dispatch.service");
    for line in [
        "Type=notify",
        "WatchdogSec=30",
        "Restart=always",
        // Commands outlive their server, and the next one adopts them (L10).
        "KillMode=process",
        // A command that eats the memory ends, and not the server.
        "OOMPolicy=continue",
    ] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
    assert!(unit.lines().any(|l| l.starts_with("MemoryMax=")));
}
