//! Texts: each is kept once, and none without a bound.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

/// Characters of an event's detail.
pub(super) const DETAIL_CHARS: usize = 400;
/// Characters of titles, labels and values.
pub(super) const TITLE_CHARS: usize = 120;

/// Every text of a page, by number.
#[derive(Debug, Default)]
pub(super) struct Strings {
    all: Vec<String>,
    known: BTreeMap<String, u32>,
}

impl Strings {
    pub(super) fn number(&mut self, text: &str) -> u32 {
        if let Some(number) = self.known.get(text) {
            return *number;
        }
        let number = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(text.to_owned());
        self.known.insert(text.to_owned(), number);
        number
    }

    pub(super) fn into_all(self) -> Vec<String> {
        self.all
    }
}

/// The value's debug form, cut off at `most` characters without being written
/// to its end first: a request's body may have megabytes.
pub(super) fn debugged(value: &dyn fmt::Debug, most: usize) -> String {
    let mut text = Bounded::new(most);
    // The only error is the bound's.
    let _ = write!(text, "{value:?}");
    text.done()
}

/// Bytes as text, cut off at `most` characters.
pub(super) fn lossy(bytes: &[u8], most: usize) -> String {
    // No character has more than four bytes.
    let head = &bytes[..bytes.len().min(most.saturating_add(1) * 4)];
    cut(&String::from_utf8_lossy(head), most)
}

/// A text, cut off at `most` characters.
pub(super) fn cut(text: &str, most: usize) -> String {
    let mut bounded = Bounded::new(most);
    let _ = bounded.write_str(text);
    bounded.done()
}

struct Bounded {
    text: String,
    left: usize,
    is_cut: bool,
}

impl Bounded {
    fn new(most: usize) -> Bounded {
        Bounded {
            text: String::new(),
            left: most,
            is_cut: false,
        }
    }

    fn done(mut self) -> String {
        if self.is_cut {
            self.text.push('…');
        }
        self.text
    }
}

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if self.left == 0 {
                self.is_cut = true;
                return Err(fmt::Error);
            }
            self.left -= 1;
            self.text.push(c);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_at_a_character_and_says_so() {
        assert_eq!(cut("größer", 6), "größer");
        assert_eq!(cut("größer", 4), "größ…");
        assert_eq!(lossy("🙂🙂🙂".as_bytes(), 2), "🙂🙂…");
        assert_eq!(debugged(&[1, 2, 3], 4), "[1, …");
    }

    #[test]
    fn a_text_has_one_number() {
        let mut strings = Strings::default();
        assert_eq!(strings.number("a"), 0);
        assert_eq!(strings.number("b"), 1);
        assert_eq!(strings.number("a"), 0);
        assert_eq!(strings.into_all(), ["a", "b"]);
    }
}
