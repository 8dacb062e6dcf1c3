//! Loads on a store: submitters that send one message after the other, and
//! turns that make one step after the other, each asking its next verb as soon
//! as the last one is answered.

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use dispatch::store::Store;
use dispatch_core::ids::TurnId;
use dispatch_core::store::{Fence, Outcome, Reply, Verb};

use super::verbs;

/// Tool steps of a turn before its last one.
const STEPS: u32 = 8;

/// Of messages.
pub(crate) struct Accepts {
    pub(crate) a_second: f64,
    pub(crate) median_ms: f64,
    pub(crate) p99_ms: f64,
}

/// Of steps: committed, tools started, tools answered, parked again.
pub(crate) struct Steps {
    pub(crate) a_second: f64,
    pub(crate) verbs_a_second: f64,
    /// The median from question to answer, queue included, by verb.
    pub(crate) median_ms: Vec<(&'static str, f64)>,
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1_000.0
}

struct Asker<'s> {
    store: &'s dyn Store,
    tell: Sender<(Asked, Outcome)>,
    heard: Receiver<(Asked, Outcome)>,
}

/// What an answer answers.
struct Asked {
    turn: u64,
    what: What,
    name: &'static str,
    at: Instant,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Accept,
    Look,
    Grant,
    Load,
    Commit,
    Start,
    Finish,
    Park,
    End,
}

impl<'s> Asker<'s> {
    fn booted(store: &'s dyn Store) -> Asker<'s> {
        let (tell, heard) = channel();
        let asker = Asker { store, tell, heard };
        asker.ask(0, What::Accept, verbs::boot(100_000));
        asker.hear();
        asker
    }

    fn ask(&self, turn: u64, what: What, verb: Verb) {
        let tell = self.tell.clone();
        let asked = Asked {
            turn,
            what,
            name: verb.name(),
            at: Instant::now(),
        };
        let done = move |outcome| {
            // Nobody listens any more to what was under way at the end.
            let _ = tell.send((asked, outcome));
        };
        self.store.submit(verb, Box::new(done));
    }

    fn hear(&self) -> (Asked, Reply) {
        let (asked, outcome) = self.heard.recv().unwrap();
        (asked, outcome.unwrap())
    }
}

/// `submitters` at the same time, each in a new conversation each time.
pub(crate) fn accepts(store: &dyn Store, submitters: usize, span: Duration) -> Accepts {
    let asker = Asker::booted(store);
    let mut next = 0;
    let mut more = || {
        next += 1;
        let message = "What does this directory hold, and what is it for?";
        asker.ask(next, What::Accept, verbs::accept(next, message));
    };
    (0..submitters).for_each(|_| more());
    let warm = Instant::now() + span / 10;
    let until = warm + span;
    let mut took = Vec::new();
    while Instant::now() < until {
        let (asked, reply) = asker.hear();
        assert!(matches!(reply, Reply::Accepted(..)), "{reply:?}");
        if Instant::now() > warm {
            took.push(asked.at.elapsed());
        }
        more();
    }
    took.sort_unstable();
    let at = |share: f64| {
        let n = (took.len() as f64 * share) as usize;
        ms(took[n.min(took.len() - 1)])
    };
    Accepts {
        a_second: took.len() as f64 / span.as_secs_f64(),
        median_ms: at(0.5),
        p99_ms: at(0.99),
    }
}

/// `turns` at the same time, granted as a server grants: a look at the line,
/// a plan, and the load of each.
pub(crate) fn steps(store: &dyn Store, turns: usize, span: Duration) -> Steps {
    let mut stage = Stage {
        asker: Asker::booted(store),
        owned: BTreeMap::new(),
        accepted: 0,
        in_line: 0,
        is_looking: false,
        parked: 0,
        took: BTreeMap::new(),
    };
    (0..turns).for_each(|_| stage.accept());
    let warm = Instant::now() + span / 10;
    while Instant::now() < warm {
        stage.step();
    }
    stage.parked = 0;
    stage.took.clear();
    let until = warm + span;
    while Instant::now() < until {
        stage.step();
    }
    Steps {
        a_second: stage.parked as f64 / span.as_secs_f64(),
        verbs_a_second: stage.verbs() as f64 / span.as_secs_f64(),
        median_ms: stage.medians(),
    }
}

struct Stage<'s> {
    asker: Asker<'s>,
    /// Fence and step of each turn that is granted.
    owned: BTreeMap<u64, (Fence, u32)>,
    accepted: u64,
    in_line: usize,
    is_looking: bool,
    parked: u64,
    took: BTreeMap<&'static str, Vec<Duration>>,
}

