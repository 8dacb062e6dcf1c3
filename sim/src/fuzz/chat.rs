//! Chat Completions (P2): any chunking of a body gives the same provider
//! events; whatever they are, the step that is assembled of them is bounded,
//! ends once, and can be sent back; the same for a body that is one JSON text.
//!
//! Input: a byte that chooses cuts, a byte that chooses limits, the body.

use std::collections::BTreeSet;

use arbitrary::Unstructured;
use dispatch_core::transcript::Item;
use dispatch_core::wire::assemble::{
    Applied, MAX_CALL_ID_BYTES, MAX_STEP_CALLS, StepAssembler, StepContent, Verdict,
};
use dispatch_core::wire::chat::{ChatDecoder, ChatLimits, json_completion};
use dispatch_core::wire::provider_event::{FinishReason, ProviderEvent};
use dispatch_core::wire::request::{ChatOptions, chat_request};
use dispatch_core::wire::validate::validate_transcript;

use super::{cuts, rest};

/// Of an event, and of a step.
const LIMITS: [(usize, usize); 4] = [
    (64 * 1024, 64 * 1024),
    (4 * 1024, 1024),
    (64 * 1024, 48),
    (256, 64 * 1024),
];

/// See the module's page.
///
/// # Errors
/// Never with two bytes or more.
pub fn target(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let choice: u8 = u.arbitrary()?;
    let limit: u8 = u.arbitrary()?;
    let (event_bytes, step_bytes) = LIMITS[usize::from(limit) % LIMITS.len()];
    let body = rest(u)?;

    let events = decoded(&[body], event_bytes);
    for cut in cuts(choice) {
        let chunked = decoded(&cut.chunks(body), event_bytes);
        assert_eq!(chunked, events, "{cut:?} differs from one chunk");
    }
    check_events(&events);
    check_step(&events, step_bytes);

    let mut completion = Vec::new();
    json_completion(body, &mut completion);
    check_events(&completion);
    check_completion(&completion);
    check_step(&completion, step_bytes);
    Ok(())
}

fn decoded(chunks: &[&[u8]], event_bytes: usize) -> Vec<ProviderEvent> {
    let mut decoder = ChatDecoder::new(ChatLimits { event_bytes });
    let mut events = Vec::new();
    for chunk in chunks {
        decoder.push(chunk, &mut events);
    }
    events
}

/// What the events promise, each by itself and in their order.
fn check_events(events: &[ProviderEvent]) {
    let mut begun = BTreeSet::new();
    for event in events {
        match event {
            ProviderEvent::Text { text } | ProviderEvent::Reasoning { text } => {
                assert!(!text.is_empty(), "an empty piece");
            }
            ProviderEvent::ToolCallStart { index, .. } => {
                begun.insert(*index);
            }
            ProviderEvent::ToolCallArgs { index, fragment } => {
                assert!(!fragment.is_empty(), "an empty piece of arguments");
                assert!(
                    begun.contains(index),
                    "arguments of a call that never began"
                );
            }
            ProviderEvent::Usage(usage) => assert_ne!(*usage, Default::default()),
            ProviderEvent::Finish { reason } => match reason {
                FinishReason::Other(word) => assert_bounded(word, 64),
                FinishReason::Stop
                | FinishReason::Length
                | FinishReason::ToolCalls
                | FinishReason::ContentFilter => {}
            },
            ProviderEvent::Terminated => {}
            ProviderEvent::Error {
                code,
                kind,
                message,
            } => {
                assert!(!message.is_empty(), "an error that says nothing");
                assert_bounded(code, 64);
                assert_bounded(kind, 64);
                assert_bounded(message, 4_000);
            }
            ProviderEvent::Malformed { message } => {
                assert!(!message.is_empty(), "damage that nobody names");
                assert_bounded(message, 200);
            }
        }
    }
}

fn assert_bounded(text: &str, limit_chars: usize) {
    assert!(text.chars().count() <= limit_chars, "unbounded: {text}");
}

/// A whole completion ends in its terminator, an error or damage; never in
/// nothing, and in the terminator only where nothing is wrong.
fn check_completion(events: &[ProviderEvent]) {
    let (last, before) = events.split_last().expect("a body says something");
    let ends = |event: &ProviderEvent| {
        matches!(
            event,
            ProviderEvent::Terminated
                | ProviderEvent::Error { .. }
                | ProviderEvent::Malformed { .. }
        )
    };
    assert!(ends(last), "a completion without an end: {events:?}");
    assert!(
        !before.iter().any(ends),
        "a completion that ends twice: {events:?}"
    );
}

