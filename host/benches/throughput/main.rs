//! What each store carries: accepted turns and durable steps a second, beside
//! what its disk or database commits at all, measured just before and after.

#![allow(clippy::unwrap_used)]

mod load;
#[path = "../../../tests/support/postgres.rs"]
mod postgres;
mod raw;
#[path = "../shared/verbs.rs"]
mod verbs;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use dispatch::clock::SystemClock;
use dispatch::store::{PostgresOptions, PostgresStore, SqliteStore, Store};
use tokio::runtime::Runtime;

use load::{Accepts, Steps, accepts, steps};

/// Of each load, after a tenth of it to warm up.
const SPAN: Duration = Duration::from_secs(8);
const SUBMITTERS: usize = 1_000;
const TURNS: usize = 256;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    sqlite(&runtime);
    match postgres::Cluster::start(&[]) {
        Some(cluster) => on_postgres(&runtime, &cluster),
        None => println!("postgres: not measured"),
    }
}

fn sqlite(runtime: &Runtime) {
    let dir = Scratch::new("throughput");
    let before = raw::fsyncs_a_second(&dir.0);
    let open = |name: &str| -> Arc<dyn Store> {
        let path = dir.0.join(name).join("dispatch.db");
        Arc::new(SqliteStore::open(&path, Arc::new(SystemClock::new())).unwrap())
    };
    let alone = measured(runtime, open("alone"), |store| accepts(store, 1, SPAN));
    let many = measured(runtime, open("many"), |store| {
        accepts(store, SUBMITTERS, SPAN)
    });
    let lone_steps = measured(runtime, open("step"), |store| steps(store, 1, SPAN));
    let stepped = measured(runtime, open("steps"), |store| steps(store, TURNS, SPAN));
    let after = raw::fsyncs_a_second(&dir.0);
    let fsyncs = (before + after) / 2.0;
    println!(
        "sqlite: the disk makes {fsyncs:.0} fsyncs of a 4 KiB append a second ({before:.0} before, {after:.0} after)"
    );
    let beside = [("fsyncs", fsyncs)];
    tell_accepts("sqlite", 1, &alone, &beside);
    tell_accepts("sqlite", SUBMITTERS, &many, &beside);
    tell_steps("sqlite", 1, &lone_steps, &beside);
    tell_steps("sqlite", TURNS, &stepped, &beside);
}

fn on_postgres(runtime: &Runtime, cluster: &postgres::Cluster) {
    let raw =
        |connections| runtime.block_on(raw::inserts_a_second(&cluster.database(), connections));
    let inserts = || [raw(1), raw(64)];
    let before = inserts();
    let open = || -> Arc<dyn Store> {
        let url = cluster.database();
        let opened = PostgresStore::open(&url, PostgresOptions::default());
        Arc::new(runtime.block_on(opened).unwrap())
    };
    let alone = measured(runtime, open(), |store| accepts(store, 1, SPAN));
    let many = measured(runtime, open(), |store| accepts(store, SUBMITTERS, SPAN));
    let lone_steps = measured(runtime, open(), |store| steps(store, 1, SPAN));
    let stepped = measured(runtime, open(), |store| steps(store, TURNS, SPAN));
    let after = inserts();
    let mean = [0, 1].map(|n| (before[n] + after[n]) / 2.0);
    println!(
        "postgres: the database makes {:.0} single-row inserts a second on 1 connection, {:.0} on 64 ({:.0} and {:.0} before, {:.0} and {:.0} after)",
        mean[0], mean[1], before[0], before[1], after[0], after[1]
    );
    let beside = [("inserts on 1", mean[0]), ("inserts on 64", mean[1])];
    tell_accepts("postgres", 1, &alone, &beside);
    tell_accepts("postgres", SUBMITTERS, &many, &beside);
    tell_steps("postgres", 1, &lone_steps, &beside);
    tell_steps("postgres", TURNS, &stepped, &beside);
}

fn measured<T>(runtime: &Runtime, store: Arc<dyn Store>, load: impl FnOnce(&dyn Store) -> T) -> T {
    let measured = load(&*store);
    runtime.block_on(store.close());
    measured
}

fn ratios(rate: f64, beside: &[(&str, f64)]) -> String {
    let each = beside.iter();
    let each = each.map(|(what, raw)| format!("{:.2} x {what}", rate / raw));
    each.collect::<Vec<_>>().join(", ")
}

fn tell_accepts(store: &str, submitters: usize, seen: &Accepts, beside: &[(&str, f64)]) {
    println!(
        "{store}: {:.0} accepted turns a second with {submitters} submitter(s) = {}; accept median {:.2} ms, p99 {:.2} ms",
        seen.a_second,
        ratios(seen.a_second, beside),
        seen.median_ms,
        seen.p99_ms
    );
}

fn tell_steps(store: &str, turns: usize, seen: &Steps, beside: &[(&str, f64)]) {
    let medians = seen.median_ms.iter();
    let medians = medians.map(|(verb, ms)| format!("{verb} {ms:.1}"));
    println!(
        "{store}: {:.0} durable steps a second over {turns} turn(s) = {}; {:.0} verbs a second with their grants, loads and ends, medians in ms: {}",
        seen.a_second,
        ratios(seen.a_second, beside),
        seen.verbs_a_second,
        medians.collect::<Vec<_>>().join(", ")
    );
}

/// On the disk that holds the build, as a data directory would be.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("{name}-{}", std::process::id());
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

/// What the cluster waits with.
fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    let since = Instant::now();
    while !probe() {
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}
