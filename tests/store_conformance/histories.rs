//! Verbs asked at the same time of one PostgreSQL database: whatever they
//! answer and leave must be what the Model does for them in *some* order, in
//! which none comes before another that had ended when it was asked. A verb
//! whose outcome was lost may have landed then, or later, or never; it is asked
//! again, and its answer then counts like any other.

use std::collections::HashSet;
use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Barrier;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dispatch::store::{Dump, Store};
use dispatch_core::ids::TurnId;
use dispatch_core::store::{Model, Outcome, Reply, StoreFault, TurnRow, Verb};
use dispatch_core::time::Timestamp;

use super::faults::is_asked_once;
use super::harness::{Subject, dump_of, model_at_start, tables_differ, without_old_releases};
use super::ops::{Op, Ops};
use super::postgres::Postgres;
use super::support::PATIENCE;

/// Verbs before the crowd, for something to quarrel about.
const BEFORE: usize = 70;
const THREADS: usize = 4;
const EACH: usize = 3;
/// What fails so often in a row fails for ever: what is stored bars its way.
const MOST_FAILURES: u32 = 10;

/// One verb of a crowd.
struct Asked {
    verb: Verb,
    outcome: Outcome,
    from: Instant,
    /// `None`: it may land at any time.
    to: Option<Instant>,
}

/// What a crowd of verbs came to.
struct History {
    before: Model,
    asked: Vec<Asked>,
    after: Dump,
}

/// What whoever troubles a crowd is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weather {
    /// The crowd begins.
    Breaks,
    /// Somebody has lost an outcome, and asks again.
    Lost,
    /// All have their answers.
    Clears,
}

/// Draws a state and a crowd, and lets it loose on `subject`.
fn history(seed: u64, subject: &mut Postgres, weather: &(dyn Fn(Weather) + Sync)) -> History {
    let (before, crowd) = prepared(seed, subject);
    History {
        asked: crowded(&before, &crowd, subject, weather),
        before,
        after: subject.dump(),
    }
}

fn prepared(seed: u64, subject: &mut Postgres) -> (Model, Vec<Verb>) {
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
    (model, crowd)
}

