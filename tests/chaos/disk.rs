//! A full disk under SQLite (O5): nothing is accepted that could not be kept,
//! nothing that was accepted is lost, and the server goes on once there is room.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use crate::caller::{Caller, Field, locked, read_log};
use crate::house::House;
use crate::plan::Talk;
use crate::support::{Chance, until, until_true};
use crate::verdict::{Talked, judge};

/// A file system in memory, which only root may mount.
pub(crate) struct Disk(PathBuf);

impl Disk {
    pub(crate) fn mount(at: &Path, size_bytes: u64) -> Option<Disk> {
        std::fs::create_dir_all(at).unwrap();
        let size = format!("size={size_bytes}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "none"])
            .arg(at)
            .output();
        if mounted.is_ok_and(|out| out.status.success()) {
            return Some(Disk(at.to_owned()));
        }
        let skipped =
            b"SKIPPED: a small disk needs the right to mount one; run this test as root\n";
        std::io::stderr().write_all(skipped).unwrap();
        None
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    /// To the last byte.
    fn fill(&self) {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.filler());
        let mut file = file.unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a command that a killed server has left may still be in it.
        Command::new("umount").arg("-l").arg(&self.0).output().ok();
    }
}

const CLIENTS: usize = 8;
const TALKS_EACH: usize = 6;

#[test]
fn o5_v7_a_full_disk_refuses_clearly_and_loses_nothing() {
    let Some(house) = House::on_a_small_disk(64 << 20) else {
        return;
    };
    let field = Field::default();
    house.addresses(&field);
    let client = |n: usize| {
        let mut chance = Chance::new(n as u64);
        let talks = (0..TALKS_EACH).map(|k| {
            let talk = Talk::draw(&mut chance, &format!("d{n}-{k}"), 2, &house.effects);
            Caller::talk(&field, (n * TALKS_EACH + k) as u64, &talk)
        });
        talks.collect::<Vec<Talked>>()
    };
    let late = || {
        let talk = Talk::draw(&mut Chance::new(0), "late", 1, &house.effects);
        vec![Caller::talk(&field, 0, &talk)]
    };
    let mut talked: Vec<Talked> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|n| {
                scope.spawn({
                    let client = &client;
                    move || client(n)
                })
            })
            .collect();
        let disk = house.disk.as_ref().unwrap();
        let ended = || field.ended.load(Ordering::Relaxed);
        until_true("turns are under way", || ended() >= CLIENTS);
        disk.fill();
        // Those that are under way cannot end now, so another one has to ask.
        let late = scope.spawn(late);
        until_true("what cannot be kept is refused", || {
            // Whatever is freed meanwhile is taken again.
            disk.fill();
            let refusals = locked(&field.refusals);
            let clearly = refusals.iter().filter(|(name, _)| name.starts_with("503 "));
            clearly.map(|(_, n)| n).sum::<u64>() >= 3
        });
        disk.make_room();
        clients
            .into_iter()
            .chain([late])
            .flat_map(|client| client.join().unwrap())
            .collect()
    });
    let effects = house.effects();
    let mut found = Vec::new();
    for talk in &mut talked {
        talk.log = until("the log is read", || read_log(&field, &talk.name));
        found.extend(judge(talk, &effects));
    }
    let stderr = house.servers[0].stderr();
    assert!(found.is_empty(), "{found:#?}\n{stderr}");
    let turns = locked(&field.turns);
    let ends: Vec<_> = turns.values().map(|turn| turn.end.as_deref()).collect();
    assert!(
        ends.iter().all(|end| *end == Some("done")),
        "{ends:?}\n{stderr}"
    );
}
