//! Lost outcomes: a verb whose commit never reached the store, or landed and
//! was not heard of, is asked again as the core does it, until it answers.
//! Whatever was lost on the way, it must have landed once.

use std::collections::BTreeSet;

use dispatch_core::store::{Model, Reply, StoreFault, Verb};

use super::harness::{Subject, dump_of, model_at_start, tables_differ};
use super::histories::comparable;
use super::ops::{Op, Ops};
use super::support::Chance;

/// What befalls the next asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// The transaction is gone.
    BeforeCommit,
    /// It has landed, and its answer is lost.
    AfterCommit,
    /// The commit is on its way until the verb is asked again.
    LateCommit,
    /// The link is cut somewhere.
    Cut,
    /// Somebody ends the store's sessions at the database.
    Terminate,
}

/// A store that can be made to lose outcomes.
pub(super) trait Faulty: Subject {
    fn arm(&mut self, fault: Fault);
    fn disarm(&mut self);
}

/// Which verbs were asked again after which fault.
pub(super) type Lost = BTreeSet<(&'static str, Fault)>;

/// No asking is hit more often.
const MOST_FAULTS: u32 = 3;

/// What a second landing of this does differently on purpose, so that the
/// core never asks it again: the next sweep takes the next turn, and "the
/// conversation's open turn" is another one by then.
pub(super) fn is_asked_once(verb: &Verb) -> bool {
    match verb {
        Verb::SweepOne { .. } => true,
        Verb::RequestAbort(request) => request.turn.is_none(),
        _ => false,
    }
}

/// Runs `ops` operations of a seed on the Model, once each, and on a store
/// that faults of these kinds befall; the first difference, told for people.
pub(super) fn difference(
    seed: u64,
    ops: usize,
    subject: &mut dyn Faulty,
    kinds: &[Fault],
    lost: &mut Lost,
) -> Option<String> {
    let (mut draw, mut chance) = (Ops::new(seed), Chance::new(seed));
    let mut model = model_at_start();
    for n in 0..ops {
        let verb = match n {
            0 => draw.boot(),
            _ => match draw.next(&model) {
                Op::Wait(ms) => {
                    model.now = model.now + ms;
                    continue;
                }
                Op::Ask(verb) => *verb,
            },
        };
        let told = |what: String| Some(format!("seed {seed}, operation {n}, {verb:?}: {what}"));
        let before = model.clone();
        let once = model.apply(&verb);
        let mut hits = 0;
        let outcome = loop {
            let fault = kinds[chance.below(kinds.len())];
            // What lands late, and is not asked again, lands nobody knows when.
            let is_settled = fault != Fault::LateCommit || !is_asked_once(&verb);
            let is_hit = hits < MOST_FAULTS && is_settled && chance.one_in(2);
            if is_hit {
                subject.arm(fault);
                hits += 1;
            }
            let outcome = subject.ask(model.now, &verb);
            subject.disarm();
            match outcome {
                Err(StoreFault::Unknown) if is_hit => lost.insert((verb.name(), fault)),
                Err(StoreFault::Failed(_)) if is_hit && !is_asked_once(&verb) => false,
                outcome => break outcome,
            };
            if is_asked_once(&verb) {
                break Err(StoreFault::Unknown);
            }
        };
        match outcome {
            Ok(reply) if alike(&reply, &once, &verb, &model, hits > 0) => {}
            Err(_) if is_asked_once(&verb) && hits > 0 => {
                let kept = comparable(subject.dump(), &before);
                if tables_differ(&comparable(dump_of(&before), &before), &kept).is_none() {
                    model = before;
                }
            }
            outcome => return told(format!("\nmodel: {once:?}\nstore: {outcome:?}")),
        }
        if n % 20 == 0 || n + 1 == ops || hits > 1 {
            let wanted = comparable(dump_of(&model), &model);
            let got = comparable(subject.dump(), &model);
            if let Some(table) = tables_differ(&wanted, &got) {
                return told(table);
            }
        }
    }
    None
}

/// What the Model has answered, or would answer when it is asked again.
fn alike(reply: &Reply, once: &Reply, verb: &Verb, after: &Model, is_repeated: bool) -> bool {
    let (reply, once) = (unnumbered(reply.clone()), unnumbered(once.clone()));
    if reply == once {
        return true;
    }
    let mut twice = after.clone();
    is_repeated && reply == unnumbered(twice.apply(verb)) && twice == *after
}

/// The sequence numbers of waiters are drawn before a verb has landed.
fn unnumbered(reply: Reply) -> Reply {
    match reply {
        Reply::View(mut view) => {
            for head in view.starred.iter_mut().chain(&mut view.unstarred) {
                head.key.seq = 0;
            }
            Reply::View(view)
        }
        Reply::Loaded(mut loaded) => {
            loaded.turn.key.seq = 0;
            Reply::Loaded(loaded)
        }
        reply => reply,
    }
}

/// Everything that changes something must have been lost both ways.
pub(super) fn missing(lost: &Lost, kinds: &[Fault]) -> Vec<(&'static str, Fault)> {
    const WRITES: [&str; 19] = [
        "take-deliveries",
        "settle-delivery",
        "boot",
        "accept",
        "apply-grants",
        "checkpoint",
        "commit-step",
        "restart-step",
        "tools-started",
        "tools-finished",
        "park",
        "schedule-retry",
        "request-abort",
        "elect",
        "renew",
        "sweep-one",
        "put-workspace",
        "star",
        "set-limit",
    ];
    let all = WRITES
        .iter()
        .flat_map(|verb| kinds.iter().map(|kind| (*verb, *kind)));
    all.filter(|pair| !lost.contains(pair)).collect()
}

/// Without threads and with a seam of its own: what really happens to a file
/// when the process dies is tried by `durable`, by killing one.
#[cfg(planted)]
mod sqlite {
    use dispatch::points::{CommitFault, fail_next_commit};

    use super::super::harness::Sqlite;
    use super::*;

    const SEEDS: u64 = 24;
    const KINDS: [Fault; 2] = [Fault::BeforeCommit, Fault::AfterCommit];

    impl Faulty for Sqlite {
        fn arm(&mut self, fault: Fault) {
            fail_next_commit(Some(match fault {
                Fault::BeforeCommit => CommitFault::Before,
                _ => CommitFault::After,
            }));
        }

        fn disarm(&mut self) {
            fail_next_commit(None);
        }
    }

    #[test]
    fn l2_on_sqlite_a_verb_asked_again_after_a_lost_outcome_lands_once() {
        let mut lost = Lost::new();
        for seed in 0..SEEDS {
            let dir = tempfile::tempdir().unwrap();
            let mut store = Sqlite::inline(dir.path());
            let difference = difference(seed, 300, &mut store, &KINDS, &mut lost);
            assert_eq!(difference, None);
        }
        assert_eq!(missing(&lost, &KINDS), []);
    }
}
