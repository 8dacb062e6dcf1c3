//! The data directory: made for its owner only, and known again.
//!
//! The file `node` in it holds the replica's name, and the number of its own
//! inode. A copy of the directory has the name and another inode: by that a
//! server notices that the turns and commands it finds may be another's.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::driver::fresh_seed;

/// A file or a directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {cause}; check its owner, its permissions and the free space", path.display())]
pub struct PathError {
    /// Which.
    pub path: PathBuf,
    /// What the system said.
    pub cause: io::Error,
}

/// Who serves a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The replica's stable name: drawn at the first start, kept with the data.
    pub name: String,
    /// The directory was copied since its last server has started.
    pub is_copy: bool,
}

/// Makes the directory, if it is not there.
///
/// # Errors
/// [`PathError`].
pub fn make(dir: &Path) -> Result<(), PathError> {
    // What people said lies in it: nobody else's business.
    let made = DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|cause| PathError {
        path: dir.to_owned(),
        cause,
    })
}

/// Reads who serves it; a new directory is given a name.
///
/// # Errors
/// [`PathError`].
pub fn node(dir: &Path) -> Result<Node, PathError> {
    let path = dir.join("node");
    let failed = |cause| PathError {
        path: path.clone(),
        cause,
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(cause) => return Err(failed(cause)),
    };
    let mut words = text.split_whitespace();
    let drawn = || format!("node-{:016x}", eight_random_bytes());
    let name = words.next().map_or_else(drawn, str::to_owned);
    let is_copy = match words.next() {
        Some(inode) => inode != fs::metadata(&path).map_err(failed)?.ino().to_string(),
        None => {
            // New, or of an earlier build, which wrote the name alone.
            own(dir, &name)?;
            false
        }
    };
    Ok(Node { name, is_copy })
}

/// From now on the directory is no copy: it is this name's.
///
/// # Errors
/// [`PathError`].
pub fn own(dir: &Path, name: &str) -> Result<(), PathError> {
    replace(&dir.join("node"), |inode| format!("{name} {inode}\n"))
}

/// Moves the runs of a copied directory aside: they are the original's, whose
/// commands may be running. Where they lie now, if there were any.
///
/// # Errors
/// [`PathError`].
pub fn set_runs_aside(dir: &Path) -> Result<Option<PathBuf>, PathError> {
    let runs = dir.join("runs");
    let aside = dir.join(format!(
        "runs-of-the-original-{:08x}",
        eight_random_bytes() >> 32
    ));
    match fs::rename(&runs, &aside) {
        Ok(()) => Ok(Some(aside)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(PathError { path: runs, cause }),
    }
}

/// Readers see the old file or the whole new one.
///
/// # Errors
/// [`PathError`].
pub fn write_whole(path: &Path, text: &str) -> Result<(), PathError> {
    replace(path, |_| text.to_owned())
}

/// The same, of a text that knows the file's inode.
fn replace(path: &Path, text: impl FnOnce(u64) -> String) -> Result<(), PathError> {
    let temporary = path.with_extension("new");
    let write = || {
        let mut file = File::create(&temporary)?;
        let inode = file.metadata()?.ino();
        file.write_all(text(inode).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|cause| PathError {
        path: path.to_owned(),
        cause,
    })
}

/// A number that nobody else has.
pub fn eight_random_bytes() -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&fresh_seed()[..8]);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l9_a_copied_directory_is_told_from_one_that_was_moved_or_is_of_an_earlier_build() {
        let dir = tempfile::tempdir().unwrap();
        let (first, moved) = (dir.path().join("first"), dir.path().join("moved"));
        make(&first).unwrap();
        let drawn = node(&first).unwrap();
        assert!(!drawn.is_copy);
        assert_eq!(node(&first).unwrap(), drawn);
        fs::rename(&first, &moved).unwrap();
        assert_eq!(node(&moved).unwrap(), drawn);
        make(&first).unwrap();
        fs::copy(moved.join("node"), first.join("node")).unwrap();
        let copied = node(&first).unwrap();
        assert_eq!((copied.name, copied.is_copy), (drawn.name.clone(), true));
        own(&first, "other").unwrap();
        assert!(!node(&first).unwrap().is_copy);
        fs::write(first.join("node"), "node-old\n").unwrap();
        let old = node(&first).unwrap();
        assert_eq!((old.name.as_str(), old.is_copy), ("node-old", false));
    }

    #[test]
    fn l10_the_runs_of_a_copy_are_set_aside_once() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(set_runs_aside(dir.path()).unwrap(), None);
        fs::create_dir_all(dir.path().join("runs/turn")).unwrap();
        let aside = set_runs_aside(dir.path()).unwrap().unwrap();
        assert!(aside.join("turn").exists() && !dir.path().join("runs").exists());
    }
}
