//! When to try again (T3, T4): the schedule, the classification of refusals
//! and the reading of Retry-After. Pure functions.

use alloc::format;
use alloc::string::{String, ToString};

use crate::config::RetryTerms;
use crate::http_date;
use crate::io::FailKind;
use crate::store::{Failure, Retry, RetryState};
use crate::time::Timestamp;

/// The scheduled wait after refusal number `attempt` (0-based) of a step, in
/// milliseconds; `None` once the waits up to and including it would add up to
/// more than the budget. With the documented terms: 5 s, 10 s, 30 s, 60 s,
/// 5 min, 10 min, 15 min, 30 min, then 30 min up to `delay_for(20)` (T3).
pub fn delay_for(terms: &RetryTerms, attempt: u32) -> Option<u64> {
    let last_ms = *terms.schedule_ms.last()?;
    let listed = terms.schedule_ms.len();
    let attempt = usize::try_from(attempt).ok()?;
    let waits = attempt.checked_add(1)?;
    let beyond = u64::try_from(waits.saturating_sub(listed)).ok()?;
    // What overflows is beyond any budget.
    let sum_ms = terms
        .schedule_ms
        .iter()
        .take(waits)
        .try_fold(beyond.checked_mul(last_ms)?, |sum_ms, delay_ms| {
            sum_ms.checked_add(*delay_ms)
        })?;
    let delay_ms = terms.schedule_ms.get(attempt).copied().unwrap_or(last_ms);
    let counted_ms = match crate::planted!("D07") {
        true => sum_ms - delay_ms,
        false => sum_ms,
    };
    (counted_ms <= terms.budget_ms).then_some(delay_ms)
}

/// A step that did not succeed, judged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The same request may succeed later.
    pub retryable: bool,
    /// What was met.
    pub failure: Failure,
    /// What the provider asks for.
    pub retry_after: RetryAfter,
    /// The terminal code, should the turn end by it.
    pub code: &'static str,
}

/// What a provider said about when to come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// Nothing.
    Absent,
    /// After so many milliseconds.
    In(u64),
    /// Not before.
    At(Timestamp),
    /// Something that is not obeyed: unparsable, not positive, absurd.
    Ignored(String),
}

/// Longer than any budget, shorter than nonsense.
const ABSURD_MS: u64 = 31 * 24 * 3_600_000;
const MESSAGE_CHARS: usize = 2_000;

/// Judges an HTTP answer that is not a success (T4). `headers` have lower-case names.
pub fn classify(status: u16, headers: &[(String, String)], body: &[u8]) -> Refusal {
    let header = |name: &str| {
        headers
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, v)| v.trim())
    };
    let said = Said::of(status, body);
    let asked_not_to = header("x-should-retry").is_some_and(|v| v.eq_ignore_ascii_case("false"));
    let by_status = match status {
        408 | 409 | 425 => true,
        429 => !said.names_quota(),
        501 | 505 => false,
        500..=599 => true,
        _ => false,
    };
    Refusal {
        retryable: by_status && !asked_not_to,
        retry_after: retry_after(header("retry-after-ms"), header("retry-after")),
        code: terminal_code(status, &said),
        failure: Failure {
            message: said.message,
            code: Some(if said.code.is_empty() {
                status.to_string()
            } else {
                said.code
            }),
            cause: format!("http-{status}"),
        },
    }
}

/// Judges an error object inside a stream that began as a success (T4).
pub fn classify_in_stream(code: &str, kind: &str, message: &str) -> Refusal {
    let said = Said {
        message: bounded(if message.is_empty() {
            "the provider reported an error"
        } else {
            message
        }),
        code: bounded(if code.is_empty() { kind } else { code }),
        kind: bounded(kind),
    };
    let status: u16 = said.code.parse().unwrap_or(0);
    let passing = [said.code.as_str(), said.kind.as_str()]
        .iter()
        .any(|word| is_passing(word));
    let retryable = (passing || classify(status, &[], b"").retryable) && !said.names_quota();
    Refusal {
        retryable,
        retry_after: RetryAfter::Absent,
        code: terminal_code(status, &said),
        failure: Failure {
            cause: "error-in-stream".to_string(),
            code: Some(said.code.clone()).filter(|c| !c.is_empty()),
            message: said.message,
        },
    }
}

/// Judges a transport fault: always worth another try (T4).
pub fn classify_transport(kind: FailKind, message: &str) -> Refusal {
    transport(kind.cause(), message)
}

/// Any fault of the way, named by its cause.
pub fn transport(cause: &str, message: &str) -> Refusal {
    Refusal {
        retryable: true,
        failure: Failure {
            message: bounded(message),
            code: None,
            cause: cause.to_string(),
        },
        retry_after: RetryAfter::Absent,
        code: "provider-error",
    }
}

/// What follows a retryable refusal before content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Wait, then try again.
    Wait(Retry),
    /// The turn ends; why, where it is not the schedule's end.
    GiveUp(Option<String>),
}

