//! Faults below the verbs: what fails, fails alone, with a clear word, and the
//! store goes on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use dispatch_core::event::EventBody;
use dispatch_core::ids::{ConversationId, Epoch, Owner, ProviderId, Slug, TurnId};
use dispatch_core::liveness::{OnCrash, SweepPolicy};
use dispatch_core::store::{
    AbortOf, Accept, ApplyGrants, Boot, Outcome, ProviderSettings, Rejection, Reply, StoreFault,
    Tx, Unreadable, Verb,
};
use dispatch_core::time::Timestamp;
use rusqlite::Connection;
use tempfile::TempDir;

use super::super::read::{self, Reads};
use super::Durability;
use super::reader::Reader;
use super::schema::open_writer;
use super::time::StoreTime;
use super::writer::Writer;
use crate::clock::SystemClock;

struct Rig {
    writer: Writer,
    reader: Reader,
    path: PathBuf,
    _dir: TempDir,
}

impl Rig {
    fn new() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("dispatch.db");
        let conn = open_writer(&path, Durability::Full).unwrap();
        let time = Arc::new(StoreTime::new(Arc::new(SystemClock::new()), Timestamp(0)));
        let mut rig = Rig {
            writer: Writer::new(path.clone(), Durability::Full, time.clone(), conn),
            reader: Reader::new(path.clone(), time),
            path,
            _dir: dir,
        };
        rig.one(boot()).unwrap();
        rig
    }

    fn one(&mut self, verb: Verb) -> Outcome {
        self.writer.run(&[&verb]).pop().unwrap()
    }

    fn all(&mut self, verbs: &[Verb]) -> Vec<Outcome> {
        self.writer.run(&verbs.iter().collect::<Vec<_>>())
    }

    /// Somebody else's hand in the database.
    fn sql(&self, text: &str) {
        elsewhere(&self.path).execute_batch(text).unwrap();
    }

    fn has(&mut self, turn: u128) -> bool {
        let row = self.reader.read(|tx| tx.turn(TurnId(turn))).unwrap();
        row.is_some()
    }
}

fn elsewhere(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}

fn alpha() -> ProviderId {
    ProviderId::try_from("alpha").unwrap()
}

fn owner() -> Owner {
    Owner {
        node: "here".into(),
        boot: 1,
        incarnation: 0,
    }
}

fn boot() -> Verb {
    Verb::Boot(Boot {
        owner: owner(),
        life: 1,
        providers: vec![ProviderSettings {
            id: alpha(),
            limit: 4,
            cooldown_ms: 0,
        }],
        policy: SweepPolicy {
            on_crash: OnCrash::Resume,
            resume_limit: 3,
            counts: true,
            node_patience_ms: 600_000,
        },
        seal: None,
        version: "1".into(),
        webhooks: Vec::new(),
    })
}

fn accepting(turn: u128) -> Accept {
    Accept {
        turn: TurnId(turn),
        conversation: ConversationId::try_from(format!("c-{turn}").as_str()).unwrap(),
        workspace: None,
        model: None,
        default_model: (alpha(), "m".to_owned()),
        message: "hello".to_owned(),
        cwd: None,
        computer: None,
        idempotency: None,
        configured: vec![alpha()],
        max_open_turns: 1_000,
    }
}

fn accept(turn: u128) -> Verb {
    Verb::Accept(Box::new(accepting(turn)))
}

fn keyed(turn: u128, key: &str) -> Verb {
    Verb::Accept(Box::new(Accept {
        idempotency: Some((key.to_owned(), 1)),
        ..accepting(turn)
    }))
}

fn limited(turn: u128, max_open_turns: u64) -> Verb {
    Verb::Accept(Box::new(Accept {
        max_open_turns,
        ..accepting(turn)
    }))
}

fn grant(turn: u128) -> Verb {
    Verb::ApplyGrants(ApplyGrants {
        provider: alpha(),
        version: 1,
        fair: 0,
        owner: owner(),
        grants: vec![dispatch_core::admission::Grant {
            turn: TurnId(turn),
            epoch: Epoch(0),
        }],
        lease_ms: 60_000,
    })
}

