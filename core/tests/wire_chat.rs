//! Vendors' streams through the decoder and the assembler (P2, T8, T11).
#![allow(clippy::unwrap_used)]

mod wire_corpus;

use std::collections::BTreeSet;

use dispatch_core::{
    transcript::{ToolCall, Usage},
    wire::{
        assemble::{
            Applied, AssembleError, DEFAULT_STEP_LIMIT_BYTES, MAX_STEP_CALLS, StepAssembler,
            StepContent, Verdict,
        },
        chat::{ChatDecoder, ChatLimits, json_completion},
        provider_event::{FinishReason, ProviderEvent},
    },
};
use proptest::{collection::vec, prelude::*};

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

fn call(call_id: &str, name: &str, input: &str) -> ToolCall {
    ToolCall {
        call_id: call_id.into(),
        name: name.into(),
        input: input.into(),
    }
}

fn complete(finish: FinishReason) -> Verdict {
    Verdict::Complete {
        finish,
        terminator_missing: false,
    }
}

struct Expected {
    vendor: &'static str,
    stream: String,
    content: StepContent,
    verdict: Verdict,
}

fn usage(input: u64, output: u64, cached: u64, reasoning: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        cached_tokens: cached,
        reasoning_tokens: reasoning,
    }
}

fn corpus() -> Vec<Expected> {
    let step =
        |text: &str, reasoning: &str, calls: Vec<ToolCall>, usage, finish, chunks| StepContent {
            text: text.into(),
            reasoning: reasoning.into(),
            calls,
            usage,
            finish: Some(finish),
            chunks,
        };
    let entry = |vendor, stream: &str, content, verdict| Expected {
        vendor,
        stream: stream.into(),
        content,
        verdict,
    };
    use FinishReason::{Stop, ToolCalls};
    let gemini = step(
        "Checking.",
        "",
        vec![
            call("function-call-111", "search", "{\"q\":\"rust\"}"),
            call("function-call-222", "search", "{\"q\":\"sse\"}"),
        ],
        usage(30, 20, 0, 0),
        Stop,
        5,
    );
    vec![
        entry(
            "OpenAI",
            wire_corpus::OPENAI,
            step(
                "Looking at “both” 😀.\n",
                "",
                vec![
                    call("call_a9X", "read", "{\"path\":\"a.txt\"}"),
                    call("call_b7Y", "read", "{\"path\":\"b.txt\"}"),
                ],
                usage(210, 34, 128, 5),
                ToolCalls,
                7,
            ),
            complete(ToolCalls),
        ),
        entry(
            "Azure",
            wire_corpus::AZURE,
            step(
                "Hello from the east.",
                "",
                vec![],
                usage(11, 6, 0, 0),
                Stop,
                1,
            ),
            complete(Stop),
        ),
        entry(
            "Mistral",
            wire_corpus::MISTRAL,
            step(
                "I ask both.",
                "Two cities.",
                vec![
                    call("D681PevKs", "weather", "{\"city\": \"Oslo\"}"),
                    call("aB3dE5fG7", "weather", "{\"city\": \"Bern\"}"),
                ],
                usage(70, 25, 0, 0),
                ToolCalls,
                6,
            ),
            complete(ToolCalls),
        ),
        entry(
            "DeepSeek",
            wire_corpus::DEEPSEEK,
            step(
                "It is 4.",
                "Let me add.",
                vec![],
                usage(18, 12, 0, 4),
                Stop,
                3,
            ),
            complete(Stop),
        ),
        entry(
            "Groq",
            wire_corpus::GROQ,
            step("Fast answer", "Hm.", vec![], usage(9, 3, 0, 0), Stop, 3),
            complete(Stop),
        ),
        entry(
            "OpenRouter",
            wire_corpus::OPENROUTER,
            step("Done.", "First then.", vec![], usage(14, 8, 0, 3), Stop, 3),
            complete(Stop),
        ),
        entry(
            "Gemini",
            &wire_corpus::crlf(wire_corpus::GEMINI),
            gemini.clone(),
            complete(Stop),
        ),
        entry("Gemini in LF", wire_corpus::GEMINI, gemini, complete(Stop)),
        entry(
            "Perplexity",
            wire_corpus::PERPLEXITY,
            step("Berlin", "", vec![], usage(4, 2, 0, 0), Stop, 2),
            Verdict::Complete {
                finish: Stop,
                terminator_missing: true,
            },
        ),
        entry(
            "a repeating gateway",
            wire_corpus::REPEATING_GATEWAY,
            step(
                "So:",
                "",
                vec![call("t-1", "bash", "{\"command\":\"ls\"}")],
                Usage::default(),
                ToolCalls,
                4,
            ),
            Verdict::Complete {
                finish: ToolCalls,
                terminator_missing: true,
            },
        ),
    ]
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
fn what_became_visible_is_told_with_offsets_in_bytes() {
    let mut assembler = assembler();
    let start = ProviderEvent::ToolCallStart {
        index: 0,
        id: "a".into(),
        name: "one".into(),
    };
    let args = ProviderEvent::ToolCallArgs {
        index: 0,
        fragment: "{}".into(),
    };
    assert_eq!(
        assembler.apply(ProviderEvent::Usage(usage(5, 0, 0, 0))),
        Ok(Applied::Nothing)
    );
    assert_eq!(assembler.apply(text("")), Ok(Applied::Nothing));
    assert!(!assembler.content_seen());
    assert_eq!(
        assembler.apply(ProviderEvent::Reasoning { text: "hm".into() }),
        Ok(Applied::Reasoning { offset: 0, len: 2 })
    );
    assert!(assembler.content_seen());
    assert_eq!(
        assembler.apply(text("äh")),
        Ok(Applied::Text { offset: 0, len: 3 })
    );
    assert_eq!(
        assembler.apply(text("!")),
        Ok(Applied::Text { offset: 3, len: 1 })
    );
    assert_eq!(assembler.apply(start.clone()), Ok(Applied::ToolCall));
    assert_eq!(assembler.apply(start), Ok(Applied::Nothing));
    assert_eq!(assembler.apply(args), Ok(Applied::Nothing));
    assert_eq!(assembler.finish().chunks, 5);
}

#[test]
fn t11_an_answer_without_text_or_call_is_empty_and_a_cut_one_is_truncated() {
    let thinking = || ProviderEvent::Reasoning { text: "hm".into() };
    let stop = || finish(FinishReason::Stop);
    let done = || ProviderEvent::Terminated;
    let verdict = |events: Vec<ProviderEvent>, clean| assembled(events).verdict(clean);

    assert_eq!(verdict(vec![stop(), done()], true), Verdict::Empty);
    assert_eq!(
        verdict(vec![thinking(), stop(), done()], true),
        Verdict::Empty
    );
    assert_eq!(verdict(vec![thinking(), stop()], true), Verdict::Empty);
    assert_eq!(verdict(vec![done()], true), Verdict::Empty);
    assert_eq!(verdict(vec![thinking(), stop()], false), Verdict::Truncated);
    assert_eq!(verdict(vec![], true), Verdict::Truncated);
    assert_eq!(verdict(vec![text("a")], true), Verdict::Truncated);
    assert_eq!(verdict(vec![text("a")], false), Verdict::Truncated);
    assert_eq!(
        verdict(vec![text("a"), done()], true),
        complete(FinishReason::Stop)
    );
    assert_eq!(
        verdict(vec![text("a"), stop()], false),
        Verdict::Complete {
            finish: FinishReason::Stop,
            terminator_missing: true
        }
    );
}

#[test]
fn nothing_after_the_terminator_and_no_failure_after_the_finish_counts() {
    let fault = || ProviderEvent::Malformed {
        message: "noise".into(),
    };
    let assembler = assembled(vec![
        text("a"),
        finish(FinishReason::Stop),
        fault(),
        ProviderEvent::Terminated,
        text("b"),
        fault(),
    ]);
    assert_eq!(assembler.verdict(false), complete(FinishReason::Stop));
    assert_eq!(assembler.finish().text, "a");
}

#[test]
fn a_hole_in_the_stream_before_the_finish_fails_the_step() {
    let mut assembler = assembled(vec![text("a")]);
    let hole = ProviderEvent::Malformed {
        message: "noise".into(),
    };
    assert!(matches!(
        assembler.apply(hole),
        Err(AssembleError::Malformed { .. })
    ));
    assert!(assembler.apply(finish(FinishReason::Stop)).is_err());
    assert_eq!(assembler.verdict(true), Verdict::Truncated);
}

#[test]
fn call_ids_are_kept_where_usable_and_else_made_unique() {
    let used = BTreeSet::from(["old".to_owned(), "call_3_1".to_owned()]);
    let mut assembler = StepAssembler::new(3, DEFAULT_STEP_LIMIT_BYTES, used);
    let long = "x".repeat(65);
    let longest = "y".repeat(64);
    let ids = [
        "", "old", "new", "new", "sp ace", &long, &longest, "call_3_0", "ümlaut",
    ];
    for (index, id) in ids.iter().enumerate() {
        let start = ProviderEvent::ToolCallStart {
            index: index as u32,
            id: (*id).into(),
            name: String::new(),
        };
        assembler.apply(start).unwrap();
    }
    let made: Vec<String> = assembler
        .finish()
        .calls
        .into_iter()
        .map(|call| call.call_id)
        .collect();
    assert_eq!(
        made,
        [
            "call_3_0",
            "call_3_1_2",
            "new",
            "call_3_3",
            "call_3_4",
            "call_3_5",
            &longest,
            "call_3_7",
            "call_3_8"
        ]
    );
}

#[test]
fn a_call_without_arguments_gets_an_empty_object_and_one_without_a_name_is_kept() {
    let start = ProviderEvent::ToolCallStart {
        index: 4,
        id: "a".into(),
        name: String::new(),
    };
    let orphan = ProviderEvent::ToolCallArgs {
        index: 9,
        fragment: "{\"a\"".into(),
    };
    assert_eq!(
        assembled(vec![start, orphan]).finish().calls,
        [call("a", "", "{}"), call("call_0_9", "", "{\"a\"")]
    );
}

#[test]
fn t8_a_step_is_bounded_in_bytes_and_in_calls() {
    let mut small = StepAssembler::new(0, 10, BTreeSet::new());
    let too_large = Err(AssembleError::StepTooLarge { limit_bytes: 10 });
    assert!(small.apply(text("12345")).is_ok());
    assert!(
        small
            .apply(ProviderEvent::Reasoning { text: "123".into() })
            .is_ok()
    );
    let args = ProviderEvent::ToolCallArgs {
        index: 0,
        fragment: "123".into(),
    };
    assert_eq!(small.apply(args), too_large);
    assert_eq!(small.apply(text("1")), too_large);
    assert_eq!(small.finish().text, "12345");

    let mut many = assembler();
    for index in 0..MAX_STEP_CALLS as u32 {
        let start = ProviderEvent::ToolCallStart {
            index,
            id: String::new(),
            name: "a".into(),
        };
        many.apply(start).unwrap();
    }
    let one_more = ProviderEvent::ToolCallArgs {
        index: 999,
        fragment: "{".into(),
    };
    assert_eq!(
        many.apply(one_more),
        Err(AssembleError::TooManyToolCalls {
            limit: MAX_STEP_CALLS
        })
    );
}

#[test]
fn cumulative_usage_never_loses_what_an_earlier_report_said() {
    let step = assembled(vec![
        ProviderEvent::Usage(usage(100, 1, 50, 0)),
        ProviderEvent::Usage(usage(0, 20, 0, 7)),
    ]);
    assert_eq!(step.finish().usage, usage(100, 20, 50, 7));
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
