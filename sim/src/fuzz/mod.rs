//! What is fuzzed (P2, V6): one function a target, called by libFuzzer, by the
//! replay of the committed corpus and by pseudo-random inputs in `cargo test`.
//!
//! A target reads what it needs from an [`Unstructured`], does it, and panics
//! where a property does not hold. Where the subject reads text, its bytes
//! stand in the input as they are, behind a few bytes of control, so that a
//! transcript can be put into the corpus by hand.

pub mod chat;
pub mod classify;
pub mod dispatcher;
mod draw;
pub mod journal;
pub mod request;
pub mod sse;

use arbitrary::Unstructured;

/// A property over bytes; panics where it does not hold. An `Err` means that
/// the bytes did not suffice, and is no failure.
pub type Target = fn(&mut Unstructured<'_>) -> arbitrary::Result<()>;

/// Every target by its name, which is also that of its corpus.
pub const TARGETS: &[(&str, Target)] = &[
    ("chat", chat::target),
    ("classify", classify::target),
    ("dispatcher", dispatcher::target),
    ("journal", journal::target),
    ("request", request::target),
    ("sse", sse::target),
];

/// The ways in which a stream is cut into chunks besides not at all.
#[derive(Clone, Copy, Debug)]
enum Cuts {
    /// So many bytes each.
    Every(usize),
    /// Sizes from 0 to 15, empty chunks included, drawn from a seed.
    Drawn(u32),
}

/// Cuts that every stream is tried with: byte by byte, and two ways that the
/// input chooses.
fn cuts(choice: u8) -> [Cuts; 3] {
    [
        Cuts::Every(1),
        Cuts::Every(usize::from(choice).max(2)),
        Cuts::Drawn(u32::from(choice)),
    ]
}

impl Cuts {
    fn chunks(self, stream: &[u8]) -> Vec<&[u8]> {
        match self {
            Cuts::Every(size) => stream.chunks(size).collect(),
            Cuts::Drawn(seed) => drawn(seed, stream),
        }
    }
}

fn drawn(seed: u32, mut rest: &[u8]) -> Vec<&[u8]> {
    let mut state = seed.wrapping_mul(0x9E37_79B9) | 1;
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let (chunk, after) = rest.split_at(rest.len().min((state >> 8) as usize % 16));
        chunks.push(chunk);
        rest = after;
    }
    chunks
}

/// All that is left of the input.
fn rest<'a>(u: &mut Unstructured<'a>) -> arbitrary::Result<&'a [u8]> {
    u.bytes(u.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_way_of_cutting_loses_or_moves_a_byte() {
        let stream: Vec<u8> = (0..=255).collect();
        for choice in 0..=255 {
            for cut in cuts(choice) {
                assert_eq!(cut.chunks(&stream).concat(), stream, "{cut:?}");
            }
        }
        assert!(cuts(7)[2].chunks(&stream).iter().any(|c| c.is_empty()));
    }
}
