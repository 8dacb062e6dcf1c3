//! Keeps foreign text short where it goes into messages.

use alloc::string::String;

/// The first `limit_chars` characters of `text`, with an ellipsis in the last
/// place if something was cut.
pub(crate) fn bounded(text: &str, limit_chars: usize) -> String {
    if text.char_indices().nth(limit_chars).is_none() {
        return String::from(text);
    }
    let mut short: String = text.chars().take(limit_chars.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_at_the_limit_is_kept_and_a_longer_one_is_cut_on_a_character() {
        assert_eq!(bounded("äöü", 3), "äöü");
        assert_eq!(bounded("äöüß", 3), "äö…");
        assert_eq!(bounded("", 0), "");
    }
}
