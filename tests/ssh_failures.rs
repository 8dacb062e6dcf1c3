//! Fifty turns run, here and on other computers, while one computer after the
//! other fails in a way of its own (S4, L7): the server lives, nobody else is
//! affected, the call concerned is answered with what is known, and the
//! computer shows what is wrong with it.

#![allow(clippy::unwrap_used)]

#[path = "ssh_failures/crowd.rs"]
mod crowd;
#[path = "ssh_failures/handshake.rs"]
mod handshake;
#[path = "ssh_failures/midway.rs"]
mod midway;
#[path = "ssh_failures/there.rs"]
mod there;

mod support;

use std::io::Write;
use std::time::Instant;

use serde_json::{Value, json};

use crowd::Crowd;
use support::client::{Receipt, count, said};
use support::stream::{Event, EventExt};
use support::world::bash;
use support::yard::{Far, Plot, Yard, result};
use support::{is_alive, lines, until_true};

/// A computer that is up and cannot be spoken with is given up in a few seconds;
/// none is left alone for good, however often it fails.
const TERMS: &str = "patience_ms = 3000\nkeepalive_ms = 1000\nalive_ms = 5000\n\
     backoff_ms = 100\nbackoff_max_ms = 400\nflaps = 1000\n";
const DEADLINES: &str = "[deadlines]\nconnect_s = 2\nssh_handshake_s = 2\n";
const LIMIT: u32 = 80;

