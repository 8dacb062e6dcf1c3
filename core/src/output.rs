//! Bounds on a tool's output (T8): head and tail are kept, the middle is not.
//!
//! Pure, so that commands here, commands over SSH and the simulator all cut
//! the same bytes in the same place.

use alloc::{format, string::String, vec::Vec};
use memchr::{memchr, memchr_iter, memrchr};

/// Most bytes of one tool call's output in a history (T8).
pub const LIMIT_BYTES: usize = 50 * 1024;
/// Most lines of one tool call's output in a history (T8).
pub const LIMIT_LINES: usize = 2_000;

/// What is left of an output after [`HeadTail`] has bounded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounded {
    /// The whole output, or its head and tail with a notice between them.
    pub text: String,
    /// Something was left out.
    pub truncated: bool,
    /// Bytes that were pushed, before decoding.
    pub total_bytes: u64,
    /// Lines that were pushed; a last line without a newline counts.
    pub total_lines: u64,
}

/// Bounds a stream of bytes of any length in memory proportional to the limit.
///
/// The text kept never exceeds the limits; only the notice comes on top. A cut
/// falls on a line boundary unless that would cost more than half of the part
/// that is cut, and on a character boundary always.
#[derive(Clone, Debug)]
pub struct HeadTail {
    limit_bytes: usize,
    limit_lines: usize,
    decoder: LossyDecoder,
    total_bytes: u64,
    kept: Kept,
}

/// The decoded side of [`HeadTail`].
#[derive(Clone, Debug, Default)]
struct Kept {
    head: String,
    head_lines: usize,
    head_closed: bool,
    tail: Vec<u8>,
    tail_bytes: u64,
    newlines: u64,
    ends_in_newline: bool,
}

impl Default for HeadTail {
    fn default() -> HeadTail {
        HeadTail::new(LIMIT_BYTES, LIMIT_LINES)
    }
}

impl HeadTail {
    /// A bound of `limit_bytes` bytes of UTF-8 and `limit_lines` lines.
    pub fn new(limit_bytes: usize, limit_lines: usize) -> HeadTail {
        HeadTail {
            limit_bytes,
            limit_lines,
            decoder: LossyDecoder::default(),
            total_bytes: 0,
            kept: Kept::default(),
        }
    }

    /// Takes the next bytes; a character may be split between two pushes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.total_bytes = self.total_bytes.saturating_add(bytes.len() as u64);
        let (limit_bytes, limit_lines) = (self.limit_bytes, self.limit_lines);
        let kept = &mut self.kept;
        self.decoder
            .push(bytes, |text| kept.push(text, limit_bytes, limit_lines));
    }

    /// Takes bytes that nobody has read, known only by their number and their
    /// newlines: the middle of a long output that lies elsewhere. Exact when at
    /// least the limit was pushed before and some 4 bytes more than the limit
    /// are pushed after it; what comes after should begin a character.
    pub fn skip(&mut self, bytes: u64, newlines: u64) {
        self.total_bytes = self.total_bytes.saturating_add(bytes);
        let cut_off = self.decoder.take_pending() as u64;
        self.kept.skip(bytes.saturating_add(cut_off), newlines);
    }

    /// What is kept. `spilled_to` names the file that holds the full text, for
    /// the notice.
    pub fn finish(mut self, spilled_to: Option<&str>) -> Bounded {
        let (limit_bytes, limit_lines) = (self.limit_bytes, self.limit_lines);
        let kept = &mut self.kept;
        self.decoder
            .finish(|text| kept.push(text, limit_bytes, limit_lines));
        let (total_bytes, total_lines) = (self.total_bytes, self.kept.lines());
        let whole = self.kept.bytes() <= limit_bytes as u64 && total_lines <= limit_lines as u64;
        let text = if whole {
            self.kept.whole()
        } else {
            self.kept.cut(limit_bytes, limit_lines, spilled_to)
        };
        Bounded {
            text,
            truncated: !whole,
            total_bytes,
            total_lines,
        }
    }
}

