//! The judgement of refusals (T3, T4): total, bounded, and the same as a plain
//! reading of the rules, with a civil calendar that counts days for dates.
//!
//! Input: four bytes that choose schedule, attempt, sum and clock, the numbers
//! of a drawn schedule if that was chosen, then an answer as HTTP/1 would show
//! it: a line with the status, lines `name: value`, an empty line, the body.

use std::sync::LazyLock;

use arbitrary::Unstructured;
use dispatch_core::config::RetryTerms;
use dispatch_core::http_date;
use dispatch_core::retry::{
    Refusal, RetryAfter, Verdict, classify, classify_in_stream, delay_for, next,
};
use dispatch_core::store::RetryState;
use dispatch_core::time::Timestamp;

use super::rest;

const DAY_MS: u64 = 86_400_000;
/// A wait that nobody can mean (T4): more than a month.
const ABSURD_MS: u64 = 31 * DAY_MS;
/// 21 November 2026.
const WALL: Timestamp = Timestamp(1_795_219_200_000);
const CODES: [&str; 4] = [
    "provider-unauthorized",
    "provider-quota",
    "context-length",
    "provider-error",
];

/// See the module's page.
///
/// # Errors
/// Too few bytes.
pub fn target(u: &mut Unstructured<'_>) -> arbitrary::Result<()> {
    let control: [u8; 4] = u.arbitrary()?;
    let terms = terms(control[0], u)?;
    check_schedule(&terms, u32::from(control[1]));
    check_schedule(&terms, u32::MAX);
    check_written_date(u64::from(u32::from_le_bytes(control)) * 59);

    let answer = Answer::parse(rest(u)?);
    let refusal = classify(answer.status, &answer.headers, &answer.body);
    check_refusal(&answer, &refusal);
    for (_, value) in &answer.headers {
        assert_eq!(http_date::parse(value), date(value), "{value:?}");
    }
    check_next(&terms, control, &refusal);
    check_in_stream(&answer);
    Ok(())
}

fn terms(choice: u8, u: &mut Unstructured<'_>) -> arbitrary::Result<RetryTerms> {
    let documented = RetryTerms::default();
    Ok(match choice % 4 {
        0 | 1 => documented,
        2 => RetryTerms {
            schedule_ms: Vec::new(),
            ..documented
        },
        _ => {
            let entries = u.int_in_range(1..=4)?;
            let schedule = (0..entries).map(|_| u.arbitrary());
            RetryTerms {
                schedule_ms: schedule.collect::<arbitrary::Result<_>>()?,
                budget_ms: u.arbitrary()?,
            }
        }
    })
}

/// A provider's answer, as far as one is readable.
struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Answer {
        let mut status = 0;
        let mut headers = Vec::new();
        let mut rest = bytes;
        for n in 0.. {
            let end = rest.iter().position(|byte| *byte == b'\n');
            let (line, after) = rest.split_at(end.unwrap_or(rest.len()));
            rest = after.get(1..).unwrap_or_default();
            let line = String::from_utf8_lossy(line);
            let line = line.trim_end_matches('\r');
            if n == 0 {
                status = line.parse().unwrap_or(429);
            } else if let Some((name, value)) = line.split_once(':') {
                headers.push((name.to_ascii_lowercase(), value.to_owned()));
            } else {
                break;
            }
        }
        let body = rest.to_vec();
        Answer {
            status,
            headers,
            body,
        }
    }

    fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.trim())
    }

    /// Everything that the body says, unescaped where it is JSON.
    fn words(&self) -> String {
        fn collect(value: &serde_json::Value, all: &mut String) {
            match value {
                serde_json::Value::String(text) => {
                    all.push('\n');
                    all.push_str(text);
                }
                serde_json::Value::Array(list) => list.iter().for_each(|v| collect(v, all)),
                serde_json::Value::Object(map) => map.values().for_each(|v| collect(v, all)),
                serde_json::Value::Null
                | serde_json::Value::Bool(_)
                | serde_json::Value::Number(_) => {}
            }
        }
        let text = String::from_utf8_lossy(&self.body);
        let mut all = text.to_string();
        if let Ok(value) = serde_json::from_str(&text) {
            collect(&value, &mut all);
        }
        all.to_ascii_lowercase()
    }
}

