//! Links over SSH on the simulated network: the server's own SSH client against
//! an SSH server that lets in, falls silent at any byte of a handshake, dies,
//! or is cut off (S4).
//!
//! What is promised of [`dispatch::ssh`] is judged here: a connection comes
//! about or fails within its deadlines, a link tells one cause of its end, what
//! runs over it ends with it, nothing is left of it then, and the next one
//! works. How often is tried and who waits is the core's, and the core ring's.

mod computer;
mod judge;
mod user;
mod wire;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use turmoil::Sim;

use super::entropy;
use super::world::ScratchDir;
use crate::rng::{Purpose, Rng};
use crate::run::{Outcome, Violation, What};
use crate::sometimes::Point;
use wire::Snag;

/// How finely time passes.
const TICK_MS: u64 = 5;
/// Whatever happened is mended by then.
const MENDED_MS: u64 = 60_000;
/// A run that lasts longer does not end by itself.
const LIMIT_MS: u64 = 300_000;

const USER: &str = "dispatch";
const COMPUTER: &str = "computer";

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    None,
    /// The first connection is accepted, and goes on to the so-manieth byte of
    /// what the computer says on it.
    Wire(Snag),
    /// It lets nobody in.
    Rejects,
    /// Messages are kept back, for so many milliseconds.
    Hold(u64),
    /// Messages are lost, for so many milliseconds.
    Partition(u64),
    /// It dies, and is back after so many milliseconds.
    Crash(u64),
}

#[derive(Clone, Debug)]
struct Plan {
    seed: u64,
    trouble: Trouble,
    /// When it comes, unless it is of the first connection.
    at_ms: u64,
    latency_ms: (u64, u64),
    commands: u64,
    /// Between two commands.
    pause_ms: u64,
}

impl Plan {
    fn of(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed, Purpose::Network);
        let byte = rng.spread(1, 12_000);
        let for_ms = rng.spread(100, MENDED_MS / 2);
        let trouble = match rng.below(16) {
            0 => Trouble::None,
            1 => Trouble::Rejects,
            2 => Trouble::Wire(Snag::Silent(0)),
            3..7 => Trouble::Wire(Snag::Silent(byte)),
            7..10 => Trouble::Wire(Snag::Cut(byte)),
            10 => Trouble::Hold(3_000),
            11 => Trouble::Hold(for_ms),
            12 => Trouble::Partition(3_000),
            13 => Trouble::Partition(for_ms),
            _ => Trouble::Crash(for_ms),
        };
        let fastest = rng.range(0, 5);
        Plan {
            seed,
            trouble,
            at_ms: rng.below(4) * rng.range(5, 2_000),
            latency_ms: (fastest, fastest + rng.range(1, 120)),
            commands: rng.range(1, 6),
            pause_ms: rng.spread(10, 8_000),
        }
    }
}

/// What was seen, with its time.
#[derive(Clone, Debug, Default)]
struct Story(Arc<Mutex<Seen>>);

