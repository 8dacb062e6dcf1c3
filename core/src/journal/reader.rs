//! From bytes to entries.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use xxhash_rust::xxh3::xxh3_64;

use super::{
    Build, CHECK_BYTES, Entry, FORMAT, HEAD_BYTES, MAX_PAYLOAD_BYTES, START, STEP, Start, Step,
    head_check,
};

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
                Ok(Some(Entry::Step(Box::new(step))))
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
    pub(super) fn at(&self) -> u64 {
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