fn names_quota(lower: &str) -> bool {
    ["quota", "spend", "billing_hard_limit"]
        .iter()
        .any(|word| lower.contains(word))
}

fn check_refusal(answer: &Answer, refusal: &Refusal) {
    let status = answer.status;
    let by_status =
        matches!(status, 408 | 409 | 425 | 429 | 500..=599) && !matches!(status, 501 | 505);
    let forbidden = answer
        .header("x-should-retry")
        .is_some_and(|value| value.eq_ignore_ascii_case("false"));
    if status == 429 && !forbidden {
        let final_without_a_word = !refusal.retryable && !names_quota(&answer.words());
        assert!(!final_without_a_word, "a 429 that names no quota is final");
        let failure = &refusal.failure;
        let code = failure.code.as_deref().unwrap_or_default();
        let is_named = [failure.message.as_str(), code].iter().any(|text| {
            let lower = text.to_ascii_lowercase();
            lower.starts_with("quota") || lower.contains(" quota")
        });
        assert!(!(is_named && refusal.retryable), "a named quota is retried");
    } else {
        assert_eq!(refusal.retryable, by_status && !forbidden);
    }
    assert!(CODES.contains(&refusal.code));
    check_failure(refusal, &format!("http-{status}"));
    assert!(
        refusal
            .failure
            .code
            .as_ref()
            .is_some_and(|code| !code.is_empty())
    );
    assert_eq!(refusal.retry_after, asked_for(answer));
}

fn check_failure(refusal: &Refusal, cause: &str) {
    assert_eq!(refusal.failure.cause, cause);
    assert!(
        !refusal.failure.message.is_empty(),
        "a refusal that says nothing"
    );
    let code = refusal.failure.code.as_deref().unwrap_or_default();
    for text in [&refusal.failure.message, code] {
        assert!(text.chars().count() <= 2_000, "unbounded");
    }
}

/// A usable number of milliseconds, else one of seconds, else a date.
fn asked_for(answer: &Answer) -> RetryAfter {
    let (ms, plain) = (
        answer.header("retry-after-ms"),
        answer.header("retry-after"),
    );
    let numbers = [(ms, 1), (plain, 1_000)];
    let usable = numbers
        .iter()
        .filter_map(|(text, unit_ms)| decimal_ms((*text)?, *unit_ms))
        .find(|wait_ms| (1..=u128::from(ABSURD_MS)).contains(wait_ms));
    if let Some(wait_ms) = usable.and_then(|wait_ms| u64::try_from(wait_ms).ok()) {
        return RetryAfter::In(wait_ms);
    }
    match plain.or(ms) {
        None => RetryAfter::Absent,
        Some(text) => match date(text) {
            Some(at) => RetryAfter::At(at),
            None => RetryAfter::Ignored(text.chars().take(40).collect()),
        },
    }
}

/// A plain decimal in milliseconds, rounded down; what no `u128` holds is huge.
fn decimal_ms(text: &str, unit_ms: u128) -> Option<u128> {
    let mut parts = text.splitn(2, '.');
    let (whole, fraction) = (parts.next()?, parts.next().unwrap_or_default());
    let is_digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    if whole.is_empty() || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    let fraction: String = format!("{fraction}000").chars().take(3).collect();
    let thousandths = format!("{whole}{fraction}")
        .parse()
        .unwrap_or(u128::MAX / 1_000);
    Some(thousandths.saturating_mul(unit_ms) / 1_000)
}

fn check_schedule(terms: &RetryTerms, attempt: u32) {
    assert_eq!(delay_for(terms, attempt), scheduled(terms, attempt));
}