/// Its name, and what plays it: something fails, is seen to fail, and is mended,
/// where that can be done.
type Failure = (&'static str, fn(&Street));

const FAILURES: [Failure; 13] = [
    ("the wrong key", handshake::wrong_key),
    ("a changed host key", handshake::changed_host_key),
    ("nobody listens", handshake::nobody_listens),
    ("a server that says nothing", handshake::says_nothing),
    ("a handshake that breaks off", handshake::breaks_off),
    ("sshd stopped before it greets", handshake::stopped),
    ("sshd killed in mid-command", midway::killed),
    ("sshd stopped in mid-command", midway::stopped),
    ("the jump host killed", midway::jump_host_killed),
    ("links cut at random bytes", midway::cut_at_random_bytes),
    ("a write that is cut off", midway::write_cut_off),
    ("SFTP is off", there::sftp_off),
    ("the disk is full", there::disk_full),
];

#[test]
fn s4_l7_every_failure_costs_the_call_concerned_and_nothing_else() {
    let Some(mut street) = Street::new() else {
        return;
    };
    let crowd = Crowd::start(&street);
    for (name, fail) in FAILURES {
        let since = Instant::now();
        fail(&street);
        crowd.is_well(&street, name);
        let line = format!("{name}: {} ms\n", since.elapsed().as_millis());
        // Not by the macro, which the test harness keeps to itself.
        std::io::stderr().write_all(line.as_bytes()).unwrap();
    }
    crowd.ends_well(&street);
    assert!(street.yard.server.terminate().success());
}

/// What never comes back costs a command its deadline and no more.
#[test]
fn s4_a_computer_that_never_comes_back_leaves_the_outcome_unknown() {
    let Some(mut far) = Far::start(&[]) else {
        return;
    };
    let mut plot = Plot::new();
    plot.add("gone", &far, &[]);
    let yard = plot.open(8, TERMS, &format!("{DEADLINES}tool_s = 2\n"));
    let ran = yard.file("ran");
    let command = format!("echo $$ >> {}; sleep 1000", ran.display());
    let at = yard.submit("gone", "gone", &json!([bash(&command), "told"]));
    until_true("it runs", || lines(&ran).len() == 1);
    far.sshd.die();
    let log = yard.server.outcome(&at);
    assert_eq!(said(&log), "told", "{log:#?}");
    let why = result(&log);
    for part in ["outcome unknown", "`gone`", "has not come back"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    // Its deadline is kept over there, whoever is there to see it.
    until_true("the command has ended", || {
        lines(&ran)
            .iter()
            .all(|pid| !is_alive(pid.parse().unwrap()))
    });
    assert_eq!(yard.computer("gone")["runs"], 0);
}

/// The server and all computers, by what is to happen to them.
struct Street {
    yard: Yard,
    victims: Victims,
    /// Those that nothing happens to.
    _good: Vec<Far>,
}

/// Each is there for one failure, or for two that come one after the other.
struct Victims {
    strange: Far,
    renamed: std::cell::RefCell<Far>,
    absent: std::cell::RefCell<Far>,
    mute: Far,
    killed: std::cell::RefCell<Far>,
    stopped: Far,
    bastion: std::cell::RefCell<Far>,
    /// Behind the bastion.
    behind: Far,
    torn: Far,
    /// Commands only.
    bare: Far,
    full: Option<Far>,
}

/// Computers that nothing happens to.
const GOOD: [&str; 4] = ["good-0", "good-1", "good-2", "good-3"];
const SMALL_DISK_BYTES: u64 = 1 << 20;

impl Street {
    fn new() -> Option<Street> {
        let start = || Far::start(&[]);
        let victims = Victims {
            strange: start()?,
            renamed: start()?.into(),
            absent: start()?.into(),
            mute: start()?,
            killed: start()?.into(),
            stopped: start()?,
            bastion: start()?.into(),
            behind: start()?,
            torn: start()?,
            bare: Far::start(&["Subsystem sftp-is-off /bin/false"])?,
            full: Far::on_small_disk(SMALL_DISK_BYTES),
        };
        let mut plot = Plot::new();
        let mut good = Vec::new();
        for alias in GOOD {
            let far = start()?;
            plot.add(alias, &far, &[]);
            good.push(far);
        }
        victims.add_to(&mut plot);
        let yard = plot.open(LIMIT, TERMS, DEADLINES);
        Some(Street {
            yard,
            victims,
            _good: good,
        })
    }

    /// A turn with one tool call.
    fn call(&self, name: &str, computer: &str, tool: &Value) -> Receipt {
        self.yard
            .submit(name, computer, &json!([tool, format!("{name} ends")]))
    }

    /// What the call of such a turn was answered; the turn ends as if nothing
    /// had happened.
    #[track_caller]
    fn answer(&self, at: &Receipt) -> String {
        let log = self.yard.server.outcome(at);
        ends_once(&log, &format!("{} ends", at.conversation));
        result(&log).to_owned()
    }

    /// A call that cannot be carried out, and what the model must be told of it.
    #[track_caller]
    fn fails(&self, name: &str, computer: &str, parts: &[&str]) {
        let ran = self.yard.file(&format!("{name}-must-not-run"));
        let tool = bash(&format!("echo ran >> {}", ran.display()));
        let why = self.answer(&self.call(name, computer, &tool));
        assert!(why.contains("not started"), "{why}");
        for part in parts {
            assert!(why.contains(part), "{part}: {why}");
        }
        assert_eq!(lines(&ran).len(), 0);
        self.others_begin_and_end(name);
    }

    #[track_caller]
    fn others_begin_and_end(&self, during: &str) {
        for computer in ["local", GOOD[during.len() % GOOD.len()]] {
            let at = self.call(
                &format!("{computer}-{during}"),
                computer,
                &bash("echo as ever"),
            );
            assert_eq!(self.answer(&at).trim_end(), "as ever", "during {during}");
        }
    }

    /// The computer's status names this error, and no link is open.
    #[track_caller]
    fn shows(&self, computer: &str, codes: &[&str]) {
        let shown = self.yard.computer(computer);
        let code = shown["lastError"]["code"].as_str().unwrap_or("none");
        assert!(codes.contains(&code), "{shown}");
        assert!(
            shown["lastError"]["message"]
                .as_str()
                .unwrap()
                .contains(computer)
        );
        let state = shown["state"].as_str().unwrap();
        assert!(
            ["waiting", "connecting", "closed"].contains(&state),
            "{shown}"
        );
    }

    /// It can be used (again).
    #[track_caller]
    fn works(&self, computer: &str) {
        until_true(&format!("{computer} is back"), || {
            let path = format!("/computers/{computer}/test");
            self.yard
                .server
                .write("POST", &path, &json!({}))
                .expect(200)["ok"]
                == true
        });
        let shown = self.yard.computer(computer);
        assert_eq!(shown["state"], "open", "{shown}");
    }
}

impl Victims {
    fn add_to(&self, plot: &mut Plot) {
        // Its user has never let us in.
        plot.home.add("strange", self.strange.wire.port, &[]);
        plot.add("renamed", &self.renamed.borrow(), &[]);
        let absent = self.absent.borrow();
        absent.sshd.authorize(&plot.home.key());
        plot.home.add("absent", absent.sshd.port, &[]);
        plot.add("mute", &self.mute, &[]);
        plot.add("killed", &self.killed.borrow(), &[]);
        plot.add("stopped", &self.stopped, &[]);
        plot.add("bastion", &self.bastion.borrow(), &[]);
        plot.add("behind", &self.behind, &["ProxyJump bastion"]);
        plot.add("torn", &self.torn, &[]);
        plot.add("bare", &self.bare, &[]);
        if let Some(full) = &self.full {
            plot.add("full", full, &[]);
        }
    }
}

/// It has one terminal event, the last one, and one answer to its one call.
#[track_caller]
fn ends_once(log: &[Event], text: &str) {
    let terminal = log.iter().filter(|event| event.is_terminal()).count();
    assert_eq!(
        (terminal, log.last().unwrap().kind()),
        (1, "done"),
        "{log:#?}"
    );
    assert_eq!(count(log, "tool-result"), 1, "{log:#?}");
    assert_eq!(said(log), text, "{log:#?}");
}
