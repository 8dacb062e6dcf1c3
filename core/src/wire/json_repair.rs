//! Mends the JSON that models and hasty gateways write and strict parsers
//! refuse: lone surrogate escapes and raw control characters in strings. Used
//! after a refusal only, so the common path pays nothing.

use alloc::string::String;
use core::fmt::Write;

/// The mended text, or nothing where there was nothing to mend.
///
/// A surrogate escape without its partner becomes U+FFFD; a control character
/// inside a string becomes its escape (RFC 8259 section 7).
pub(crate) fn mended(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut out = String::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => {
                in_string = !in_string;
                at += 1;
            }
            b'\\' if in_string => match unit(bytes, at) {
                Some(0xD800..=0xDBFF) if matches!(unit(bytes, at + 6), Some(0xDC00..=0xDFFF)) => {
                    at += 12;
                }
                Some(0xD800..=0xDFFF) => {
                    out.push_str(&json[copied..at]);
                    out.push_str("\\ufffd");
                    at += 6;
                    copied = at;
                }
                Some(_) => at += 6,
                None => at += escape_bytes(bytes, at),
            },
            0..=0x1F if in_string => {
                out.push_str(&json[copied..at]);
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{byte:04x}");
                at += 1;
                copied = at;
            }
            _ => at += 1,
        }
    }
    if copied == 0 {
        return None;
    }
    out.push_str(&json[copied..]);
    Some(out)
}

/// The UTF-16 unit of a `\uXXXX` at this place.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0u16, |sum, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some(sum * 16 + value as u16)
    })
}

/// An escaped quote or backslash must not be read as a delimiter.
fn escape_bytes(bytes: &[u8], at: usize) -> usize {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\') => 2,
        Some(_) | None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(json: &str) -> String {
        let text = mended(json).expect("there is something to mend");
        serde_json::from_str(&text).expect("what was mended parses")
    }

    #[test]
    fn a_lone_surrogate_becomes_the_replacement_character() {
        assert_eq!(decoded(r#""a\ud83db""#), "a\u{FFFD}b");
        assert_eq!(decoded(r#""\udE00""#), "\u{FFFD}");
        assert_eq!(decoded(r#""\ud83d\ud83d\ude00""#), "\u{FFFD}😀");
        assert_eq!(decoded(r#""\ud83d\n\ude00""#), "\u{FFFD}\n\u{FFFD}");
    }

    #[test]
    fn raw_control_characters_are_escaped_inside_strings_only() {
        assert_eq!(decoded("\n\"a\tb\u{0}\"\n"), "a\tb\u{0}");
    }

    #[test]
    fn sound_json_and_text_that_only_looks_escaped_is_left_alone() {
        assert_eq!(mended(r#"{"a":"\ud83d\ude00"}"#), None);
        assert_eq!(mended(r#""\\ud83d""#), None);
        assert_eq!(mended(r#""\\\"\\ud83d""#), None);
        assert_eq!(mended(r#""\u12"#), None);
        assert_eq!(mended("\"\\"), None);
        assert_eq!(mended("\"\\ü\""), None);
    }
}
