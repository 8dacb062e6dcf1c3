//! Verbs asked at the same time of one PostgreSQL database: whatever they
//! answer and leave must be what the Model does for them in *some* order, in
//! which none comes before another that had ended when it was asked.

use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::Instant;

use dispatch::store::{Dump, Store};
use dispatch_core::store::{Model, Outcome, Reply, TurnRow, Verb};
use dispatch_core::time::Timestamp;

use super::harness::{Subject, dump_of, model_at_start, tables_differ, without_old_releases};
use super::ops::{Op, Ops};
use super::postgres::Postgres;

/// Verbs before the crowd, for something to quarrel about.
const BEFORE: usize = 70;
const THREADS: usize = 4;
const EACH: usize = 3;

/// One verb of a crowd.
struct Asked {
    verb: Verb,
    outcome: Outcome,
    from: Instant,
    to: Instant,
}

/// What a crowd of verbs came to.
struct History {
    before: Model,
    asked: Vec<Asked>,
    after: Dump,
}

/// Draws a state and a crowd, and lets it loose on `subject`.
fn history(seed: u64, subject: &mut Postgres) -> History {
    let mut draw = Ops::new(seed);
    let mut model = model_at_start();
    let boot = draw.boot();
    assert_eq!(subject.ask(model.now, &boot), Ok(model.apply(&boot)));
    for _ in 0..BEFORE {
        match draw.next(&model) {
            Op::Wait(ms) => model.now = model.now + ms,
            Op::Ask(verb) => assert_eq!(subject.ask(model.now, &verb), Ok(model.apply(&verb))),
        }
    }
    let mut crowd = Vec::new();
    while crowd.len() < THREADS * EACH {
        match draw.next(&model) {
            Op::Ask(verb) if !verb.is_read() => crowd.push(unbounded(*verb)),
            Op::Ask(_) | Op::Wait(_) => {}
        }
    }
    subject.set_time(model.now);
    let asked = at_once(subject.store(), &crowd);
    History {
        before: model,
        asked,
        after: subject.dump(),
    }
}

/// How many turns are open is counted once a second: not a matter of order.
fn unbounded(verb: Verb) -> Verb {
    match verb {
        Verb::Accept(mut accept) => {
            accept.max_open_turns = u64::MAX;
            Verb::Accept(accept)
        }
        verb => verb,
    }
}

fn at_once(store: &(impl Store + ?Sized), crowd: &[Verb]) -> Vec<Asked> {
    let start = Barrier::new(THREADS);
    let (tell, heard) = channel();
    std::thread::scope(|scope| {
        for some in crowd.chunks(EACH) {
            let (tell, start) = (tell.clone(), &start);
            scope.spawn(move || {
                start.wait();
                for verb in some {
                    tell.send(ask(store, verb)).unwrap();
                }
            });
        }
    });
    drop(tell);
    heard.iter().collect()
}

fn ask(store: &(impl Store + ?Sized), verb: &Verb) -> Asked {
    let from = Instant::now();
    let (tell, heard) = channel();
    let done = Box::new(move |outcome| tell.send(outcome).unwrap());
    store.submit(verb.clone(), done);
    let outcome = heard.recv().unwrap();
    Asked {
        verb: verb.clone(),
        outcome,
        from,
        to: Instant::now(),
    }
}

/// What is a matter of no order: the sequence numbers of waiters, which are
/// drawn before a verb has landed, and what may be forgotten at any time.
fn comparable(dump: Dump, model: &Model) -> Dump {
    let mut dump = without_old_releases(dump, model.now);
    for turn in dump.turns.values_mut() {
        turn.key.seq = 0;
    }
    dump
}

impl History {
    /// Why there is no order in which the Model does the same.
    fn judge(self) -> Result<(), String> {
        let mut search = Search {
            asked: &self.asked,
            after: comparable(self.after, &self.before),
            furthest: Vec::new(),
            difference: None,
        };
        let all = (0..self.asked.len()).collect();
        if search.goes_on(&self.before, all, &mut Vec::new()) {
            return Ok(());
        }
        let told = |n: usize| {
            let asked = &self.asked[n];
            format!("  {:?}\n    -> {:?}", asked.verb, asked.outcome)
        };
        let rest = (0..self.asked.len()).filter(|n| !search.furthest.contains(n));
        let rest: Vec<String> = rest.map(told).collect();
        let fits: Vec<String> = search.furthest.iter().copied().map(told).collect();
        Err(format!(
            "no order does it; the longest that fits:\n{}\nthen none of:\n{}\n{}",
            fits.join("\n"),
            rest.join("\n"),
            search.difference.unwrap_or_default()
        ))
    }
}

