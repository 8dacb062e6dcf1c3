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
