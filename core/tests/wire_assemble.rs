//! Steps put together from provider events (T3, T8, T11, T12).
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dispatch_core::{
    transcript::{ToolCall, Usage},
    wire::{
        assemble::{
            Applied, AssembleError, DEFAULT_STEP_LIMIT_BYTES, MAX_STEP_CALLS, StepAssembler,
            Verdict,
        },
        provider_event::{FinishReason, ProviderEvent},
    },
};

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

fn usage(input: u64, output: u64, cached: u64, reasoning: u64) -> Usage {
    Usage {
        input_tokens: input,
        output_tokens: output,
        cached_tokens: cached,
        reasoning_tokens: reasoning,
    }
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
fn a_later_start_fills_in_what_is_missing_and_overwrites_nothing() {
    let start = |id: &str, name: &str| ProviderEvent::ToolCallStart {
        index: 0,
        id: id.into(),
        name: name.into(),
    };
    let events = vec![
        start("", ""),
        start("a", ""),
        start("b", "one"),
        start("c", "two"),
    ];
    assert_eq!(assembled(events).finish().calls, [call("a", "one", "{}")]);
}

#[test]
fn t8_every_part_of_a_tool_call_counts_towards_the_bound() {
    let limit_bytes = 10;
    let mut assembler = StepAssembler::new(0, limit_bytes, BTreeSet::new());
    let start = |id: &str, name: &str| ProviderEvent::ToolCallStart {
        index: 0,
        id: id.into(),
        name: name.into(),
    };
    let args = |fragment: &str| ProviderEvent::ToolCallArgs {
        index: 0,
        fragment: fragment.into(),
    };
    assembler.apply(start("ab", "")).unwrap();
    assembler.apply(start("", "cd")).unwrap();
    assembler.apply(args("123")).unwrap();
    assembler.apply(args("456")).unwrap();
    assert_eq!(
        assembler.apply(args("7")),
        Err(AssembleError::StepTooLarge { limit_bytes })
    );
    assert_eq!(assembler.finish().calls, [call("ab", "cd", "123456")]);
}