fn crowded(
    before: &Model,
    crowd: &[Verb],
    subject: &Postgres,
    weather: &(dyn Fn(Weather) + Sync),
) -> Vec<Asked> {
    subject.set_time(before.now);
    weather(Weather::Breaks);
    let asked = at_once(subject.store(), crowd, &|| weather(Weather::Lost));
    weather(Weather::Clears);
    asked
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

fn at_once(
    store: &(impl Store + ?Sized),
    crowd: &[Verb],
    on_lost: &(dyn Fn() + Sync),
) -> Vec<Asked> {
    let start = Barrier::new(THREADS);
    let (tell, heard) = channel();
    std::thread::scope(|scope| {
        for some in crowd.chunks(EACH) {
            let (tell, start) = (tell.clone(), &start);
            scope.spawn(move || {
                start.wait();
                for verb in some {
                    until_answered(store, verb, |asked| {
                        if asked.is_lost() {
                            on_lost();
                        }
                        tell.send(asked).unwrap();
                    });
                }
            });
        }
    });
    drop(tell);
    heard.iter().collect()
}

/// Asks as the core does: after an unknown outcome again, as something that
/// may have happened already.
fn until_answered(store: &(impl Store + ?Sized), verb: &Verb, mut tell: impl FnMut(Asked)) {
    let mut failures = 0;
    loop {
        let from = Instant::now();
        let (answer, heard) = channel();
        // Who comes after all patience is heard by nobody.
        let done = Box::new(move |outcome| drop(answer.send(outcome)));
        store.submit(verb.clone(), done);
        let outcome = heard.recv_timeout(PATIENCE).unwrap_or_else(|_| {
            failures = MOST_FAILURES - 1;
            Err(StoreFault::Failed("there was no answer at all".to_owned()))
        });
        let is_known = outcome.is_ok();
        failures = match &outcome {
            Err(StoreFault::Failed(_)) => failures + 1,
            Ok(_) | Err(StoreFault::Unknown) => 0,
        };
        // What has failed has not landed, and so is no part of the history.
        if failures == 0 || failures == MOST_FAILURES {
            tell(Asked {
                verb: verb.clone(),
                outcome,
                from,
                to: is_known.then(Instant::now),
            });
        }
        if is_known || is_asked_once(verb) || failures == MOST_FAILURES {
            return;
        }
    }
}

/// What is a matter of no order: the sequence numbers of waiters, which are
/// drawn before a verb has landed, and what may be forgotten at any time.
pub(super) fn comparable(dump: Dump, model: &Model) -> Dump {
    let mut dump = without_old_releases(dump, model.now);
    for turn in dump.turns.values_mut() {
        turn.key.seq = 0;
    }
    dump
}

impl History {
    /// Why there is no order in which the Model does the same.
    fn judge(self) -> Result<(), String> {
        if let Some(asked) = self.asked.iter().find(|asked| asked.fails_for_ever()) {
            return Err(format!(
                "{:?} fails for ever: {:?}",
                asked.verb, asked.outcome
            ));
        }
        let mut search = Search {
            asked: &self.asked,
            after: comparable(self.after, &self.before),
            been: HashSet::new(),
            furthest: Vec::new(),
            difference: None,
        };
        let all: Vec<usize> = (0..self.asked.len()).collect();
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
    fn is_lost(&self) -> bool {
        self.outcome.is_err()
    }

    /// Of failures only the last one in too long a row is told.
    fn fails_for_ever(&self) -> bool {
        matches!(self.outcome, Err(StoreFault::Failed(_)))
    }

    /// What the Model may look like when this lands now: nothing, if it may
    /// not answer so.
    fn landings(&self, model: &Model) -> Vec<Model> {
        match (&self.outcome, &self.verb) {
            // What others hold is left to the next sweep.
            (Ok(Reply::Swept(None)), _) => vec![model.clone()],
            (Ok(Reply::Swept(Some(swept))), _) => {
                let landed = swept_alone(model, &self.verb, swept.turn);
                let landed = landed.filter(|(_, reply)| Ok(reply) == self.outcome.as_ref());
                landed.map(|(model, _)| model).into_iter().collect()
            }
            (Err(_), Verb::SweepOne { .. }) => {
                let turns = model.turns.keys();
                let landed = turns.filter_map(|turn| swept_alone(model, &self.verb, *turn));
                landed
                    .map(|(model, _)| model)
                    .filter(|next| next != model)
                    .collect()
            }
            (outcome, verb) => {
                let mut next = model.clone();
                let reply = next.apply(verb);
                let may_be = match outcome {
                    Ok(heard) => reply == *heard,
                    // That it changes nothing is tried by leaving it out.
                    Err(_) => next != *model,
                };
                may_be.then_some(next).into_iter().collect()
            }
        }
    }
}

/// A sweep that finds this turn first.
fn swept_alone(model: &Model, verb: &Verb, turn: TurnId) -> Option<(Model, Reply)> {
    let mut model = model.clone();
    let others: Vec<TurnRow> = model.turns.values().cloned().collect();
    let is_other = |row: &&TurnRow| row.turn != turn && row.state.is_owned();
    let others = others.iter().filter(is_other);
    for row in others.clone() {
        model.turns.insert(row.turn, renewed(row));
    }
    let reply = model.apply(verb);
    for row in others {
        if model.turns.get(&row.turn) == Some(&renewed(row)) {
            model.turns.insert(row.turn, row.clone());
        }
    }
    matches!(&reply, Reply::Swept(Some(swept)) if swept.turn == turn).then_some((model, reply))
}

fn digest(model: &Model) -> u64 {
    struct Sink(DefaultHasher);
    impl fmt::Write for Sink {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.write(text.as_bytes());
            Ok(())
        }
    }
    let mut sink = Sink(DefaultHasher::new());
    fmt::write(&mut sink, format_args!("{model:?}")).unwrap();
    sink.0.finish()
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
    /// Where the search has been: what was left to be placed, and the digest
    /// of the Model. Many orders lead to the same place.
    been: HashSet<(Vec<usize>, u64)>,
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
        if !self.been.insert((rest.clone(), digest(model))) {
            return false;
        }
        // What was lost need not have happened.
        if rest.iter().all(|n| self.asked[*n].is_lost()) {
            let wanted = comparable(dump_of(model), model);
            let difference = tables_differ(&wanted, &self.after);
            if difference.is_none() {
                return true;
            }
            self.difference = difference;
        }
        for n in &rest {
            let began_in_time = |other: &usize| {
                self.asked[*other]
                    .to
                    .is_none_or(|to| self.asked[*n].from <= to)
            };
            if !rest.iter().all(began_in_time) {
                continue;
            }
            for landed in self.asked[*n].landings(model) {
                order.push(*n);
                let others = rest.iter().copied().filter(|other| other != n);
                if self.goes_on(&landed, others.collect(), order) {
                    return true;
                }
                order.pop();
            }
        }
        false
    }
}

/// Crowds over a link that is cut again and again.
mod cut {
    use dispatch::store::PostgresOptions;

    use super::super::links::Linked;
    use super::super::support::Chance;
    use super::super::support::proxy::{Act, Proxy, Seen};
    use super::*;

    /// A store that waits no longer than this meets commits that land late.
    pub(super) const LATE: Duration = Duration::from_millis(500);

