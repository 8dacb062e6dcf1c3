//! Chaos (V7): the real binary, one process on SQLite and three on PostgreSQL,
//! under `kill -9`, standstill, a database that crashes and a full disk. The
//! verdict comes from what clients were shown and what commands did outside.
//!
//! `cargo test` runs a short version; the long one, by hand: `just chaos`.

#![allow(clippy::unwrap_used)]

#[path = "chaos/caller.rs"]
mod caller;
#[path = "chaos/disk.rs"]
mod disk;
#[path = "chaos/house.rs"]
mod house;
#[path = "chaos/plan.rs"]
mod plan;
#[path = "chaos/siege.rs"]
mod siege;
mod support;
#[path = "chaos/tally.rs"]
mod tally;
#[path = "chaos/verdict.rs"]
mod verdict;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, UNIX_EPOCH};

use house::Store;
use siege::Piece;
use tally::Tally;

#[test]
fn l4_v7_chaos_on_sqlite_breaks_no_promise() {
    short(Store::Sqlite);
}

#[test]
fn l9_v7_chaos_on_three_replicas_breaks_no_promise() {
    short(Store::Postgres);
}

fn short(store: Store) {
    let piece = Piece {
        store,
        seed: 1,
        turns: 120,
        kills: 8,
        clients: 16,
    };
    if let Some(tally) = piece.run() {
        hold(&tally, &format!("chaos {store:?}, the short version"));
    }
}

/// Shows the figures, and demands what must hold of a whole run.
fn hold(tally: &Tally, title: &str) {
    show(tally, title);
    assert!(tally.are_kills_telling(), "{}", tally.table(title));
}

/// Shows the figures, and demands what must hold of any part of a run.
fn show(tally: &Tally, title: &str) {
    let table = tally.table(title);
    // Not by the macro, which the test harness keeps to itself.
    std::io::stderr().write_all(table.as_bytes()).unwrap();
    if !tally.violations.is_empty() {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("chaos-evidence-{}.txt", std::process::id()));
        let violations = tally.violations.iter().map(|v| format!("{v:?}\n"));
        let evidence = tally.evidence.join("\n--- the next replica ---\n");
        std::fs::write(&path, violations.collect::<String>() + &evidence).unwrap();
        panic!(
            "promises were broken; {} says more\n{table}",
            path.display()
        );
    }
}

/// Turns of a piece, after which a run can be broken off and resumed.
const PIECE: usize = 500;

/// `just chaos STORE`: goes on where an earlier call has ended, until so many
/// turns and kills are counted.
#[test]
#[ignore = "takes long: just chaos"]
fn v7_chaos_for_long() {
    let store = match variable("CHAOS_STORE", "sqlite").as_str() {
        "sqlite" => Store::Sqlite,
        "postgres" => Store::Postgres,
        other => panic!("CHAOS_STORE is {other:?}: write sqlite or postgres"),
    };
    let number = |name: &str, default: &str| variable(name, default).parse::<usize>().unwrap();
    let turns = number("CHAOS_TURNS", "5000");
    let kills = number("CHAOS_KILLS", "300");
    let seed = number("CHAOS_SEED", "1");
    let minutes = number("CHAOS_MINUTES", "50") as u64;
    let kept = Kept::of(&format!("chaos-{store:?}-{turns}-{kills}-{seed}"));
    let pinned = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    support::process::pin(pinned.path());
    let since = Instant::now();
    let (mut tally, mut pieces) = kept.read();
    // On three replicas turns go on while one is down, and may run out first.
    while tally.turns < turns || tally.kills < kills {
        if since.elapsed() > Duration::from_secs(60 * minutes) {
            let title = format!("chaos {store:?}: not at its end, call it again");
            return show(&tally, &title);
        }
        let left = turns.saturating_sub(tally.turns);
        let this = if left == 0 { PIECE } else { PIECE.min(left) };
        let kills_left = kills.saturating_sub(tally.kills);
        let piece = Piece {
            store,
            seed: (seed + 1_000 * pieces) as u64,
            turns: this,
            kills: (kills_left * this).div_ceil(left.max(this)).min(PIECE / 10),
            clients: 32,
        };
        let done = piece.run().expect("PostgreSQL is there");
        show(
            &done,
            &format!("chaos {store:?}, piece {pieces}, {piece:?}"),
        );
        kept.add(&done);
        tally.add(&done);
        pieces += 1;
    }
    hold(
        &tally,
        &format!("chaos {store:?}, {pieces} pieces, seed {seed}"),
    );
    assert!(tally.done_share() > 0.99, "{}", tally.done_share());
    kept.forget();
}

fn variable(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

/// The pieces so far, a line each, of one build of the server.
struct Kept(PathBuf);

impl Kept {
    fn of(name: &str) -> Kept {
        let binary = std::fs::metadata(env!("CARGO_BIN_EXE_dispatch")).unwrap();
        let built = binary.modified().unwrap().duration_since(UNIX_EPOCH);
        let built = built.unwrap().as_secs();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR"));
        Kept(dir.join(format!("{name}-{built}.jsonl").to_lowercase()))
    }

    fn read(&self) -> (Tally, usize) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        let mut tally = Tally::default();
        for line in text.lines() {
            tally.add(&Tally::of_json(&serde_json::from_str(line).unwrap()));
        }
        (tally, text.lines().count())
    }

    fn add(&self, piece: &Tally) {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(&self.0);
        writeln!(file.unwrap(), "{}", piece.to_json()).unwrap();
    }

    fn forget(&self) {
        std::fs::remove_file(&self.0).ok();
    }
}