fn scheduled(terms: &RetryTerms, attempt: u32) -> Option<u64> {
    let last = *terms.schedule_ms.last()?;
    let listed: u128 = terms.schedule_ms.len() as u128;
    let waits = u128::from(attempt) + 1;
    let within = terms.schedule_ms.iter().zip(0..waits);
    let sum: u128 = within.map(|(delay, _)| u128::from(*delay)).sum::<u128>()
        + u128::from(last) * waits.saturating_sub(listed);
    let delay = terms.schedule_ms.get(attempt as usize).unwrap_or(&last);
    (sum <= u128::from(terms.budget_ms)).then_some(*delay)
}

fn check_next(terms: &RetryTerms, control: [u8; 4], refusal: &Refusal) {
    let attempt = u32::from(control[1] % 32);
    let spent_ms = u64::from(control[3]) * 150_000;
    let now = WALL;
    let state = RetryState {
        attempt,
        sum_ms: match control[2] {
            0..=99 => u64::from(control[2]) * 60_000,
            100 => u64::MAX,
            _ => (0..attempt)
                .filter_map(|n| scheduled(terms, n))
                .fold(0, u64::saturating_add),
        },
        first_failure_at: (attempt > 0).then_some(now - spent_ms),
        last: None,
    };
    let verdict = next(terms, &state, refusal, now, WALL);

    let in_budget =
        |delay: &u64| u128::from(state.sum_ms) + u128::from(*delay) <= u128::from(terms.budget_ms);
    let Some(delay_ms) = scheduled(terms, attempt).filter(in_budget) else {
        assert_eq!(verdict, Verdict::GiveUp(None), "the schedule is at its end");
        return;
    };
    let asked_ms = match &refusal.retry_after {
        RetryAfter::Absent | RetryAfter::Ignored(_) => 0,
        RetryAfter::In(ms) => *ms,
        RetryAfter::At(at) => Some(at.since_ms(WALL))
            .filter(|ms| *ms <= ABSURD_MS)
            .unwrap_or(0),
    };
    let spent_ms = state
        .first_failure_at
        .map_or(0, |first| now.since_ms(first));
    let left_ms = terms.budget_ms.saturating_sub(spent_ms);
    match verdict {
        Verdict::GiveUp(why) => {
            assert!(asked_ms > left_ms, "gave up with {left_ms} ms left");
            assert!(why.is_some_and(|why| why.contains(&format!("{} s", asked_ms / 1_000))));
        }
        Verdict::Wait(retry) => {
            assert!(asked_ms <= left_ms, "waits beyond the budget");
            assert!(retry.delay_ms >= delay_ms, "Retry-After shortens");
            assert_eq!(retry.delay_ms, delay_ms.max(asked_ms));
            assert_eq!((retry.attempt, retry.counted_ms), (attempt, delay_ms));
            assert_eq!(retry.failure, refusal.failure);
            let by_header = asked_ms > delay_ms;
            assert_eq!(retry.source == "retry-after", by_header);
            assert_eq!(retry.source.starts_with("schedule"), !by_header);
            if let RetryAfter::Ignored(text) = &refusal.retry_after {
                assert!(
                    retry.source.contains(text.as_str()),
                    "ignored and not recorded"
                );
            }
        }
    }
}

