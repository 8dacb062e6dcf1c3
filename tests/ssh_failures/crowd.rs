//! Those who have nothing to do with what fails.

use serde_json::json;

use crate::support::client::{Receipt, count, said};
use crate::support::stream::EventExt;
use crate::support::world::bash;
use crate::support::{is_alive, lines, until_true};
use crate::{GOOD, Street};

const HERE: usize = 20;
const ON_EACH: usize = 6;
const STREAMING: usize = 6;

/// Fifty turns that run until they are let go.
pub(crate) struct Crowd {
    /// Their commands wait for a file.
    working: Vec<Receipt>,
    /// Their model is in mid-sentence.
    streaming: Vec<Receipt>,
}

impl Crowd {
    pub(crate) fn start(street: &Street) -> Crowd {
        let yard = &street.yard;
        for alias in GOOD {
            street.works(alias);
        }
        let here = (0..HERE).map(|n| (n, "local"));
        let there = (0..GOOD.len() * ON_EACH).map(|n| (HERE + n, GOOD[n % GOOD.len()]));
        let working = here.chain(there).map(|(n, computer)| {
            let name = format!("w{n}");
            let command = format!(
                "echo $$ >> {}; until [ -e {} ]; do sleep 1; done; echo {name} went on",
                yard.file(&name).display(),
                yard.file("go").display()
            );
            street.call(&name, computer, &bash(&command))
        });
        let working = working.collect();
        let streaming = (0..STREAMING).map(|n| {
            let script = json!([["half, ", { "hold": "go" }, "whole"]]);
            yard.submit(&format!("s{n}"), "local", &script)
        });
        let crowd = Crowd {
            working,
            streaming: streaming.collect(),
        };
        assert_eq!(crowd.working.len() + crowd.streaming.len(), 50);
        until_true("all of them run", || {
            crowd.pids(street).len() == crowd.working.len()
        });
        until_true("all of them speak", || {
            yard.server.streaming() == STREAMING as u64
        });
        crowd
    }

    /// One line for every time that a command was started.
    fn pids(&self, street: &Street) -> Vec<String> {
        let files = self.working.iter().map(|at| &at.conversation);
        files
            .flat_map(|name| lines(&street.yard.file(name)))
            .collect()
    }

    /// They run on, as if nothing had happened.
    #[track_caller]
    pub(crate) fn is_well(&self, street: &Street, during: &str) {
        let server = &street.yard.server;
        assert!(is_alive(server.pid()), "{during}: the server has died");
        server.get("/health").expect(200);
        for at in &self.working {
            let turn = server.turn(&at.turn);
            assert_eq!(turn["state"], "tools", "{during}: {turn}");
        }
        for at in &self.streaming {
            let turn = server.turn(&at.turn);
            assert_eq!(turn["state"], "streaming", "{during}: {turn}");
        }
        let pids = self.pids(street);
        assert_eq!(pids.len(), self.working.len(), "{during}");
        for pid in pids {
            assert!(
                is_alive(pid.parse().unwrap()),
                "{during}: a command has died"
            );
        }
        for alias in GOOD {
            let shown = street.yard.computer(alias);
            let seen = (&shown["state"], &shown["runs"], &shown["lastError"]);
            assert_eq!(seen, (&json!("open"), &json!(ON_EACH), &json!(null)));
        }
    }

    pub(crate) fn ends_well(&self, street: &Street) {
        std::fs::write(street.yard.file("go"), "").unwrap();
        street.yard.provider.release("go");
        for at in &self.working {
            let log = street.yard.server.log(&at.conversation);
            assert_eq!(count(&log, "turn-start"), 1, "{log:#?}");
            let went_on = format!("{} went on", at.conversation);
            assert_eq!(street.answer(at).trim_end(), went_on);
        }
        for at in &self.streaming {
            let log = street.yard.server.outcome(at);
            assert_eq!(log.iter().filter(|event| event.is_terminal()).count(), 1);
            assert_eq!(said(&log), "half, whole", "{log:#?}");
        }
        assert_eq!(self.pids(street).len(), self.working.len(), "each ran once");
    }
}
