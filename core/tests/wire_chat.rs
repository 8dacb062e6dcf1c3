//! Vendors' streams through the decoder to assembled steps (P2).
#![allow(clippy::unwrap_used)]

mod wire_corpus;

use std::collections::BTreeSet;

use dispatch_core::wire::{
    assemble::{Applied, AssembleError, DEFAULT_STEP_LIMIT_BYTES, StepAssembler, Verdict},
    chat::{ChatDecoder, ChatLimits, json_completion},
    provider_event::{FinishReason, ProviderEvent},
};
use proptest::{collection::vec, prelude::*};
use wire_corpus::expected::{call, complete, corpus, usage};

fn events<'b>(chunks: impl IntoIterator<Item = &'b [u8]>) -> Vec<ProviderEvent> {
    let mut decoder = ChatDecoder::new(ChatLimits::default());
    let mut out = Vec::new();
    for chunk in chunks {
        decoder.push(chunk, &mut out);
    }
    out
}

fn events_of(stream: &str) -> Vec<ProviderEvent> {
    events([stream.as_bytes()])
}

fn json_events(body: &str) -> Vec<ProviderEvent> {
    let mut out = Vec::new();
    json_completion(body.as_bytes(), &mut out);
    out
}

fn assembler() -> StepAssembler {
    StepAssembler::new(0, DEFAULT_STEP_LIMIT_BYTES, BTreeSet::new())
}

fn assembled(events: Vec<ProviderEvent>) -> StepAssembler {
    let mut assembler = assembler();
    for event in events {
        assembler.apply(event).unwrap();
    }
    assembler
}

fn delta(delta: &str) -> String {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{delta}}}]}}\n\n")
}

fn text(text: &str) -> ProviderEvent {
    ProviderEvent::Text { text: text.into() }
}

fn finish(reason: FinishReason) -> ProviderEvent {
    ProviderEvent::Finish { reason }
}

#[test]
fn every_vendors_stream_assembles_to_its_step() {
    for expected in corpus() {
        let assembler = assembled(events_of(&expected.stream));
        assert_eq!(
            assembler.verdict(true),
            expected.verdict,
            "{}",
            expected.vendor
        );
        assert_eq!(assembler.finish(), expected.content, "{}", expected.vendor);
    }
}

#[test]
fn every_vendors_stream_decodes_the_same_byte_by_byte_and_cut_anywhere_in_two() {
    for expected in corpus() {
        let bytes = expected.stream.as_bytes();
        let at_once = events([bytes]);
        assert_eq!(events(bytes.chunks(1)), at_once, "{}", expected.vendor);
        for cut in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(
                events([head, tail]),
                at_once,
                "{} at {cut}",
                expected.vendor
            );
        }
    }
}

#[test]
fn a_stream_that_is_cut_never_counts_as_complete_before_its_finish_reason() {
    for expected in corpus() {
        let finish_at = expected
            .stream
            .match_indices("\"finish_reason\":\"")
            .map(|(at, _)| at)
            .find(|&at| !expected.stream[at..].starts_with("\"finish_reason\":\"\""))
            .unwrap();
        for cut in 0..finish_at {
            let assembler = assembled(events([&expected.stream.as_bytes()[..cut]]));
            assert_eq!(assembler.verdict(false), Verdict::Truncated);
            assert_eq!(assembler.verdict(true), Verdict::Truncated);
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_in_any_chunks_decode_alike_and_harm_nothing(
        bytes in vec(any::<u8>(), 0..200),
        size in 1usize..20,
    ) {
        prop_assert_eq!(events(bytes.chunks(size)), events([&bytes[..]]));
    }

    #[test]
    fn any_json_under_the_keys_that_are_read_decodes_without_harm(
        key in prop::sample::select(vec![
            "content", "refusal", "reasoning", "reasoning_content", "reasoning_details", "tool_calls",
        ]),
        value in any_json(),
    ) {
        let stream = delta(&format!("{{\"{key}\":{value}}}"));
        let seen = events_of(&stream);
        let malformed = seen.iter().any(|event| matches!(event, ProviderEvent::Malformed { .. }));
        prop_assert!(!malformed, "{stream} gave {seen:?}");
    }

    #[test]
    fn any_json_in_place_of_a_chunk_decodes_without_harm(value in any_json()) {
        for event in events_of(&format!("data: {value}\n\n")) {
            if let ProviderEvent::Malformed { message } = event {
                prop_assert!(message.chars().count() <= 200);
                prop_assert!(!value.starts_with(['{', '[']), "{value}: {message}");
            }
        }
        json_events(&value);
    }
}

fn any_json() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just(String::from("null")),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i64>().prop_map(|value| value.to_string()),
        any::<f32>()
            .prop_filter("JSON has no such number", |value| value.is_finite())
            .prop_map(|value| value.to_string()),
        ".{0,8}".prop_map(|value| serde_json::to_string(&value).unwrap()),
        Just(String::from("\"\\ud83d\"")),
        Just(String::from("\"0\"")),
    ];
    let keys = prop::sample::select(vec![
        "type",
        "text",
        "thinking",
        "summary",
        "function",
        "name",
        "arguments",
        "index",
        "id",
        "choices",
        "delta",
        "message",
        "error",
        "usage",
        "prompt_tokens",
        "x_groq",
        "code",
    ]);
    leaf.prop_recursive(5, 40, 5, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(|all| format!("[{}]", all.join(","))),
            vec((keys.clone(), inner), 0..5).prop_map(|all| {
                let all: Vec<_> = all
                    .iter()
                    .map(|(key, value)| format!("\"{key}\":{value}"))
                    .collect();
                format!("{{{}}}", all.join(","))
            }),
        ]
    })
}

