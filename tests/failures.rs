//! What providers do wrong, through real sockets, and the exact events that a
//! client is told (T3, T4, T10, T11): on the first step, and on the step after
//! a tool. The deadlines and the schedule are short; the rules are the real ones.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use support::config;
use support::process::{Provider, Server};
use support::stream::{Event, EventExt};

/// One thing that goes wrong: what the provider does for the failing step.
struct Failure {
    name: &'static str,
    step: Value,
}

fn failures() -> Vec<Failure> {
    let failure = |name, step| Failure { name, step };
    let refused_at_first = |headers: Value| json!({"attempts": [{"status": {"code": 429, "headers": headers}}, "Here I am."]});
    let error =
        |message: &str| json!({"error": {"message": message, "type": "invalid_request_error"}});
    let status = |code: u16, body: Value| json!({"status": {"code": code, "body": body}});
    vec![
        failure(
            "401_unauthorized",
            status(401, error("Incorrect API key provided.")),
        ),
        failure("400_bad_request", status(400, error("Unknown parameter."))),
        failure(
            "402_payment_required",
            status(402, error("Insufficient credits.")),
        ),
        failure(
            "429_quota",
            status(
                429,
                json!({"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}),
            ),
        ),
        failure("501_not_implemented", json!({"status": 501})),
        failure(
            "503_that_should_not_be_retried",
            json!({"status": {"code": 503, "headers": {"x-should-retry": "false"}}}),
        ),
        failure(
            "500_before_content_once",
            json!({"attempts": [{"status": 500}, "Here I am."]}),
        ),
        failure(
            "500_before_content_always",
            status(
                500,
                json!({"error": {"message": "The server had an error."}}),
            ),
        ),
        failure(
            "overloaded_after_early_usage",
            json!({"attempts": [
                [
                    {"usage": {"prompt_tokens": 9, "completion_tokens": 0, "total_tokens": 9}},
                    {"error_event": {"type": "overloaded_error", "message": "Overloaded"}},
                ],
                "Here I am.",
            ]}),
        ),
        failure(
            "overloaded_after_content",
            json!(["half a sen", {"error_event": {"type": "overloaded_error", "message": "Overloaded"}}]),
        ),
        failure(
            "cut_before_the_head",
            json!({"attempts": [{"cut": true}, "Here I am."]}),
        ),
        failure(
            "cut_before_content",
            json!({"attempts": [[{"open": true}, {"cut": true}], "Here I am."]}),
        ),
        failure(
            "cut_after_content",
            json!(["half a sen", {"delay_ms": 100}, {"cut": true}]),
        ),
        failure(
            "silence_before_the_first_byte",
            json!({"attempts": [{"hang": true}, "Here I am."]}),
        ),
        failure(
            "silence_before_content",
            json!({"attempts": [[{"open": true}, {"hang": true}], "Here I am."]}),
        ),
        failure(
            "silence_in_mid_stream",
            json!(["half a sen", {"hang": true}]),
        ),
        failure(
            "malformed_before_content",
            json!({"attempts": [[{"malformed": true}, "unseen"], "Here I am."]}),
        ),
        failure(
            "malformed_after_content",
            json!(["half a sen", {"delay_ms": 100}, {"malformed": true}, "unseen"]),
        ),
        failure("empty_completion", json!([{"finish": "stop"}])),
        failure(
            "empty_completion_once",
            json!({"attempts": [[{"finish": "stop"}], "Here I am."]}),
        ),
        failure("thinking_only", json!([{"reasoning": "hm"}])),
        failure(
            "no_terminator_after_a_finish",
            json!(["All of it.", {"finish": "stop"}, {"no_terminator": true}]),
        ),
        failure(
            "no_terminator_and_no_finish",
            json!(["half a sen", {"finish": null}, {"no_terminator": true}]),
        ),
        failure(
            "retry_after_in_seconds",
            refused_at_first(json!({"retry-after": "3"})),
        ),
        failure(
            "retry_after_zero",
            refused_at_first(json!({"retry-after": "0"})),
        ),
        failure(
            "retry_after_negative",
            refused_at_first(json!({"retry-after": "-7"})),
        ),
        failure(
            "retry_after_date",
            refused_at_first(json!({"retry-after": in_seconds(DATE_S)})),
        ),
        failure(
            "retry_after_past_date",
            refused_at_first(json!({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"})),
        ),
        failure(
            "retry_after_date_in_8000_years",
            refused_at_first(json!({"retry-after": "Fri, 31 Dec 9999 23:59:59 GMT"})),
        ),
        failure(
            "retry_after_1e30",
            refused_at_first(json!({"retry-after": "1e30"})),
        ),
        failure(
            "retry_after_garbage",
            refused_at_first(json!({"retry-after": "soon"})),
        ),
        failure(
            "retry_after_beyond_the_budget",
            refused_at_first(json!({"retry-after": "3600"})),
        ),
    ]
}

/// How far ahead the date lies that a provider names. The step after a tool
/// comes later, so that less of it is left.
const DATE_S: u64 = 10;

fn in_seconds(s: u64) -> String {
    httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(s))
}

/// `delay_for(0)` = `delay_for(1)` = 1 s, and there is no `delay_for(2)`.
fn config(provider: &str, doomed: &str) -> String {
    [
        config::retry(&[1, 1, 100], 30),
        "[deadlines]\nconnect_s = 1\nfirst_byte_s = 3\nidle_s = 3\n".to_owned(),
        config::provider("mock", provider, 256),
        config::provider("refusing", "http://127.0.0.1:1/v1", 4),
        config::provider("doomed", doomed, 4),
    ]
    .concat()
}

#[test]
fn t3_each_failure_tells_its_client_exactly_this() {
    let dir = tempfile::tempdir().unwrap();
    let (provider, doomed) = (Provider::start(), Provider::start());
    let config = config(&provider.base_url(), &doomed.base_url());
    let server = Server::start(&dir.path().join("data"), &config);
    let chat = |name: &str, model: &str, script: &Value| {
        let message = format!("{name} script: {script}");
        server.chat(&json!({ "message": message, "model": model }))
    };
    // All at once: they wait for most of their time.
    let mut running: Vec<_> = failures()
        .into_iter()
        .map(|Failure { name, step }| {
            let first = chat(&format!("{name} first"), "mock/m", &json!([step]));
            let after = chat(
                &format!("{name} after"),
                "mock/m",
                &json!([tool("echo hi"), step]),
            );
            (name, first, after)
        })
        .collect();
    // A tool that takes the provider away leaves nobody to connect to.
    let end_it = tool(&format!(
        "kill -9 {}; while kill -0 {0} 2>/dev/null && ! grep -q 'State:.Z' /proc/{0}/status; do :; done",
        doomed.process.pid()
    ));
    let first = chat("refused first", "refusing/m", &json!(["never"]));
    let after = chat("refused after", "doomed/m", &json!([end_it, "never"]));
    running.push(("refused_connection", first, after));
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/snapshots"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        for (name, first, after) in running {
            let told = format!(
                "the first step\n{}\n\nthe step after a tool\n{}",
                told(&first.all()),
                told(&after.all())
            );
            insta::assert_snapshot!(format!("failures__{name}"), told);
        }
    });
    assert_eq!(provider.stat("invalid"), 0);
}

fn tool(command: &str) -> Value {
    json!({"tool_call": {"name": "bash", "arguments": {"command": command}, "id": "call_1"}})
}

/// The logged events, a line each: their type and the fields that the failure decides.
fn told(events: &[Event]) -> String {
    let log = events.iter().filter(|event| event.seq().is_some());
    let lines: Vec<String> = log.map(line).collect();
    lines.join("\n")
}

fn line(event: &Event) -> String {
    let mut shown = Vec::new();
    let mut show = |field: &str| {
        if !event[field].is_null() {
            shown.push(format!("{field}={}", event[field]));
        }
    };
    match event.kind() {
        "turn-start" | "tool-call" => {}
        "tool-result" => show("ok"),
        "step-complete" => ["step", "chunks", "partial"].iter().for_each(|f| show(f)),
        "step-restart" => ["step", "reason"].iter().for_each(|f| show(f)),
        "provider-retry" => {
            assert_eq!(
                event.number("dueAt") - event.number("at"),
                event.number("delayMs"),
                "{event}"
            );
            ["attempt", "delayMs", "message", "code", "source"]
                .iter()
                .for_each(|f| show(f));
        }
        "warning" => ["code", "message"].iter().for_each(|f| show(f)),
        "done" => show("finishReason"),
        "error" => ["code", "message", "cause", "retryable"]
            .iter()
            .for_each(|f| show(f)),
        other => panic!("{other} has no place among failures: {event}"),
    }
    normalised(event.kind(), &shown.join(" "))
}

/// Without what the clock and the system decide.
fn normalised(kind: &str, fields: &str) -> String {
    let mut line = format!("{kind} {fields}").trim_end().to_owned();
    let follows_a_date =
        line.ends_with("source=\"retry-after\"") && !line.contains("delayMs=3000 ");
    if follows_a_date {
        let at = line.find("delayMs=").unwrap() + "delayMs=".len();
        let digits = line[at..].find(' ').unwrap();
        let delay_ms: u64 = line[at..at + digits].parse().unwrap();
        // A date has whole seconds, and is read a while after it was written;
        // it counts only where it is later than the schedule.
        assert!((1_001..=DATE_S * 1_000).contains(&delay_ms), "{line}");
        line.replace_range(at..at + digits, "(until the date)");
    }
    let mut rest = line.as_str();
    let mut without_ports = String::new();
    while let Some(at) = rest.find("127.0.0.1:") {
        let port = at + "127.0.0.1:".len();
        let digits = rest[port..]
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len() - port);
        without_ports.push_str(&rest[..port]);
        without_ports.push_str("PORT");
        rest = &rest[port + digits..];
    }
    without_ports + rest
}
