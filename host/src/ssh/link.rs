//! What carries tools to another computer.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use russh_sftp::client::SftpSession;

/// An open connection to another computer.
pub trait Link: Send + Sync + 'static {
    /// Runs `command` with the login shell over there, `input` on its standard
    /// input; output and error bounded (1 MB each).
    fn exec(
        &self,
        command: String,
        input: Vec<u8>,
    ) -> BoxFuture<'static, Result<ExecDone, LinkError>>;

    /// The SFTP session of this link, opened at first use and shared.
    fn files(&self) -> BoxFuture<'static, Result<Arc<SftpSession>, LinkError>>;
}

/// How a command ended that was run over a link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecDone {
    /// Its exit code, if it has one.
    pub code: Option<u32>,
    /// The name of the signal that ended it, without `SIG`.
    pub signal: Option<String>,
    /// What it wrote to standard output, bounded.
    pub output: Vec<u8>,
    /// What it wrote to standard error, bounded.
    pub error: Vec<u8>,
}

/// Why something could not be done over a link.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The link is gone; whether the request arrived is unknown.
    #[error("the connection was lost: {cause}")]
    Lost {
        /// What was seen of it.
        cause: String,
    },
    /// No channel was granted; nothing was done.
    #[error(
        "the computer grants no further channel: {cause}; raise MaxSessions in its sshd_config"
    )]
    Refused {
        /// What it said.
        cause: String,
    },
    /// The computer offers no SFTP.
    #[error("the computer offers no SFTP: {cause}; enable the subsystem sftp in its sshd_config")]
    SftpOff {
        /// What it said.
        cause: String,
    },
}
