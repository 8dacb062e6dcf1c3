//! What is logged and shown of a turn.

use super::*;

#[test]
fn t2_a_second_terminal_event_and_anything_after_the_first_is_objected_to() {
    for late in [done(), aborted(), restart()] {
        let mut court = Court::of("one-terminal");
        court.agrees(Fact::Logged(&event(1, 1, 0, start(0))));
        court.agrees(Fact::Logged(&event(2, 1, 1, done())));
        court.objects(Fact::Logged(&event(3, 1, 1, late)));
    }
}

#[test]
fn t2_a_terminal_event_that_was_not_elected_is_objected_to_when_shown_or_answered() {
    let mut court = Court::of("one-terminal");
    court.agrees(Fact::Logged(&event(1, 1, 0, start(0))));
    let shown = event(0, 1, 1, error("provider-error", "http-401"));
    court.objects(published(&shown, 0));
    let answer = Answer::Ended(Box::new(event(2, 1, 1, aborted())));
    court.objects(Fact::Answered {
        token: None,
        answer: &answer,
    });
    court.objects(finished(&Leftovers::default(), &[]));
}

#[test]
fn a_gap_or_a_repeated_sequence_number_is_objected_to() {
    for wrong in [1, 3] {
        let mut court = Court::of("sequence");
        court.agrees(Fact::Logged(&event(1, 1, 0, start(0))));
        court.objects(Fact::Logged(&event(wrong, 1, 0, done())));
    }
}

#[test]
fn l2_a_lower_epoch_in_the_log_is_objected_to() {
    let mut court = Court::of("fenced");
    court.agrees(Fact::Logged(&event(1, 1, 4, restart())));
    court.objects(Fact::Logged(&event(2, 1, 3, done())));
}

#[test]
fn l2_words_and_deeds_after_a_lapsed_lease_are_objected_to() {
    let mut court = Court::of("fenced");
    let owned = row(1, TurnState::Streaming, 2);
    court.agrees(Fact::Moved {
        before: None,
        after: &owned,
    });
    let delta = event(0, 1, 2, text_delta(0, "x"));
    let (turn, epoch, stream) = (TurnId(1), Epoch(2), 1);
    let shown = |at_ms| published(&delta, at_ms);
    court.at_ms = 60_000;
    court.agrees(shown(60_000));
    court.agrees(Fact::Opened {
        turn,
        epoch,
        stream,
    });
    court.at_ms = 60_001;
    court.agrees(shown(60_000));
    court.objects(shown(60_001));
    court.objects(Fact::Opened {
        turn,
        epoch,
        stream,
    });
    court.objects(Fact::Opened {
        turn,
        epoch: Epoch(9),
        stream,
    });
}

#[test]
fn t3_a_wrong_wait_or_attempt_and_a_twenty_second_retry_are_objected_to() {
    let mut court = Court::of("retry-schedule");
    court.objects(Fact::Logged(&event(1, 1, 1, retry(0, 5_001))));
    let mut court = Court::of("retry-schedule");
    court.objects(Fact::Logged(&event(1, 1, 1, retry(1, 5_000))));
    let mut court = Court::of("retry-schedule");
    for attempt in 0..21 {
        let delay_ms = crate::oracle::retry_schedule::wait_ms(attempt, 28_800_000).unwrap();
        court.agrees(Fact::Logged(&event(1, 1, 1, retry(attempt, delay_ms))));
    }
    court.objects(Fact::Logged(&event(1, 1, 1, retry(21, 1_800_000))));
    let waits = (0..99).filter_map(|n| crate::oracle::retry_schedule::wait_ms(n, 28_800_000));
    assert_eq!(waits.sum::<u64>(), 27_105_000);
}

