//! What a link to a computer is used for.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use russh_sftp::client::SftpSession;

use dispatch_core::computer::SshFault;

/// Most bytes that are kept of a command's output, and of its error output.
pub const MAX_EXEC_BYTES: usize = 1024 * 1024;

/// A command that ended over there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecDone {
    /// Its exit code, unless a signal ended it.
    pub code: Option<u32>,
    /// The signal that ended it, without `SIG`: `TERM`.
    pub signal: Option<String>,
    /// The first [`MAX_EXEC_BYTES`] of its standard output.
    pub output: Vec<u8>,
    /// The first [`MAX_EXEC_BYTES`] of its standard error.
    pub error: Vec<u8>,
}

/// Why a link did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is down, or the command's end was lost: whether it ran is not
    /// known. The fault is the link's own, where there is one.
    #[error(transparent)]
    Down(SshFault),
    /// The computer takes no further channel. Nothing was started, and the link
    /// is as good as before.
    #[error(
        "{computer} refused another channel ({reason}); wait until a command there has ended, or raise MaxSessions in its sshd_config"
    )]
    Refused {
        /// Which computer.
        computer: String,
        /// What it said.
        reason: String,
    },
    /// The computer runs no commands for this user. Nothing was started.
    #[error(
        "{computer} refused to run a command; check ForceCommand and the shell of the user there"
    )]
    NoExec {
        /// Which computer.
        computer: String,
    },
    /// There is no file transfer; commands may well run.
    #[error(transparent)]
    NoFiles(SshFault),
}

impl LinkError {
    /// The fault behind it, where it is about more than this one request.
    pub fn fault(&self) -> Option<&SshFault> {
        match self {
            LinkError::Down(fault) | LinkError::NoFiles(fault) => Some(fault),
            LinkError::Refused { .. } | LinkError::NoExec { .. } => None,
        }
    }
}

/// A link to a computer: commands and files.
pub trait Link: Send + Sync + 'static {
    /// The computer, as faults name it.
    fn computer(&self) -> &str;

    /// Runs `command` with the login shell over there, `input` on its standard
    /// input; output and error are bounded ([`MAX_EXEC_BYTES`] each), what is
    /// beyond is read and dropped.
    ///
    /// Comes back when the command and everything that holds its output have
    /// ended. Dropping the future closes the channel: the command is not
    /// stopped by that, but loses its output.
    fn exec(
        &self,
        command: String,
        input: Vec<u8>,
    ) -> BoxFuture<'static, Result<ExecDone, LinkError>>;

    /// The SFTP session of this link, opened at first use and shared; opened
    /// again, should it have ended while the link did not.
    ///
    /// A request on it waits for its answer up to half a minute, also on a link
    /// that goes down meanwhile: race it with the link's end.
    fn files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>>;

    /// Another one, for files that are anybody's. A file system over there that
    /// does not answer holds up all of a session, and by [`Link::files`] it is
    /// watched what runs.
    fn tool_files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>>;
}
