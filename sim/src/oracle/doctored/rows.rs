//! Rows, ownerships, aborts and what the log may hold.

use super::*;

fn rows(turn: &TurnRow, holds: bool, armed: bool) -> Fact<'_> {
    Fact::Rows { turn, holds, armed }
}

#[test]
fn l1_d11_d14_a_turn_without_its_marker_and_a_marker_without_its_turn_are_objected_to() {
    for state in [TurnState::Blocked, TurnState::Parked, TurnState::Streaming] {
        let row = row(1, state, 1);
        Court::of("marker").agrees(rows(&row, false, true));
        Court::of("marker").objects(rows(&row, false, false));
    }
    let ended = row(1, TurnState::Ended, 1);
    Court::of("marker").agrees(rows(&ended, false, false));
    Court::of("marker").objects(rows(&ended, false, true));
}

#[test]
fn l4_d29_a_conversation_that_is_held_for_nobody_or_not_held_at_all_is_objected_to() {
    let (parked, streams) = (
        row(1, TurnState::Parked, 1),
        row(1, TurnState::Streaming, 1),
    );
    Court::of("one-owner").agrees(rows(&parked, false, true));
    Court::of("one-owner").objects(rows(&parked, true, true));
    Court::of("one-owner").agrees(rows(&streams, true, true));
    Court::of("one-owner").objects(rows(&streams, false, true));
    let nobodys = TurnRow {
        owner: None,
        ..streams
    };
    Court::of("one-owner").objects(rows(&nobodys, true, true));
}

pub(super) fn moved<'r>(before: &'r TurnRow, after: &'r TurnRow) -> Fact<'r> {
    Fact::Moved {
        before: Some(before),
        after,
    }
}

#[test]
fn l2_d33_an_ownership_under_an_epoch_that_another_one_had_is_objected_to() {
    let parked = row(1, TurnState::Parked, 3);
    let mut court = Court::of("fenced");
    court.agrees(moved(&parked, &row(1, TurnState::Streaming, 3)));
    court.agrees(moved(&row(1, TurnState::Streaming, 3), &parked));
    court.objects(moved(&parked, &row(1, TurnState::Streaming, 3)));
}

#[test]
fn l2_d18_a_write_under_another_epoch_than_the_owners_is_objected_to() {
    let parked = row(1, TurnState::Parked, 3);
    let turn = TurnId(1);
    let written = |epoch| Fact::Written {
        turn,
        epoch: Epoch(epoch),
    };
    let mut court = Court::of("fenced");
    court.agrees(moved(&parked, &row(1, TurnState::Streaming, 4)));
    court.agrees(written(4));
    court.objects(written(3));
    let mut court = Court::of("fenced");
    court.agrees(moved(&row(1, TurnState::Streaming, 4), &parked));
    court.objects(written(4));
}

fn wished(state: TurnState) -> TurnRow {
    TurnRow {
        abort: Some(dispatch_core::store::AbortRequest {
            by: "client".into(),
            reason: None,
            at: Timestamp(0),
        }),
        ..row(1, state, 1)
    }
}

#[test]
fn t5_d09_a_turn_that_sleeps_through_its_abort_is_objected_to() {
    let before = row(1, TurnState::Parked, 1);
    Court::of("abort-ends").objects(moved(&before, &wished(TurnState::Parked)));
    Court::of("abort-ends").agrees(moved(&before, &wished(TurnState::Ended)));
}

#[test]
fn t5_an_abort_that_was_confirmed_and_does_not_come_is_objected_to_unless_hindered() {
    let answer = Answer::AbortRequested {
        turn: TurnId(1),
        conversation: talk(),
    };
    let confirmed = || Fact::Answered {
        token: None,
        answer: &answer,
    };
    let look = || Fact::Slots {
        streaming: &[],
        idle: &[],
    };
    let mut court = Court::of("abort-ends");
    court.agrees(confirmed());
    court.at_ms = 40_000;
    court.agrees(look());
    court.at_ms = 41_000;
    court.objects(look());
    court.agrees(Fact::Trouble { replica: 0 });
    court.agrees(look());
    court.at_ms = 300_000;
    court.objects(look());
    let streams = wished(TurnState::Streaming);
    court.agrees(moved(&streams, &wished(TurnState::Ended)));
    court.agrees(look());
}

