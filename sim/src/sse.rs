//! What the simulated provider answers, byte by byte: OpenAI's event stream,
//! whole or broken in the way that was drawn.

use std::collections::VecDeque;

use dispatch_core::io::FailKind;

use crate::clock::Us;
use crate::fact::Cause;
use crate::rng::Rng;
use crate::scenario::{FLOOD_LIMIT_BYTES, Fault, MINUTE, SECOND, StormKind};
use crate::script::StepScript;

/// One thing that the provider does, so long after the one before.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) after: Us,
    pub(crate) act: Act,
}

#[derive(Clone, Debug)]
pub(crate) enum Act {
    Head(u16, Vec<(String, String)>),
    Bytes(Vec<u8>),
    End,
    Fail(FailKind),
    /// Tell the oracles what is being done.
    Note(Cause),
}

/// The answer to one request.
pub(crate) fn answer(rng: &mut Rng, step: &StepScript, fault: Option<Fault>) -> VecDeque<Step> {
    let mut acts = Acts::default();
    match fault {
        Some(Fault::RateLimited) => refuse(&mut acts, rng, 429, None),
        Some(Fault::RetryAfter) => {
            let header = retry_after(rng);
            refuse(&mut acts, rng, 429, Some(header));
        }
        Some(Fault::Unavailable) => {
            let status = *rng.pick(&[500, 502, 503, 529, 408, 409, 425]);
            refuse(&mut acts, rng, status, None);
        }
        Some(Fault::Unauthorized) => fatal(&mut acts, 401, "invalid_api_key", "wrong key"),
        Some(Fault::Quota) => fatal(&mut acts, 429, "insufficient_quota", "no quota is left"),
        Some(Fault::Refused) => fail(&mut acts, FailKind::Refused),
        Some(Fault::ConnectTimeout) => fail(&mut acts, FailKind::ConnectTimeout),
        Some(Fault::Hang) => acts.note(refused("first-byte-timeout", None)),
        None
        | Some(
            Fault::CutBefore
            | Fault::CutAfter
            | Fault::EndAfter
            | Fault::StallBefore
            | Fault::StallAfter
            | Fault::OverloadedBefore
            | Fault::OverloadedAfter
            | Fault::MalformedBefore
            | Fault::MalformedAfter
            | Fault::Empty
            | Fault::NoTerminator
            | Fault::CutAtEnd
            | Fault::EmptyCut
            | Fault::Flood
            | Fault::Drip,
        ) => stream(&mut acts, rng, step, fault),
    }
    acts.0
}

/// The answer during a storm.
pub(crate) fn storm_answer(rng: &mut Rng, kind: StormKind) -> VecDeque<Step> {
    let fault = match kind {
        StormKind::RateLimited => Fault::RateLimited,
        StormKind::RateLimitedWithRetryAfter => Fault::RetryAfter,
        StormKind::Unavailable => Fault::Unavailable,
        StormKind::Unreachable => *rng.pick(&[Fault::Refused, Fault::ConnectTimeout]),
    };
    answer(rng, &StepScript::default(), Some(fault))
}

/// The answer to a transcript that no vendor accepts.
pub(crate) fn rejection(why: &str) -> VecDeque<Step> {
    let mut acts = Acts::default();
    fatal(&mut acts, 400, "invalid_request_error", why);
    acts.0
}

#[derive(Default)]
struct Acts(VecDeque<Step>);

impl Acts {
    fn push(&mut self, after: Us, act: Act) {
        self.0.push_back(Step { after, act });
    }
    fn note(&mut self, cause: Cause) {
        self.push(0, Act::Note(cause));
    }
}

fn refused(cause: &str, retry_after_ms: Option<u64>) -> Cause {
    Cause::Refused {
        cause: cause.to_owned(),
        retry_after_ms,
    }
}

fn broken(cause: &str, is_cut: bool) -> Cause {
    Cause::Broken {
        cause: cause.to_owned(),
        is_cut,
    }
}

fn fail(acts: &mut Acts, kind: FailKind) {
    let (after, cause) = match kind {
        FailKind::ConnectTimeout => (10 * SECOND, "connect-timeout"),
        FailKind::Refused => (0, "connection-refused"),
        FailKind::Dns
        | FailKind::Tls
        | FailKind::Connect
        | FailKind::Transport
        | FailKind::Body => (0, kind.cause()),
    };
    acts.note(refused(cause, None));
    acts.push(after, Act::Fail(kind));
}