impl Kept {
    fn push(&mut self, text: &str, limit_bytes: usize, limit_lines: usize) {
        self.newlines = self
            .newlines
            .saturating_add(memchr_iter(b'\n', text.as_bytes()).count() as u64);
        self.ends_in_newline = text.ends_with('\n');
        let rest = self.fill_head(text, limit_bytes / 2, limit_lines / 2);
        self.fill_tail(rest.as_bytes(), limit_bytes - self.head.len());
    }

    fn fill_head<'t>(&mut self, text: &'t str, most_bytes: usize, most_lines: usize) -> &'t str {
        if self.head_closed {
            return text;
        }
        let room = floor_char_boundary(text, most_bytes - self.head.len());
        let newlines = memchr_iter(b'\n', &text.as_bytes()[..room]);
        let lines_left = most_lines - self.head_lines;
        let end = match lines_left {
            0 => 0,
            left => newlines.clone().nth(left - 1).map_or(room, |at| at + 1),
        };
        self.head_lines += newlines.take(lines_left).count();
        self.head.push_str(&text[..end]);
        self.head_closed = end < text.len();
        &text[end..]
    }

    /// Lets the buffer grow to twice its bound, so that a byte is moved at
    /// most once on average. One byte more than the bound is kept: it tells
    /// whether the tail begins a line.
    fn fill_tail(&mut self, bytes: &[u8], most_bytes: usize) {
        let most_bytes = most_bytes.saturating_add(1);
        self.tail_bytes = self.tail_bytes.saturating_add(bytes.len() as u64);
        let bytes = &bytes[bytes.len().saturating_sub(most_bytes)..];
        if self.tail.len() + bytes.len() > most_bytes.saturating_mul(2) {
            let excess = (self.tail.len() + bytes.len()).saturating_sub(most_bytes);
            self.tail.drain(..excess.min(self.tail.len()));
        }
        self.tail.extend_from_slice(bytes);
    }

    fn skip(&mut self, bytes: u64, newlines: u64) {
        self.head_closed = true;
        self.tail.clear();
        self.tail_bytes = self.tail_bytes.saturating_add(bytes);
        self.newlines = self.newlines.saturating_add(newlines);
        self.ends_in_newline = false;
    }

    fn bytes(&self) -> u64 {
        self.tail_bytes.saturating_add(self.head.len() as u64)
    }

    fn lines(&self) -> u64 {
        let open = self.bytes() > 0 && !self.ends_in_newline;
        self.newlines.saturating_add(u64::from(open))
    }

    fn whole(self) -> String {
        let mut text = self.head;
        text.push_str(&String::from_utf8_lossy(&self.tail));
        text
    }

    fn cut(self, limit_bytes: usize, limit_lines: usize, spilled_to: Option<&str>) -> String {
        let (total_bytes, total_lines) = (self.bytes(), self.lines());
        let room = limit_bytes - self.head.len();
        let raw = &self.tail[self.tail.len().saturating_sub(room)..];
        // A cut inside a character leaves its continuation bytes in front.
        let starts = raw.iter().take_while(|b| **b & 0xC0 == 0x80).count();
        let at_line_start = self.tail_starts_a_line(raw.len() - starts);
        let tail = String::from_utf8_lossy(&raw[starts..]);
        let tail = last_lines(&tail, limit_lines.saturating_sub(self.head_lines_used()));
        let tail = if at_line_start && tail.len() == raw.len() - starts {
            tail
        } else {
            from_line_start(tail, raw.len() - starts)
        };
        let head = to_line_end(&self.head);
        let notice = notice(
            head,
            total_bytes.saturating_sub((head.len() + tail.len()) as u64),
            total_lines.saturating_sub((count_lines(head) + count_lines(tail)) as u64),
            spilled_to,
        );
        let mut text = String::with_capacity(head.len() + notice.len() + tail.len());
        text.push_str(head);
        text.push_str(&notice);
        text.push_str(tail);
        text
    }

    fn head_lines_used(&self) -> usize {
        count_lines(&self.head)
    }

    /// Whether the last `len` bytes that were pushed begin a line.
    fn tail_starts_a_line(&self, len: usize) -> bool {
        match self.tail.len() - len {
            0 => self.head.ends_with('\n'),
            before => self.tail[before - 1] == b'\n',
        }
    }
}

