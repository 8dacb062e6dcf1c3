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

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::Dispatcher;
use crate::config::Config;
use crate::ids::TurnId;
use crate::io::{Effect, Input};
use crate::time::Now;

/// The version of the frames and of what stands before [`Build`] in a start.
pub const FORMAT: u32 = 1;

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
    digest = fnv1a(digest, include_bytes!("config.rs"));
    digest = fnv1a(digest, include_bytes!("event.rs"));
    digest = fnv1a(digest, include_bytes!("ids.rs"));
    digest = fnv1a(digest, include_bytes!("io.rs"));
    digest = fnv1a(digest, include_bytes!("liveness.rs"));
    digest = fnv1a(digest, include_bytes!("store/rows.rs"));
    digest = fnv1a(digest, include_bytes!("store/verb.rs"));
    digest = fnv1a(digest, include_bytes!("time.rs"));
    fnv1a(digest, include_bytes!("transcript.rs"))
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
    Step(Step),
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

/// Why an entry could not be recorded: a value that postcard cannot express,
/// or one beyond [`MAX_PAYLOAD_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this input cannot be journaled: {0}")]
pub struct Unwritable(String);

/// Writes frames into memory; whoever owns it moves them on. Keeps its
/// buffers, for it runs with every input.
///
/// Call order: [`start`](Recorder::start) once a Dispatcher; then for each
/// input [`input`](Recorder::input) before it is handled,
/// [`effect`](Recorder::effect) for each effect drained, and
/// [`finish`](Recorder::finish), or [`panicked`](Recorder::panicked).
#[derive(Default)]
pub struct Recorder {
    out: Vec<u8>,
    /// Where the unfinished frame begins.
    open: Option<usize>,
    n: u64,
    digest: Digest,
}

impl core::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Recorder")
            .field("n", &self.n)
            .field("bytes", &self.out.len())
            .finish_non_exhaustive()
    }
}

impl Recorder {
    /// Opens a segment.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn start(&mut self, start: &Start) -> Result<(), Unwritable> {
        self.drop_open();
        self.n = 0;
        self.digest = Digest::default();
        self.begin(START);
        self.put(&FORMAT)?;
        self.put(&Build::this())?;
        self.put(start)?;
        self.end()
    }

    /// Begins the entry of an input that is about to be handled.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn input(&mut self, now: Now, input: &Input) -> Result<(), Unwritable> {
        self.drop_open();
        self.begin(STEP);
        let n = self.n;
        self.put(&n)?;
        self.put(&now)?;
        self.put(input)
    }

    /// Takes note of an effect that was drained.
    pub fn effect(&mut self, effect: &Effect) {
        self.digest.effect(effect);
    }

    /// Completes the entry: all its effects are drained.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn finish(&mut self) -> Result<(), Unwritable> {
        let digest = self.digest.take();
        self.complete(Effects::Digest(digest))
    }

    /// Completes the entry of an input at which the Dispatcher panicked.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn panicked(&mut self) -> Result<(), Unwritable> {
        self.digest.take();
        self.complete(Effects::Panicked)
    }

    /// The complete frames that were not taken away yet.
    pub fn frames(&self) -> &[u8] {
        &self.out[..self.open.unwrap_or(self.out.len())]
    }

    /// Forgets the complete frames; an entry that is begun stays.
    pub fn clear(&mut self) {
        let complete = self.frames().len();
        self.out.drain(..complete);
        self.open = self.open.map(|_| 0);
    }

    fn complete(&mut self, effects: Effects) -> Result<(), Unwritable> {
        if self.open.is_none() {
            return Ok(());
        }
        self.put(&effects)?;
        self.end()?;
        self.n += 1;
        Ok(())
    }

    fn begin(&mut self, kind: [u8; 4]) {
        self.open = Some(self.out.len());
        self.out.extend_from_slice(&kind);
        self.out.extend_from_slice(&[0; 8]);
    }

    fn put<T: Serialize>(&mut self, value: &T) -> Result<(), Unwritable> {
        let put = postcard::serialize_with_flavor(value, Appended(&mut self.out));
        put.map_err(|cause| {
            self.drop_open();
            Unwritable(cause.to_string())
        })
    }

    fn end(&mut self) -> Result<(), Unwritable> {
        let Some(start) = self.open else {
            return Ok(());
        };
        let payload = self.out.len() - start - HEAD_BYTES;
        let length = u32::try_from(payload).ok();
        let Some(length) = length.filter(|_| payload <= MAX_PAYLOAD_BYTES) else {
            self.drop_open();
            return Err(Unwritable(alloc::format!("it has {payload} bytes")));
        };
        self.out[start + 4..start + 8].copy_from_slice(&length.to_le_bytes());
        let check = head_check(&self.out[start..start + 8]);
        self.out[start + 8..start + 12].copy_from_slice(&check);
        let whole = xxh3_64(&self.out[start..]);
        self.out.extend_from_slice(&whole.to_le_bytes());
        self.open = None;
        Ok(())
    }

    fn drop_open(&mut self) {
        if let Some(start) = self.open.take() {
            self.out.truncate(start);
        }
    }
}