type Header = (&'static str, String, Option<u64>);

/// A Retry-After: sensible, ignorable or in the finer unit.
fn retry_after(rng: &mut Rng) -> Header {
    match rng.below(8) {
        0 => ("retry-after", "0".to_owned(), None),
        1 => ("retry-after", "soon".to_owned(), None),
        2 => {
            let ms = rng.range(1, 20_000);
            ("retry-after-ms", ms.to_string(), Some(ms))
        }
        3 => {
            let seconds = rng.range(600, 5_400);
            ("retry-after", seconds.to_string(), Some(seconds * 1_000))
        }
        4 if rng.chance(1_000) => ("retry-after", "40000".to_owned(), Some(40_000_000)),
        _ => {
            let seconds = rng.range(1, 120);
            ("retry-after", seconds.to_string(), Some(seconds * 1_000))
        }
    }
}

fn refuse(acts: &mut Acts, rng: &mut Rng, status: u16, header: Option<Header>) {
    let retry_after_ms = header.as_ref().and_then(|(_, _, ms)| *ms);
    acts.note(refused(&format!("http-{status}"), retry_after_ms));
    let mut headers = json_headers();
    headers.extend(header.map(|(name, value, _)| (name.to_owned(), value)));
    acts.push(rng.spread(1_000, SECOND), Act::Head(status, headers));
    let body = format!(r#"{{"error":{{"message":"try later ({status})","type":"server_error"}}}}"#);
    acts.push(rng.below(20_000), Act::Bytes(body.into_bytes()));
    acts.push(0, Act::End);
}

fn fatal(acts: &mut Acts, status: u16, code: &str, message: &str) {
    acts.note(Cause::Fatal {
        cause: format!("http-{status}"),
    });
    acts.push(5_000, Act::Head(status, json_headers()));
    let body = serde_json::json!({"error": {"message": message, "code": code}});
    acts.push(0, Act::Bytes(body.to_string().into_bytes()));
    acts.push(0, Act::End);
}

fn json_headers() -> Vec<(String, String)> {
    vec![("content-type".to_owned(), "application/json".to_owned())]
}

/// A stream's events: those before content, content, and those after it.
struct Frames {
    before: Vec<String>,
    content: Vec<String>,
    after: Vec<String>,
}

fn chunk(delta: &str, finish: &str) -> String {
    format!(
        "data: {{\"id\":\"x\",\"object\":\"chat.completion.chunk\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish}}}]}}\n\n"
    )
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn pieces<'t>(rng: &mut Rng, text: &'t str) -> Vec<&'t str> {
    let mut rest = text;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        let wanted = usize::try_from(rng.range(1, 24)).unwrap_or(1);
        let at = rest
            .char_indices()
            .map(|(at, _)| at)
            .find(|at| *at >= wanted)
            .unwrap_or(rest.len());
        let (piece, after) = rest.split_at(at);
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn frames(rng: &mut Rng, step: &StepScript) -> Frames {
    let mut before = vec![chunk(r#"{"role":"assistant","content":""}"#, "null")];
    if rng.chance(1_500) {
        before.push(": keep-alive\n\n".to_owned());
    }
    let mut content = Vec::new();
    for piece in pieces(rng, &step.reasoning) {
        let delta = format!(r#"{{"reasoning_content":{}}}"#, quoted(piece));
        content.push(chunk(&delta, "null"));
    }
    for piece in pieces(rng, &step.text) {
        content.push(chunk(
            &format!(r#"{{"content":{}}}"#, quoted(piece)),
            "null",
        ));
    }
    for (index, call) in step.calls.iter().enumerate() {
        let head = format!(
            r#"{{"tool_calls":[{{"index":{index},"id":{},"type":"function","function":{{"name":"{}","arguments":""}}}}]}}"#,
            quoted(&call.id),
            call.tool()
        );
        content.push(chunk(&head, "null"));
        for piece in pieces(rng, &call.input()) {
            let delta = format!(
                r#"{{"tool_calls":[{{"index":{index},"function":{{"arguments":{}}}}}]}}"#,
                quoted(piece)
            );
            content.push(chunk(&delta, "null"));
        }
    }
    let reason = match step.calls.is_empty() {
        true => "\"stop\"",
        false => "\"tool_calls\"",
    };
    let usage = format!(
        r#"data: {{"choices":[],"usage":{{"prompt_tokens":{},"completion_tokens":{}}}}}"#,
        USAGE.0, USAGE.1
    );
    Frames {
        before,
        content,
        after: vec![
            chunk("{}", reason),
            format!("{usage}\n\n"),
            "data: [DONE]\n\n".to_owned(),
        ],
    }
}

/// One more tool call, larger than a whole step may be.
fn flood(index: usize) -> String {
    let arguments = format!(r#"{{"command":"{}"}}"#, "x".repeat(FLOOD_LIMIT_BYTES + 1));
    let delta = format!(
        r#"{{"tool_calls":[{{"index":{index},"id":"flood","type":"function","function":{{"name":"bash","arguments":{}}}}}]}}"#,
        quoted(&arguments)
    );
    chunk(&delta, "null")
}

/// Input and output tokens of every whole step.
pub(crate) const USAGE: (u64, u64) = (7, 3);
const USAGE_EARLY: &str = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":9}}\n\n";
const OVERLOADED: &str =
    "data: {\"error\":{\"type\":\"overloaded_error\",\"message\":\"overloaded\"}}\n\n";
const MALFORMED: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"lo\n\n";

/// How a stream goes on after its last whole event.
enum Tail {
    End,
    Cut,
    Silence,
}

fn stream(acts: &mut Acts, rng: &mut Rng, step: &StepScript, fault: Option<Fault>) {
    let Frames {
        mut before,
        mut content,
        after,
    } = frames(rng, step);
    let some = 1 + rng.index(content.len());
    if fault == Some(Fault::Flood) {
        let cause = "step-too-large".to_owned();
        acts.note(Cause::Fatal { cause });
        content.push(flood(step.calls.len()));
    }
    let half = || [before.clone(), content[..some].to_vec()].concat();
    let (sent, note, last, tail) = match fault {
        Some(Fault::CutBefore) if rng.chance(5_000) => {
            (before, Some(refused("stream-cut", None)), "", Tail::Cut)
        }
        Some(Fault::CutBefore) => (
            before,
            Some(refused("terminator-missing", None)),
            "",
            Tail::End,
        ),
        Some(Fault::CutAfter) => (half(), Some(broken("stream-cut", true)), "", Tail::Cut),
        Some(Fault::EndAfter) => (
            half(),
            Some(broken("terminator-missing", true)),
            "",
            Tail::End,
        ),
        Some(Fault::StallBefore) => (
            before,
            Some(refused("idle-timeout", None)),
            "",
            Tail::Silence,
        ),
        Some(Fault::StallAfter) => (
            half(),
            Some(broken("idle-timeout", true)),
            "",
            Tail::Silence,
        ),
        Some(Fault::OverloadedBefore) => {
            before.push(USAGE_EARLY.to_owned());
            let note = refused("error-in-stream", None);
            (before, Some(note), OVERLOADED, Tail::End)
        }
        Some(Fault::OverloadedAfter) => {
            let note = broken("error-in-stream", false);
            (half(), Some(note), OVERLOADED, Tail::End)
        }
        Some(Fault::MalformedBefore) => {
            let note = refused("malformed-stream", None);
            (before, Some(note), MALFORMED, Tail::End)
        }
        Some(Fault::MalformedAfter) => {
            let note = broken("malformed-stream", true);
            (half(), Some(note), MALFORMED, Tail::End)
        }
        Some(Fault::Empty) => {
            before.extend([chunk("{}", "\"stop\""), "data: [DONE]\n\n".to_owned()]);
            // It is one with its finish reason, however late the rest comes.
            acts.note(Cause::Empty);
            (before, None, "", Tail::End)
        }
        Some(Fault::EmptyCut) => {
            before.push(chunk("{}", "\"stop\""));
            (before, Some(refused("stream-cut", None)), "", Tail::Cut)
        }
        Some(Fault::NoTerminator) => {
            let whole = [before, content, after[..1].to_vec()].concat();
            (whole, None, "", Tail::End)
        }
        Some(Fault::CutAtEnd) => {
            let whole = [before, content, after[..1].to_vec()].concat();
            (whole, None, "", Tail::Cut)
        }
        Some(
            Fault::RateLimited
            | Fault::RetryAfter
            | Fault::Unavailable
            | Fault::Unauthorized
            | Fault::Quota
            | Fault::Refused
            | Fault::ConnectTimeout
            | Fault::Hang
            | Fault::Flood
            | Fault::Drip,
        )
        | None => ([before, content, after].concat(), None, "", Tail::End),
    };
    let headers = vec![("content-type".to_owned(), "text/event-stream".to_owned())];
    acts.push(rng.spread(20_000, 4 * SECOND), Act::Head(200, headers));
    let chunks = match fault == Some(Fault::Drip) {
        true => sent.into_iter().map(String::into_bytes).collect(),
        false => chunked(rng, &sent.concat()),
    };
    for (left, bytes) in (0..chunks.len()).rev().zip(chunks) {
        if let (0, Some(note)) = (left, &note) {
            acts.note(note.clone());
        }
        let after = match rng.chance(150) {
            _ if fault == Some(Fault::Drip) => rng.range(5 * SECOND, 40 * SECOND),
            true => rng.spread(SECOND, MINUTE),
            false => rng.spread(1_000, SECOND),
        };
        acts.push(after, Act::Bytes(bytes));
    }
    if !last.is_empty() {
        acts.push(1_000, Act::Bytes(last.as_bytes().to_vec()));
    }
    match tail {
        Tail::End => acts.push(rng.below(50_000), Act::End),
        Tail::Cut => acts.push(rng.below(50_000), Act::Fail(FailKind::Body)),
        Tail::Silence => {}
    }
}

/// The bytes in a few chunks, cut anywhere, also within a character.
fn chunked(rng: &mut Rng, text: &str) -> Vec<Vec<u8>> {
    let bytes = text.as_bytes();
    let mut cuts: Vec<usize> = (0..rng.below(6)).map(|_| rng.index(bytes.len())).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.dedup();
    cuts.windows(2)
        .map(|w| bytes[w[0]..w[1]].to_vec())
        .collect()
}
