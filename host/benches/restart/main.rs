//! What a start costs: with a thousand turns that an earlier life of the same
//! node owned when it was killed, and with a hundred thousand parked ones.
//!
//! The databases are made by the store's own verbs. What is started then is
//! the real binary, beside a scripted provider in a process of its own.

#![allow(clippy::unwrap_used)]

mod house;
mod line;
#[path = "../latency/process.rs"]
mod process;
#[path = "../shared/verbs.rs"]
#[expect(dead_code, reason = "turns that run to their end need more verbs")]
mod verbs;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use house::House;
use line::Line;

const OWNED: u64 = 1_000;
const PARKED: u64 = 100_000;
const AIM: Duration = Duration::from_secs(2);
const AIM_MB: f64 = 100.0;

fn main() {
    let scratch = Scratch::new();
    for round in 0..3 {
        owned(&scratch.0.join(format!("owned-{round}")));
    }
    parked(
        &scratch.0.join("far"),
        "none due for two hours",
        |line, n| line.far(n),
    );
    parked(&scratch.0.join("due"), "all waiting in line", |line, n| {
        line.due(n)
    });
}

/// As a kill leaves them: half of them streaming, half in their tools.
fn owned(dir: &Path) {
    let house = House::build(dir, "Count to three.", |line| {
        line.accept(OWNED);
        let owned = line.grant(OWNED);
        let (streaming, in_tools) = owned.split_at(owned.len() / 2);
        line.show_some(streaming);
        line.start_tools(in_tools);
    });
    let exec = Instant::now();
    let server = house.start(1_000);
    let ready = server.ready(exec);
    let watch = house.watch();
    let first = watch.until(exec, "a first step is complete", |seen| seen.steps >= 1);
    let all = watch.until(exec, "every turn is done", |seen| seen.done >= OWNED);
    println!(
        "restart with {OWNED} owned turns: ready after {:.0} ms, first step committed after {:.0} ms, all done after {:.0} ms; aim for the first < {} ms: {}",
        ms(ready),
        ms(first),
        ms(all),
        AIM.as_millis(),
        verdict(first < AIM)
    );
}

fn parked(dir: &Path, what: &str, build: fn(&Line<'_>, u64)) {
    let built = Instant::now();
    // Whoever is granted gets no answer: the line stays as long as it is.
    let house = House::build(dir, r#"script: [{"hang": true}]"#, |line| {
        build(line, PARKED)
    });
    let built = built.elapsed();
    let exec = Instant::now();
    let server = house.start(4);
    let ready = server.ready(exec);
    let resident = server.settled_mb();
    println!(
        "boot with {PARKED} parked turns, {what}: ready after {:.0} ms, aim < {} ms: {}; {resident:.1} MB resident, aim < {AIM_MB} MB: {} (made in {:.1} s, {:.0} MB on the disk)",
        ms(ready),
        AIM.as_millis(),
        verdict(ready < AIM),
        verdict(resident < AIM_MB),
        built.as_secs_f64(),
        house.database_mb()
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}

/// On the disk that holds the build, as a data directory would be.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        let name = format!("restart-{}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left over lies in the build's own directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