#[test]
fn t3_a_retry_after_content_or_a_request_before_its_time_is_objected_to() {
    let mut court = Court::of("retry-schedule");
    let delta = event(0, 1, 1, text_delta(0, "x"));
    court.agrees(published(&delta, 0));
    court.objects(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
    let mut court = Court::of("retry-schedule");
    court.agrees(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
    court.at_ms = 4_999;
    court.objects(Fact::Requested(&request(1, 1)));
}

#[test]
fn d06_a_retry_after_a_tool_call_that_nobody_was_shown_is_objected_to() {
    let mut court = Court::of("retry-schedule");
    let cause = Cause::Broken {
        cause: "stream-cut".into(),
        is_cut: true,
    };
    let turn = TurnId(1);
    court.agrees(Fact::Injected {
        turn,
        cause: &cause,
    });
    court.objects(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
}

#[test]
fn t4_a_retry_after_must_lengthen_the_wait() {
    let mut court = Court::of("retry-schedule");
    let cause = Cause::Refused {
        cause: "http-429".into(),
        retry_after_ms: Some(90_000),
    };
    let turn = TurnId(1);
    court.agrees(Fact::Injected {
        turn,
        cause: &cause,
    });
    court.objects(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
}

#[test]
fn t2_endings_retries_and_repetitions_without_a_cause_are_objected_to() {
    for body in [
        aborted(),
        retry(0, 5_000),
        restart(),
        error("provider-error", "http-401"),
        error("stream-truncated", "stream-cut"),
        error("empty-completion", "empty-completion"),
        error("replica-lost", "resume-limit"),
        error("replica-lost", "on-crash-seal"),
        error("hard-limit", "hard-limit"),
        error("internal", "panic"),
    ] {
        Court::of("justified").objects(Fact::Logged(&event(1, 1, 1, body)));
    }
}

#[test]
fn t2_a_cause_justifies_its_own_ending_only() {
    let turn = TurnId(1);
    let mut court = Court::of("justified");
    court.agrees(Fact::Injected {
        turn,
        cause: &refused(),
    });
    court.agrees(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
    court.objects(Fact::Logged(&event(
        2,
        1,
        1,
        error("provider-unavailable", "http-503"),
    )));
    let mut court = Court::of("justified");
    let fatal = Cause::Fatal {
        cause: "http-401".into(),
    };
    court.agrees(Fact::Injected {
        turn,
        cause: &fatal,
    });
    court.objects(Fact::Logged(&event(1, 1, 1, error("x", "http-402"))));
    court.agrees(Fact::Logged(&event(1, 1, 1, error("x", "http-401"))));
}

#[test]
fn l7_a_panic_ends_the_turn_whose_input_it_was_and_no_other() {
    let mut court = Court::of("justified");
    court.agrees(Fact::Panicked {
        replica: 0,
        seal: Some(TurnId(1)),
    });
    court.agrees(Fact::Logged(&event(1, 1, 1, error("internal", "panic"))));
    court.objects(Fact::Logged(&event(2, 2, 1, error("internal", "panic"))));
}

#[test]
fn a_text_twice_or_wrong_or_missing_is_objected_to() {
    let (token, text) = (plain_token(), plain_text());
    let begun = || {
        let mut court = Court::of("content");
        court.agrees(Fact::Logged(&event(1, 1, 0, start(token))));
        court
    };
    begun().objects(Fact::Logged(&event(2, 1, 1, done())));
    begun().objects(Fact::Logged(&event(
        2,
        1,
        1,
        step_complete(0, "no", "", false),
    )));
    begun().objects(Fact::Logged(&event(
        2,
        1,
        1,
        step_complete(1, &text, "", false),
    )));
    let mut court = begun();
    court.agrees(Fact::Logged(&event(
        2,
        1,
        1,
        step_complete(0, &text, "", false),
    )));
    court.objects(Fact::Logged(&event(
        3,
        1,
        1,
        step_complete(0, &text, "", false),
    )));
    let mut court = begun();
    court.agrees(Fact::Logged(&event(
        2,
        1,
        1,
        step_complete(0, &text[..3], "", true),
    )));
    court.objects(Fact::Logged(&event(3, 1, 1, done())));
    let mut court = begun();
    let delta = event(0, 1, 1, text_delta(0, &text[..3]));
    let shown = |at_ms| published(&delta, at_ms);
    court.agrees(shown(0));
    court.objects(shown(0));
}

#[test]
fn a_call_that_was_not_asked_for_is_objected_to() {
    let mut court = Court::of("content");
    court.agrees(Fact::Logged(&event(1, 1, 0, start(plain_token()))));
    let call = tool_call(0, "a");
    court.objects(Fact::Logged(&event(2, 1, 1, call)));
}