fn abort(turn: u128) -> Verb {
    Verb::RequestAbort(AbortOf {
        turn: Some(TurnId(turn)),
        conversation: None,
        by: "client".to_owned(),
        reason: None,
        patience_ms: 0,
    })
}

#[test]
fn a_verb_that_fails_rolls_back_alone_and_its_group_lands() {
    let mut rig = Rig::new();
    rig.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON keys WHEN NEW.key = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'a planted fault'); END",
    );
    let outcomes = rig.all(&[accept(1), keyed(2, "poison"), accept(3)]);
    assert!(matches!(&outcomes[0], Ok(Reply::Accepted(..))));
    let fault = outcomes[1].clone().unwrap_err().to_string();
    assert!(fault.contains("a planted fault"), "{fault}");
    assert!(matches!(&outcomes[2], Ok(Reply::Accepted(..))));
    assert_eq!([1, 2, 3].map(|turn| rig.has(turn)), [true, false, true]);
}

#[test]
fn the_count_of_open_turns_forgets_what_was_rolled_back() {
    let mut rig = Rig::new();
    rig.sql(
        "CREATE TRIGGER poison BEFORE INSERT ON keys WHEN NEW.key = 'poison' \
         BEGIN SELECT RAISE(ABORT, 'a planted fault'); END",
    );
    let outcomes = rig.all(&[accept(1), keyed(2, "poison"), limited(3, 2), limited(4, 2)]);
    assert!(matches!(&outcomes[2], Ok(Reply::Accepted(..))));
    let refused = Reply::Rejected(Rejection::TooManyOpenTurns(2));
    assert_eq!(outcomes[3], Ok(refused));
    assert!(rig.one(abort(1)).is_ok());
    assert!(matches!(rig.one(limited(4, 2)), Ok(Reply::Accepted(..))));
}

