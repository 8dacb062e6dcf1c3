//! What an answer is worth: restarts, kill -9, groups, and how fast it is.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use dispatch::clock::SystemClock;
use dispatch::store::{Dump, Options, SqliteStore, Store};
use dispatch_core::ids::TurnId;
use dispatch_core::store::{Outcome, Reply, StoreFault, Verb};

use super::crowd::{accept, boot};
use super::harness::{START, SetClock, dump_of, model_at_start, tables_differ};
use super::ops::{Op, Ops};

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(future)
}

fn open(dir: &Path, clock: &SetClock) -> SqliteStore {
    SqliteStore::open(&dir.join("dispatch.db"), Arc::new(clock.clone())).unwrap()
}

fn dump(store: &SqliteStore) -> Dump {
    block(store.dump()).unwrap()
}

#[test]
fn groups_of_verbs_land_in_order_and_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::default();
    clock.set(START);
    let mut store = open(dir.path(), &clock);
    let mut draw = Ops::new(4_711);
    let mut model = model_at_start();
    let mut wanted = vec![];
    let (tell, heard) = channel::<(usize, Outcome)>();
    let submit = |store: &SqliteStore, verb: Verb, n: usize| {
        let tell = tell.clone();
        store.submit(
            verb,
            Box::new(move |outcome| tell.send((n, outcome)).unwrap()),
        );
    };
    let boot = draw.boot();
    wanted.push(model.apply(&boot));
    submit(&store, boot, 0);
    for n in 1..2_000 {
        match draw.next(&model) {
            // Time stands still while a group is under way, as the Model's does.
            Op::Wait(ms) if n % 100 == 0 => {
                hear(&heard, &mut wanted);
                model.now = model.now + ms;
                clock.set(model.now);
            }
            Op::Wait(_) => {}
            // Reads go to other connections and may overtake writes not yet answered.
            Op::Ask(verb) if verb.is_read() => {}
            Op::Ask(verb) => {
                let at = wanted.len();
                wanted.push(model.apply(&verb));
                submit(&store, *verb, at);
            }
        }
        if n % 500 == 0 {
            hear(&heard, &mut wanted);
            block(store.close());
            store = open(dir.path(), &clock);
            assert_eq!(tables_differ(&dump_of(&model), &dump(&store)), None);
        }
    }
    hear(&heard, &mut wanted);
    assert_eq!(tables_differ(&dump_of(&model), &dump(&store)), None);
}

/// Every reply that is due, compared and cleared.
fn hear(heard: &Receiver<(usize, Outcome)>, wanted: &mut Vec<Reply>) {
    for _ in 0..wanted.len() {
        let (n, outcome) = heard.recv().unwrap();
        assert_eq!(outcome.as_ref(), Ok(&wanted[n]), "verb {n} of the group");
    }
    wanted.clear();
}

#[test]
fn a_closed_store_refuses_and_leaves_one_file_and_no_lock() {
    let dir = tempfile::tempdir().unwrap();
    let clock = SetClock::default();
    clock.set(START);
    let store = open(dir.path(), &clock);
    let refused = SqliteStore::open(&dir.path().join("dispatch.db"), Arc::new(clock.clone()));
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("in use by process")
    );
    let (tell, heard) = channel();
    store.submit(boot(), send(&tell, 0));
    block(store.close());
    assert!(
        heard.recv().unwrap().1.is_ok(),
        "what was queued is carried out"
    );
    store.submit(boot(), send(&tell, 1));
    assert!(matches!(
        heard.recv().unwrap().1,
        Err(StoreFault::Failed(_))
    ));
    assert!(block(store.turn(TurnId(1))).is_err());
    assert!(!dir.path().join("dispatch.db-wal").exists());
    assert!(!dump(&open(dir.path(), &clock)).workspaces.is_empty());
}

#[test]
fn a_full_queue_answers_at_once_that_nothing_landed() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        queue: 4,
        ..Options::default()
    };
    let path = dir.path().join("dispatch.db");
    let store = SqliteStore::open_with(&path, Arc::new(SystemClock::new()), options).unwrap();
    let (tell, heard) = channel();
    let (open, gate) = channel::<()>();
    let (enter, entered) = channel::<()>();
    // The writer is busy with this listener until the gate opens.
    store.submit(
        boot(),
        Box::new(move |_| {
            let _ = enter.send(());
            let _ = gate.recv();
        }),
    );
    entered.recv().unwrap();
    for n in 0..64 {
        store.submit(accept(n), send(&tell, n as usize));
    }
    let refused = heard.recv().unwrap().1;
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("too many"), "{told}");
    drop(open);
    drop(tell);
    block(store.close());
    let landed = heard.iter().filter(|(_, outcome)| outcome.is_ok()).count();
    let kept = dump(&SqliteStore::open(&path, Arc::new(SystemClock::new())).unwrap());
    assert_eq!(
        kept.turns.len(),
        landed,
        "no more and no less than answered"
    );
    assert!((1..64).contains(&landed));
}

