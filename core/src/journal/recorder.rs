//! From inputs to frames.

use alloc::string::{String, ToString};
use alloc::vec::Vec;
use postcard::ser_flavors::Flavor;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Build, Digest, Effects, FORMAT, HEAD_BYTES, MAX_PAYLOAD_BYTES, START, STEP, Start, head_check,
};
use crate::io::{Effect, Input};
use crate::time::Now;

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
    pub(super) out: Vec<u8>,
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

    /// Completes the entry: all its effects are drained. Without one begun, what
    /// was drained counts for the next.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn finish(&mut self) -> Result<(), Unwritable> {
        if self.open.is_none() {
            return Ok(());
        }
        let digest = self.digest.take();
        self.complete(Effects::Digest(digest))
    }

    /// Completes the entry of an input at which the Dispatcher panicked.
    ///
    /// # Errors
    /// [`Unwritable`]; nothing is written then.
    pub fn panicked(&mut self) -> Result<(), Unwritable> {
        self.digest.take();
        if self.open.is_none() {
            return Ok(());
        }
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
        self.put(&effects)?;
        self.end()?;
        self.n += 1;
        Ok(())
    }

    pub(super) fn begin(&mut self, kind: [u8; 4]) {
        self.open = Some(self.out.len());
        self.out.extend_from_slice(&kind);
        self.out.extend_from_slice(&[0; 8]);
    }

    pub(super) fn put<T: Serialize>(&mut self, value: &T) -> Result<(), Unwritable> {
        let put = postcard::serialize_with_flavor(value, Appended(&mut self.out));
        put.map_err(|cause| {
            self.drop_open();
            Unwritable(cause.to_string())
        })
    }

    pub(super) fn end(&mut self) -> Result<(), Unwritable> {
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