#[test]
fn a_commit_that_fails_is_unknown_to_all_and_the_next_one_lands() {
    let mut rig = Rig::new();
    // A deferred constraint is checked at the commit and fails it.
    rig.sql(
        "CREATE TABLE parent (id INTEGER PRIMARY KEY);
         CREATE TABLE child (id INTEGER REFERENCES parent (id) DEFERRABLE INITIALLY DEFERRED);
         CREATE TRIGGER poison AFTER INSERT ON keys WHEN NEW.key = 'poison' \
         BEGIN INSERT INTO child VALUES (1); END",
    );
    let outcomes = rig.all(&[accept(1), keyed(2, "poison")]);
    assert_eq!(
        outcomes,
        [Err(StoreFault::Unknown), Err(StoreFault::Unknown)]
    );
    rig.sql("DROP TRIGGER poison");
    let outcomes = rig.all(&[accept(1), keyed(2, "poison")]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert!(rig.has(1) && rig.has(2));
}

#[test]
fn on_a_full_disk_what_does_not_fit_fails_and_says_so_and_the_rest_lands() {
    let mut rig = Rig::new();
    let conn = rig.writer.connection().unwrap();
    let pages: i64 = conn
        .query_row("PRAGMA page_count", [], |row| row.get(0))
        .unwrap();
    let limit = format!("PRAGMA max_page_count = {}", pages + 40);
    conn.query_row(&limit, [], |_| Ok(())).unwrap();
    let large = Verb::Accept(Box::new(Accept {
        message: "x".repeat(1 << 20),
        ..accepting(2)
    }));
    let outcomes = rig.all(&[accept(1), large.clone(), accept(3)]);
    assert!(outcomes[0].is_ok() && outcomes[2].is_ok(), "{outcomes:?}");
    assert!(matches!(outcomes[1], Err(StoreFault::Failed(_))));
    let fault = rig.one(large.clone()).unwrap_err().to_string();
    assert!(fault.contains("free some space"), "{fault}");
    let conn = rig.writer.connection().unwrap();
    conn.query_row("PRAGMA max_page_count = 100000", [], |_| Ok(()))
        .unwrap();
    assert!(rig.one(large).is_ok());
    assert_eq!([1, 2, 3].map(|turn| rig.has(turn)), [true; 3]);
}

#[test]
fn a_locked_database_fails_the_group_and_is_used_again_once_it_is_free() {
    let mut rig = Rig::new();
    let conn = rig.writer.connection().unwrap();
    conn.busy_timeout(std::time::Duration::ZERO).unwrap();
    let other = elsewhere(&rig.path);
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let fault = rig.one(accept(1)).unwrap_err().to_string();
    assert!(fault.contains("another program"), "{fault}");
    drop(other);
    assert!(rig.one(accept(1)).is_ok());
}

#[test]
fn l2_an_unreadable_item_is_named_to_who_loads_it_and_keeps_no_turn_from_its_end() {
    let mut rig = Rig::new();
    rig.one(accept(1)).unwrap();
    rig.one(grant(1)).unwrap();
    rig.sql("UPDATE items SET item = '{\"User\": tru'");
    let load = Verb::Load {
        turn: TurnId(1),
        epoch: Epoch(1),
    };
    let Ok(Reply::Loaded(loaded)) = rig.reader.verb(&load) else {
        panic!("the turn is there");
    };
    let Unreadable(what) = loaded.items.unwrap_err();
    assert!(what.contains("item 0 of turn"), "{what}");
    assert!(what.contains("c-1"), "{what}");
    assert!(matches!(
        rig.one(abort(1)),
        Ok(Reply::AbortRequested { .. })
    ));
    assert!(matches!(rig.one(abort(1)), Ok(Reply::Ended { .. })));
}

#[test]
fn l2_an_unreadable_event_hides_no_other_and_keeps_no_turn_from_its_end() {
    let mut rig = Rig::new();
    rig.one(accept(1)).unwrap();
    rig.sql("UPDATE events SET json = 'x' WHERE kind = 'turn-start'");
    assert!(matches!(rig.one(abort(1)), Ok(Reply::Ended { .. })));
    let id = ConversationId::try_from("c-1").unwrap();
    let after = rig.reader.read(|tx| tx.events_after(&id, 1, 10)).unwrap();
    assert!(after.last().unwrap().is_terminal());
    let whole = rig.reader.read(|tx| tx.events_after(&id, 0, 10)).unwrap();
    assert_eq!(whole.len(), 2);
    let EventBody::Warning { code, message } = &whole[0].body else {
        panic!("{:?}", whole[0]);
    };
    assert_eq!((code.as_str(), whole[0].seq), ("unreadable-event", Some(1)));
    assert!(message.contains("event 1 is damaged"), "{message}");
    rig.sql("UPDATE events SET json = 'x' WHERE terminal = 1");
    let view = rig.reader.read(|tx| read::turn(tx, TurnId(1))).unwrap();
    let terminal = view.and_then(|view| view.terminal).unwrap();
    assert!(terminal.is_terminal(), "{terminal:?}");
}

#[test]
fn t2_the_database_itself_refuses_a_second_terminal_event_and_a_used_sequence_number() {
    let mut rig = Rig::new();
    rig.one(accept(1)).unwrap();
    rig.one(abort(1)).unwrap();
    let insert = |seq: u32, terminal: u32| {
        elsewhere(&rig.path).execute(
            "INSERT INTO events (conversation, seq, turn, kind, terminal, json) \
             SELECT conversation, ?1, turn, 'done', ?2, '' FROM events WHERE seq = 1",
            [seq, terminal],
        )
    };
    assert!(insert(3, 1).is_err(), "a second terminal event");
    assert!(insert(2, 0).is_err(), "a used sequence number");
    assert!(insert(3, 0).is_ok(), "the refusals were for their reasons");
}

#[test]
fn c3_a_workspace_with_an_absent_or_odd_star_loads_unstarred() {
    let mut rig = Rig::new();
    for odd in ["NULL", "'yes'", "7", "x'01'"] {
        rig.sql(&format!("UPDATE workspaces SET starred = {odd}"));
        let slug = Slug::default_workspace();
        let row = rig.reader.read(|tx| tx.workspace(&slug)).unwrap().unwrap();
        assert!(!row.starred, "{odd}");
    }
}

#[test]
fn a_column_that_holds_nonsense_is_an_error_that_names_it() {
    let mut rig = Rig::new();
    rig.one(accept(1)).unwrap();
    rig.sql("UPDATE turns SET state = 9");
    let fault = rig.reader.read(|tx| read::turn(tx, TurnId(1)));
    let fault = fault.unwrap_err().to_string();
    assert!(fault.contains("column state"), "{fault}");
}