impl Asked {
    /// Whether the Model may answer this, when it is asked now.
    fn is_done_by(&self, model: &mut Model) -> bool {
        match &self.outcome {
            // What others hold is left to the next sweep.
            Ok(Reply::Swept(None)) => true,
            Ok(Reply::Swept(Some(swept))) => {
                let others: Vec<TurnRow> = model.turns.values().cloned().collect();
                let is_other = |row: &&TurnRow| row.turn != swept.turn && row.state.is_owned();
                let others = others.iter().filter(is_other);
                for row in others.clone() {
                    model.turns.insert(row.turn, renewed(row));
                }
                let is_done = Ok(model.apply(&self.verb)) == self.outcome;
                for row in others {
                    if model.turns.get(&row.turn) == Some(&renewed(row)) {
                        model.turns.insert(row.turn, row.clone());
                    }
                }
                is_done
            }
            outcome => Ok(model.apply(&self.verb)) == *outcome,
        }
    }
}

/// A lease that no sweep ends.
fn renewed(row: &TurnRow) -> TurnRow {
    TurnRow {
        lease_until: Timestamp(u64::MAX),
        ..row.clone()
    }
}

struct Search<'h> {
    asked: &'h [Asked],
    after: Dump,
    /// The longest order that fits so far.
    furthest: Vec<usize>,
    /// What differs after an order in which every answer fits.
    difference: Option<String>,
}

impl Search<'_> {
    fn goes_on(&mut self, model: &Model, rest: Vec<usize>, order: &mut Vec<usize>) -> bool {
        if order.len() > self.furthest.len() {
            self.furthest.clone_from(order);
        }
        if rest.is_empty() {
            let wanted = comparable(dump_of(model), model);
            self.difference = tables_differ(&wanted, &self.after);
            return self.difference.is_none();
        }
        for n in &rest {
            let began_in_time = |other: &usize| self.asked[*n].from <= self.asked[*other].to;
            if !rest.iter().all(began_in_time) {
                continue;
            }
            let mut model = model.clone();
            if !self.asked[*n].is_done_by(&mut model) {
                continue;
            }
            order.push(*n);
            let others = rest.iter().copied().filter(|other| other != n);
            if self.goes_on(&model, others.collect(), order) {
                return true;
            }
            order.pop();
        }
        false
    }
}

#[cfg(not(planted))]
mod sound {
    use super::*;

    const HISTORIES: u64 = 40;

    #[test]
    fn l9_what_replicas_ask_at_the_same_time_is_as_if_asked_in_some_order() {
        for seed in 0..HISTORIES {
            let Some(mut subject) = Postgres::new() else {
                return;
            };
            if let Err(why) = history(seed, &mut subject).judge() {
                panic!("seed {seed}: {why}");
            }
        }
    }
}

/// Two stores that are wrong on purpose: a judge that lets them pass is blind.
#[cfg(planted)]
mod flawed {
    use dispatch::store::Flaw;

    use super::*;

    const HISTORIES: u64 = 80;

    fn is_found_out(flaw: Flaw) -> bool {
        let mut seeds = 0..HISTORIES;
        seeds.any(|seed| match Postgres::with(Some(flaw)) {
            Some(mut subject) => history(seed, &mut subject).judge().is_err(),
            // Without PostgreSQL there is nothing to be wrong.
            None => true,
        })
    }

    #[test]
    fn d12_a_store_that_checks_and_then_writes_without_a_lock_is_found_out() {
        assert!(is_found_out(Flaw::NoLocks));
    }

    #[test]
    fn d33_a_store_whose_writers_do_not_hold_the_row_that_fences_is_found_out() {
        assert!(is_found_out(Flaw::FenceNotHeld));
    }
}
