//! Newtypes for every identifier. Parsed once, at the edge; trusted inside.

use alloc::{format, string::String, sync::Arc};
use core::fmt;
use serde::{Deserialize, Serialize};

/// Why a text is not an identifier of the wanted kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadId {
    /// A conversation id has a shape of its own, because clients may choose it.
    #[error(
        "a conversation id is 1 to 64 characters of A-Z a-z 0-9 _ - . and starts with a letter or digit"
    )]
    Conversation,
    /// A turn id is what the server handed out.
    #[error("a turn id is the 26 lower-case characters that the server handed out")]
    Turn,
    /// A workspace slug (C3).
    #[error(
        "a workspace slug is 1 to 40 characters of a-z 0-9 - and neither starts nor ends with -"
    )]
    Slug,
    /// A provider id is a key of the configuration.
    #[error("a provider id is 1 to 40 characters of a-z 0-9 _ -")]
    Provider,
    /// A webhook's name is its own, or its host's.
    #[error("a webhook's name is 1 to 80 characters of a-z 0-9 _ - . :")]
    Endpoint,
    /// A computer is an alias of the SSH configuration.
    #[error(
        "a computer is an SSH alias of 1 to 100 characters of A-Z a-z 0-9 _ - . : @ that starts with a letter, a digit or _"
    )]
    Computer,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $err:ident, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str { &self.0 }
        }
        impl TryFrom<&str> for $name {
            type Error = BadId;
            fn try_from(text: &str) -> Result<Self, BadId> {
                let ok: fn(&[u8]) -> bool = $ok;
                if ok(text.as_bytes()) { Ok($name(text.into())) } else { Err(BadId::$err) }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(&self.0) }
        }
    };
}

text_id!(
    /// Names a conversation; chosen by the server or by a client.
    ConversationId, Conversation,
    |b| (1..=64).contains(&b.len())
        && b[0].is_ascii_alphanumeric()
        && b.iter().all(|c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.'))
);
text_id!(
    /// Names a workspace: `^[a-z0-9](?:[a-z0-9-]{0,38}[a-z0-9])?$` (C3).
    Slug, Slug,
    |b| (1..=40).contains(&b.len())
        && b[0] != b'-'
        && b[b.len() - 1] != b'-'
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
);
text_id!(
    /// Names a provider: its key in the configuration.
    ProviderId, Provider,
    |b| (1..=40).contains(&b.len())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-'))
);

text_id!(
    /// Names an endpoint that is told of terminal events (C7).
    EndpointId, Endpoint,
    |b| (1..=80).contains(&b.len())
        && b.iter().all(|c| {
            c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-' | b'.' | b':')
        })
);

text_id!(
    /// Names a computer that tools run on: an alias of the SSH configuration. It
    /// can never be taken for an option of a program that it is handed to.
    ComputerId, Computer,
    |b| (1..=100).contains(&b.len())
        && (b[0].is_ascii_alphanumeric() || b[0] == b'_')
        && b.iter().all(|c| {
            c.is_ascii_alphanumeric() || matches!(c, b'_' | b'-' | b'.' | b':' | b'@')
        })
);

impl ComputerId {
    /// The name of the computer that the server itself runs on: it takes a
    /// conversation back from its workspace's computer.
    pub const LOCAL: &'static str = "local";

    /// Whether it is [`ComputerId::LOCAL`].
    pub fn is_local(&self) -> bool {
        self.as_str() == ComputerId::LOCAL
    }
}

impl Slug {
    /// The workspace that is always there (C3).
    pub fn default_workspace() -> Slug {
        Slug("default".into())
    }
}

/// Crockford's alphabet in lower case: sortable, and no letter to mistake for a digit.
const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// 48 bits of wall time and 80 of randomness in 26 characters that sort by time.
pub(crate) fn time_ordered(wall_ms: u64, random: u128) -> u128 {
    (u128::from(wall_ms) << 80) | (random & ((1 << 80) - 1))
}

fn encode(value: u128) -> String {
    (0..26u32)
        .rev()
        .map(|i| char::from(ALPHABET[((value >> (5 * i)) & 31) as usize]))
        .collect()
}

fn decode(text: &str) -> Option<u128> {
    if text.len() != 26 {
        return None;
    }
    text.bytes().try_fold(0u128, |value, c| {
        let digit = ALPHABET.iter().position(|a| *a == c)?;
        // 26 characters carry 130 bits: the two topmost must be zero.
        (value >> 123 == 0).then_some((value << 5) | digit as u128)
    })
}

/// Names a turn; handed out by the core, ordered by time of acceptance.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TurnId(pub u128);

impl fmt::Display for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(self.0))
    }
}
impl fmt::Debug for TurnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(self.0))
    }
}
impl TryFrom<&str> for TurnId {
    type Error = BadId;
    fn try_from(text: &str) -> Result<Self, BadId> {
        decode(text).map(TurnId).ok_or(BadId::Turn)
    }
}

impl ConversationId {
    /// A conversation id of the server's own making.
    pub(crate) fn generated(value: u128) -> ConversationId {
        ConversationId(format!("c-{}", encode(value)).into())
    }
}

/// Counts the ownerships of a conversation: rises with every grant, park, sweep
/// and election, so that a write that carries an old one can be refused.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch(pub u64);

/// A position in a conversation's log: no gap, commit order.
pub type Seq = u64;

/// Names one effect in flight, so that its completion finds its cause. The
/// incarnation distinguishes late replies to a Dispatcher that was rebuilt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EffectId {
    /// Which life of this process's Dispatcher.
    pub incarnation: u32,
    /// Counts effects within that life.
    pub n: u64,
}

/// Names one request of a client that the driver waits to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct CommandId(pub u64);

/// Who owns a turn: one life of one replica.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Owner {
    /// The replica's stable name.
    pub node: Arc<str>,
    /// Drawn anew at every start of the process.
    pub boot: u64,
    /// Counts rebuilds of the Dispatcher within one boot.
    pub incarnation: u32,
}
