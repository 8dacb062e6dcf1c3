//! A thousand links that come about, are used and end, or do not come about,
//! or break: nothing is left of them, neither here nor over there (S4, S6).
//! `cargo test` plays a hundred; `--ignored` all of them.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "ssh_cycles/files.rs"]
mod files;
#[path = "ssh_cycles/rounds.rs"]
mod rounds;
#[path = "ssh_link/yard.rs"]
mod yard;

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use rounds::{Round, Scene};
use support::PATIENCE;
use support::census::{children, descriptors, memory_bytes, tasks};
use tokio::time::error::Elapsed;

/// What is counted is all of this process's.
static ALONE: Mutex<()> = Mutex::new(());
/// What the allocator may keep for itself.
const MOST_GROWTH_BYTES: u64 = 16 << 20;

#[test]
fn s4_nothing_is_left_of_a_hundred_links() {
    alone(cycles(100));
}

#[test]
#[ignore = "takes minutes"]
fn s4_nothing_is_left_of_a_thousand_links() {
    alone(cycles(1_000));
}

#[test]
fn s6_no_file_stays_open_where_few_may_be_open() {
    alone(files::few_descriptors(50));
}

#[test]
#[ignore = "takes minutes"]
fn s6_no_file_stays_open_where_few_may_be_open_for_long() {
    alone(files::few_descriptors(1_000));
}

fn alone(test: impl Future<Output = ()>) {
    let _alone = ALONE.lock().unwrap_or_else(|other| other.into_inner());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(test);
}

async fn cycles(rounds: usize) {
    let Some(scene) = Scene::new().await else {
        return;
    };
    // Whatever is made once and kept is made here.
    for n in 0..10 {
        scene.play(Round::of(n), rounds + n).await;
    }
    calm(&scene, [usize::MAX, usize::MAX, usize::MAX, 0, 0])
        .await
        .unwrap();
    let (before, memory) = (held(&scene), memory());
    let since = Instant::now();
    let mut played = BTreeMap::new();
    for n in 0..rounds {
        let round = Round::of(n);
        scene.play(round, n).await;
        *played.entry(round).or_insert(0) += 1;
    }
    let took = since.elapsed();
    let waited = calm(&scene, before).await;
    let now = held(&scene);
    let grown = self::memory().saturating_sub(memory);
    let told = format!(
        "{rounds} links in {} s, {played:?}: {HELD:?} were {before:?} and are {now:?}; {} MB, grown by {} KB\n",
        took.as_secs(),
        self::memory() >> 20,
        grown >> 10
    );
    // Not by the macro, which the test harness keeps to itself.
    std::io::stderr().write_all(told.as_bytes()).unwrap();
    assert!(waited.is_ok(), "{told}");
    assert!(grown < MOST_GROWTH_BYTES, "{told}");
}

/// Waits until no more is held than this.
async fn calm(scene: &Scene, most: [usize; 5]) -> Result<(), Elapsed> {
    let waiting = async {
        while held(scene).iter().zip(&most).any(|(now, most)| now > most) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await
}

const HELD: [&str; 5] = [
    "descriptors",
    "tasks",
    "children",
    "sessions there",
    "processes there",
];

fn held(scene: &Scene) -> [usize; 5] {
    [
        descriptors(std::process::id()),
        tasks(),
        children(),
        scene.sessions(),
        scene.web.processes().len(),
    ]
}

fn memory() -> u64 {
    memory_bytes(std::process::id(), "VmRSS")
}
