//! `kill -9` of the real server at a hundred seeded moments (L4, T2): no turn
//! is lost, none ends twice, no command runs twice, no conversation is stuck.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;

use serde_json::{Value, json};

use support::client::{Receipt, Screen, count, logged, open_text, said, started};
use support::process::{Provider, Server};
use support::stream::{Event, EventExt, Stream};
use support::{Chance, config, end_commands, is_alive, lines, until_true};

/// Where a turn was when the server died, as the events before it prove.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Parked,
    FirstByte,
    MidText,
    InTool,
    RetryWait,
    BetweenSteps,
}

use Phase::{BetweenSteps, FirstByte, InTool, MidText, Parked, RetryWait};

const PHASES: [Phase; 6] = [Parked, FirstByte, MidText, InTool, RetryWait, BetweenSteps];
const LANES: u64 = 2;
/// For each lane: every phase is the aim of so many kills; the others come at
/// a seeded moment of a turn that nothing holds.
const AIMED_PER_PHASE: usize = 7;
const UNAIMED: usize = 8;

/// The limit of `narrow` is what turns are parked behind.
const WIDE: &str = "wide/m";
const NARROW: &str = "narrow/m";

#[test]
fn l4_kill_9_at_a_hundred_seeded_moments_costs_no_turn() {
    let lanes: Vec<_> = (0..LANES)
        .map(|seed| std::thread::spawn(move || Lane::new(seed).run()))
        .collect();
    let mut kills = 0;
    let mut hits: BTreeMap<Phase, (usize, usize)> = BTreeMap::new();
    // All of them end before one may fail the test, and so end their processes.
    let tallies: Vec<_> = lanes.into_iter().map(|lane| lane.join()).collect();
    for tally in tallies {
        let tally = tally.unwrap();
        kills += tally.kills;
        for (phase, (in_kills, turns)) in tally.hits {
            let sum = hits.entry(phase).or_default();
            *sum = (sum.0 + in_kills, sum.1 + turns);
        }
    }
    let mut table = format!("\nphase          kills  turns   ({kills} kills in all)\n");
    for phase in PHASES {
        let (in_kills, turns) = hits.get(&phase).copied().unwrap_or_default();
        table.push_str(&format!(
            "{:<14} {in_kills:>5} {turns:>6}\n",
            format!("{phase:?}")
        ));
    }
    // Not by the macro, which the test harness keeps to itself.
    std::io::stderr().write_all(table.as_bytes()).unwrap();
    assert!(kills >= 100, "{table}");
    for phase in PHASES {
        assert!(
            hits.get(&phase).is_some_and(|(kills, _)| *kills >= 10),
            "{table}"
        );
    }
}

#[derive(Default)]
struct Tally {
    kills: usize,
    /// Kills that met the phase, and turns that were in it.
    hits: BTreeMap<Phase, (usize, usize)>,
}

/// One server, killed again and again, with a provider that survives it.
struct Lane {
    chance: Chance,
    seed: u64,
    round: usize,
    provider: Provider,
    server: Server,
    tally: Tally,
    past: Vec<Receipt>,
    dir: tempfile::TempDir,
}

/// One turn on its way to where the kill shall meet it.
struct Victim {
    tag: String,
    aim: Option<Phase>,
    stream: Stream,
    /// What its steps say, together.
    script_text: String,
    /// Written to by its command: a line, the shell's pid, at every run.
    ran: PathBuf,
    /// Written by its command's child: a pid.
    child: PathBuf,
    /// Its command waits for this file.
    gate: PathBuf,
}

impl Lane {
    fn new(seed: u64) -> Lane {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let url = provider.base_url();
        let config = [
            config::retry(&[1], 20),
            config::provider("wide", &url, 16),
            config::provider("narrow", &url, 1),
        ]
        .concat();
        let server = Server::start(&dir.path().join("data"), &config);
        Lane {
            chance: Chance::new(seed),
            seed,
            round: 0,
            provider,
            server,
            tally: Tally::default(),
            past: Vec::new(),
            dir,
        }
    }