#[test]
fn l3_d16_a_renewal_of_what_makes_no_progress_is_objected_to() {
    let parked = row(1, TurnState::Parked, 0);
    let owned = row(1, TurnState::Streaming, 1);
    let renewed = TurnRow {
        lease_until: Timestamp(500_000),
        ..owned.clone()
    };
    let (turn, epoch, stream) = (TurnId(1), Epoch(1), 7);
    let begun = || {
        let mut court = Court::of("progress");
        court.agrees(moved(&parked, &owned));
        court
    };
    let mut court = begun();
    court.at_ms = 130_000;
    court.agrees(moved(&owned, &renewed));
    court.at_ms = 131_000;
    court.objects(moved(&owned, &renewed));
    let mut court = begun();
    court.agrees(Fact::Opened {
        turn,
        epoch,
        stream,
    });
    court.at_ms = 900_000;
    court.agrees(moved(&owned, &renewed));
    court.agrees(Fact::Closed { stream });
    court.at_ms = 1_031_000;
    court.objects(moved(&owned, &renewed));
}

#[test]
fn t8_d27_d39_what_is_shown_in_passing_or_too_large_is_objected_to_in_the_log() {
    Court::of("log-size").objects(Fact::Logged(&event(1, 1, 1, text_delta(0, "x"))));
    let result = |bytes: usize| EventBody::ToolResult {
        call_id: "a".into(),
        ok: true,
        output: "x".repeat(bytes),
        duration_ms: 0,
        spilled: None,
    };
    Court::of("log-size").agrees(Fact::Logged(&event(1, 1, 1, result(1_000))));
    Court::of("log-size").objects(Fact::Logged(&event(1, 1, 1, result(1_001))));
}

#[test]
fn t12_d20_a_call_without_an_answer_before_the_next_step_or_the_end_is_objected_to() {
    for late in [done(), aborted(), step_complete(1, "", "", false)] {
        let call = |id: &str| tool_call(0, id);
        let mut court = Court::of("tools-answered");
        court.agrees(Fact::Logged(&event(1, 1, 1, call("a"))));
        court.agrees(Fact::Logged(&event(2, 1, 1, call("b"))));
        let result = EventBody::ToolResult {
            call_id: "a".into(),
            ok: false,
            output: String::new(),
            duration_ms: 0,
            spilled: None,
        };
        court.agrees(Fact::Logged(&event(3, 1, 1, result)));
        court.objects(Fact::Logged(&event(4, 1, 1, late)));
    }
}

#[test]
fn t7_tools_in_the_last_step_and_none_in_an_earlier_one_are_objected_to() {
    let asks = |step, offers_tools| Request {
        step,
        offers_tools,
        ..request(1, 1)
    };
    Court::of("step-limit").agrees(Fact::Requested(&asks(0, true)));
    Court::of("step-limit").agrees(Fact::Requested(&asks(1, false)));
    Court::of("step-limit").objects(Fact::Requested(&asks(0, false)));
    Court::of("step-limit").objects(Fact::Requested(&asks(1, true)));
    let call = tool_call(1, "a");
    Court::of("step-limit").objects(Fact::Logged(&event(1, 1, 1, call)));
}

#[test]
fn t3_d07_a_small_budget_allows_the_waits_that_it_holds_and_no_more() {
    use crate::oracle::retry_schedule::wait_ms;
    let waits = |budget_s: u64| (0..99).filter_map(move |n| wait_ms(n, budget_s * 1_000));
    assert_eq!(waits(105).count(), 4);
    assert_eq!(waits(104).count(), 3);
    assert_eq!(waits(28_800).count(), 21);
}