/// An error object inside a stream, of the answer's first two values and body.
fn check_in_stream(answer: &Answer) {
    let value = |n: usize| {
        answer
            .headers
            .get(n)
            .map_or("", |(_, value)| value.as_str())
    };
    let (code, kind) = (value(0), value(1));
    let message = String::from_utf8_lossy(&answer.body);
    let refusal = classify_in_stream(code, kind, &message);
    check_failure(&refusal, "error-in-stream");
    assert_eq!(refusal.retry_after, RetryAfter::Absent);
    assert!(CODES.contains(&refusal.code));
    let passing = [
        "overloaded",
        "rate_limit",
        "server_error",
        "timeout",
        "unavailable",
        "api_error",
    ];
    let read = |text: &str| text.chars().take(2_000).collect::<String>();
    let said = format!("{}\n{}", read(code), read(kind)).to_ascii_lowercase();
    let named = passing.iter().any(|word| said.contains(word));
    let status = [code, kind].iter().any(|text| {
        let digits = text.parse::<u16>();
        digits.is_ok_and(|status| matches!(status, 408 | 409 | 425 | 429 | 500..=599))
    });
    assert!(
        !refusal.retryable || named || status,
        "{code:?} {kind:?} is retried"
    );
    if !message.is_empty() && !names_quota(&format!("{said}\n{}", message.to_ascii_lowercase())) {
        assert!(refusal.retryable || !named, "{code:?} {kind:?} is final");
    }
}

const MONTHS: [(&str, u64); 12] = [
    ("Jan", 31),
    ("Feb", 28),
    ("Mar", 31),
    ("Apr", 30),
    ("May", 31),
    ("Jun", 30),
    ("Jul", 31),
    ("Aug", 31),
    ("Sep", 30),
    ("Oct", 31),
    ("Nov", 30),
    ("Dec", 31),
];

/// A month: its first day since the epoch, and how many days it has.
type Month = (u64, u64);

/// Every month from 1970 to 9999.
static CALENDAR: LazyLock<Vec<Month>> = LazyLock::new(|| {
    let mut before = 0;
    let mut months = Vec::new();
    for year in 1970..=9999u64 {
        let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        for (name, days) in MONTHS {
            let days = days + u64::from(is_leap && name == "Feb");
            months.push((before, days));
            before += days;
        }
    }
    months
});

/// The date forms of RFC 9110, section 5.6.7, by counting days.
fn date(text: &str) -> Option<Timestamp> {
    let words: Vec<&str> = text
        .split([' ', '-'])
        .filter(|word| !word.is_empty())
        .collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let number = |text: &str| -> Option<u64> {
        let is_short = text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_short)
    };
    let century = if year.len() == 2 { 2_000 } else { 0 };
    let (day, year) = (number(day)?, number(year)? + century);
    let clock: Vec<u64> = time.split(':').map(number).collect::<Option<_>>()?;
    let [h @ 0..=23, m @ 0..=59, s @ 0..=60] = clock[..] else {
        return None;
    };
    let month = MONTHS.iter().position(|(name, _)| *name == month)?;
    let place = usize::try_from(year.checked_sub(1970)?).ok()? * 12 + month;
    let (first, _) = CALENDAR
        .get(place)
        .filter(|(_, days)| (1..=*days).contains(&day))?;
    let days = first + day - 1;
    Some(Timestamp((days * 86_400 + h * 3_600 + m * 60 + s) * 1_000))
}

/// A moment, written in each of the three forms, is read as that moment.
fn check_written_date(seconds: u64) {
    let (day, second) = (seconds / 86_400, seconds % 86_400);
    let place = CALENDAR.partition_point(|(first, _)| *first <= day) - 1;
    let (first, days) = CALENDAR[place];
    if day - first >= days {
        return;
    }
    let (day, month) = (day - first + 1, MONTHS[place % 12].0);
    let year = 1970 + place / 12;
    let time = format!(
        "{:02}:{:02}:{:02}",
        second / 3_600,
        second / 60 % 60,
        second % 60
    );
    let moment = Some(Timestamp(seconds * 1_000));
    let forms = [
        format!("Mon, {day:02} {month} {year} {time} GMT"),
        format!("Mon {month} {day:2} {time} {year}"),
    ];
    for text in &forms {
        assert_eq!(http_date::parse(text), moment, "{text}");
    }
    if (2_000..2_100).contains(&year) {
        let text = format!("Monday, {day:02}-{month}-{:02} {time} GMT", year - 2_000);
        assert_eq!(http_date::parse(&text), moment, "{text}");
    }
}
