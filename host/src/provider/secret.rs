use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};

/// A credential. Its text leaves only through [`Secret::expose`]; whatever
/// prints it shows `***` (P4).
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes the text without the white space around it (files end in a line
    /// break). `None` when nothing is left: no credential is configured.
    pub fn new(text: &str) -> Option<Secret> {
        let text = text.trim();
        (!text.is_empty()).then(|| Secret(text.into()))
    }

    /// The text itself, for the one header that carries it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Every configured secret, to be masked in whatever leaves this module (T3, P4).
#[derive(Clone, Debug, Default)]
pub struct Secrets(Arc<[Secret]>);

impl Secrets {
    /// Collects the secrets to mask.
    pub fn new(secrets: impl IntoIterator<Item = Secret>) -> Secrets {
        let mut secrets: Vec<Secret> = secrets.into_iter().collect();
        // Of two secrets that begin alike the longer one must win, or its tail
        // would stay readable.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.0.len()));
        Secrets(secrets.into())
    }

    /// `text` with every secret replaced by `***`. Secrets below four bytes are
    /// left alone: they protect nothing and would garble every message.
    pub fn mask(&self, text: &str) -> String {
        let mut stream = self.stream(MIN_MESSAGE_BYTES);
        let mut masked = stream
            .push(Bytes::copy_from_slice(text.as_bytes()))
            .to_vec();
        masked.extend_from_slice(&stream.finish());
        String::from_utf8_lossy(&masked).into_owned()
    }

    /// A mask for a refusal's body, which vendors like to decorate with the key.
    pub(crate) fn refusal_stream(&self) -> MaskStream {
        self.stream(MIN_MESSAGE_BYTES)
    }

    /// A mask for an answer's body. Only secrets of 16 bytes and more: local
    /// servers take keys such as `ollama`, a word that a model may well say.
    pub(crate) fn answer_stream(&self) -> MaskStream {
        self.stream(MIN_ANSWER_BYTES)
    }

    fn stream(&self, min_bytes: usize) -> MaskStream {
        let needles: Vec<Secret> = self
            .0
            .iter()
            .filter(|secret| secret.0.len() >= min_bytes)
            .cloned()
            .collect();
        let mut starts = [false; 256];
        for needle in &needles {
            if let Some(first) = needle.0.as_bytes().first() {
                starts[usize::from(*first)] = true;
            }
        }
        MaskStream {
            needles,
            starts,
            held: Bytes::new(),
        }
    }
}

/// Masks secrets in bytes that come in pieces. Holds back only a piece's end
/// that could be the beginning of a secret; copies only where it must.
pub(crate) struct MaskStream {
    needles: Vec<Secret>,
    starts: [bool; 256],
    held: Bytes,
}

impl MaskStream {
    /// What of the stream so far is certain; may be empty.
    pub(crate) fn push(&mut self, piece: Bytes) -> Bytes {
        if self.needles.is_empty() {
            return piece;
        }
        let input = if self.held.is_empty() {
            piece
        } else {
            let mut joined = BytesMut::from(&self.held[..]);
            joined.extend_from_slice(&piece);
            joined.freeze()
        };
        let (out, rest_at) = self.scan(&input, false);
        self.held = input.slice(rest_at..);
        out
    }

    /// What was held back, when nothing more comes.
    pub(crate) fn finish(&mut self) -> Bytes {
        let held = std::mem::take(&mut self.held);
        self.scan(&held, true).0
    }

    fn scan(&self, input: &Bytes, is_last: bool) -> (Bytes, usize) {
        let mut masked: Option<BytesMut> = None;
        let mut copied = 0;
        let mut at = 0;
        while at < input.len() {
            if !self.starts[usize::from(input[at])] {
                at += 1;
                continue;
            }
            match self.look(&input[at..]) {
                Look::Secret(len) => {
                    let out = masked.get_or_insert_with(BytesMut::new);
                    out.extend_from_slice(&input[copied..at]);
                    out.extend_from_slice(MASK.as_bytes());
                    at += len;
                    copied = at;
                }
                Look::Beginning if !is_last => break,
                Look::Beginning | Look::Other => at += 1,
            }
        }
        let out = match masked {
            None => input.slice(..at),
            Some(mut out) => {
                out.extend_from_slice(&input[copied..at]);
                out.freeze()
            }
        };
        (out, at)
    }

    fn look(&self, rest: &[u8]) -> Look {
        for needle in &self.needles {
            let needle = needle.0.as_bytes();
            if rest.starts_with(needle) {
                return Look::Secret(needle.len());
            }
            if needle.starts_with(rest) {
                return Look::Beginning;
            }
        }
        Look::Other
    }
}

enum Look {
    Secret(usize),
    Beginning,
    Other,
}

const MASK: &str = "***";
const MIN_MESSAGE_BYTES: usize = 4;
const MIN_ANSWER_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn secrets(texts: &[&str]) -> Secrets {
        Secrets::new(texts.iter().filter_map(|text| Secret::new(text)))
    }

    fn masked_in_pieces(secrets: &Secrets, text: &[u8], cuts: &[usize]) -> Vec<u8> {
        let mut stream = secrets.refusal_stream();
        let mut out = Vec::new();
        let mut from = 0;
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (text.len() + 1)).collect();
        cuts.push(text.len());
        cuts.sort_unstable();
        for cut in cuts {
            out.extend_from_slice(&stream.push(Bytes::copy_from_slice(&text[from..cut])));
            from = cut;
        }
        out.extend_from_slice(&stream.finish());
        out
    }

    #[test]
    fn a_secret_prints_as_stars_and_loses_its_line_break() {
        let secret = Secret::new(" sk-abc\n").unwrap();
        assert_eq!(
            format!("{secret} {secret:?} {:?}", Some(&secret)),
            "*** *** Some(***)"
        );
        assert_eq!(secret.expose(), "sk-abc");
        assert_eq!(Secret::new(" \n"), None);
    }

    #[test]
    fn every_secret_in_a_message_is_masked_the_longest_first() {
        let secrets = secrets(&["sk-one", "sk-one-and-more", "abc"]);
        assert_eq!(
            secrets.mask("key sk-one-and-more, sk-one! abc sk-on"),
            "key ***, ***! abc sk-on"
        );
    }

    #[test]
    fn a_short_key_does_not_garble_an_answer() {
        let mut stream = secrets(&["ollama"]).answer_stream();
        assert_eq!(
            &stream.push("I run on ollama".into())[..],
            b"I run on ollama"
        );
    }

    #[test]
    fn a_piece_without_a_secret_passes_uncopied_and_at_once() {
        let mut stream = secrets(&["sk-0123456789abcdef"]).answer_stream();
        let piece = Bytes::from_static(b"data: {\"s\":\"sk-012x\"}\n\n");
        let out = stream.push(piece.clone());
        assert_eq!(out.as_ptr(), piece.as_ptr());
        assert_eq!(out, piece);
    }

    proptest! {
        #[test]
        fn masking_in_pieces_equals_plain_replacement(
            text in "[ab-]{0,60}",
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let expected = text.replace("ab-ab", "***");
            let found = masked_in_pieces(&secrets(&["ab-ab"]), text.as_bytes(), &cuts);
            prop_assert_eq!(String::from_utf8(found).unwrap(), expected);
        }

        #[test]
        fn the_cuts_make_no_difference_to_overlapping_secrets(
            text in "[ab-]{0,60}",
            cuts in proptest::collection::vec(any::<usize>(), 0..8),
        ) {
            let secrets = secrets(&["ab-ab", "ab-abba", "bbbb"]);
            let whole = masked_in_pieces(&secrets, text.as_bytes(), &[]);
            prop_assert_eq!(masked_in_pieces(&secrets, text.as_bytes(), &cuts), whole);
        }
    }
}
