//! The output file of a run: bounded on disk and in memory (D27).

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Most bytes of a dropped output's end that are still kept: errors stand last.
const END_BYTES: usize = 32 * 1024;

/// Appends to a file up to a limit; then only counts, and remembers the end.
#[derive(Debug)]
pub(super) struct Sink {
    file: File,
    limit_bytes: u64,
    written_bytes: u64,
    beyond_bytes: u64,
    end: Vec<u8>,
    disk_error: Option<io::Error>,
}

/// What went where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// Bytes in the file.
    pub(super) output_bytes: u64,
    /// Bytes that are not.
    pub(super) dropped_bytes: u64,
    /// Why the disk took no more, if it did not.
    pub(super) disk_error: Option<String>,
}

impl Sink {
    pub(super) fn create(path: &Path, limit_bytes: u64) -> io::Result<Sink> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
        Ok(Sink {
            file,
            limit_bytes,
            written_bytes: 0,
            beyond_bytes: 0,
            end: Vec::new(),
            disk_error: None,
        })
    }

    /// Takes the next bytes. A full disk ends the file, not the command.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = self.limit_bytes.saturating_sub(self.written_bytes);
        let fits = match self.disk_error {
            Some(_) => 0,
            None => bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX)),
        };
        let (now, beyond) = bytes.split_at(fits);
        let accepted = self.write(now);
        self.remember(&now[accepted..]);
        self.remember(beyond);
    }

    /// Adds the remembered end, behind a line that says what is missing.
    pub(super) fn finish(mut self) -> Written {
        let end_from = self.end.len().saturating_sub(END_BYTES);
        let end = std::mem::take(&mut self.end).split_off(end_from);
        let mut dropped_bytes = self.beyond_bytes;
        if dropped_bytes > 0 && self.disk_error.is_none() {
            let missing = dropped_bytes - end.len() as u64;
            let notice = format!(
                "\n[... {missing} bytes dropped here: the output is longer than the limit of {} bytes ...]\n",
                self.limit_bytes
            );
            self.write(notice.as_bytes());
            dropped_bytes -= self.write(&end) as u64;
        }
        Written {
            output_bytes: self.written_bytes,
            dropped_bytes,
            disk_error: self.disk_error.map(|e| e.to_string()),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut accepted = 0;
        while accepted < bytes.len() && self.disk_error.is_none() {
            match self.file.write(&bytes[accepted..]) {
                Ok(0) => self.disk_error = Some(io::ErrorKind::WriteZero.into()),
                Ok(n) => accepted += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => self.disk_error = Some(e),
            }
        }
        self.written_bytes += accepted as u64;
        accepted
    }

    fn remember(&mut self, bytes: &[u8]) {
        self.beyond_bytes += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(END_BYTES)..];
        if self.end.len() + bytes.len() > 2 * END_BYTES {
            let excess = self.end.len() + bytes.len() - END_BYTES;
            self.end.drain(..excess.min(self.end.len()));
        }
        self.end.extend_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sink(limit_bytes: u64) -> (tempfile::TempDir, Sink) {
        let dir = tempfile::tempdir().expect("a directory");
        let sink = Sink::create(&dir.path().join("output"), limit_bytes).expect("created");
        (dir, sink)
    }

    #[test]
    fn an_output_within_the_limit_is_kept_as_it_is() {
        let (dir, mut sink) = sink(10);
        sink.push(b"12345");
        sink.push(b"67890");
        let written = sink.finish();
        assert_eq!((written.output_bytes, written.dropped_bytes), (10, 0));
        let text = std::fs::read(dir.path().join("output")).expect("readable");
        assert_eq!(text, b"1234567890");
    }

    #[test]
    fn d27_beyond_the_limit_only_the_end_is_kept_and_the_gap_is_told() {
        let (dir, mut sink) = sink(1_000);
        let block = vec![b'x'; 10_000];
        for _ in 0..100 {
            sink.push(&block);
            assert!(sink.end.capacity() <= 4 * END_BYTES);
        }
        sink.push(b"the end");
        let written = sink.finish();
        let text = std::fs::read_to_string(dir.path().join("output")).expect("readable");
        assert_eq!(written.output_bytes, text.len() as u64);
        assert_eq!(written.dropped_bytes, 1_000_007 - 1_000 - END_BYTES as u64);
        assert!(text.ends_with("xxxthe end"));
        let told = format!("[... {} bytes dropped here", written.dropped_bytes);
        assert!(text.contains(&told));
        assert!(text.len() < 1_000 + END_BYTES + 200);
    }
}
