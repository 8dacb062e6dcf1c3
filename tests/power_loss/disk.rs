//! A disk with a volatile cache, as a model: for each file what would be left
//! of it for certain, and what was written since; the same for the directory.
//!
//! What a sync has confirmed stays. Of everything else any part may: each
//! write whole, torn at sectors, garbled where it was written, or not at all
//! and the file longer for it; each creation and deletion of a name or not.
//! Bytes that nobody wrote keep their value ("powersafe overwrite", which
//! SQLite takes for granted on unix).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::support::Chance;

/// What a directory holds, by name.
pub(crate) type Image = BTreeMap<String, Vec<u8>>;

/// How faithful a disk is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Honesty {
    /// A sync that returns is true.
    Honest,
    /// One sync in so many returns without having done anything.
    LiesOneIn(usize),
}

/// There is no power any more.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Off;

/// What a sync is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sync {
    Real,
    Lie,
}

/// What was under way when the power went, and what that did.
pub(crate) type Reached = BTreeMap<&'static str, u64>;

/// One directory on such a disk, for one life of whoever uses it.
pub(crate) struct Disk {
    dir: PathBuf,
    state: Mutex<State>,
}

struct State {
    files: Vec<File>,
    /// Name to place in `files`: as everybody sees it, and as it would be left.
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Changes of names since the directory was synced, in order.
    renamed: Vec<(String, Option<usize>)>,
    /// Changes that still go through.
    fuse: u64,
    /// With this sync from now on, few changes go through any more.
    last_sync: Option<usize>,
    is_off: bool,
    honesty: Honesty,
    chance: Chance,
    reached: Reached,
}

#[derive(Default)]
struct File {
    name: String,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate(usize),
}

static DISKS: Mutex<BTreeMap<PathBuf, Arc<Disk>>> = Mutex::new(BTreeMap::new());

impl Disk {
    /// Puts the image into an empty directory, all of it durable. The power
    /// goes with the change after the next `fuse` ones.
    pub(crate) fn with(
        dir: &Path,
        image: &Image,
        fuse: u64,
        honesty: Honesty,
        seed: u64,
    ) -> Arc<Disk> {
        let dir = dir.canonicalize().unwrap();
        let (mut files, mut names) = (Vec::new(), BTreeMap::new());
        for (name, bytes) in image {
            std::fs::write(dir.join(name), bytes).unwrap();
            names.insert(name.clone(), files.len());
            files.push(File {
                name: name.clone(),
                durable: bytes.clone(),
                pending: Vec::new(),
            });
        }
        let disk = Arc::new(Disk {
            dir: dir.clone(),
            state: Mutex::new(State {
                files,
                durable_names: names.clone(),
                names,
                renamed: Vec::new(),
                fuse,
                last_sync: None,
                is_off: false,
                honesty,
                chance: Chance::new(seed),
                reached: Reached::new(),
            }),
        });
        DISKS.lock().unwrap().insert(dir, disk.clone());
        disk
    }

    /// The disk that holds this file, if it is a simulated one, and the file's name there.
    pub(crate) fn of(path: &Path) -> Option<(Arc<Disk>, String)> {
        let disk = DISKS.lock().unwrap().get(path.parent()?)?.clone();
        Some((disk, path.file_name()?.to_str()?.to_owned()))
    }

    /// The power goes at or soon after that sync, 0 being the next one, if it
    /// does not go before.
    pub(crate) fn lose_power_after_sync(&self, n: usize) {
        self.state.lock().unwrap().last_sync = Some(n);
    }

    pub(crate) fn is_off(&self) -> bool {
        self.state.lock().unwrap().is_off
    }

    /// The file of that name, which exists by now: its place for later calls.
    /// One that nobody had heard of has just been created.
    pub(crate) fn opened(&self, name: &str) -> Result<usize, Off> {
        let mut state = self.state.lock().unwrap();
        if let Some(&file) = state.names.get(name) {
            return if state.is_off { Err(Off) } else { Ok(file) };
        }
        let file = state.files.len();
        state.change(name, "create", |state| {
            state.files.push(File {
                name: name.to_owned(),
                ..File::default()
            });
            state.names.insert(name.to_owned(), file);
            state.renamed.push((name.to_owned(), Some(file)));
        })?;
        Ok(file)
    }

    pub(crate) fn write(&self, file: usize, offset: usize, bytes: &[u8]) -> Result<(), Off> {
        let change = Change::Write {
            offset,
            bytes: bytes.to_vec(),
        };
        self.pend(file, "write", change)
    }

    pub(crate) fn truncate(&self, file: usize, len: usize) -> Result<(), Off> {
        self.pend(file, "truncate", Change::Truncate(len))
    }

    fn pend(&self, file: usize, what: &'static str, change: Change) -> Result<(), Off> {
        let mut state = self.state.lock().unwrap();
        let name = state.files[file].name.clone();
        state.change(&name, what, |state| {
            state.files[file].pending.push(change);
        })
    }