/// Decides on the next attempt of a step (T3, T4). `now` is store time, `wall`
/// the clock that a Retry-After date is read against.
pub fn next(
    terms: &RetryTerms,
    state: &RetryState,
    refusal: &Refusal,
    now: Timestamp,
    wall: Timestamp,
) -> Verdict {
    let scheduled = delay_for(terms, state.attempt).filter(|delay_ms| {
        let sum_ms = state.sum_ms.checked_add(*delay_ms);
        sum_ms.is_some_and(|sum_ms| sum_ms <= terms.budget_ms) || crate::planted!("D07")
    });
    let Some(scheduled_ms) = scheduled else {
        return Verdict::GiveUp(None);
    };
    let (asked_ms, source) = match &refusal.retry_after {
        RetryAfter::Absent => (0, "schedule".to_string()),
        RetryAfter::In(ms) => (*ms, "retry-after".to_string()),
        RetryAfter::At(at) => match at.since_ms(wall) {
            wait_ms @ 1..=ABSURD_MS => (wait_ms, "retry-after".to_string()),
            0 => (
                0,
                "schedule; ignored retry-after, a date that has passed".to_string(),
            ),
            _ => (
                0,
                "schedule; ignored retry-after, a date too far away".to_string(),
            ),
        },
        RetryAfter::Ignored(text) => (0, format!("schedule; ignored retry-after `{text}`")),
    };
    let spent_ms = state
        .first_failure_at
        .map_or(0, |first| now.since_ms(first));
    let left_ms = terms.budget_ms.saturating_sub(spent_ms);
    if asked_ms > left_ms {
        return Verdict::GiveUp(Some(format!(
            "the provider asks to wait {} s, and {} s are left of the {} s that a step may be retried",
            asked_ms / 1000,
            left_ms / 1000,
            terms.budget_ms / 1000
        )));
    }
    let lengthened = asked_ms > scheduled_ms;
    let delay_ms = match &refusal.retry_after {
        RetryAfter::In(ms) if crate::planted!("D08") => *ms,
        _ => scheduled_ms.max(asked_ms),
    };
    Verdict::Wait(Retry {
        attempt: state.attempt,
        delay_ms,
        counted_ms: scheduled_ms,
        failure: refusal.failure.clone(),
        source: if lengthened || asked_ms == 0 {
            source
        } else {
            "schedule".to_string()
        },
    })
}

/// What an error body says, whatever its shape.
struct Said {
    message: String,
    code: String,
    kind: String,
}

impl Said {
    fn of(status: u16, body: &[u8]) -> Said {
        let text = String::from_utf8_lossy(body);
        let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let error = match &json["error"] {
            serde_json::Value::Null => &json,
            error => error,
        };
        let word = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => bounded(text),
            serde_json::Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let message = [
            word(error),
            word(&error["message"]),
            word(&error["detail"]),
            bounded(text.trim()),
        ]
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_else(|| format!("the provider answered with status {status}"));
        Said {
            message,
            code: word(&error["code"]),
            kind: word(&error["type"]),
        }
    }

    fn names_quota(&self) -> bool {
        [&self.message, &self.code, &self.kind].iter().any(|text| {
            let text = text.to_ascii_lowercase();
            ["quota", "spend", "billing_hard_limit"]
                .iter()
                .any(|word| begins_a_word(&text, word))
        })
    }

    fn names_context_length(&self) -> bool {
        self.code.contains("context_length") || self.message.contains("maximum context length")
    }
}

fn terminal_code(status: u16, said: &Said) -> &'static str {
    match status {
        401 | 403 => "provider-unauthorized",
        402 => "provider-quota",
        413 => "context-length",
        _ if said.names_quota() => "provider-quota",
        _ if said.names_context_length() => "context-length",
        _ => "provider-error",
    }
}

/// "spend" is in "Spend limit" and not in "suspended".
fn begins_a_word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        before.is_none_or(|c| !c.is_alphanumeric())
    })
}

/// Error words that mean "later".
fn is_passing(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    [
        "overloaded",
        "rate_limit",
        "server_error",
        "timeout",
        "unavailable",
        "api_error",
    ]
    .iter()
    .any(|passing| word.contains(passing))
}

/// Reads both headers; the finer one wins, unless only the other one can be
/// obeyed (T4).
fn retry_after(ms: Option<&str>, plain: Option<&str>) -> RetryAfter {
    let least_ms = u64::from(!crate::planted!("D08"));
    let of_ms = ms.and_then(|text| decimal_ms(text, 1));
    let of_plain = plain.and_then(|text| decimal_ms(text, 1_000));
    let usable = |wait_ms: &u64| (least_ms..=ABSURD_MS).contains(wait_ms);
    if let Some(wait_ms) = [of_ms, of_plain].into_iter().flatten().find(usable) {
        return RetryAfter::In(wait_ms);
    }
    match plain.or(ms) {
        None => RetryAfter::Absent,
        Some(text) => match http_date::parse(text) {
            Some(at) => RetryAfter::At(at),
            None => RetryAfter::Ignored(bounded_to(text, 40)),
        },
    }
}

/// A plain decimal times `unit_ms`; no sign, no exponent.
fn decimal_ms(text: &str, unit_ms: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    // More digits than any sensible wait has: absurd, but a number.
    let whole: u64 = whole.parse().unwrap_or(u64::MAX);
    let thousandths = fraction
        .bytes()
        .chain([b'0'; 3])
        .take(3)
        .fold(0, |n, b| n * 10 + u64::from(b - b'0'));
    Some(
        whole
            .saturating_mul(unit_ms)
            .saturating_add(thousandths * unit_ms / 1_000),
    )
}

fn bounded(text: &str) -> String {
    bounded_to(text, MESSAGE_CHARS)
}

fn bounded_to(text: &str, chars: usize) -> String {
    text.chars().take(chars).collect()
}

#[cfg(test)]
mod tests;
