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
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn headers(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect()
    }
    fn waits(refusal: &Refusal, state: &RetryState) -> (u64, u64, String) {
        match next(
            &RetryTerms::default(),
            state,
            refusal,
            Timestamp(0),
            Timestamp(0),
        ) {
            Verdict::Wait(retry) => (retry.delay_ms, retry.counted_ms, retry.source),
            Verdict::GiveUp(why) => panic!("gave up: {why:?}"),
        }
    }

    #[test]
    fn t3_the_schedule_is_the_documented_one_and_ends_within_eight_hours() {
        let terms = RetryTerms::default();
        let delays: Vec<u64> = (0..)
            .map_while(|n| delay_for(&terms, n))
            .map(|ms| ms / 1_000)
            .collect();
        assert_eq!(delays[..8], [5, 10, 30, 60, 300, 600, 900, 1_800]);
        assert!(delays[8..].iter().all(|s| *s == 1_800));
        assert_eq!((delays.len(), delays.iter().sum::<u64>()), (21, 27_105));
        assert_eq!(delay_for(&terms, 21), None);
        assert_eq!(delay_for(&terms, u32::MAX), None);
    }

    #[test]
    fn t4_retryable_statuses_are_exactly_the_listed_ones() {
        let retryable: Vec<u16> = (100..600)
            .filter(|status| classify(*status, &[], b"").retryable)
            .collect();
        let mut wanted: Vec<u16> = [408, 409, 425, 429].into();
        wanted.extend((500..600).filter(|s| *s != 501 && *s != 505));
        assert_eq!(retryable, wanted);
    }

    #[test]
    fn t4_a_429_that_names_quota_or_spend_is_final() {
        for body in [
            r#"{"error":{"code":"insufficient_quota","message":"You exceeded your current plan"}}"#,
            r#"{"error":{"message":"Spend limit reached"}}"#,
        ] {
            let refusal = classify(429, &[], body.as_bytes());
            assert!(!refusal.retryable);
            assert_eq!(refusal.code, "provider-quota");
        }
    }

    #[test]
    fn t4_x_should_retry_can_forbid_but_not_allow() {
        let no = headers(&[("x-should-retry", "false")]);
        let yes = headers(&[("x-should-retry", "true")]);
        assert!(!classify(503, &no, b"").retryable);
        assert!(!classify(400, &yes, b"").retryable);
    }

    #[test]
    fn t4_retry_after_lengthens_and_never_shortens() {
        let state = RetryState::default();
        let refusal = |value: &str| classify(429, &headers(&[("retry-after", value)]), b"");
        assert_eq!(
            waits(&refusal("60"), &state),
            (60_000, 5_000, "retry-after".into())
        );
        assert_eq!(
            waits(&refusal("2"), &state),
            (5_000, 5_000, "schedule".into())
        );
        assert_eq!(
            waits(&refusal("7.5"), &state),
            (7_500, 5_000, "retry-after".into())
        );
        assert_eq!(
            waits(&refusal("5"), &state),
            (5_000, 5_000, "schedule".into())
        );
        let nonsense = ["0", "-1", "+60", ".5", "60.x", "1e30", "soon"];
        for ignored in nonsense.into_iter().chain(["99999999999999999999999"]) {
            let (delay_ms, _, source) = waits(&refusal(ignored), &state);
            assert_eq!(delay_ms, 5_000);
            assert_eq!(source, format!("schedule; ignored retry-after `{ignored}`"));
        }
    }

    #[test]
    fn t4_a_month_is_the_longest_wait_that_is_not_nonsense() {
        let month_s = 31 * 24 * 3_600;
        let asked = |seconds: u64| {
            let refusal = classify(429, &headers(&[("retry-after", &seconds.to_string())]), b"");
            refusal.retry_after
        };
        assert_eq!(asked(month_s), RetryAfter::In(month_s * 1_000));
        assert!(matches!(asked(month_s + 1), RetryAfter::Ignored(_)));
    }

    #[test]
    fn t4_retry_after_ms_wins_over_seconds() {
        let refusal = classify(
            429,
            &headers(&[("retry-after-ms", "9000"), ("retry-after", "60")]),
            b"",
        );
        assert_eq!(refusal.retry_after, RetryAfter::In(9_000));
    }

    #[test]
    fn t4_a_retry_after_ms_that_is_ignored_does_not_hide_the_seconds() {
        for ignored in ["0", "-1", "soon", "99999999999999"] {
            let refusal = classify(
                429,
                &headers(&[("retry-after-ms", ignored), ("retry-after", "60")]),
                b"",
            );
            assert_eq!(refusal.retry_after, RetryAfter::In(60_000), "{ignored}");
        }
    }

    #[test]
    fn t3_a_schedule_that_no_number_holds_is_beyond_every_budget() {
        let terms = RetryTerms {
            schedule_ms: Vec::from([u64::MAX, 1]),
            budget_ms: u64::MAX,
        };
        assert_eq!(delay_for(&terms, 0), Some(u64::MAX));
        assert_eq!(delay_for(&terms, 1), None);
        assert_eq!(delay_for(&terms, u32::MAX), None);
    }

    #[test]
    fn t4_a_retry_after_beyond_what_is_left_ends_the_turn_at_once_and_says_so() {
        let refusal = classify(429, &headers(&[("retry-after", "86400")]), b"");
        let verdict = next(
            &RetryTerms::default(),
            &RetryState::default(),
            &refusal,
            Timestamp(0),
            Timestamp(0),
        );
        assert!(matches!(verdict, Verdict::GiveUp(Some(why)) if why.contains("86400 s")));
    }

    #[test]
    fn t4_a_retry_after_date_is_read_against_the_wall_clock() {
        let refusal = classify(
            503,
            &headers(&[("retry-after", "Sat, 21 Nov 2026 07:43:53 GMT")]),
            b"",
        );
        let RetryAfter::At(at) = refusal.retry_after else {
            panic!("not a date")
        };
        let verdict = next(
            &RetryTerms::default(),
            &RetryState::default(),
            &refusal,
            Timestamp(0),
            at - 60_000,
        );
        assert!(matches!(verdict, Verdict::Wait(retry) if retry.delay_ms == 60_000));
    }

    #[test]
    fn t4_a_retry_after_date_that_has_passed_or_is_absurd_is_ignored_and_recorded() {
        for (date, why) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", "has passed"),
            ("Fri, 31 Dec 9999 23:59:59 GMT", "too far away"),
        ] {
            let refusal = classify(429, &headers(&[("retry-after", date)]), b"");
            let now = Timestamp(1_790_000_000_000);
            let verdict = next(
                &RetryTerms::default(),
                &RetryState::default(),
                &refusal,
                now,
                now,
            );
            let Verdict::Wait(retry) = verdict else {
                panic!("gave up: {verdict:?}");
            };
            assert_eq!(retry.delay_ms, 5_000);
            assert!(retry.source.contains(why), "{}", retry.source);
        }
    }

    #[test]
    fn t4_an_overload_inside_a_stream_is_retryable_and_a_bad_request_is_not() {
        assert!(classify_in_stream("", "overloaded_error", "Overloaded").retryable);
        assert!(classify_in_stream("502", "", "Bad gateway").retryable);
        assert!(!classify_in_stream("", "invalid_request_error", "no").retryable);
        assert!(!classify_in_stream("insufficient_quota", "rate_limit", "no").retryable);
    }

    #[test]
    fn an_error_keeps_its_code_whether_a_word_or_a_number() {
        let code = |body: &[u8]| classify(502, &[], body).failure.code;
        assert_eq!(code(br#"{"error":{"code":1305}}"#), Some("1305".into()));
        assert_eq!(code(br#"{"error":{"code":"busy"}}"#), Some("busy".into()));
        assert_eq!(code(br#"{"error":{"code":["busy"]}}"#), Some("502".into()));
        let in_stream = |code, kind| classify_in_stream(code, kind, "").failure.code;
        assert_eq!(in_stream("1305", "busy"), Some("1305".into()));
        assert_eq!(in_stream("", "busy"), Some("busy".into()));
        assert_eq!(in_stream("", ""), None);
    }

    #[test]
    fn t2_the_terminal_code_says_what_a_person_can_do_about_it() {
        let code = |status, body: &str| classify(status, &[], body.as_bytes()).code;
        assert_eq!(code(401, ""), "provider-unauthorized");
        assert_eq!(code(403, ""), "provider-unauthorized");
        assert_eq!(code(402, ""), "provider-quota");
        assert_eq!(
            code(400, r#"{"error":{"type":"insufficient_quota"}}"#),
            "provider-quota"
        );
        assert_eq!(code(413, ""), "context-length");
        let by_code = r#"{"error":{"code":"context_length_exceeded","message":"no"}}"#;
        assert_eq!(code(400, by_code), "context-length");
        let by_message = "This model's maximum context length is 8192 tokens";
        assert_eq!(code(400, by_message), "context-length");
        assert_eq!(code(400, "no"), "provider-error");
        assert_eq!(code(503, "busy"), "provider-error");
    }

    #[test]
    fn the_providers_own_words_are_kept() {
        let refusal = classify(
            401,
            &[],
            br#"{"error":{"message":"Bad key","type":"auth"}}"#,
        );
        assert_eq!(refusal.failure.message, "Bad key");
        assert_eq!(
            classify(502, &[], b"<html>oops").failure.message,
            "<html>oops"
        );
        assert_eq!(
            classify(502, &[], b"").failure.message,
            "the provider answered with status 502"
        );
    }
}