#[test]
fn a_whole_json_completion_becomes_a_complete_step() {
    let assembler = assembled(json_events(wire_corpus::LITELLM_JSON));
    assert_eq!(assembler.verdict(true), complete(FinishReason::ToolCalls));
    let step = assembler.finish();
    assert_eq!(step.text, "One moment.");
    assert_eq!(
        step.calls,
        [
            call("call_L1", "read", "{\"path\":\"x\"}"),
            call("call_L2", "read", "{\"path\":\"y\"}"),
        ]
    );
    assert_eq!(step.usage, usage(40, 17, 8, 0));
}

#[test]
fn calls_of_a_whole_completion_stay_apart_though_they_share_an_id() {
    let body = r#"{"choices":[{"message":{"tool_calls":[
        {"id":"x","function":{"name":"a","arguments":"{}"}},
        {"id":"x","function":{"name":"b","arguments":"{\"n\":1}"}}]}}]}"#;
    let step = assembled(json_events(body)).finish();
    assert_eq!(
        step.calls,
        [call("x", "a", "{}"), call("call_0_1", "b", "{\"n\":1}")]
    );
}

#[test]
fn an_error_body_under_status_200_is_an_error_however_it_is_wrapped() {
    let error = |code: &str, kind: &str, message: &str| {
        vec![ProviderEvent::Error {
            code: code.into(),
            kind: kind.into(),
            message: message.into(),
        }]
    };
    let cases = [
        (
            r#"{"error":{"message":"Slow down","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}"#,
            error("rate_limit_exceeded", "rate_limit_error", "Slow down"),
        ),
        (
            r#"{"error":{"code":502,"message":"Upstream","metadata":{"raw":"x"}}}"#,
            error("502", "", "Upstream"),
        ),
        (
            r#"{"error":"no such model"}"#,
            error("", "", "no such model"),
        ),
        (
            r#"[{"error":{"code":429,"message":"Quota","status":"RESOURCE_EXHAUSTED"}}]"#,
            error("429", "RESOURCE_EXHAUSTED", "Quota"),
        ),
        (
            r#"{"object":"error","message":"Bad","type":"BadRequestError","param":null,"code":400}"#,
            error("400", "BadRequestError", "Bad"),
        ),
        (
            r#"{"error":{}}"#,
            error("", "", "the provider reported an error and gave no message"),
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(json_events(body), expected, "{body}");
        assert_eq!(events_of(&format!("data: {body}\n\n")), expected, "{body}");
    }
    assert_eq!(
        events_of("event: error\ndata: {\"message\":\"gone\",\"code\":503}\n\n"),
        error("503", "", "gone")
    );
}

#[test]
fn an_error_after_content_keeps_the_content_and_takes_the_place_of_the_finish() {
    let stream = [
        delta(r#"{"content":"half"}"#),
        String::from(
            "data: {\"id\":\"gen\",\"error\":{\"code\":502,\"message\":\"Provider disconnected\"},\
             \"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"error\"}]}\n\n",
        ),
    ]
    .concat();
    let mut assembler = assembler();
    let outcomes: Vec<_> = events_of(&stream)
        .into_iter()
        .map(|event| assembler.apply(event))
        .collect();
    let failure = AssembleError::Provider {
        code: "502".into(),
        kind: String::new(),
        message: "Provider disconnected".into(),
    };
    assert_eq!(
        outcomes,
        [
            Ok(Applied::Text { offset: 0, len: 4 }),
            Err(failure.clone())
        ]
    );
    assert_eq!(assembler.apply(text("more")), Err(failure));
    assert_eq!(assembler.verdict(true), Verdict::Truncated);
    assert_eq!(assembler.finish().text, "half");
}

#[test]
fn a_finish_reason_that_means_a_failure_is_an_error() {
    for (word, expected_kind) in [
        ("error", "error"),
        ("insufficient_system_resource", "overloaded_error"),
    ] {
        let stream =
            format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":\"{word}\"}}]}}\n\n");
        match &events_of(&stream)[..] {
            [ProviderEvent::Error { kind, .. }] => assert_eq!(kind, expected_kind),
            other => panic!("{word} gave {other:?}"),
        }
    }
}

#[test]
fn finish_reasons_of_all_vendors_fall_into_the_known_ones() {
    let reason_of = |word: &str| {
        let stream =
            format!("data: {{\"choices\":[{{\"delta\":{{}},\"finish_reason\":{word}}}]}}\n\n");
        events_of(&stream)
    };
    for (words, reason) in [
        (
            &["\"stop\"", "\"STOP\"", "\"end_turn\""][..],
            FinishReason::Stop,
        ),
        (
            &["\"length\"", "\"max_tokens\"", "\"model_length\""],
            FinishReason::Length,
        ),
        (
            &["\"tool_calls\"", "\"function_call\""],
            FinishReason::ToolCalls,
        ),
        (&["\"content_filter\""], FinishReason::ContentFilter),
        (
            &["\"time_limit\""],
            FinishReason::Other("time_limit".into()),
        ),
    ] {
        for word in words {
            assert_eq!(reason_of(word), [finish(reason.clone())], "{word}");
        }
    }
    for word in ["null", "\"\"", "\"null\"", "false", "{}"] {
        assert_eq!(reason_of(word), [], "{word}");
    }
}

#[test]
fn lone_surrogates_lose_one_character_and_not_the_chunk() {
    let stream = [
        delta(r#"{"content":"so \ud83d"}"#),
        delta(r#"{"content":"\ude00 far"}"#),
    ]
    .concat();
    assert_eq!(
        events_of(&stream),
        [text("so \u{FFFD}"), text("\u{FFFD} far")]
    );
}

#[test]
fn data_that_is_no_chunk_is_malformed_and_says_so_in_200_characters() {
    let long = format!("data: {{\"choices\": {}\n\n", "ü".repeat(5_000));
    for stream in ["data: ping\n\n", "data: 42\n\n", "data: {\"a\":\n\n", &long] {
        match &events_of(stream)[..] {
            [ProviderEvent::Malformed { message }] => {
                assert!((20..=200).contains(&message.chars().count()), "{message}");
            }
            other => panic!("{stream:?} gave {other:?}"),
        }
    }
    assert!(matches!(
        &json_events("{\"hello\":1}")[..],
        [ProviderEvent::Malformed { .. }]
    ));
    assert!(matches!(
        &json_events("<html>")[..],
        [ProviderEvent::Malformed { .. }]
    ));
}

#[test]
fn an_event_beyond_the_limit_is_reported_once_and_ends_the_decoding() {
    let mut decoder = ChatDecoder::new(ChatLimits { event_bytes: 100 });
    let mut out = Vec::new();
    decoder.push(delta("{\"content\":\"a\"}").as_bytes(), &mut out);
    for _ in 0..10 {
        decoder.push(&[b'x'; 50], &mut out);
    }
    decoder.push(delta("{\"content\":\"b\"}").as_bytes(), &mut out);
    assert_eq!(out.len(), 2, "{out:?}");
    assert_eq!(out[0], text("a"));
    assert!(
        matches!(&out[1], ProviderEvent::Malformed { message } if message.contains("100 bytes"))
    );
}

#[test]
fn nesting_of_any_depth_overflows_no_stack() {
    let depth = 200_000;
    for (open, close) in [("[", "]"), ("{\"text\":", "}"), ("{\"thinking\":", "}")] {
        let nested = format!("{}0{}", open.repeat(depth), close.repeat(depth));
        for key in ["content", "tool_calls", "reasoning", "unknown"] {
            let seen = events_of(&delta(&format!("{{\"{key}\":{nested}}}")));
            let is_read = key != "unknown";
            assert_eq!(seen.len(), usize::from(is_read), "{key}");
        }
        events_of(&format!("data: {nested}\n\n"));
    }
}

#[test]
fn keys_that_repeat_or_have_odd_types_cost_nothing() {
    let stream = concat!(
        "data: {\"id\":1,\"id\":2,\"choices\":[{\"index\":\"0\",\"delta\":",
        "{\"role\":\"assistant\",\"role\":\"assistant\",\"content\":[\"a\",{\"type\":\"text\",\"text\":\"b\"},7],",
        "\"tool_calls\":null,\"reasoning\":{\"text\":\"r\"}}}],\"usage\":\"none\",\"error\":null}\n\n",
    );
    assert_eq!(
        events_of(stream),
        [ProviderEvent::Reasoning { text: "r".into() }, text("ab7")]
    );
}

#[test]
fn a_call_without_an_index_goes_on_until_a_new_name_or_id_comes() {
    let stream = [
        delta(r#"{"tool_calls":[{"id":"a","function":{"name":"one","arguments":"{\"x\""}}]}"#),
        delta(r#"{"tool_calls":[{"function":{"arguments":":1}"}}]}"#),
        delta(r#"{"tool_calls":[{"id":"b","function":{"name":"two","arguments":"{"}}]}"#),
        delta(r#"{"tool_calls":[{"id":"b","function":{"arguments":"}"}}]}"#),
        delta(r#"{"tool_calls":[{"id":"null","function":{"name":"three","arguments":"{}"}}]}"#),
    ]
    .concat();
    assert_eq!(
        assembled(events_of(&stream)).finish().calls,
        [
            call("a", "one", "{\"x\":1}"),
            call("b", "two", "{}"),
            call("call_0_2", "three", "{}"),
        ]
    );
}

#[test]
fn a_random_id_on_every_fragment_does_not_split_a_call() {
    let stream = [
        delta(r#"{"tool_calls":[{"index":0,"id":"r1","function":{"name":"one","arguments":"{\"x\""}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"id":"r2","function":{"arguments":":1}"}}]}"#),
    ]
    .concat();
    assert_eq!(
        assembled(events_of(&stream)).finish().calls,
        [call("r1", "one", "{\"x\":1}")]
    );
}

#[test]
fn a_fragment_under_a_shared_index_finds_its_call_by_id() {
    let stream = [
        delta(r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"one","arguments":"{"}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"id":"b","function":{"name":"two","arguments":"{"}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"id":"a","function":{"arguments":"\"x\":1}"}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"id":"b","function":{"name":"two","arguments":"}"}}]}"#),
    ]
    .concat();
    assert_eq!(
        assembled(events_of(&stream)).finish().calls,
        [call("a", "one", "{\"x\":1}"), call("b", "two", "{}")]
    );
}

#[test]
fn fragments_of_interleaved_calls_find_their_call() {
    let stream = [
        delta(r#"{"tool_calls":[{"index":0,"id":"a","function":{"name":"one","arguments":""}},{"index":1,"function":{"arguments":"{"}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"{\"x\":1"}},{"index":1,"id":"b","function":{"name":"two","arguments":"}"}}]}"#),
        delta(r#"{"tool_calls":[{"index":0,"function":{"arguments":"}"}}]}"#),
    ]
    .concat();
    assert_eq!(
        assembled(events_of(&stream)).finish().calls,
        [call("a", "one", "{\"x\":1}"), call("b", "two", "{}")]
    );
}

#[test]
fn decoder_and_assembler_go_on_where_their_serialised_state_left_off() {
    for expected in corpus() {
        let mut decoder = ChatDecoder::new(ChatLimits::default());
        let mut assembler = assembler();
        for chunk in expected.stream.as_bytes().chunks(23) {
            let state = postcard::to_allocvec(&(decoder, assembler)).unwrap();
            (decoder, assembler) = postcard::from_bytes(&state).unwrap();
            let mut out = Vec::new();
            decoder.push(chunk, &mut out);
            let journalled = postcard::to_allocvec(&out).unwrap();
            let replayed: Vec<ProviderEvent> = postcard::from_bytes(&journalled).unwrap();
            for event in replayed {
                assembler.apply(event).unwrap();
            }
        }
        assert_eq!(assembler.finish(), expected.content, "{}", expected.vendor);
    }
}

#[test]
#[ignore = "a measurement: prints chunks per second"]
fn measure_chunks_per_second() {
    let chunk = "data: {\"id\":\"chatcmpl-A1\",\"object\":\"chat.completion.chunk\",\"created\":1770000000,\
        \"model\":\"gpt-5.1\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_1\",\"choices\":[{\"index\":0,\
        \"delta\":{\"content\":\" word\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
    let chunks = 400_000u32;
    for per_push in [1, 8] {
        let bytes = chunk.repeat(per_push);
        let mut decoder = ChatDecoder::new(ChatLimits::default());
        let mut assembler = assembler();
        let mut out = Vec::new();
        let start = std::time::Instant::now();
        for _ in 0..chunks / per_push as u32 {
            decoder.push(bytes.as_bytes(), &mut out);
            for event in out.drain(..) {
                assembler.apply(event).unwrap();
            }
        }
        let spent = start.elapsed();
        assert_eq!(assembler.finish().chunks, u64::from(chunks));
        println!(
            "{per_push} a push: {:.0} chunks/s, {:.0} MB/s",
            f64::from(chunks) / spent.as_secs_f64(),
            f64::from(chunks) * chunk.len() as f64 / 1e6 / spent.as_secs_f64()
        );
    }
}