const KILL_DIR: &str = "DISPATCH_TEST_KILL_DIR";

#[test]
fn every_answered_commit_is_there_after_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durable::child_that_commits_until_killed"])
            .args(["--ignored", "--nocapture"])
            .env(KILL_DIR, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut answered: Vec<TurnId> = vec![];
        while answered.len() < 200 * round {
            answered.extend(turn_of(&lines.next().unwrap().unwrap()));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        answered.extend(
            lines
                .map_while(Result::ok)
                .filter_map(|line| turn_of(&line)),
        );
        let store = SqliteStore::open(
            &dir.path().join("dispatch.db"),
            Arc::new(SystemClock::new()),
        )
        .unwrap();
        let kept = dump(&store);
        for turn in &answered {
            assert!(
                kept.turns.contains_key(turn),
                "{turn} was answered and is gone"
            );
        }
        assert_eq!(
            kept.markers.len(),
            kept.turns.len(),
            "no turn without its marker"
        );
        for row in kept.conversations.values() {
            let log = kept.events.keys().filter(|(id, _)| *id == row.id);
            assert!(
                log.map(|(_, seq)| *seq).eq(1..=row.last_seq),
                "a gap in {}",
                row.id
            );
        }
        block(store.close());
    }
}

fn turn_of(line: &str) -> Option<TurnId> {
    TurnId::try_from(line.strip_prefix("answered ")?).ok()
}

#[test]
#[ignore = "run by every_answered_commit_is_there_after_kill_9, which kills it"]
fn child_that_commits_until_killed() {
    let dir = std::env::var(KILL_DIR).unwrap();
    let path = Path::new(&dir).join("dispatch.db");
    let store = SqliteStore::open(&path, Arc::new(SystemClock::new())).unwrap();
    let (tell, heard) = channel();
    store.submit(boot(), send(&tell, 0));
    heard.recv().unwrap().1.unwrap();
    let salt = u64::from(std::process::id()) << 32;
    for n in 1.. {
        for k in 0..8 {
            let verb = accept(salt + n * 8 + k);
            store.submit(verb, send(&tell, k as usize));
        }
        for _ in 0..8 {
            match heard.recv().unwrap().1.unwrap() {
                Reply::Accepted(receipt, _) => {
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "answered {}", receipt.turn).unwrap();
                    out.flush().unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

#[test]
#[ignore = "prints figures: cargo test -p dispatch --test store_conformance -- --ignored --nocapture commits_a_second"]
fn commits_a_second_alone_and_in_groups() {
    let dir = tempfile::tempdir_in(".").unwrap();
    println!("raw fsync rate: {:.0}/s", fsyncs_a_second(dir.path()));
    for submitters in [1, 16, 256] {
        let path = dir
            .path()
            .join(format!("with-{submitters}"))
            .join("dispatch.db");
        let store = SqliteStore::open(&path, Arc::new(SystemClock::new())).unwrap();
        let (tell, heard) = channel();
        store.submit(boot(), send(&tell, 0));
        heard.recv().unwrap().1.unwrap();
        let start = std::time::Instant::now();
        let mut next = 0;
        let mut more = || {
            next += 1;
            store.submit(accept(next), send(&tell, 0));
        };
        (0..submitters).for_each(|_| more());
        let mut answered = 0;
        while start.elapsed().as_secs() < 3 {
            heard.recv().unwrap().1.unwrap();
            answered += 1;
            more();
        }
        let rate = f64::from(answered) / start.elapsed().as_secs_f64();
        println!("{submitters} submitters: {rate:.0} accepted turns/s");
        block(store.close());
    }
}

fn fsyncs_a_second(dir: &Path) -> f64 {
    let mut file = std::fs::File::create(dir.join("raw")).unwrap();
    let (start, mut n) = (std::time::Instant::now(), 0);
    while start.elapsed().as_secs() < 2 {
        file.write_all(&[7; 4_096]).unwrap();
        file.sync_data().unwrap();
        n += 1;
    }
    f64::from(n) / start.elapsed().as_secs_f64()
}

fn send(tell: &Sender<(usize, Outcome)>, n: usize) -> dispatch::store::Done {
    let tell = tell.clone();
    Box::new(move |outcome| {
        let _ = tell.send((n, outcome));
    })
}