/// Decodes UTF-8 that arrives in pieces. What is not UTF-8 becomes U+FFFD, one
/// for each maximal ill-formed subsequence (Unicode 3.9, WHATWG Encoding).
///
/// NUL becomes U+FFFD too: PostgreSQL's `text` cannot hold it (SQLSTATE 22021).
#[derive(Clone, Debug, Default)]
pub struct LossyDecoder {
    pending: Vec<u8>,
}

impl LossyDecoder {
    /// Decodes `bytes`, handing the text on in pieces; the start of a character
    /// that is not complete yet is kept for the next call.
    pub fn push(&mut self, mut bytes: &[u8], mut emit: impl FnMut(&str)) {
        while let (false, Some((first, rest))) = (self.pending.is_empty(), bytes.split_first()) {
            self.pending.push(*first);
            bytes = rest;
            let joined = core::mem::take(&mut self.pending);
            self.pending = decode(&joined, &mut emit).to_vec();
        }
        if self.pending.is_empty() {
            self.pending = decode(bytes, &mut emit).to_vec();
        }
    }

    /// Forgets an incomplete character; returns how many bytes it had.
    fn take_pending(&mut self) -> usize {
        core::mem::take(&mut self.pending).len()
    }

    /// Ends the stream: an incomplete character becomes U+FFFD.
    pub fn finish(&mut self, mut emit: impl FnMut(&str)) {
        if !self.pending.is_empty() {
            self.pending.clear();
            emit(REPLACEMENT);
        }
    }
}

const REPLACEMENT: &str = "\u{FFFD}";

/// Emits what can be decoded and returns the incomplete character at the end.
fn decode<'b>(bytes: &'b [u8], emit: &mut impl FnMut(&str)) -> &'b [u8] {
    let mut rest = bytes;
    loop {
        let (valid, wrong) = match core::str::from_utf8(rest) {
            Ok(text) => return finish_piece(text, emit),
            Err(e) => (e.valid_up_to(), e.error_len()),
        };
        let (text, after) = rest.split_at(valid);
        emit_without_nul(core::str::from_utf8(text).unwrap_or_default(), emit);
        let Some(wrong) = wrong else {
            return after;
        };
        emit(REPLACEMENT);
        rest = &after[wrong..];
    }
}

fn finish_piece(text: &str, emit: &mut impl FnMut(&str)) -> &'static [u8] {
    emit_without_nul(text, emit);
    &[]
}

fn emit_without_nul(text: &str, emit: &mut impl FnMut(&str)) {
    for (i, part) in text.split('\0').enumerate() {
        if i > 0 {
            emit(REPLACEMENT);
        }
        if !part.is_empty() {
            emit(part);
        }
    }
}

fn notice(head: &str, bytes: u64, lines: u64, spilled_to: Option<&str>) -> String {
    let start = if head.is_empty() || head.ends_with('\n') {
        ""
    } else {
        "\n"
    };
    match spilled_to {
        Some(file) => format!(
            "{start}[... {bytes} bytes ({lines} lines) left out here; the full text is in {file} ...]\n"
        ),
        None => format!("{start}[... {bytes} bytes ({lines} lines) left out here ...]\n"),
    }
}

