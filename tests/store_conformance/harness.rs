//! Holds a store against the Model: the same verbs at the same times must
//! bring the same replies and leave the same rows.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use dispatch::clock::Clock;
use dispatch::store::{Dump, Durability, SqliteStore, Store, TurnView};
use dispatch_core::event::AgentEvent;
use dispatch_core::store::{Model, Outcome, Reply, TurnState, Verb};
use dispatch_core::time::{Instant, Now, Timestamp};
use futures_util::FutureExt;

use super::ops::{Op, Ops};

/// When the simulated world begins.
pub(super) const START: Timestamp = Timestamp(1_700_000_000_000);

/// A clock that stands still until it is set.
#[derive(Clone, Debug, Default)]
pub(super) struct SetClock(Arc<Mutex<Timestamp>>);

impl SetClock {
    pub(super) fn set(&self, now: Timestamp) {
        *self.0.lock().unwrap() = now;
    }
}

impl Clock for SetClock {
    fn now(&self) -> Now {
        let wall = *self.0.lock().unwrap();
        Now {
            mono: Instant(wall.0 - START.0),
            wall,
        }
    }
}

/// Whatever claims to be a store.
pub(super) trait Subject {
    fn ask(&mut self, now: Timestamp, verb: &Verb) -> Outcome;
    fn dump(&mut self) -> Dump;
    /// What the reads answer that clients see, compared with the Model's rows.
    fn reads_differ(&mut self, _model: &Model) -> Option<String> {
        None
    }
}

/// An SQLite store without threads.
pub(super) struct Sqlite {
    store: SqliteStore,
    clock: SetClock,
}

impl Sqlite {
    /// Without `fsync`: this compares meanings, by the thousand; the tests
    /// that kill and reopen run on the real thing.
    pub(super) fn inline(dir: &Path) -> Sqlite {
        let clock = SetClock::default();
        clock.set(START);
        let path = dir.join("dispatch.db");
        let durability = Durability::ProcessCrashOnly;
        Sqlite {
            store: SqliteStore::inline(&path, Arc::new(clock.clone()), durability).unwrap(),
            clock,
        }
    }
}

impl Subject for Sqlite {
    fn ask(&mut self, now: Timestamp, verb: &Verb) -> Outcome {
        self.clock.set(now);
        let heard = Arc::new(Mutex::new(None));
        let tell = heard.clone();
        self.store.submit(
            verb.clone(),
            Box::new(move |outcome| *tell.lock().unwrap() = Some(outcome)),
        );
        heard
            .lock()
            .unwrap()
            .take()
            .expect("inline stores answer at once")
    }

    fn dump(&mut self) -> Dump {
        at_once(self.store.dump()).unwrap()
    }

    fn reads_differ(&mut self, model: &Model) -> Option<String> {
        at_once(reads_differ(&self.store, model))
    }
}

fn at_once<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("inline stores answer at once")
}

/// The Model's rows as a dump, events as they look after their JSON.
pub(super) fn dump_of(model: &Model) -> Dump {
    let events = model.events.iter();
    let releases = model.releases.iter().filter(|(_, at)| !at.is_empty());
    Dump {
        conversations: model.conversations.clone(),
        turns: model.turns.clone(),
        workspaces: model.workspaces.clone(),
        providers: model.providers.clone(),
        replicas: model.replicas.clone(),
        keys: model.keys.clone(),
        events: events.map(|(key, e)| (key.clone(), via_json(e))).collect(),
        markers: model.markers.clone(),
        items: model.items.clone(),
        calls: model.calls.clone(),
        segments: model.segments.clone(),
        releases: releases.map(|(id, at)| (id.clone(), at.clone())).collect(),
        endpoints: model.endpoints.clone(),
        outbox: model.outbox.clone(),
    }
}

fn via_json(event: &AgentEvent) -> AgentEvent {
    AgentEvent::from_json(&event.to_json()).unwrap()
}