    fn run(mut self) -> Tally {
        let mut aims: Vec<Option<Phase>> = PHASES
            .iter()
            .flat_map(|phase| [Some(*phase); AIMED_PER_PHASE])
            .chain([None; UNAIMED])
            .collect();
        self.chance.shuffle(&mut aims);
        for (round, aim) in aims.into_iter().enumerate() {
            self.round = round;
            match aim {
                Some(phase) => self.aimed(phase),
                None => self.unaimed(),
            }
        }
        self.nothing_was_lost();
        std::mem::take(&mut self.tally)
    }

    /// Brings turns into `aim` and, by chance, into other phases; kills; looks.
    fn aimed(&mut self, aim: Phase) {
        let mut phases = vec![aim];
        for phase in PHASES {
            if phase != aim && self.chance.one_in(4) {
                phases.push(phase);
            }
        }
        let wants = |phase: &Phase| phases.contains(phase);
        let mut victims = Vec::new();
        // What waits behind the limit needs somebody who takes it up: that one
        // is in a phase itself.
        let holder = [FirstByte, MidText]
            .into_iter()
            .find(wants)
            .unwrap_or(MidText);
        let needs_holder = wants(&Parked) || wants(&BetweenSteps);
        let ordered = [InTool, BetweenSteps, FirstByte, MidText, Parked, RetryWait];
        for phase in ordered {
            if !(wants(&phase) || (needs_holder && phase == holder)) {
                continue;
            }
            let model = match phase {
                Parked | BetweenSteps => NARROW,
                FirstByte | MidText if needs_holder && phase == holder => NARROW,
                FirstByte | MidText | InTool | RetryWait => WIDE,
            };
            let victim = self.start(phase, model);
            self.bring(&victim, phase);
            victims.push(victim);
        }
        for victim in victims
            .iter()
            .filter(|victim| victim.aim == Some(BetweenSteps))
        {
            std::fs::write(&victim.gate, "").unwrap();
            victim.stream.wait_for("tool-result");
        }
        self.kill(victims);
    }

    /// Kills when a turn that nothing holds has shown a seeded number of events.
    fn unaimed(&mut self) {
        let moment = 1 + self.chance.below(14);
        let tag = self.tag("free");
        let (ran, child, gate) = self.files(&tag);
        let command = format!("echo $$ >> {}; echo out", ran.display());
        let script = json!([
            [{"text": "I shall look. ", "chunk": 3, "delay_ms": 1}, bash(&command)],
            {"attempts": [{"status": 503}, [{"text": "I have looked.", "chunk": 3, "delay_ms": 1}]]},
        ]);
        let stream = self.chat(&tag, &script, WIDE);
        let victim = Victim {
            tag,
            aim: None,
            stream,
            script_text: "I shall look. I have looked.".to_owned(),
            ran,
            child,
            gate,
        };
        victim.stream.wait("the seeded moment", |events| {
            events.len() >= moment || events.iter().any(EventExt::is_terminal)
        });
        self.kill(vec![victim]);
    }

    fn tag(&self, what: &str) -> String {
        format!("k{}-{}-{what}", self.seed, self.round).to_lowercase()
    }

    fn files(&self, tag: &str) -> (PathBuf, PathBuf, PathBuf) {
        let file = |kind: &str| self.dir.path().join(format!("{tag}.{kind}"));
        (file("ran"), file("child"), file("gate"))
    }

    fn chat(&self, tag: &str, script: &Value, model: &str) -> Stream {
        let message = format!("{tag} script: {script}");
        self.server
            .chat(&json!({ "conversationId": tag, "message": message, "model": model }))
    }

