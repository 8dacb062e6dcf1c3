//! A small disk of a test's own, to be filled.

#![allow(dead_code, clippy::unwrap_used)]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

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
    pub(crate) fn fill(&self) {
        let file = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.filler());
        let mut file = file.unwrap();
        for size in [1 << 16, 1 << 12, 1] {
            while file.write_all(&vec![0; size]).is_ok() {}
        }
    }

    pub(crate) fn make_room(&self) {
        std::fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: a command that a killed server has left may still be in it.
        Command::new("umount").arg("-l").arg(&self.0).output().ok();
    }
}
