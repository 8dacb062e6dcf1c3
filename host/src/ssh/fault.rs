//! Why there is no link, or no longer one.

use std::fmt;

/// What is wrong, by what would mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SshFaultKind {
    /// Nothing can be tried before somebody changes the configuration.
    Config,
    /// Nobody answers there.
    Unreachable,
    /// It did not come about in time.
    Timeout,
    /// It is not, or may not be, the computer that it was (S3).
    HostKey,
    /// It does not let us in.
    Auth,
    /// It runs commands and has no file transfer.
    SftpOff,
    /// It was there, and is no longer.
    Lost,
}

impl SshFaultKind {
    /// The kind's name, as it stands in logs and answers.
    pub fn name(self) -> &'static str {
        match self {
            SshFaultKind::Config => "config",
            SshFaultKind::Unreachable => "unreachable",
            SshFaultKind::Timeout => "timeout",
            SshFaultKind::HostKey => "host-key",
            SshFaultKind::Auth => "auth",
            SshFaultKind::SftpOff => "sftp-off",
            SshFaultKind::Lost => "lost",
        }
    }
}

impl fmt::Display for SshFaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A fault, in a sentence for people: which computer, what failed, what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SshFault {
    /// What is wrong.
    pub kind: SshFaultKind,
    /// The sentence; carries no secret.
    pub message: String,
}

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
pub(crate) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_bounded_and_obeyed_by_no_terminal() {
        let fault = SshFault::new(
            SshFaultKind::Lost,
            format!("\x1b[2Jgone\r\n{}", "é".repeat(2_000)),
        );
        assert!(fault.message.starts_with(" [2Jgone  é"));
        assert!(fault.message.len() <= MAX_MESSAGE_BYTES);
    }
}
