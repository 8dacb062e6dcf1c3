//! Computers that are reached over SSH, as far as the core and its driver speak
//! about them: what went wrong, how a link stands, and how long things take.

use alloc::string::String;
use serde::{Deserialize, Serialize};

use crate::time::Timestamp;

/// Why there is no link, or none any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct SshFault {
    /// What broke.
    pub kind: SshFaultKind,
    /// For people, with what to do about it; secrets masked.
    pub message: String,
}

/// Most bytes of a fault's message.
const MAX_MESSAGE_BYTES: usize = 2_048;

impl SshFault {
    /// A fault. What the other side wrote may be in `message`: it is bounded,
    /// and control characters are shown and not obeyed.
    pub fn new(kind: SshFaultKind, message: impl Into<String>) -> SshFault {
        let mut message = visible(&message.into());
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        SshFault { kind, message }
    }
}

/// `text` without anything that a terminal would act on.
pub fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// What broke between here and a computer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SshFaultKind {
    /// The SSH configuration has no way to it, or forbids it.
    Config,
    /// Nobody answers there.
    Unreachable,
    /// An answer did not come in time.
    Timeout,
    /// Its host key is not the one that was pinned.
    HostKey,
    /// It does not let us in.
    Auth,
    /// It lets us in, and does not speak SFTP.
    SftpOff,
    /// The link was there and is not any more.
    Lost,
}

impl SshFaultKind {
    /// Waiting does not help: somebody has to mend something.
    pub fn is_final(self) -> bool {
        match self {
            SshFaultKind::Config
            | SshFaultKind::HostKey
            | SshFaultKind::Auth
            | SshFaultKind::SftpOff => true,
            SshFaultKind::Unreachable | SshFaultKind::Timeout | SshFaultKind::Lost => false,
        }
    }

    /// Stable, kebab case: for the log and for programs.
    pub fn code(self) -> &'static str {
        match self {
            SshFaultKind::Config => "ssh-config",
            SshFaultKind::Unreachable => "ssh-unreachable",
            SshFaultKind::Timeout => "ssh-timeout",
            SshFaultKind::HostKey => "ssh-host-key",
            SshFaultKind::Auth => "ssh-auth",
            SshFaultKind::SftpOff => "ssh-sftp-off",
            SshFaultKind::Lost => "ssh-lost",
        }
    }
}

/// How the link to a computer stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LinkState {
    /// None, and nobody wants one.
    Closed,
    /// On its way.
    Connecting,
    /// Ready for commands.
    Open,
    /// It failed: not tried again before.
    Waiting {
        /// By the wall clock.
        until: Timestamp,
    },
    /// It failed too often: nothing is begun over it before.
    Quarantined {
        /// By the wall clock.
        until: Timestamp,
    },
}

/// All that is told of a computer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComputerState {
    /// Its link.
    pub link: LinkState,
    /// The last thing that went wrong with it.
    pub fault: Option<SshFault>,
    /// Calls that may be running there.
    pub runs: u32,
}

/// The rules of the pool of links (S4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshTerms {
    /// How long a call that was not started waits for a link.
    pub patience_ms: u64,
    /// Between two questions whether a link is alive.
    pub keepalive_ms: u64,
    /// From such a question to its answer.
    pub alive_ms: u64,
    /// A link that nothing was run over for so long is closed.
    pub idle_ms: u64,
    /// The wait after a first failure; it doubles with each one after it,
    pub backoff_ms: u64,
    /// up to this.
    pub backoff_max_ms: u64,
    /// So many failures or losses
    pub flaps: u32,
    /// within so long
    pub flap_window_ms: u64,
    /// cost so long a quarantine.
    pub quarantine_ms: u64,
    /// From the start of a command to the word that it runs.
    pub start_ms: u64,
    /// Between two looks for commands that nobody watches.
    pub look_ms: u64,
    /// From a client's wish to know whether a computer can be reached to the answer (S2).
    pub test_ms: u64,
    /// Channels in use over one link, the one by which runs are watched among them;
    /// the driver has two more, for the tools' files and for its own questions.
    pub channels: u32,
}

impl Default for SshTerms {
    fn default() -> Self {
        SshTerms {
            patience_ms: 60_000,
            keepalive_ms: 30_000,
            alive_ms: 15_000,
            idle_ms: 900_000,
            backoff_ms: 1_000,
            backoff_max_ms: 60_000,
            flaps: 5,
            flap_window_ms: 300_000,
            quarantine_ms: 300_000,
            start_ms: 30_000,
            look_ms: 600_000,
            test_ms: 30_000,
            channels: 8,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_and_obeyed_by_no_terminal() {
        let fault = SshFault::new(
            SshFaultKind::Lost,
            alloc::format!("\x1b[2Jgone\r\n{}", "é".repeat(2_000)),
        );
        assert!(fault.message.starts_with(" [2Jgone  é"));
        assert!(fault.message.len() <= MAX_MESSAGE_BYTES);
    }
}
