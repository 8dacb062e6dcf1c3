//! SSE framing (P2) against an oracle that reads the whole stream at once, and
//! against the examples and rules of WHATWG HTML section 9.2.
#![allow(clippy::unwrap_used)]

use dispatch_core::wire::sse::{SseDecoder, SseError};
use proptest::{collection::vec, prelude::*};

#[derive(Clone, Debug, Default, PartialEq)]
struct Decoded {
    /// Type, data and id of each event.
    events: Vec<(String, String, String)>,
    last_event_id: String,
    retry_ms: Option<u64>,
    too_large: bool,
}

fn decoded<'b>(chunks: impl IntoIterator<Item = &'b [u8]>, limit_bytes: usize) -> Decoded {
    let mut decoder = SseDecoder::new(limit_bytes);
    let mut seen = Decoded::default();
    for chunk in chunks {
        let pushed = decoder.push(chunk, |event| {
            seen.events
                .push((event.event.into(), event.data.into(), event.id.into()));
        });
        seen.too_large |= pushed == Err(SseError::TooLarge { limit_bytes });
    }
    seen.last_event_id = decoder.last_event_id().into();
    seen.retry_ms = decoder.retry_ms();
    seen
}

fn whole(stream: impl AsRef<[u8]>) -> Decoded {
    decoded([stream.as_ref()], usize::MAX)
}

fn data_of(stream: impl AsRef<[u8]>) -> Vec<String> {
    whole(stream)
        .events
        .into_iter()
        .map(|(_, data, _)| data)
        .collect()
}

/// The section's algorithm on the decoded text, line by line, with none of the
/// decoder's shortcuts.
fn oracle(stream: &[u8]) -> Decoded {
    let text = String::from_utf8_lossy(stream);
    let text = text.strip_prefix('\u{FEFF}').unwrap_or(&text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let mut lines: Vec<&str> = text.split('\n').collect();
    lines.pop();

    let mut seen = Decoded::default();
    let (mut data, mut event, mut id) = (String::new(), String::new(), String::new());
    for line in lines {
        if line.is_empty() {
            seen.last_event_id = id.clone();
            if let Some(joined) = data.strip_suffix('\n') {
                let kind = if event.is_empty() { "message" } else { &event };
                seen.events.push((kind.into(), joined.into(), id.clone()));
            }
            data.clear();
            event.clear();
            continue;
        }
        if line.starts_with(':') {
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                data += value;
                data.push('\n');
            }
            "event" => event = value.into(),
            "id" if !value.contains('\0') => id = value.into(),
            "retry" if value.bytes().all(|byte| byte.is_ascii_digit()) => {
                seen.retry_ms = value.parse().ok().or(seen.retry_ms);
            }
            _ => {}
        }
    }
    seen
}

fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        8 => prop::sample::select(vec![
            &b"\n"[..], b"\r", b"\r\n", b"\n\n", b"\r\n\r\n", b"\r\r", b":", b" ",
        ]),
        8 => prop::sample::select(vec![
            &b"data"[..], b"data:", b"data: ", b"event:", b"event: error", b"id:", b"id: 7", b"id",
            b"retry: 12", b"retry:x", b": note", b"data: one\n\n", b"data: {\"a\":1}\r\n\r\n", b"datax:",
        ]),
        3 => prop::sample::select(vec![
            &b"\xEF\xBB\xBF"[..], b"\xEF\xBB", b"\xEF", b"\xFF", b"\xE2\x82", b"\xF0\x9F\x98\x80",
            b"\xC3", b"\xA9", b"\0", b"\xED\xA0\x80",
        ]),
        1 => Just(&b"abc"[..]),
    ];
    vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