fn head_check(head: &[u8]) -> [u8; 4] {
    let [a, b, c, d, ..] = xxh3_64(head).to_le_bytes();
    [a, b, c, d]
}

/// Postcard straight into a vector that exists.
struct Appended<'v>(&'v mut Vec<u8>);

impl Flavor for Appended<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Digests effects without keeping their bytes: a request's body may have
/// megabytes. Replay uses it as the recorder does.
pub struct Digest {
    hasher: Xxh3,
    /// Collects the small writes, of which postcard makes many.
    small: [u8; 128],
    used: usize,
}

impl Default for Digest {
    fn default() -> Self {
        Digest {
            hasher: Xxh3::new(),
            small: [0; 128],
            used: 0,
        }
    }
}

impl core::fmt::Debug for Digest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Digest")
    }
}

impl Digest {
    /// Adds an effect.
    pub fn effect(&mut self, effect: &Effect) {
        // An effect that postcard cannot express is digested as far as it
        // could: the same bytes in every run.
        let _ = postcard::serialize_with_flavor(effect, Digested(self));
    }

    /// The digest of what was added since the last call.
    pub fn take(&mut self) -> u64 {
        self.flush();
        let digest = self.hasher.digest();
        self.hasher.reset();
        digest
    }

    fn flush(&mut self) {
        self.hasher.update(&self.small[..self.used]);
        self.used = 0;
    }
}

struct Digested<'d>(&'d mut Digest);

impl Flavor for Digested<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.0.used == self.0.small.len() {
            self.0.flush();
        }
        self.0.small[self.0.used] = byte;
        self.0.used += 1;
        Ok(())
    }
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        if self.0.used + bytes.len() > self.0.small.len() {
            self.0.flush();
        }
        match self.0.small.get_mut(self.0.used..self.0.used + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.0.used += bytes.len();
            }
            None => self.0.hasher.update(bytes),
        }
        Ok(())
    }
    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Why a journal cannot be read on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// A frame is damaged, or out of its order.
    #[error("corrupt at byte {offset}: {what}")]
    Corrupt {
        /// Where the frame begins.
        offset: u64,
        /// What is the matter with it.
        what: &'static str,
    },
    /// Inputs and effects had another shape then.
    #[error("recorded by another build: {}", other_build(*.format, .build.as_ref()))]
    OtherBuild {
        /// The journal's [`FORMAT`].
        format: u32,
        /// Who wrote it; `None` where even that cannot be read.
        build: Option<Build>,
    },
}

fn other_build(format: u32, build: Option<&Build>) -> String {
    let this = Build::this();
    match build {
        Some(build) => alloc::format!(
            "version {} with codec {:016x}; this is version {} with codec {:016x}",
            build.version,
            build.codec,
            this.version,
            this.codec
        ),
        None => alloc::format!("journal format {format}; this build reads format {FORMAT}"),
    }
}

/// How a journal's bytes end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// With a whole frame.
    Whole,
    /// In the middle of a frame, as after a crash: legal.
    Torn {
        /// Where that frame begins: so many bytes are good.
        at: u64,
    },
}

/// Reads frames from bytes that come in pieces of any size. Holds no more than
/// one frame and the piece that was fed last.
#[derive(Debug, Default)]
pub struct Reader {
    bytes: Vec<u8>,
    /// Bytes of `bytes` that were read.
    read: usize,
    /// Offset in the journal of `bytes[0]`.
    offset: u64,
    /// The next entry's number; `None` before the first start.
    next: Option<u64>,
    /// Since where there was nothing but zeros: what some filesystems leave at
    /// the end of a file after a loss of power.
    zeros: Option<u64>,
}