/// Which verbs came to what: a run that never reached a branch proves nothing of it.
pub(super) type Reached = BTreeSet<(&'static str, String)>;

/// An empty Model at the beginning of time.
pub(super) fn model_at_start() -> Model {
    let mut model = Model::default();
    model.now = START;
    model
}

/// Runs `ops` operations of a seed on the Model and the subject; the first
/// difference, told for people.
pub(super) fn difference(
    seed: u64,
    ops: usize,
    subject: &mut dyn Subject,
    reached: &mut Reached,
) -> Option<String> {
    let mut draw = Ops::new(seed);
    let mut model = model_at_start();
    for n in 0..ops {
        let verb = if n == 0 {
            draw.boot()
        } else {
            match draw.next(&model) {
                Op::Wait(ms) => {
                    model.now = model.now + ms;
                    continue;
                }
                Op::Ask(verb) => *verb,
            }
        };
        let wanted = model.apply(&verb);
        let got = subject.ask(model.now, &verb);
        reached.insert((verb.name(), kind(&wanted)));
        if got != Ok(wanted.clone()) {
            return Some(format!(
                "seed {seed}, operation {n}, {verb:?}\nmodel: {wanted:?}\nstore: {got:?}"
            ));
        }
        if n % 40 == 0 || n + 1 == ops {
            let recent = |dump| without_old_releases(dump, model.now);
            let (wanted, got) = (recent(dump_of(&model)), recent(subject.dump()));
            if let Some(table) = tables_differ(&wanted, &got) {
                return Some(format!("seed {seed}, after operation {n}: {table}"));
            }
            if let Some(read) = subject.reads_differ(&model) {
                return Some(format!("seed {seed}, after operation {n}: {read}"));
            }
        }
    }
    None
}

/// Slots that were left more than an hour ago may be forgotten at any time.
pub(super) fn without_old_releases(mut dump: Dump, now: Timestamp) -> Dump {
    for releases in dump.releases.values_mut() {
        releases.retain(|at| now.since_ms(*at) <= 3_600_000);
    }
    dump.releases.retain(|_, releases| !releases.is_empty());
    dump
}

/// The reply's variant, and whether it brought events.
fn kind(reply: &Reply) -> String {
    let text = format!("{reply:?}");
    let name = text.split(['(', ' ', '{']).next().unwrap_or_default();
    match reply {
        Reply::Swept(None) => "SweptNone".to_owned(),
        Reply::Deliveries { taken, .. } if taken.is_empty() => "DeliveriesNone".to_owned(),
        Reply::Settled { row, .. } => format!("{name}{:?}", row.state),
        Reply::Landed { events } | Reply::Ended { events, .. } if events.is_empty() => {
            format!("{name}Before")
        }
        _ => name.to_owned(),
    }
}

fn shown(rows: impl IntoIterator<Item: std::fmt::Debug>) -> Vec<String> {
    rows.into_iter().map(|row| format!("{row:?}")).collect()
}

pub(super) fn tables_differ(wanted: &Dump, got: &Dump) -> Option<String> {
    macro_rules! table {
        ($name:ident) => {
            if wanted.$name != got.$name {
                let wanted: Vec<String> = shown(&wanted.$name);
                let got: Vec<String> = shown(&got.$name);
                let only = |these: &[String], those: &[String]| {
                    let these = these.iter().filter(|row| !those.contains(row));
                    these.cloned().collect::<Vec<_>>().join("\n")
                };
                return Some(format!(
                    "table {}\nmodel: {}\nstore: {}",
                    stringify!($name),
                    only(&wanted, &got),
                    only(&got, &wanted)
                ));
            }
        };
    }
    table!(conversations);
    table!(turns);
    table!(workspaces);
    table!(providers);
    table!(keys);
    table!(events);
    table!(markers);
    table!(items);
    table!(calls);
    table!(segments);
    table!(releases);
    table!(endpoints);
    table!(outbox);
    None
}

pub(super) async fn reads_differ(store: &impl Store, model: &Model) -> Option<String> {
    for (id, row) in &model.turns {
        let parked = |other: &&dispatch_core::store::TurnRow| {
            other.state == TurnState::Parked && other.provider == row.provider
        };
        let ahead = model
            .turns
            .values()
            .filter(parked)
            .filter(|o| o.key < row.key);
        let terminal = model
            .events
            .values()
            .find(|e| e.turn == *id && e.is_terminal());
        let wanted = TurnView {
            row: row.clone(),
            terminal: terminal.map(via_json),
            position: (row.state == TurnState::Parked).then(|| 1 + ahead.count() as u64),
        };
        let got = store.turn(*id).await.unwrap();
        if got.as_ref() != Some(&wanted) {
            return Some(format!("turn\nmodel: {wanted:?}\nstore: {got:?}"));
        }
    }
    for id in model.conversations.keys() {
        let (after, limit) = (model.turns.len() as u64 % 5, 7);
        let wanted: Vec<AgentEvent> = model
            .log_after(id, after)
            .take(limit)
            .map(via_json)
            .collect();
        let got = store.events(id, after, limit).await.unwrap();
        if got != wanted {
            return Some(format!("events\nmodel: {wanted:?}\nstore: {got:?}"));
        }
        let mut open: Vec<_> = model.turns.values().collect();
        open.retain(|row| row.conversation == *id && row.state != TurnState::Ended);
        open.sort_by_key(|row| row.ordinal);
        let views = store.open_turns_of(id).await.unwrap();
        if views.iter().map(|view| &view.row).ne(open) {
            return Some(format!("open turns of {id}: {views:?}"));
        }
    }
    for view in store.providers().await.unwrap() {
        let count = |state| {
            let here = |row: &&dispatch_core::store::TurnRow| {
                row.provider == view.row.id && row.state == state
            };
            model.turns.values().filter(here).count() as u64
        };
        let wanted = (count(TurnState::Streaming), count(TurnState::Parked));
        let got = (u64::from(view.streaming), view.parked);
        if got != wanted || model.providers.get(&view.row.id) != Some(&view.row) {
            return Some(format!("provider {view:?}, wanted {wanted:?}"));
        }
    }
    None
}
