//! Standard output, for all subcommands. Its reader may leave, or the disk be
//! full: that is remembered, not a reason to lose what was found, and told once
//! at the end.

use std::fmt::Display;
use std::io::{BufWriter, ErrorKind, Write};

use super::{BROKEN, USAGE};

/// See the module's page.
pub(crate) struct Out {
    to: BufWriter<Box<dyn Write>>,
    failed: Option<std::io::Error>,
}

impl Out {
    pub(crate) fn stdout() -> Out {
        Out::of(Box::new(std::io::stdout()))
    }

    fn of(to: Box<dyn Write>) -> Out {
        Out {
            to: BufWriter::new(to),
            failed: None,
        }
    }

    /// A line; nothing once a line was lost.
    pub(crate) fn line(&mut self, line: impl Display) {
        if self.failed.is_none() {
            self.failed = writeln!(self.to, "{line}").err();
        }
    }

    /// Shows what was said so far: more takes a while.
    pub(crate) fn flush(&mut self) {
        if self.failed.is_none() {
            self.failed = self.to.flush().err();
        }
    }

    /// Nobody will see what is still said.
    #[cfg(any(planted, test))]
    pub(crate) fn is_lost(&self) -> bool {
        self.failed.is_some()
    }

    /// Ends the program: how, and with which code.
    pub(crate) fn end(mut self, done: anyhow::Result<u8>) -> u8 {
        self.flush();
        let code = done.unwrap_or_else(|error| {
            aside(format_args!("error: {error:#}"));
            USAGE
        });
        // Whoever has read enough, as `head` has, misses nothing.
        let Some(error) = self.failed.filter(|e| e.kind() != ErrorKind::BrokenPipe) else {
            return code;
        };
        aside(format_args!(
            "error: the result cannot be written: {error}; send standard output to another place"
        ));
        match code {
            BROKEN => BROKEN,
            _ => USAGE,
        }
    }
}

/// Ends the program from a thread that the rest does not hear: a run stands still.
pub(crate) fn last_word(told: &str, code: u8) {
    let _ = writeln!(std::io::stdout(), "{told}");
    std::process::exit(i32::from(code));
}

/// What is not the result: progress, warnings, errors. Lost where nobody can be
/// told.
pub(crate) fn aside(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn code(kind: ErrorKind, done: u8) -> u8 {
        let mut out = Out::of(Box::new(Failing(kind)));
        out.line("something");
        out.flush();
        assert!(out.is_lost());
        out.line("more");
        out.end(Ok(done))
    }

    #[test]
    fn a_reader_that_has_left_changes_nothing_and_a_full_disk_is_an_error() {
        assert_eq!(code(ErrorKind::BrokenPipe, 0), 0);
        assert_eq!(code(ErrorKind::BrokenPipe, BROKEN), BROKEN);
        assert_eq!(code(ErrorKind::StorageFull, 0), USAGE);
    }

    #[test]
    fn a_broken_promise_goes_before_a_full_disk() {
        assert_eq!(code(ErrorKind::StorageFull, BROKEN), BROKEN);
    }
}