impl Stage<'_> {
    fn verbs(&self) -> usize {
        self.took.values().map(Vec::len).sum()
    }

    fn medians(&mut self) -> Vec<(&'static str, f64)> {
        let each = self.took.iter_mut();
        each.map(|(what, took)| {
            took.sort_unstable();
            (*what, ms(took[took.len() / 2]))
        })
        .collect()
    }

    fn accept(&mut self) {
        self.accepted += 1;
        let n = self.accepted;
        let verb = verbs::accept(n, "Tidy this directory up, step by step.");
        self.asker.ask(n, What::Accept, verb);
    }

    /// One look at a time, as in the core.
    fn look(&mut self) {
        if self.in_line > 0 && !self.is_looking {
            self.is_looking = true;
            self.asker.ask(0, What::Look, verbs::view());
        }
    }

    /// Hears one answer and asks what follows from it.
    fn step(&mut self) {
        let (asked, reply) = self.asker.hear();
        let took = self.took.entry(asked.name).or_default();
        took.push(asked.at.elapsed());
        let turn = asked.turn;
        let owned = self.owned.get(&turn).copied();
        match (asked.what, reply) {
            (What::Accept, Reply::Accepted(..)) => {
                self.in_line += 1;
                self.look();
            }
            (What::Look, Reply::View(view)) => {
                let plan = verbs::grants(&view);
                if plan.grants.is_empty() {
                    self.is_looking = false;
                    self.look();
                } else {
                    self.asker.ask(0, What::Grant, Verb::ApplyGrants(plan));
                }
            }
            (What::Grant, reply) => self.granted(reply),
            (What::Load, Reply::Loaded(loaded)) => {
                let (fence, step) = (owned.unwrap().0, loaded.turn.step);
                self.owned.insert(turn, (fence, step));
                if step < STEPS {
                    let verb = verbs::commit_step(fence, step);
                    self.asker.ask(turn, What::Commit, verb);
                } else {
                    self.asker.ask(turn, What::End, verbs::finish(fence, step));
                }
            }
            (what, Reply::Landed { .. }) => self.landed(turn, what, owned.unwrap()),
            (What::End, Reply::Ended { .. }) => {
                self.owned.remove(&turn);
                self.accept();
            }
            (_, reply) => panic!("{reply:?}"),
        }
    }

    fn granted(&mut self, reply: Reply) {
        if let Reply::Granted(granted) = reply {
            for granted in granted {
                let fence = Fence {
                    turn: granted.turn,
                    epoch: granted.epoch,
                };
                let TurnId(n) = granted.turn;
                let n = u64::try_from(n).unwrap();
                self.in_line -= 1;
                self.owned.insert(n, (fence, 0));
                let load = Verb::Load {
                    turn: fence.turn,
                    epoch: fence.epoch,
                };
                self.asker.ask(n, What::Load, load);
            }
        } else {
            assert_eq!(reply, Reply::Conflict);
        }
        self.is_looking = false;
        self.look();
    }

    fn landed(&mut self, turn: u64, what: What, (fence, step): (Fence, u32)) {
        let (what, verb) = match what {
            What::Commit => (What::Start, verbs::tools_started(fence, step)),
            What::Start => (What::Finish, verbs::tools_finished(fence, step)),
            What::Finish => (What::Park, verbs::park(fence)),
            What::Park => {
                self.owned.remove(&turn);
                self.parked += 1;
                self.in_line += 1;
                return self.look();
            }
            What::Accept | What::Look | What::Grant | What::Load | What::End => {
                panic!("it is not answered like that")
            }
        };
        self.asker.ask(turn, what, verb);
    }
}
