//! The input journal (O3): everything that a Dispatcher was told, with a digest
//! of what it did, so that an incident can be run again.
//!
//! A journal is a sequence of frames. A [`Start`] opens a segment, one life of
//! one Dispatcher; the [`Step`]s after it are its inputs. A frame is
//!
//! | bytes | what |
//! |---|---|
//! | 4 | kind: [`START`] or [`STEP`] |
//! | 4 | length of the payload, little-endian |
//! | 4 | check of those eight: the low half of their XXH3 |
//! | n | payload, postcard |
//! | 8 | XXH3 of all that stands before it in the frame, little-endian |
//!
//! The check of its own tells a length that was damaged from a file that ends
//! too early: only the latter is a torn tail, which a crash may leave.
//!
//! Message texts and tool output necessarily enter a journal. Credentials do
//! not: the core never sees them (P4).

mod digest;
mod reader;
mod recorder;
#[cfg(test)]
mod tests;

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::Dispatcher;
use crate::config::Config;
use crate::ids::TurnId;
use crate::io::Input;
use crate::time::Now;

pub use digest::Digest;
pub use reader::{Reader, Tail, Unreadable};
pub use recorder::{Recorder, Unwritable};

/// The version of the frames and of what stands before [`Build`] in a start.
pub const FORMAT: u32 = 3;

/// A frame that opens a segment.
pub const START: [u8; 4] = *b"DJs1";
/// A frame that holds an input.
pub const STEP: [u8; 4] = *b"DJi1";

/// Above this a length is damage: no input comes near it.
pub const MAX_PAYLOAD_BYTES: usize = 256 * 1024 * 1024;

const HEAD_BYTES: usize = 12;
const CHECK_BYTES: usize = 8;

/// What must be the same for a journal to be read, let alone replayed alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    /// The core's version.
    pub version: String,
    /// Digest of the sources that shape inputs and effects.
    pub codec: u64,
}

impl Build {
    /// This build's.
    pub fn this() -> Build {
        Build {
            version: env!("CARGO_PKG_VERSION").to_string(),
            codec: CODEC,
        }
    }
}

/// FNV-1a over the sources of everything that is part of an input or an effect.
const CODEC: u64 = {
    let mut digest = 0xcbf2_9ce4_8422_2325;
    digest = fnv1a(digest, include_bytes!("admission.rs"));
    digest = fnv1a(digest, include_bytes!("computer.rs"));
    digest = fnv1a(digest, include_bytes!("config.rs"));
    digest = fnv1a(digest, include_bytes!("event.rs"));
    digest = fnv1a(digest, include_bytes!("ids.rs"));
    digest = fnv1a(digest, include_bytes!("io.rs"));
    digest = fnv1a(digest, include_bytes!("liveness.rs"));
    digest = fnv1a(digest, include_bytes!("store/rows.rs"));
    digest = fnv1a(digest, include_bytes!("store/verb.rs"));
    digest = fnv1a(digest, include_bytes!("time.rs"));
    digest = fnv1a(digest, include_bytes!("transcript.rs"));
    fnv1a(digest, include_bytes!("webhook.rs"))
};

const fn fnv1a(mut digest: u64, bytes: &[u8]) -> u64 {
    let mut n = 0;
    while n < bytes.len() {
        digest = (digest ^ bytes[n] as u64).wrapping_mul(0x0100_0000_01b3);
        n += 1;
    }
    digest
}

/// One frame's meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A Dispatcher begins.
    Start(Box<Start>),
    /// It was told something.
    Step(Box<Step>),
}

/// How a Dispatcher began: enough to make it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Its configuration; names its replica and boot, holds no credentials.
    pub config: Config,
    /// Its randomness.
    pub seed: [u8; 32],
    /// The time it was made at.
    pub now: Now,
    /// Whether it is the process's first.
    pub life: Life,
}

/// Which constructor made a Dispatcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Life {
    /// [`Dispatcher::new`].
    First,
    /// [`Dispatcher::rebuilt`], after a panic (L7).
    Rebuilt {
        /// The turn whose input it was.
        seal: Option<TurnId>,
    },
}

impl Start {
    /// The Dispatcher that began so.
    pub fn dispatcher(&self) -> Dispatcher {
        let config = self.config.clone();
        match self.life {
            Life::First => Dispatcher::new(config, self.seed, self.now),
            Life::Rebuilt { seal } => Dispatcher::rebuilt(config, self.seed, self.now, seal),
        }
    }
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Counts the segment's inputs from 0.
    pub n: u64,
    /// The time handed in with it.
    pub now: Now,
    /// The input.
    pub input: Input,
    /// What came of it.
    pub effects: Effects,
}

/// What came of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effects {
    /// XXH3 over the postcard of every effect drained since the input before.
    Digest(u64),
    /// The Dispatcher panicked; the segment ends here.
    Panicked,
}

impl core::fmt::Display for Effects {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Effects::Digest(digest) => write!(f, "effects {digest:016x}"),
            Effects::Panicked => f.write_str("a panic"),
        }
    }
}

fn head_check(head: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh3_64(head).to_le_bytes();
    [a, b, c, d]
}