/// A frame whose checksum is right, by offset and kind; not decoded.
#[derive(Debug)]
struct Frame {
    at: u64,
    kind: [u8; 4],
    payload: core::ops::Range<usize>,
}

impl Reader {
    /// Takes more bytes.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.read);
        self.offset += self.read as u64;
        self.read = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next entry; `None`: feed more.
    ///
    /// # Errors
    /// [`Unreadable`]; there is no reading on after it.
    pub fn entry(&mut self) -> Result<Option<Entry>, Unreadable> {
        let Some(frame) = self.frame()? else {
            return Ok(None);
        };
        let payload = &self.bytes[frame.payload];
        let corrupt = |what| Unreadable::Corrupt {
            offset: frame.at,
            what,
        };
        if frame.kind == START {
            self.next = Some(0);
            return start(payload, corrupt).map(|start| Some(Entry::Start(Box::new(start))));
        }
        let Some(n) = self.next else {
            return Err(corrupt("an input before any start"));
        };
        match postcard::take_from_bytes::<Step>(payload) {
            Ok((step, [])) if step.n == n => {
                self.next = Some(n + 1);
                Ok(Some(Entry::Step(step)))
            }
            Ok((_, [])) => Err(corrupt("inputs are missing before it")),
            Ok(_) | Err(_) => Err(corrupt("its payload is no input")),
        }
    }

    /// Skips over the next whole frame without decoding it, whatever build
    /// wrote it; `false`: feed more.
    ///
    /// # Errors
    /// [`Unreadable::Corrupt`].
    pub fn skip(&mut self) -> Result<bool, Unreadable> {
        self.frame().map(|frame| frame.is_some())
    }

    /// How the journal ends, once everything was fed and read.
    pub fn tail(&self) -> Tail {
        match self.zeros {
            Some(at) => Tail::Torn { at },
            None if self.bytes.len() == self.read => Tail::Whole,
            None => Tail::Torn { at: self.at() },
        }
    }

    /// Where the next frame begins.
    fn at(&self) -> u64 {
        self.offset + self.read as u64
    }

    fn frame(&mut self) -> Result<Option<Frame>, Unreadable> {
        let at = self.zeros.unwrap_or(self.at());
        let rest = &self.bytes[self.read..];
        let corrupt = |what| Unreadable::Corrupt { offset: at, what };
        let known = rest.len().min(4);
        let begins = rest[..known] == START[..known] || rest[..known] == STEP[..known];
        if self.zeros.is_some() || !begins {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(corrupt("no entry begins here"));
            }
            self.zeros = Some(at);
            self.read = self.bytes.len();
            return Ok(None);
        }
        let Some(head) = rest.first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let [k0, k1, k2, k3, l0, l1, l2, l3, check @ ..] = *head;
        if head_check(&head[..8]) != check {
            return Err(corrupt("its head is damaged"));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return Err(corrupt("its length is beyond any input's"));
        }
        let end = HEAD_BYTES + length;
        let (Some(body), Some(sum)) = (
            rest.get(..end),
            rest.get(end..)
                .and_then(|sum| sum.first_chunk::<CHECK_BYTES>()),
        ) else {
            return Ok(None);
        };
        if xxh3_64(body) != u64::from_le_bytes(*sum) {
            return Err(corrupt("its checksum does not match"));
        }
        let payload = self.read + HEAD_BYTES..self.read + end;
        self.read += end + CHECK_BYTES;
        Ok(Some(Frame {
            at,
            kind: [k0, k1, k2, k3],
            payload,
        }))
    }
}

fn start(
    payload: &[u8],
    corrupt: impl Fn(&'static str) -> Unreadable,
) -> Result<Start, Unreadable> {
    const NO_START: &str = "its payload is no start";
    let Ok((format, rest)) = postcard::take_from_bytes::<u32>(payload) else {
        return Err(corrupt(NO_START));
    };
    if format != FORMAT {
        return Err(Unreadable::OtherBuild {
            format,
            build: None,
        });
    }
    let Ok((build, rest)) = postcard::take_from_bytes::<Build>(rest) else {
        return Err(corrupt(NO_START));
    };
    if build != Build::this() {
        return Err(Unreadable::OtherBuild {
            format,
            build: Some(build),
        });
    }
    match postcard::take_from_bytes::<Start>(rest) {
        Ok((start, [])) => Ok(start),
        Ok(_) | Err(_) => Err(corrupt(NO_START)),
    }
}

#[cfg(test)]
mod tests;