    pub(crate) fn delete(&self, name: &str) -> Result<(), Off> {
        let mut state = self.state.lock().unwrap();
        state.change(name, "delete", |state| {
            if state.names.remove(name).is_some() {
                state.renamed.push((name.to_owned(), None));
            }
        })
    }

    /// A sync is asked for; after a real one comes [`Disk::synced`].
    pub(crate) fn sync(&self, file: usize) -> Result<Sync, Off> {
        let mut state = self.state.lock().unwrap();
        let name = state.files[file].name.clone();
        state.count_sync();
        state.change(&name, "sync", |_| {})?;
        let lies = match state.honesty {
            Honesty::LiesOneIn(n) => state.chance.one_in(n),
            Honesty::Honest => false,
        };
        Ok(if lies { Sync::Lie } else { Sync::Real })
    }

    pub(crate) fn synced(&self, file: usize) {
        let mut state = self.state.lock().unwrap();
        let file = &mut state.files[file];
        for change in std::mem::take(&mut file.pending) {
            change.apply(&mut file.durable);
        }
    }

    pub(crate) fn directory_synced(&self) {
        let mut state = self.state.lock().unwrap();
        if !state.is_off {
            state.durable_names = state.names.clone();
            state.renamed.clear();
        }
    }

    /// Takes the power away, if it is not gone yet, and tells what is left,
    /// which the seed decides, and what was met.
    pub(crate) fn lose_power(&self) -> (Image, Reached) {
        DISKS.lock().unwrap().remove(&self.dir);
        let mut state = self.state.lock().unwrap();
        if !state.is_off {
            state.note("nothing under way");
        }
        state.is_off = true;
        let left = state.left();
        (left, std::mem::take(&mut state.reached))
    }
}

impl State {
    /// Carries out a change of a file. The last one before the power goes is
    /// in the cache like those before it, and whoever asked hears an error.
    fn change(
        &mut self,
        name: &str,
        what: &'static str,
        change: impl FnOnce(&mut State),
    ) -> Result<(), Off> {
        if self.is_off {
            return Err(Off);
        }
        change(self);
        if self.fuse == 0 {
            self.is_off = true;
            self.note(moment(name, what));
            return Err(Off);
        }
        self.fuse -= 1;
        Ok(())
    }

    fn count_sync(&mut self) {
        self.last_sync = match self.last_sync {
            Some(0) => {
                self.fuse = self.fuse.min(self.chance.below(4) as u64);
                None
            }
            later => later.map(|n| n - 1),
        };
    }

    fn note(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn left(&mut self) -> Image {
        let mut fate = Fate::draw(&mut self.chance);
        let mut image = Image::new();
        for (name, file) in self.names_left(&mut fate) {
            let file = &self.files[file];
            let mut bytes = file.durable.clone();
            for change in &file.pending {
                fate.befall(change, &mut bytes);
            }
            image.insert(name, bytes);
        }
        for (what, n) in std::mem::take(&mut fate.reached) {
            *self.reached.entry(what).or_default() += n;
        }
        image
    }

    /// Of each name, some moment since the directory was synced.
    fn names_left(&self, fate: &mut Fate) -> BTreeMap<String, usize> {
        let mut left = self.durable_names.clone();
        let mut is_settled: BTreeMap<&str, bool> = BTreeMap::new();
        for (name, file) in &self.renamed {
            let is_settled = is_settled.entry(name).or_default();
            if *is_settled || !fate.keeps() {
                *is_settled = true;
                fate.note("name lost");
                continue;
            }
            match file {
                Some(file) => left.insert(name.clone(), *file),
                None => left.remove(name),
            };
        }
        left
    }
}

/// What happens to the changes that no sync has confirmed.
struct Fate {
    chance: Chance,
    /// Of a thousand.
    kept: usize,
    garbled: usize,
    /// `None`: writes are kept or lost whole.
    sector: Option<usize>,
    reached: Reached,
}

impl Fate {
    fn draw(chance: &mut Chance) -> Fate {
        let mut chance = Chance::new(chance.next());
        Fate {
            kept: [0, 30, 500, 970, 1_000][chance.below(5)],
            garbled: [0, 0, 10, 200][chance.below(4)],
            sector: [None, Some(512), Some(4_096)][chance.below(3)],
            chance,
            reached: Reached::new(),
        }
    }

    fn keeps(&mut self) -> bool {
        self.chance.below(1_000) < self.kept
    }

    fn note(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }

    fn befall(&mut self, change: &Change, bytes: &mut Vec<u8>) {
        match change {
            Change::Truncate(_) if self.keeps() => change.apply(bytes),
            Change::Truncate(_) => self.note("truncation lost"),
            Change::Write { offset, bytes: new } => {
                let (mut at, end) = (*offset, offset + new.len());
                let mut kept = 0;
                while at < end {
                    let sector = self.sector.unwrap_or(usize::MAX);
                    let until = end.min((at / sector + 1).saturating_mul(sector));
                    let piece = &new[at - offset..until - offset];
                    kept += usize::from(self.piece(at, piece, bytes)) * piece.len();
                    at = until;
                }
                match kept {
                    0 => self.note("write lost"),
                    n if n < new.len() => self.note("write torn"),
                    _ => self.note("write kept"),
                }
            }
        }
    }

    fn piece(&mut self, offset: usize, new: &[u8], bytes: &mut Vec<u8>) -> bool {
        if self.keeps() {
            overwrite(bytes, offset, new);
            return true;
        }
        if self.chance.below(1_000) < self.garbled {
            let noise: Vec<u8> = new.iter().map(|_| self.chance.next() as u8).collect();
            overwrite(bytes, offset, &noise);
            self.note("write garbled");
        } else if self.chance.one_in(2) {
            // The length was on the disk before the content was.
            bytes.resize(bytes.len().max(offset + new.len()), 0);
        }
        false
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match self {
            Change::Write { offset, bytes } => overwrite(file, *offset, bytes),
            Change::Truncate(len) => file.resize(*len, 0),
        }
    }
}

fn overwrite(file: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    file.resize(file.len().max(end), 0);
    file[offset..end].copy_from_slice(bytes);
}

fn moment(name: &str, what: &'static str) -> &'static str {
    let is_wal = name.ends_with("-wal");
    match what {
        "write" if is_wal => "writing the WAL",
        "sync" if is_wal => "syncing the WAL",
        "truncate" if is_wal => "truncating the WAL",
        "delete" if is_wal => "deleting the WAL",
        "write" if name.ends_with(".db") => "writing the database file",
        "sync" if name.ends_with(".db") => "syncing the database file",
        "create" => "creating a file",
        _ if name.ends_with("-journal") => "keeping a rollback journal",
        other => other,
    }
}

mod tests {
    use super::*;

    /// What may be left of a file after `change`, over many seeds.
    fn left(change: impl Fn(&Disk)) -> Vec<Image> {
        (0..400)
            .map(|seed| {
                let dir = tempfile::tempdir().unwrap();
                let image = Image::from([("a".to_owned(), vec![1; 2_048])]);
                let disk = Disk::with(dir.path(), &image, u64::MAX, Honesty::Honest, seed);
                change(&disk);
                disk.lose_power().0
            })
            .collect()
    }

    fn all(images: &[Image], is: impl Fn(&Image) -> bool) -> bool {
        images.iter().all(is)
    }

    fn some(images: &[Image], is: impl Fn(&Image) -> bool) -> bool {
        images.iter().any(is)
    }

    #[test]
    fn what_was_synced_is_left_and_what_was_not_may_be_left_lost_or_torn() {
        let write = |disk: &Disk| disk.write(0, 512, &[2; 1_024]).unwrap();
        let images = left(|disk| {
            write(disk);
            disk.synced(0);
        });
        assert!(all(&images, |i| i["a"][512..1_536] == [2; 1_024]));
        let images = left(write);
        assert!(all(&images, |i| i["a"][..512] == [1; 512]));
        assert!(all(&images, |i| i["a"][1_536..] == [1; 512]));
        for (first, second) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            assert!(some(&images, |i| (i["a"][512], i["a"][1_024]) == (first, second)));
        }
        assert!(some(&images, |i| !matches!(i["a"][600], 1 | 2)), "garbled");
    }

    #[test]
    fn a_name_is_certain_only_once_its_directory_was_synced() {
        let create = |disk: &Disk| assert_eq!(disk.opened("b").unwrap(), 1);
        let images = left(create);
        assert!(some(&images, |i| i.contains_key("b")));
        assert!(some(&images, |i| !i.contains_key("b")));
        let images = left(|disk| {
            create(disk);
            disk.directory_synced();
            disk.delete("b").unwrap();
        });
        assert!(some(&images, |i| i.contains_key("b")));
        assert!(some(&images, |i| !i.contains_key("b")));
        let images = left(|disk| {
            disk.delete("a").unwrap();
            disk.directory_synced();
        });
        assert!(all(&images, |i| !i.contains_key("a")));
    }

    #[test]
    fn with_the_last_change_the_power_is_gone_and_a_liar_syncs_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let disk = Disk::with(dir.path(), &Image::new(), 2, Honesty::LiesOneIn(1), 7);
        let file = disk.opened("a").unwrap();
        assert_eq!(disk.sync(file).unwrap(), Sync::Lie);
        assert!(disk.write(file, 0, b"x").is_err() && disk.is_off());
        assert!(disk.opened("a").is_err() && disk.sync(file).is_err());
        let (_, reached) = disk.lose_power();
        assert_eq!(reached.get("write"), Some(&1));
    }
}