#[derive(Clone, Debug, Default)]
struct Seen {
    now_ms: u64,
    facts: Vec<(u64, Fact)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Fact {
    Asked,
    Connected(Result<(), String>),
    Closed(String),
    ExecBegun(u64),
    ExecEnded(u64, Result<String, String>),
    PingBegun,
    PingEnded(Result<(), String>),
    /// Everything was let go of; this many connections and tasks are left.
    Left(usize, usize),
    Troubled,
    Mended,
    /// A second link, when all was well again.
    Again(Result<String, String>),
}

impl Story {
    fn with<T>(&self, act: impl FnOnce(&mut Seen) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, fact: Fact) {
        self.with(|seen| seen.facts.push((seen.now_ms, fact)));
    }
}

/// Runs one seed.
pub fn run(seed: u64) -> Outcome {
    outcome(seed, &apart(seed))
}

/// Runs one seed twice and compares what was seen.
pub fn run_twice(seed: u64) -> Outcome {
    let (first, second) = (apart(seed), apart(seed));
    let found = outcome(seed, &first);
    if found.violation.is_some() || first.facts == second.facts {
        return found;
    }
    let pairs = first.facts.iter().zip(&second.facts);
    let same = pairs.take_while(|(a, b)| a == b).count();
    let violation = Violation {
        seed,
        at_us: found.simulated_us,
        what: What::Determinism,
        expected: format!("{:?}", first.facts.get(same)),
        seen: format!("{:?}", second.facts.get(same)),
    };
    Outcome {
        violation: Some(violation),
        ..found
    }
}

/// What a seed consists of, and every line of what was seen.
pub fn trace(seed: u64) -> Vec<String> {
    let told = apart(seed).facts.into_iter();
    let lines = told.map(|(at_ms, fact)| format!("{at_ms:>6} {fact:?}"));
    std::iter::once(format!("{:?}", Plan::of(seed)))
        .chain(lines)
        .collect()
}

fn apart(seed: u64) -> Seen {
    let run = move || {
        entropy::seed_this_thread(seed);
        play(&Plan::of(seed))
    };
    match std::thread::spawn(run).join() {
        Ok(seen) => seen,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

fn outcome(seed: u64, seen: &Seen) -> Outcome {
    let found = judge::judge(&Plan::of(seed), &seen.facts);
    let digest = xxhash_rust::xxh3::xxh3_64(format!("{:?}", seen.facts).as_bytes());
    Outcome {
        digest,
        events: u64::try_from(seen.facts.len()).unwrap_or(u64::MAX),
        simulated_us: seen.now_ms * 1_000,
        points: [0; Point::ALL.len()],
        violation: found.map(|(oracle, at_ms, expected, seen)| Violation {
            seed,
            at_us: at_ms * 1_000,
            what: What::Oracle(oracle),
            expected,
            seen,
        }),
    }
}

fn play(plan: &Plan) -> Seen {
    let story = Story::default();
    let dir = ScratchDir::new();
    let mut sim = network(plan);
    let keys = Arc::new(computer::Keys::of(plan.seed));
    let computer = computer::Behaviour::of(plan, keys.clone());
    sim.host(COMPUTER, move || computer::live(computer.clone()));
    let user = user::live(plan.clone(), story.clone(), keys, dir.path().to_owned());
    sim.client(USER, user);
    let mut now_ms = 0;
    let mut is_over = false;
    while !is_over && now_ms < LIMIT_MS {
        story.with(|seen| seen.now_ms = now_ms);
        befall(plan, &mut sim, &story, now_ms);
        is_over = match sim.step() {
            Ok(over) => over,
            Err(error) => panic!("the simulation failed: {error}"),
        };
        now_ms += TICK_MS;
    }
    story.with(|seen| seen.clone())
}

fn network(plan: &Plan) -> Sim<'static> {
    let ms = Duration::from_millis;
    let mut builder = turmoil::Builder::new();
    builder
        .rng_seed(plan.seed)
        .tick_duration(ms(TICK_MS))
        .simulation_duration(Duration::from_secs(3_600))
        .min_message_latency(ms(plan.latency_ms.0))
        .max_message_latency(ms(plan.latency_ms.1))
        .tcp_capacity(1_024);
    builder.build()
}

/// What befalls the way between the two, or the computer, at this moment.
fn befall(plan: &Plan, sim: &mut Sim<'_>, story: &Story, now_ms: u64) {
    let begins = now_ms / TICK_MS == plan.at_ms / TICK_MS;
    let ends = |for_ms: u64| now_ms / TICK_MS == (plan.at_ms + for_ms) / TICK_MS;
    match plan.trouble {
        Trouble::Hold(_) if begins => sim.hold(USER, COMPUTER),
        Trouble::Hold(for_ms) if ends(for_ms) => sim.release(USER, COMPUTER),
        Trouble::Partition(_) if begins => sim.partition(USER, COMPUTER),
        Trouble::Partition(for_ms) if ends(for_ms) => sim.repair(USER, COMPUTER),
        Trouble::Crash(_) if begins => sim.crash(COMPUTER),
        Trouble::Crash(for_ms) if ends(for_ms) => sim.bounce(COMPUTER),
        _ => return,
    }
    story.tell(match begins {
        true => Fact::Troubled,
        false => Fact::Mended,
    });
}