    fn start(&mut self, phase: Phase, model: &str) -> Victim {
        let tag = self.tag(&format!("{phase:?}"));
        let (ran, child, gate) = self.files(&tag);
        let hold = json!({ "hold": tag });
        let (script, script_text) = match phase {
            Parked => (json!(["I waited."]), "I waited."),
            FirstByte => (json!([[hold, "Here I am."]]), "Here I am."),
            MidText => {
                let chunk = 1 + self.chance.below(5);
                let half = json!({"text": "One half, ", "chunk": chunk, "delay_ms": 1});
                (
                    json!([[half, hold, "and the other."]]),
                    "One half, and the other.",
                )
            }
            RetryWait => (
                json!([{"attempts": [{"status": 503}, "At last."]}]),
                "At last.",
            ),
            InTool => {
                let command = format!(
                    "echo $$ >> {}; sleep 1000 & echo $! > {}; while [ ! -e {} ]; do sleep 0.01; done; kill $!; echo passed",
                    ran.display(),
                    child.display(),
                    gate.display()
                );
                let then = json!([hold, "It was seen through."]);
                (json!([bash(&command), then]), "It was seen through.")
            }
            BetweenSteps => {
                let command = format!(
                    "echo $$ >> {}; while [ ! -e {} ]; do sleep 0.01; done; echo passed",
                    ran.display(),
                    gate.display()
                );
                (json!([bash(&command), "It went well."]), "It went well.")
            }
        };
        let stream = self.chat(&tag, &script, model);
        Victim {
            tag,
            aim: Some(phase),
            stream,
            script_text: script_text.to_owned(),
            ran,
            child,
            gate,
        }
    }

    /// Waits until the turn is where it shall be held.
    fn bring(&self, victim: &Victim, phase: Phase) {
        match phase {
            Parked => {
                victim.stream.wait_for("turn-start");
            }
            FirstByte => until_true("the request arrives", || self.is_asked(&victim.tag, 0)),
            MidText => {
                victim.stream.wait("half of the text", |events| {
                    open_text(events, 0) == "One half, "
                });
            }
            InTool => until_true("the command runs", || !lines(&victim.child).is_empty()),
            BetweenSteps => until_true("the command runs", || !lines(&victim.ran).is_empty()),
            RetryWait => {
                victim.stream.wait_for("provider-retry");
            }
        }
    }

    fn is_asked(&self, tag: &str, step: u64) -> bool {
        let requests = self.provider.requests(&format!("{tag} "));
        requests
            .iter()
            .any(|r| r["state"] == "open" && r["step"] == step)
    }

    fn phase_of(&self, victim: &Victim, events: &[Event]) -> Option<Phase> {
        let log = logged(events);
        let last = log.last()?;
        let requests = self.provider.requests(&format!("{} ", victim.tag));
        let is_open = requests.iter().any(|r| r["state"] == "open");
        match last.kind() {
            "turn-start" if requests.is_empty() => Some(Parked),
            "turn-start" if is_open && open_text(events, 0).is_empty() => Some(FirstByte),
            "turn-start" if is_open => Some(MidText),
            "tool-call" if !lines(&victim.ran).is_empty() => Some(InTool),
            "provider-retry" if now_ms() < last.number("dueAt") => Some(RetryWait),
            "tool-result" if requests.iter().all(|r| r["step"] == 0) => Some(BetweenSteps),
            _ => None,
        }
    }

    fn kill(&mut self, victims: Vec<Victim>) {
        let held: Vec<Option<Phase>> = victims
            .iter()
            .map(|victim| {
                // What nothing holds may have moved on between look and kill.
                victim.aim?;
                self.phase_of(victim, &victim.stream.so_far())
            })
            .collect();
        self.server.kill();
        self.tally.kills += 1;
        for phase in PHASES {
            let turns = held.iter().filter(|held| **held == Some(phase)).count();
            if turns > 0 {
                let hits = self.tally.hits.entry(phase).or_default();
                *hits = (hits.0 + 1, hits.1 + turns);
            }
        }
        self.server.restart();
        let aftermath: Vec<Aftermath> = victims.into_iter().map(Aftermath::of).collect();
        for victim in &aftermath {
            self.command_is_adopted(victim);
            self.provider.release(&victim.tag);
        }
        for victim in aftermath {
            self.ends_once(&victim);
            self.past.push(victim.at);
        }
    }

    /// It has outlived its server, and the next one waits for its end.
    fn command_is_adopted(&self, victim: &Aftermath) {
        if victim.aim != Some(InTool) {
            return;
        }
        self.server.turn_is(&victim.at.turn, "tools");
        for pid in lines(&victim.ran).iter().chain(&lines(&victim.child)) {
            let pid = pid.parse().unwrap();
            assert!(is_alive(pid), "{}: {pid} is dead", victim.tag);
        }
        assert!(!self.is_asked(&victim.tag, 1), "{}", victim.tag);
        std::fs::write(&victim.gate, "").unwrap();
        until_true("the model is asked to go on", || {
            self.is_asked(&victim.tag, 1)
        });
    }

