//! A link is lost on which something was under way: a command goes on, and is
//! answered whole over the next link; what cannot wait is told why.

use std::path::PathBuf;

use serde_json::json;

use crate::Street;
use crate::support::client::Receipt;
use crate::support::world::bash;
use crate::support::yard::Far;
use crate::support::{Chance, lines, until_true};

const LINES: usize = 1_500;

/// A command that writes a lot, and then waits.
struct Held<'s> {
    street: &'s Street,
    at: Receipt,
    ran: PathBuf,
    go: PathBuf,
}

impl Held<'_> {
    fn start<'s>(street: &'s Street, name: &str, computer: &str) -> Held<'s> {
        let file = |suffix: &str| street.yard.file(&format!("{name}-{suffix}"));
        let (ran, go) = (file("ran"), file("go"));
        let command = format!(
            "echo $$ >> {}; seq 1 {LINES}; until [ -e {} ]; do sleep 0.1; done; exit 5",
            ran.display(),
            go.display()
        );
        street.works(computer);
        let at = street.call(name, computer, &bash(&command));
        until_true("it runs", || lines(&ran).len() == 1);
        until_true("it is watched", || {
            street.yard.computer(computer)["runs"] == 1
        });
        Held {
            street,
            at,
            ran,
            go,
        }
    }

    /// Lets it end: nothing is missing, and it was not run again.
    fn ends(self) {
        std::fs::write(&self.go, "").unwrap();
        let told = self.street.answer(&self.at);
        let numbers = (1..=LINES).map(|n| format!("{n}\n"));
        assert_eq!(told, numbers.collect::<String>() + "[exit code 5]");
        assert_eq!(lines(&self.ran).len(), 1, "it ran once");
    }

    fn is_lost(&self, computer: &str) {
        until_true("the loss is seen", || {
            self.street.yard.computer(computer)["state"] != "open"
        });
    }
}

pub(crate) fn killed(street: &Street) {
    let held = Held::start(street, "killed", "killed");
    let mut killed = street.victims.killed.borrow_mut();
    killed.sshd.die();
    held.is_lost("killed");
    street.fails("killed-2", "killed", &["within 3 s"]);
    street.shows("killed", &["ssh-unreachable", "ssh-lost"]);
    killed.sshd.up();
    held.ends();
    street.works("killed");
}

pub(crate) fn stopped(street: &Street) {
    let held = Held::start(street, "stopped-midway", "stopped");
    let sshd = &street.victims.stopped.sshd;
    sshd.freeze();
    held.is_lost("stopped");
    street.fails("stopped-midway-2", "stopped", &["within 3 s"]);
    street.shows("stopped", &["ssh-timeout", "ssh-lost"]);
    sshd.thaw();
    held.ends();
    street.works("stopped");
}

pub(crate) fn jump_host_killed(street: &Street) {
    let held = Held::start(street, "jump", "behind");
    let mut bastion = street.victims.bastion.borrow_mut();
    bastion.sshd.die();
    held.is_lost("behind");
    street.fails("jump-2", "behind", &["through its jump host", "bastion"]);
    street.shows("behind", &["ssh-unreachable", "ssh-lost"]);
    bastion.sshd.up();
    held.ends();
    street.works("behind");
}

/// In whatever is said about a command, and in the handshakes in between.
pub(crate) fn cut_at_random_bytes(street: &Street) {
    let mut chance = Chance::new(7);
    let held = Held::start(street, "torn", "torn");
    let torn: &Far = &street.victims.torn;
    for _ in 0..6 {
        let before = torn.wire.cuts();
        torn.wire.cut_after(1 + chance.below(7_000) as u64);
        until_true("the link is cut", || torn.wire.cuts() > before);
    }
    until_true("the loss is shown", || {
        street.yard.computer("torn")["lastError"] != json!(null)
    });
    held.ends();
    street.works("torn");
}

/// Whether it was written cannot be known, and that is told.
pub(crate) fn write_cut_off(street: &Street) {
    street.works("torn");
    let torn = &street.victims.torn;
    let path = torn.home().join("written");
    let content = "0123456789abcdef".repeat(16 * 1024);
    let tool = json!({ "tool_call": { "name": "write", "arguments": { "path": path, "content": content } } });
    torn.wire.cut_after(100_000);
    let why = street.answer(&street.call("write", "torn", &tool));
    for part in ["outcome unknown", "`torn`", "was lost"] {
        assert!(why.contains(part), "{part}: {why}");
    }
    assert!(!path.exists(), "a part of it was put in place");
    street.works("torn");
    // The next one is told nothing but what it did.
    let told = street.answer(&street.call("write-again", "torn", &tool));
    assert!(told.contains("262144"), "{told}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
}
