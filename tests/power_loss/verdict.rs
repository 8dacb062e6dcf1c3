//! What a store must hold after the power came back.

use std::path::Path;
use std::sync::Arc;

use dispatch::store::{Dump, Durability, SqliteStore, Store};
use dispatch_core::store::{Model, TurnState};
use futures_util::FutureExt;

use super::disk::Image;
use super::harness::{SetClock, dump_of, tables_differ, without_old_releases};

/// Which verbs the disk turned out to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landed {
    /// All that were answered, and no other.
    Answered,
    /// Those that were under way too.
    UnderWay,
}

/// Opens what is left, on a copy, and compares it with what was answered; or,
/// where verbs were under way that may have landed, with those as well.
pub(crate) fn judge(
    left: &Image,
    answered: &Model,
    under_way: Option<&Model>,
) -> Result<Landed, String> {
    let copy = super::life::scratch();
    for (name, bytes) in left {
        std::fs::write(copy.path().join(name), bytes).unwrap();
    }
    let path = copy.path().join("dispatch.db");
    let found = without_old_releases(dump(&path, answered)?, answered.now);
    intact(&path)?;
    promised(&found)?;
    let kept = |model: &Model| without_old_releases(dump_of(model), model.now);
    let Some(difference) = tables_differ(&kept(answered), &found) else {
        return Ok(Landed::Answered);
    };
    match under_way.map(|model| tables_differ(&kept(model), &found)) {
        Some(None) => Ok(Landed::UnderWay),
        Some(Some(half)) => Err(format!(
            "neither what was answered: {difference}\nnor with what was under way: {half}"
        )),
        None => Err(format!("other than what was answered: {difference}")),
    }
}

fn dump(path: &Path, model: &Model) -> Result<Dump, String> {
    let clock = SetClock::default();
    clock.set(model.now);
    let store = SqliteStore::inline(path, Arc::new(clock), Durability::ProcessCrashOnly)
        .map_err(|error| format!("the store does not open: {error}"))?;
    let dump = store
        .dump()
        .now_or_never()
        .expect("inline stores answer at once");
    store
        .close()
        .now_or_never()
        .expect("inline stores answer at once");
    dump.map_err(|error| format!("the store cannot be read: {error}"))
}

fn intact(path: &Path) -> Result<(), String> {
    let said = rusqlite::Connection::open(path)
        .and_then(|conn| conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)));
    match said {
        Ok::<String, _>(said) if said == "ok" => Ok(()),
        Ok(said) => Err(format!("integrity_check: {said}")),
        Err(error) => Err(format!("integrity_check: {error}")),
    }
}

/// What holds of every store at any time, whatever was asked of it: told
/// without the Model, which could share a defect with the verbs.
pub(crate) fn promised(found: &Dump) -> Result<(), String> {
    for (turn, row) in &found.turns {
        let own = found.events.values().filter(|event| event.turn == *turn);
        let ends = own.filter(|event| event.is_terminal()).count();
        let has_ended = row.state == TurnState::Ended;
        if ends != usize::from(has_ended) {
            return Err(format!("{ends} terminal events of {turn}, {:?}", row.state));
        }
        if found.markers.contains(turn) == has_ended {
            return Err(format!("the marker of {turn}, which is {:?}", row.state));
        }
    }
    if let Some(turn) = found
        .markers
        .iter()
        .find(|turn| !found.turns.contains_key(turn))
    {
        return Err(format!("a marker of {turn}, which does not exist"));
    }
    for (id, row) in &found.conversations {
        let log = found.events.keys().filter(|(of, _)| of == id);
        if !log.map(|(_, seq)| *seq).eq(1..=row.last_seq) {
            return Err(format!("a gap in the log of {id}"));
        }
    }
    Ok(())
}

mod tests {
    use super::super::harness::model_at_start;
    use super::super::ops::{Op, Ops};
    use super::*;

    #[test]
    fn each_promise_can_be_broken() {
        let (mut draw, mut model) = (Ops::new(3), model_at_start());
        model.apply(&draw.boot());
        for _ in 0..400 {
            if let Op::Ask(verb) = draw.next(&model) {
                model.apply(&verb);
            }
        }
        let whole = dump_of(&model);
        assert_eq!(promised(&whole), Ok(()));
        let broken = |damage: &dyn Fn(&mut Dump), says: &str| {
            let mut dump = whole.clone();
            damage(&mut dump);
            let said = promised(&dump).unwrap_err();
            assert!(said.contains(says), "{said}");
        };
        broken(&|dump| dump.markers.clear(), "the marker of");
        broken(&|dump| dump.turns.clear(), "does not exist");
        broken(
            &|dump| {
                dump.conversations
                    .values_mut()
                    .for_each(|row| row.last_seq += 1)
            },
            "a gap",
        );
        broken(
            &|dump| dump.events.retain(|_, event| !event.is_terminal()),
            "0 terminal events",
        );
    }
}