fn split_at<'b>(stream: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    at.sort_unstable();
    let mut chunks = Vec::new();
    let mut from = 0;
    for to in at {
        chunks.push(&stream[from..to]);
        from = to;
    }
    chunks.push(&stream[from..]);
    chunks
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn any_split_of_any_stream_decodes_as_the_oracle_reads_the_whole(
        stream in pieces(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let expected = oracle(&stream);
        prop_assert_eq!(&decoded(split_at(&stream, &cuts), usize::MAX), &expected);
        prop_assert_eq!(&decoded(stream.chunks(1), usize::MAX), &expected);
        prop_assert_eq!(&whole(&stream), &expected);
    }

    #[test]
    fn any_split_meets_the_limit_at_the_same_place(
        stream in pieces(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
        limit_bytes in 0usize..40,
    ) {
        let at_once = decoded([&stream[..]], limit_bytes);
        prop_assert_eq!(&decoded(split_at(&stream, &cuts), limit_bytes), &at_once);
        prop_assert_eq!(&decoded(stream.chunks(1), limit_bytes), &at_once);
        let unlimited = whole(&stream).events;
        prop_assert_eq!(&unlimited[..at_once.events.len()], &at_once.events[..]);
        prop_assert!(at_once.too_large || at_once.events.len() == unlimited.len());
    }
}

#[test]
fn a_byte_order_mark_is_dropped_however_it_is_split_and_only_once() {
    for cut in 0..=4 {
        let stream = b"\xEF\xBB\xBFdata: a\n\n";
        let (head, tail) = stream.split_at(cut);
        assert_eq!(decoded([head, tail], 100).events.len(), 1, "cut at {cut}");
    }
    assert_eq!(data_of(b"\xEF\xBB\xBF\xEF\xBB\xBFdata: a\n\n"), [""; 0]);
    assert_eq!(data_of(b"\xEF\xBBdata: a\n\n"), [""; 0]);
    assert_eq!(data_of(b"data: \xEF\xBB\xBF\n\n"), ["\u{FEFF}"]);
}

#[test]
fn every_line_ending_ends_a_line_once() {
    for end in ["\n", "\r", "\r\n"] {
        let stream = format!("data: a{end}data: b{end}{end}data: c{end}{end}");
        assert_eq!(data_of(&stream), ["a\nb", "c"], "ending {end:?}");
    }
    let split = decoded([&b"data: a\r"[..], b"\n\r", b"\ndata: b\r", b"\r"], 100);
    assert_eq!(split.events.len(), 2);
}

#[test]
fn an_event_is_dispatched_with_its_cr_and_not_held_back_for_an_lf() {
    assert_eq!(decoded([&b"data: a\r\r"[..]], 100).events.len(), 1);
}

#[test]
fn the_examples_of_the_standard_decode_as_it_says() {
    assert_eq!(
        data_of("data: YHOO\ndata: +2\ndata: 10\n\n"),
        ["YHOO\n+2\n10"]
    );
    assert_eq!(data_of("data\n\ndata\ndata\n\ndata:"), ["", "\n"]);
    assert_eq!(data_of("data:test\n\ndata: test\n\n"), ["test", "test"]);
    let ids = whole(
        ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n",
    );
    let expected = [
        ("message", "first event", "1"),
        ("message", "second event", ""),
        ("message", " third event", ""),
    ];
    assert_eq!(
        ids.events,
        expected.map(|(event, data, id)| (event.into(), data.into(), id.into()))
    );
}

#[test]
fn an_event_type_without_data_dispatches_nothing_and_is_forgotten() {
    let seen = whole("event: ping\nid: 3\n\ndata: a\n\n");
    assert_eq!(seen.events, [("message".into(), "a".into(), "3".into())]);
    assert_eq!(seen.last_event_id, "3");
}

#[test]
fn an_id_with_nul_is_ignored_and_retry_takes_digits_only() {
    let seen = whole(b"id: 1\n\nid: a\0b\n\nretry: 1500\nretry: 1.5\nretry: -1\nretry:\n\n");
    assert_eq!(seen.last_event_id, "1");
    assert_eq!(seen.retry_ms, Some(1_500));
    assert_eq!(
        whole("retry: 99999999999999999999999\n").retry_ms,
        Some(u64::MAX)
    );
}

#[test]
fn bytes_that_are_not_utf8_become_replacement_characters_across_chunks() {
    assert_eq!(data_of(b"data: a\xFFb\n\n"), ["a\u{FFFD}b"]);
    let split = decoded([&b"data: \xF0\x9F"[..], b"\x98\x80\n\n"], 100);
    assert_eq!(split.events[0].1, "😀");
    assert_eq!(data_of(b"data: \xE2\x82\ndata: x\n\n"), ["\u{FFFD}\nx"]);
}

#[test]
fn an_event_without_its_blank_line_is_discarded_at_the_end() {
    assert_eq!(data_of("data: a\n\ndata: b\n"), ["a"]);
    assert_eq!(data_of("data: a\n\ndata: b"), ["a"]);
}

#[test]
fn the_limit_holds_for_one_line_and_for_the_sum_of_an_event_and_is_sticky() {
    let limit_bytes = 20;
    assert!(!decoded([&b"data: 4567890123456\n\n"[..]], limit_bytes).too_large);
    assert!(decoded([&b"data: 4567890123456789\n\n"[..]], limit_bytes).too_large);
    assert!(decoded([&b"data: 4567\ndata: 45678\n\n"[..]], limit_bytes).too_large);
    assert!(decoded([&b"data: never ending line"[..]], limit_bytes).too_large);

    let mut decoder = SseDecoder::new(limit_bytes);
    let refusal = Err(SseError::TooLarge { limit_bytes });
    assert_eq!(decoder.push(&[b'x'; 21], |_| {}), refusal);
    let mut events = 0;
    assert_eq!(decoder.push(b"\n\ndata: a\n\n", |_| events += 1), refusal);
    assert_eq!(events, 0);
}

#[test]
fn comments_may_go_on_for_ever_within_the_limit() {
    let seen = decoded(
        core::iter::repeat_n(&b": still here\n"[..], 1_000).chain([&b"data: a\n\n"[..]]),
        20,
    );
    assert!(!seen.too_large);
    assert_eq!(seen.events.len(), 1);
}

#[test]
fn a_decoder_goes_on_where_its_serialised_state_left_off() {
    let stream =
        b"\xEF\xBB\xBFid: 4\ndata: one\r\ndata: tw\xC3\xB6\r\n\r\nretry: 7\ndata: three\n\n";
    let mut decoder = SseDecoder::new(100);
    let mut events = Vec::new();
    for byte in stream {
        let state = postcard::to_allocvec(&decoder).unwrap();
        decoder = postcard::from_bytes(&state).unwrap();
        decoder
            .push(&[*byte], |event| events.push(event.data.to_owned()))
            .unwrap();
    }
    assert_eq!(events, ["one\ntwö", "three"]);
}