fn floor_char_boundary(text: &str, most: usize) -> usize {
    if most >= text.len() {
        return text.len();
    }
    let mut at = most;
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

fn count_lines(text: &str) -> usize {
    let open = !text.is_empty() && !text.ends_with('\n');
    memchr_iter(b'\n', text.as_bytes()).count() + usize::from(open)
}

fn last_lines(text: &str, most: usize) -> &str {
    if most == 0 {
        return "";
    }
    let body = text.strip_suffix('\n').unwrap_or(text).as_bytes();
    memchr::memrchr_iter(b'\n', body)
        .nth(most - 1)
        .map_or(text, |at| &text[at + 1..])
}

/// `text` without its unfinished last line, unless that is most of it.
fn to_line_end(text: &str) -> &str {
    match memrchr(b'\n', text.as_bytes()) {
        Some(at) if at + 1 >= text.len() / 2 => &text[..=at],
        Some(_) | None => text,
    }
}

/// `text`, which `whole` bytes long began inside a line, without that line's
/// rest, unless that is most of it.
fn from_line_start(text: &str, whole: usize) -> &str {
    if text.len() < whole {
        return text;
    }
    match memchr(b'\n', text.as_bytes()) {
        Some(at) if at < text.len() / 2 => &text[at + 1..],
        Some(_) | None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::{string::ToString, vec};
    use proptest::prelude::*;

    fn bound(bytes: &[u8], limit_bytes: usize, limit_lines: usize) -> Bounded {
        let mut bound = HeadTail::new(limit_bytes, limit_lines);
        bound.push(bytes);
        bound.finish(None)
    }

    fn decoded(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).replace('\0', REPLACEMENT)
    }

    /// Head and tail around the notice.
    fn parts(text: &str) -> (String, String) {
        let start = text.find("[... ").expect("a cut text has a notice");
        let end = text.find(" ...]\n").expect("the notice ends") + " ...]\n".len();
        (text[..start].to_string(), text[end..].to_string())
    }

    #[test]
    fn an_output_within_the_limits_is_left_alone() {
        let got = bound("ein paar\nZeilen — ohne Ende".as_bytes(), 100, 2);
        assert_eq!(got.text, "ein paar\nZeilen — ohne Ende");
        assert!(!got.truncated);
        assert_eq!((got.total_bytes, got.total_lines), (29, 2));
    }

    #[test]
    fn t8_too_many_lines_keep_the_first_and_the_last_ones() {
        let all: String = (1..=10).map(|n| format!("line {n}\n")).collect();
        let got = bound(all.as_bytes(), 10_000, 4);
        assert_eq!(
            got.text,
            "line 1\nline 2\n[... 42 bytes (6 lines) left out here ...]\nline 9\nline 10\n"
        );
        assert!(got.truncated);
        assert_eq!(got.total_lines, 10);
    }

    #[test]
    fn t8_too_many_bytes_are_cut_at_line_boundaries() {
        let all: String = (1..=100).map(|n| format!("line {n}\n")).collect();
        let got = bound(all.as_bytes(), 60, 2_000);
        let (head, tail) = parts(&got.text);
        assert_eq!(head, "line 1\nline 2\nline 3\nline 4\n");
        assert_eq!(tail, "line 98\nline 99\nline 100\n");
    }

    #[test]
    fn one_endless_line_is_cut_at_character_boundaries() {
        let all = "é".repeat(1_000);
        let got = bound(all.as_bytes(), 21, 2_000);
        let (head, tail) = parts(&got.text);
        assert_eq!(head.trim_end(), "é".repeat(5));
        assert_eq!(tail, "é".repeat(5));
    }

    #[test]
    fn the_notice_names_the_spill_file() {
        let mut bound = HeadTail::new(10, 10);
        bound.push(&[b'x'; 100]);
        let got = bound.finish(Some("runs/abc/output"));
        assert!(
            got.text.contains("90 bytes (0 lines) left out here"),
            "{}",
            got.text
        );
        assert!(got.text.contains("the full text is in runs/abc/output"));
    }

    #[test]
    fn d27_memory_stays_within_the_limit_whatever_comes() {
        let mut bound = HeadTail::default();
        let block = vec![b'y'; 64 * 1024];
        for _ in 0..1_000 {
            bound.push(&block);
            assert!(bound.kept.head.capacity() + bound.kept.tail.capacity() < 6 * LIMIT_BYTES);
        }
        assert_eq!(bound.finish(None).total_bytes, 1_000 * 64 * 1024);
    }

    fn noisy_bytes() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            3 => "[a-z]{0,12}\n?".prop_map(String::into_bytes),
            2 => "[äß€😀]{1,4}".prop_map(String::into_bytes),
            1 => proptest::collection::vec(any::<u8>(), 0..6),
        ];
        proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn what_is_kept_respects_the_limits_and_is_a_prefix_and_a_suffix(
            bytes in noisy_bytes(), limit_bytes in 0usize..200, limit_lines in 0usize..20,
        ) {
            let all = decoded(&bytes);
            let got = bound(&bytes, limit_bytes, limit_lines);
            prop_assert_eq!(got.total_bytes, bytes.len() as u64);
            prop_assert_eq!(got.total_lines, count_lines(&all) as u64);
            let fits = all.len() <= limit_bytes && count_lines(&all) <= limit_lines;
            prop_assert_eq!(got.truncated, !fits);
            if fits {
                prop_assert_eq!(got.text, all);
                return Ok(());
            }
            let (head, tail) = parts(&got.text);
            // Whether the newline before the notice is the head's or the
            // notice's own cannot be seen, but only one reading may add up.
            let adds_up = |head: &str| {
                let Some(left_out) = all.len().checked_sub(head.len() + tail.len()) else { return false };
                all.starts_with(head)
                    && head.len() + tail.len() <= limit_bytes
                    && count_lines(head) + count_lines(&tail) <= limit_lines
                    && got.text.contains(&format!("[... {left_out} bytes ("))
            };
            prop_assert!(all.ends_with(&tail));
            prop_assert!(adds_up(&head) || adds_up(head.strip_suffix('\n').unwrap_or(&head)), "{}", got.text);
        }

        #[test]
        fn how_the_bytes_are_chunked_makes_no_difference(
            bytes in noisy_bytes(), sizes in proptest::collection::vec(1usize..9, 1..20),
            limit_bytes in 0usize..120, limit_lines in 0usize..20,
        ) {
            let mut chunked = HeadTail::new(limit_bytes, limit_lines);
            let mut rest = &bytes[..];
            for size in sizes.iter().cycle() {
                if rest.is_empty() { break; }
                let (now, later) = rest.split_at((*size).min(rest.len()));
                chunked.push(now);
                rest = later;
            }
            prop_assert_eq!(chunked.finish(None), bound(&bytes, limit_bytes, limit_lines));
        }

        #[test]
        fn a_middle_that_was_never_read_is_left_out_as_if_it_had_been(
            text in "[a-zé€😀\n]{300,600}", limit_bytes in 10usize..60, limit_lines in 1usize..20,
        ) {
            let (all, need) = (text.as_bytes(), limit_bytes + 8);
            let starts_character = |at: &usize| text.is_char_boundary(*at);
            let from = (0..=all.len() - need).rev().find(starts_character).unwrap_or(0);
            let (head, tail) = (&all[..need], &all[from..]);
            let middle = &all[need..from];
            let mut parts = HeadTail::new(limit_bytes, limit_lines);
            parts.push(head);
            parts.skip(middle.len() as u64, memchr_iter(b'\n', middle).count() as u64);
            parts.push(tail);
            prop_assert_eq!(parts.finish(Some("f")), {
                let mut whole = HeadTail::new(limit_bytes, limit_lines);
                whole.push(all);
                whole.finish(Some("f"))
            });
        }

        #[test]
        fn the_decoder_agrees_with_the_standard_library(
            bytes in noisy_bytes(), at in any::<proptest::sample::Index>(),
        ) {
            let (first, second) = bytes.split_at(at.index(bytes.len() + 1));
            let (mut decoder, mut text) = (LossyDecoder::default(), String::new());
            decoder.push(first, |t| text.push_str(t));
            decoder.push(second, |t| text.push_str(t));
            decoder.finish(|t| text.push_str(t));
            prop_assert_eq!(text, decoded(&bytes));
        }
    }
}
