//! The figures of a run, piece by piece, and the table that is shown of them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use crate::caller::{Field, locked};
use crate::house::Caught;
use crate::siege::ends;
use crate::verdict::Violation;

type Counts = BTreeMap<String, usize>;

#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) turns: usize,
    pub(crate) commands: usize,
    pub(crate) seconds: u64,
    pub(crate) kills: usize,
    /// Kills that met a turn in a stream, in a tool, in either.
    in_stream: usize,
    in_tool: usize,
    in_either: usize,
    /// Faults that are no kills.
    pub(crate) others: Counts,
    /// How all turns ended, those that were in flight at a kill, and those
    /// that one met in a stream or tool.
    all: Counts,
    in_flight: Counts,
    hit: Counts,
    /// The most kills that met one turn in a stream or tool.
    most_hits: usize,
    clients: Counts,
    refusals: Counts,
    pub(crate) violations: Vec<Violation>,
    /// What the servers said, where there are violations.
    pub(crate) evidence: Vec<String>,
}

impl Tally {
    /// Counts a kill, also with the turns that it met.
    pub(crate) fn killed(&mut self, field: &Field, caught: &Caught) {
        self.kills += 1;
        self.in_stream += usize::from(!caught.streams.is_empty());
        self.in_tool += usize::from(!caught.tools.is_empty());
        self.in_either += usize::from(!caught.streams.is_empty() || !caught.tools.is_empty());
        for (tag, turn) in locked(&field.turns).iter_mut() {
            if turn.end.is_none() {
                turn.kills += 1;
                let is_hit = caught.streams.contains(tag) || caught.tools.contains(tag);
                turn.hits += u32::from(is_hit);
            }
        }
    }

    /// What the clients have to tell.
    pub(crate) fn gather(&mut self, field: &Field) {
        self.all = ends(field, |_, _| true);
        self.in_flight = ends(field, |kills, _| kills > 0);
        self.hit = ends(field, |_, hits| hits > 0);
        let turns = locked(&field.turns);
        self.most_hits = turns.values().map(|turn| turn.hits).max().unwrap_or(0) as usize;
        drop(turns);
        let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        self.clients = BTreeMap::from([
            (
                "resubmits".to_owned(),
                count(field.resubmits.load(Ordering::Relaxed)),
            ),
            (
                "follows".to_owned(),
                count(field.reconnects.load(Ordering::Relaxed)),
            ),
        ]);
        let refusals = locked(&field.refusals);
        let refusals = refusals.iter().map(|(name, n)| (name.clone(), count(*n)));
        self.refusals = refusals.collect();
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.turns += other.turns;
        self.commands += other.commands;
        self.seconds += other.seconds;
        self.kills += other.kills;
        self.in_stream += other.in_stream;
        self.in_tool += other.in_tool;
        self.in_either += other.in_either;
        self.most_hits = self.most_hits.max(other.most_hits);
        for (mine, others) in [
            (&mut self.others, &other.others),
            (&mut self.all, &other.all),
            (&mut self.in_flight, &other.in_flight),
            (&mut self.hit, &other.hit),
            (&mut self.clients, &other.clients),
            (&mut self.refusals, &other.refusals),
        ] {
            for (name, n) in others {
                *mine.entry(name.clone()).or_default() += n;
            }
        }
        self.violations.extend(other.violations.iter().cloned());
        self.evidence.extend(other.evidence.iter().cloned());
    }

    /// One line for the file that a long run is resumed from. Only pieces
    /// without violation are kept.
    pub(crate) fn to_json(&self) -> Value {
        json!({
            "turns": self.turns, "commands": self.commands, "seconds": self.seconds,
            "kills": self.kills, "inStream": self.in_stream, "inTool": self.in_tool,
            "inEither": self.in_either, "others": self.others, "all": self.all,
            "inFlight": self.in_flight, "hit": self.hit, "mostHits": self.most_hits, "clients": self.clients,
            "refusals": self.refusals,
        })
    }

    pub(crate) fn of_json(line: &Value) -> Tally {
        let number = |name: &str| line[name].as_u64().unwrap_or(0) as usize;
        let counts = |name: &str| -> Counts {
            let entries = line[name].as_object().into_iter().flatten();
            let count = |n: &Value| n.as_u64().unwrap_or(0) as usize;
            entries.map(|(name, n)| (name.clone(), count(n))).collect()
        };
        Tally {
            turns: number("turns"),
            commands: number("commands"),
            seconds: number("seconds") as u64,
            kills: number("kills"),
            in_stream: number("inStream"),
            in_tool: number("inTool"),
            in_either: number("inEither"),
            others: counts("others"),
            all: counts("all"),
            in_flight: counts("inFlight"),
            hit: counts("hit"),
            most_hits: number("mostHits"),
            clients: counts("clients"),
            refusals: counts("refusals"),
            ..Tally::default()
        }
    }

    /// At least a third of the kills met a stream or a tool.
    pub(crate) fn are_kills_telling(&self) -> bool {
        self.in_either * 3 >= self.kills
    }

    /// The share of turns in flight at a kill that ended `done`.
    pub(crate) fn done_share(&self) -> f64 {
        share(&self.in_flight)
    }

    pub(crate) fn table(&self, title: &str) -> String {
        let mut table = format!("\n{title}\n");
        let mut row = |name: &str, what: String| {
            let _infallible = writeln!(table, "  {name:<28} {what}");
        };
        row(
            "turns",
            format!(
                "{} in {} s, {} commands",
                self.turns, self.seconds, self.commands
            ),
        );
        row("kills", self.kills.to_string());
        row("  in a stream", self.in_stream.to_string());
        row("  in a tool", self.in_tool.to_string());
        row(
            "  in either",
            format!(
                "{} ({:.1} %)",
                self.in_either,
                percent(self.in_either, self.kills)
            ),
        );
        row("other faults", listed(&self.others));
        row("ends, all turns", listed(&self.all));
        let ends = |ends: &Counts| format!("{} ({:.2} % done)", listed(ends), 100.0 * share(ends));
        row("  in flight at a kill", ends(&self.in_flight));
        row("  met in a stream or tool", ends(&self.hit));
        row("  met most often", format!("{} times", self.most_hits));
        row("clients", listed(&self.clients));
        row("refusals", listed(&self.refusals));
        row("violations", self.violations.len().to_string());
        for violation in self.violations.iter().take(20) {
            row(&format!("  {:?}", violation.rule), violation.what.clone());
        }
        table
    }
}

fn share(ends: &Counts) -> f64 {
    let done = ends.get("done").copied().unwrap_or(0);
    percent(done, ends.values().sum()) / 100.0
}

fn percent(part: usize, whole: usize) -> f64 {
    match whole {
        0 => 100.0,
        _ => 100.0 * part as f64 / whole as f64,
    }
}

fn listed(counts: &Counts) -> String {
    match counts.is_empty() {
        true => "none".to_owned(),
        false => {
            let each = counts.iter().map(|(name, n)| format!("{n} {name}"));
            each.collect::<Vec<_>>().join(", ")
        }
    }
}
