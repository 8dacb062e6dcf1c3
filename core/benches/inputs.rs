//! Inputs a second in the core: a mix of many turns is recorded once, with the
//! Model as its store, and replayed into fresh Dispatchers. Only the replay is
//! timed, so that neither the Model nor the making of the inputs counts.
//!
//! The mix is what a busy server sees: mostly pieces of provider streams, and
//! among them accepts, store outcomes, tool ends, refusals and timers. Inputs
//! that had nothing to do (a tick with nothing due) are not recorded.

#![allow(clippy::unwrap_used)]

mod recorder;

use std::hint::black_box;
use std::time::{Duration, Instant};

use dispatch_core::Dispatcher;
use dispatch_core::io::Input;
use recorder::{Recording, Tally, config, record};
use xxhash_rust::xxh3::Xxh3;

const TURNS: u64 = 2_000;
const ROUNDS: usize = 7;
const AIM_PER_S: u64 = 500_000;

fn main() {
    let recording = record(TURNS);
    let (inputs, tally) = (recording.inputs.len(), &recording.tally);
    describe(inputs, tally);
    assert_eq!(
        digest(&recording),
        recording.digest,
        "the replay took another way than the recording: the figure would be of something else"
    );
    let mut rounds: Vec<Duration> = (0..ROUNDS).map(|_| replay(&recording)).collect();
    rounds.sort_unstable();
    let per_s = |round: Duration| (inputs as f64 / round.as_secs_f64()) as u64;
    let (median, best) = (per_s(rounds[ROUNDS / 2]), per_s(rounds[0]));
    let nanoseconds = rounds[ROUNDS / 2].as_nanos() / inputs as u128;
    let verdict = if median >= AIM_PER_S { "met" } else { "MISSED" };
    println!(
        "core: {median} inputs/s (median of {ROUNDS} rounds, best {best}, {nanoseconds} ns each); aim {AIM_PER_S}: {verdict}"
    );
}

fn describe(inputs: usize, tally: &Tally) {
    let share = |part: u64| part as f64 * 100.0 / inputs as f64;
    println!(
        "core mix: {inputs} inputs of {TURNS} turns: {:.1} % provider bytes (mean {} bytes), {:.1} % store outcomes, {:.1} % accepts, {:.1} % tools, {:.1} % timers; {} effects",
        share(tally.bytes),
        tally.total_bytes / tally.bytes.max(1),
        share(tally.stored),
        share(tally.commands),
        share(tally.tools),
        share(tally.ticks),
        tally.effects,
    );
}

/// One timed pass. The inputs are copied beforehand: in a server they are moved in.
fn replay(recording: &Recording) -> Duration {
    let inputs = recording.inputs.clone();
    let mut core = Dispatcher::new(config(), recorder::SEED, recording.start);
    let began = Instant::now();
    while let Some(effect) = core.poll_effect() {
        black_box(&effect);
    }
    for (now, input) in inputs {
        core.handle(now, input);
        while let Some(effect) = core.poll_effect() {
            black_box(&effect);
        }
    }
    began.elapsed()
}

fn digest(recording: &Recording) -> u64 {
    let mut digest = Xxh3::new();
    let mut core = Dispatcher::new(config(), recorder::SEED, recording.start);
    let mut drain = |core: &mut Dispatcher| {
        while let Some(effect) = core.poll_effect() {
            digest.update(&postcard::to_allocvec(&effect).unwrap());
        }
    };
    drain(&mut core);
    for (now, input) in recording.inputs.iter().cloned() {
        let input: Input = input;
        core.handle(now, input);
        drain(&mut core);
    }
    digest.digest()
}