fn check_step(events: &[ProviderEvent], limit_bytes: usize) {
    let used: BTreeSet<String> = ["call_0_0", "a"].map(str::to_owned).into();
    let mut step = StepAssembler::new(0, limit_bytes, used.clone());
    let mut failure = None;
    for event in events {
        let before = (step.text().len(), step.reasoning().len());
        let was_over = step.terminated() || failure.is_some();
        let frozen = was_over.then(|| step.clone());
        let applied = step.apply(event.clone());
        if let Some(failure) = &failure {
            assert_eq!(applied.as_ref(), Err(failure), "a failure is final");
        }
        if let Some(frozen) = frozen {
            assert_eq!(step, frozen, "an event after the end counts");
        }
        match applied {
            Ok(Applied::Text { offset, len }) => {
                assert_eq!((offset, offset + len), (before.0, step.text().len()));
            }
            Ok(Applied::Reasoning { offset, len }) => {
                assert_eq!((offset, offset + len), (before.1, step.reasoning().len()));
            }
            Ok(Applied::Nothing | Applied::ToolCall) => {
                assert_eq!(before, (step.text().len(), step.reasoning().len()));
            }
            Err(error) => {
                assert_eq!(before, (step.text().len(), step.reasoning().len()));
                failure = Some(error);
            }
        }
    }
    let (clean, cut) = (step.verdict(true), step.verdict(false));
    let terminated = step.terminated();
    let content_seen = step.content_seen();
    let content = step.finish();
    for verdict in [&clean, &cut] {
        check_verdict(verdict, &content, failure.is_some(), terminated);
    }
    if clean != cut {
        assert_eq!(
            (clean, cut),
            (Verdict::Empty, Verdict::Truncated),
            "only silence depends on how it ended"
        );
    }
    let has_content =
        !(content.text.is_empty() && content.reasoning.is_empty() && content.calls.is_empty());
    assert_eq!(content_seen, has_content);
    check_content(&content, limit_bytes, &used);
}

fn check_verdict(verdict: &Verdict, content: &StepContent, failed: bool, terminated: bool) {
    let says_something = !content.text.is_empty() || !content.calls.is_empty();
    match verdict {
        Verdict::Complete {
            finish,
            terminator_missing,
        } => {
            assert!(!failed && says_something);
            assert_eq!(*terminator_missing, !terminated);
            let said = content.finish.as_ref().unwrap_or(&FinishReason::Stop);
            assert_eq!(finish, said);
        }
        Verdict::Empty => assert!(!failed && !says_something),
        Verdict::Truncated => assert!(failed || !terminated),
    }
}

fn check_content(content: &StepContent, limit_bytes: usize, used: &BTreeSet<String>) {
    let mut bytes = content.text.len() + content.reasoning.len();
    let mut ids = used.clone();
    assert!(content.calls.len() <= MAX_STEP_CALLS);
    for call in &content.calls {
        // `{}` stands for arguments that never came, and an id may be a made one.
        bytes += call.name.len() + call.input.len();
        bytes -= if call.input == "{}" { 2 } else { 0 };
        assert!(!call.input.trim().is_empty());
        assert!((1..=MAX_CALL_ID_BYTES).contains(&call.call_id.len()));
        assert!(ids.insert(call.call_id.clone()), "a call id twice");
    }
    assert!(bytes <= limit_bytes, "{bytes} bytes of {limit_bytes}");

    let results = content.calls.iter().map(|call| Item::ToolResult {
        call_id: call.call_id.clone(),
        ok: true,
        output: "x".to_owned(),
    });
    let mut items = vec![Item::User {
        text: "x".to_owned(),
    }];
    items.push(Item::Assistant {
        text: content.text.clone(),
        reasoning: content.reasoning.clone(),
        calls: content.calls.clone(),
        partial: false,
    });
    items.extend(results);
    items.push(Item::User {
        text: "y".to_owned(),
    });
    let request = chat_request("m", "", &items, &[], &ChatOptions::default());
    assert_eq!(
        validate_transcript(&request),
        Ok(()),
        "the step cannot be sent back"
    );
}
