//! Lives of a store between one loss of power and the next.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};

use dispatch::store::{Durability, Options, SqliteStore, Store};
use dispatch_core::store::{Model, Outcome, Reply, StoreFault, Verb};
use tempfile::TempDir;

use super::disk::{Disk, Honesty, Image, Reached};
use super::harness::{SetClock, model_at_start};
use super::ops::{Op, Ops};
use super::support::Chance;
use super::verdict::{Landed, judge};
use super::vfs;

/// What one run is played on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setting {
    pub(crate) honesty: Honesty,
    pub(crate) durability: Durability,
}

/// Losses of power a seed.
const LIVES: u64 = 4;

/// A directory where a real fsync costs nothing, if there is one: what is
/// synced is the simulated disk's to say.
pub(crate) fn scratch() -> TempDir {
    let memory = Path::new("/dev/shm");
    let dir = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).or_else(|_| tempfile::tempdir()),
        false => tempfile::tempdir(),
    };
    dir.unwrap()
}

/// Plays a seed: verbs in groups, power lost somewhere, and judged, again and again.
pub(crate) fn play(seed: u64, setting: Setting, reached: &mut Reached) -> Result<(), String> {
    vfs::install();
    let mut world = World {
        setting,
        chance: Chance::new(seed),
        draw: Ops::new(seed),
        answered: model_at_start(),
        in_doubt: Vec::new(),
        image: Image::new(),
    };
    for life in 0..LIVES {
        world
            .live(reached)
            .map_err(|violation| format!("seed {seed}, life {life}: {violation}"))?;
    }
    Ok(())
}

struct World {
    setting: Setting,
    chance: Chance,
    draw: Ops,
    /// What every answered verb has made of the store.
    answered: Model,
    /// Verbs that were asked and not answered: whoever asked will ask again.
    in_doubt: Vec<Verb>,
    image: Image,
}

/// How a life ended, before anybody looked at the disk.
enum End {
    Opening,
    /// With a group under way that may have landed, or cannot have.
    Asking {
        group: Vec<Verb>,
        may_have_landed: bool,
    },
    Closing,
}

impl World {
    fn live(&mut self, reached: &mut Reached) -> Result<(), String> {
        let dir = scratch();
        // Most lives are short beside the thousand pages after which SQLite
        // moves the WAL into the database; some are not.
        let fuse = match self.chance.below(4) {
            0 => self.chance.below(60),
            1 | 2 => self.chance.below(1_500),
            _ => self.chance.below(12_000),
        };
        let (honesty, seed) = (self.setting.honesty, self.chance.next());
        let disk = Disk::with(dir.path(), &self.image, fuse as u64, honesty, seed);
        if self.chance.one_in(3) {
            disk.lose_power_after_sync(self.chance.below(40));
        }
        let end = self.until_the_end(dir.path(), &disk);
        let (image, met) = disk.lose_power();
        for (what, n) in met {
            *reached.entry(what).or_default() += n;
        }
        let (said, group, may_have_landed) = match end? {
            End::Opening => ("lost while opening", Vec::new(), false),
            End::Closing => ("lost while closing", Vec::new(), false),
            End::Asking {
                group,
                may_have_landed,
            } => ("lost while verbs were under way", group, may_have_landed),
        };
        let mut under_way = self.answered.clone();
        for verb in &group {
            under_way.apply(verb);
        }
        let may_have_landed = may_have_landed.then_some(&under_way);
        let landed = judge(&image, &self.answered, may_have_landed)
            .map_err(|violation| format!("{said}: {violation}"))?;
        let mut note = |what| *reached.entry(what).or_default() += 1;
        note(said);
        match landed {
            Landed::UnderWay => {
                note("unanswered verbs landed");
                self.answered = under_way;
            }
            Landed::Answered if group.is_empty() => {}
            Landed::Answered => note("unanswered verbs did not land"),
        }
        self.in_doubt = group;
        self.image = image;
        Ok(())
    }

