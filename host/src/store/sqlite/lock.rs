//! The exclusive lock on a data directory: two servers over one database would
//! each believe that the other's turns are orphans.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

/// A held lock; given up when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

/// Why a data directory cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process, or another store of this one, has it.
    #[error(
        "the data directory {dir} is in use by {holder}; stop that server, or name another directory with --data-dir"
    )]
    Held {
        /// The directory.
        dir: PathBuf,
        /// What the lock file says of its holder.
        holder: String,
    },
    /// The lock file cannot be made, locked or written.
    #[error("cannot lock the data directory with {path}: {cause}; check its owner and permissions")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
}

impl DirLock {
    /// Locks `dir` by its file `lock`, which then names this process.
    ///
    /// # Errors
    /// [`LockError::Held`] with the holder's own words; [`LockError::Io`].
    pub fn acquire(dir: &Path) -> Result<DirLock, LockError> {
        let path = dir.join("lock");
        let io = |cause: io::Error| LockError::Io {
            path: path.clone(),
            cause,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LockError::Held {
                    dir: dir.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(errno) => return Err(io(errno.into())),
        }
        name_holder(&mut file).map_err(io)?;
        Ok(DirLock { _file: file })
    }
}

fn name_holder(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "process {}", std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    match file.take(200).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        Ok(_) | Err(_) => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_and_told_of_the_first_until_that_one_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        let first = DirLock::acquire(dir.path()).unwrap();
        let refused = DirLock::acquire(dir.path()).unwrap_err().to_string();
        assert!(
            refused.contains(&format!("process {}", std::process::id())),
            "{refused}"
        );
        drop(first);
        DirLock::acquire(dir.path()).unwrap();
    }
}