    fn ends_once(&self, victim: &Aftermath) {
        let mut screen = Screen::default();
        for event in victim
            .before
            .iter()
            .filter(|event| event.turn() == victim.at.turn)
        {
            screen.show(event);
        }
        for event in self.server.follow(&victim.at, screen.cursor()).all() {
            if event.kind() != "synced" {
                screen.show(&event);
            }
        }
        let tag = &victim.tag;
        let log = screen.log;
        assert_eq!(log, self.server.log(&victim.at.conversation), "{tag}");
        assert_eq!(
            log.iter().filter(|event| event.is_terminal()).count(),
            1,
            "{log:#?}"
        );
        assert_eq!(log.last().unwrap().kind(), "done", "{tag}: {log:#?}");
        assert_eq!(said(&log), victim.script_text, "{tag}: {log:#?}");
        let runs = lines(&victim.ran).len();
        let result = log.iter().find(|event| event.kind() == "tool-result");
        match victim.aim {
            Some(InTool | BetweenSteps) => {
                let result = result.unwrap();
                assert_eq!(
                    (result["ok"].clone(), result.text("output").trim()),
                    (true.into(), "passed")
                );
                assert_eq!((count(&log, "tool-call"), runs), (1, 1), "{tag}: {log:#?}");
            }
            Some(Parked | FirstByte | MidText | RetryWait) => assert!(result.is_none(), "{log:#?}"),
            None => {
                assert_eq!(count(&log, "tool-call"), 1, "{log:#?}");
                assert_eq!(count(&log, "tool-result"), 1, "{log:#?}");
                let was_told = result.unwrap()["ok"] == true;
                assert!(
                    runs == 1 || (runs == 0 && !was_told),
                    "{tag} ran {runs} times: {log:#?}"
                );
            }
        }
        let next = self
            .server
            .says(&victim.at.conversation, &format!("{tag} and now?"));
        assert_eq!(next.last().unwrap().kind(), "done", "{next:#?}");
        assert_eq!(said(&next), format!("You said: {tag} and now?"));
    }

    /// The whole past, read once more after the last kill.
    fn nothing_was_lost(&self) {
        for at in &self.past {
            let log = self.server.log(&at.conversation);
            let seqs: Vec<u64> = log.iter().filter_map(EventExt::seq).collect();
            let expected: Vec<u64> = (1..=log.len() as u64).collect();
            assert_eq!(seqs, expected, "{log:#?}");
            let ended: Vec<&str> = log
                .iter()
                .filter(|e| e.is_terminal())
                .map(EventExt::turn)
                .collect();
            assert_eq!((ended.len(), ended[0]), (2, at.turn.as_str()), "{log:#?}");
            assert_ne!(ended[0], ended[1]);
        }
        assert_eq!(
            self.provider.stat("invalid"),
            0,
            "{:#?}",
            self.invalid_requests()
        );
        until_true("no slot is held", || self.server.streaming() == 0);
    }

    fn invalid_requests(&self) -> Vec<Value> {
        let mut log = self.provider.log(0);
        log.retain(|entry| entry["state"] == "invalid");
        log
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.server.kill();
        end_commands(self.dir.path());
    }
}

/// A turn after the kill: its client has what had come until then.
struct Aftermath {
    tag: String,
    aim: Option<Phase>,
    at: Receipt,
    before: Vec<Event>,
    script_text: String,
    ran: PathBuf,
    child: PathBuf,
    gate: PathBuf,
}

impl Aftermath {
    fn of(victim: Victim) -> Aftermath {
        let at = started(&victim.stream);
        Aftermath {
            tag: victim.tag,
            aim: victim.aim,
            at,
            before: victim.stream.finish().0,
            script_text: victim.script_text,
            ran: victim.ran,
            child: victim.child,
            gate: victim.gate,
        }
    }
}

fn bash(command: &str) -> Value {
    json!({ "tool_call": { "name": "bash", "arguments": { "command": command } } })
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