    /// One life of a store, till the power goes or it is closed.
    fn until_the_end(&mut self, dir: &Path, disk: &Disk) -> Result<End, String> {
        let clock = SetClock::default();
        clock.set(self.answered.now);
        let options = Options {
            readers: 1,
            durability: self.setting.durability,
            ..Options::default()
        };
        let path = dir.join("dispatch.db");
        let store = match SqliteStore::open_with(&path, Arc::new(clock.clone()), options) {
            Ok(store) => store,
            Err(_) if disk.is_off() => return Ok(End::Opening),
            Err(error) => return Err(format!("the store does not open: {error}")),
        };
        let mut asker = Asker { store, gate: None };
        let end = self.ask_on(&mut asker, &clock, disk);
        asker.close();
        end
    }

    fn ask_on(&mut self, asker: &mut Asker, clock: &SetClock, disk: &Disk) -> Result<End, String> {
        // The first group has nothing before it to be held in: one verb, then.
        let mut group = vec![self.draw.boot()];
        let groups = 1 + self.chance.below(60);
        for _ in 0..groups {
            clock.set(self.answered.now);
            let mut after = self.answered.clone();
            let wanted: Vec<Reply> = group.iter().map(|verb| after.apply(verb)).collect();
            let outcomes = asker.ask(&group);
            if outcomes.iter().any(Result::is_err) {
                if !disk.is_off() {
                    return Err(format!("the disk is well, and a verb fails: {outcomes:?}"));
                }
                // What is said to have failed has not landed, nor have its companions.
                let is_open = |outcome: &Outcome| *outcome == Err(StoreFault::Unknown);
                return Ok(End::Asking {
                    may_have_landed: outcomes.iter().all(is_open),
                    group,
                });
            }
            for ((verb, wanted), got) in group.iter().zip(wanted).zip(outcomes) {
                if got.as_ref() != Ok(&wanted) {
                    return Err(format!("{verb:?}\nmodel: {wanted:?}\nstore: {got:?}"));
                }
            }
            self.answered = after;
            group = match std::mem::take(&mut self.in_doubt) {
                none if none.is_empty() => self.next_group(),
                again => again,
            };
        }
        if self.chance.one_in(2) {
            disk.lose_power_after_sync(self.chance.below(3));
        }
        Ok(End::Closing)
    }

    /// Verbs that are asked together; time stands still between them.
    fn next_group(&mut self) -> Vec<Verb> {
        let size = 1 + self.chance.below(24);
        let mut model = self.answered.clone();
        let mut group = Vec::with_capacity(size);
        while group.len() < size {
            match self.draw.next(&model) {
                Op::Wait(ms) if group.is_empty() => {
                    self.answered.now = self.answered.now + ms;
                    model.now = self.answered.now;
                }
                Op::Wait(_) => {}
                Op::Ask(verb) if verb.is_read() => {}
                Op::Ask(verb) => {
                    model.apply(&verb);
                    group.push(*verb);
                }
            }
        }
        group
    }
}

/// Asks so that what is asked together is one group commit: the writer is held
/// in the last answer of a group until the next one is complete in its queue.
struct Asker {
    store: SqliteStore,
    gate: Option<Sender<()>>,
}

impl Asker {
    fn ask(&mut self, group: &[Verb]) -> Vec<Outcome> {
        let (tell, heard) = channel();
        let (gate, is_open) = channel::<()>();
        let mut is_open = Some(is_open);
        for (n, verb) in group.iter().enumerate() {
            let tell = tell.clone();
            let hold = (n + 1 == group.len()).then(|| is_open.take()).flatten();
            let done = move |outcome| {
                tell.send(outcome).unwrap();
                // Dropped by the next group, and at the end.
                let _ = hold.map(|hold| hold.recv());
            };
            self.store.submit(verb.clone(), Box::new(done));
        }
        self.gate = Some(gate);
        heard.iter().take(group.len()).collect()
    }

    fn close(mut self) {
        self.gate = None;
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.build().unwrap();
        runtime.block_on(self.store.close());
    }
}