    /// The verdict on a seed's history, and how many outcomes were lost in it.
    pub(super) fn judged(
        seed: u64,
        options: PostgresOptions,
    ) -> Option<(usize, Result<(), String>)> {
        let mut linked = Linked::new(options.clone())?;
        let is_patient = options.patience > LATE;
        // What comes before and after is a store's that has the time.
        let direct = linked.cluster.url(&linked.database);
        let mut patient = Postgres::at(&direct, PostgresOptions::default());
        let (before, crowd) = match is_patient {
            true => prepared(seed, &mut linked.store),
            false => prepared(seed, &mut patient),
        };
        let Linked { store, proxy, .. } = &linked;
        let asked = crowded(&before, &crowd, store, &|weather| match weather {
            Weather::Breaks => cut(seed, proxy, is_patient),
            Weather::Lost => proxy.release(),
            Weather::Clears => {
                proxy.plan(|_| Act::Pass);
                proxy.release();
            }
        });
        let history = History {
            asked,
            before,
            after: patient.dump(),
        };
        let lost = history.asked.iter().filter(|asked| asked.is_lost());
        Some((lost.count(), history.judge()))
    }

    fn cut(seed: u64, proxy: &Proxy, is_patient: bool) {
        let mut chance = Chance::new(seed);
        proxy.plan(move |seen| match seen {
            Seen::Commit => match chance.below(8) {
                0 if is_patient => Act::Cut,
                // Nobody waits for it: it lands when its verb is asked again.
                0 => Act::Hold,
                1 | 2 => Act::CutAfterAnswer,
                _ => Act::Pass,
            },
            Seen::Other if chance.one_in(150) => Act::Cut,
            Seen::Other => Act::Pass,
        });
    }
}

#[cfg(not(planted))]
mod sound {
    use dispatch::store::PostgresOptions;

    use super::*;

    const HISTORIES: u64 = 40;

    #[test]
    fn l9_what_replicas_ask_at_the_same_time_is_as_if_asked_in_some_order() {
        for seed in 0..HISTORIES {
            let Some(mut subject) = Postgres::new() else {
                return;
            };
            if let Err(why) = history(seed, &mut subject, &|_| {}).judge() {
                panic!("seed {seed}: {why}");
            }
        }
    }

    #[test]
    fn l9_lost_outcomes_of_what_replicas_ask_at_the_same_time_fit_some_order_too() {
        let mut lost = 0;
        for seed in 1_000..1_000 + HISTORIES {
            let Some((more, verdict)) = cut::judged(seed, PostgresOptions::default()) else {
                return;
            };
            if let Err(why) = verdict {
                panic!("seed {seed}: {why}");
            }
            lost += more;
        }
        assert!(lost > HISTORIES as usize, "{lost} outcomes were lost");
    }

    #[test]
    fn l9_commits_that_land_while_their_verb_is_asked_again_fit_some_order_too() {
        let options = PostgresOptions {
            patience: cut::LATE,
            ..PostgresOptions::default()
        };
        let mut lost = 0;
        for seed in 2_000..2_012 {
            let Some((more, verdict)) = cut::judged(seed, options.clone()) else {
                return;
            };
            if let Err(why) = verdict {
                panic!("seed {seed}: {why}");
            }
            lost += more;
        }
        assert!(lost > 12, "{lost} outcomes were lost");
    }
}

/// Two stores that are wrong on purpose: a judge that lets them pass is blind.
#[cfg(planted)]
mod flawed {
    use dispatch::store::{Flaw, PostgresOptions};

    use super::*;

    const HISTORIES: u64 = 80;

    fn is_found_out(flaw: Flaw) -> bool {
        let mut seeds = 0..HISTORIES;
        seeds.any(|seed| match Postgres::with(Some(flaw)) {
            Some(mut subject) => history(seed, &mut subject, &|_| {}).judge().is_err(),
            // Without PostgreSQL there is nothing to be wrong.
            None => true,
        })
    }

    fn is_found_out_over_cut_links(flaw: Flaw) -> bool {
        let mut seeds = 1_000..1_000 + HISTORIES;
        let options = PostgresOptions {
            flaw: Some(flaw),
            ..PostgresOptions::default()
        };
        seeds.any(|seed| match cut::judged(seed, options.clone()) {
            Some((_, verdict)) => verdict.is_err(),
            None => true,
        })
    }

    #[test]
    fn d12_a_flawed_store_without_locks_is_found_out_over_links_that_are_cut_too() {
        assert!(is_found_out_over_cut_links(Flaw::NoLocks));
    }

    #[test]
    fn d33_a_flawed_store_without_fence_is_found_out_over_links_that_are_cut_too() {
        assert!(is_found_out_over_cut_links(Flaw::FenceNotHeld));
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
