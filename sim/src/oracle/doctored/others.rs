//! Clients, transcripts, commands, backstops and rest.

use super::rows::moved;
use super::*;

#[test]
fn c5_d24_a_client_that_misses_repeats_or_foresees_an_event_is_objected_to() {
    let (first, second) = (event(1, 1, 0, start(0)), event(2, 1, 1, done()));
    let mut court = Court::of("client-view");
    court.agrees(Fact::Logged(&first));
    let seen = |event| Fact::Seen { client: 0, event };
    court.objects(published(&second, 0));
    court.agrees(seen(&first));
    court.objects(seen(&second));
    let mut court = Court::of("client-view");
    court.agrees(Fact::Logged(&first));
    court.agrees(Fact::Logged(&second));
    court.objects(seen(&second));
    let mut court = Court::of("client-view");
    court.agrees(Fact::Logged(&first));
    court.agrees(seen(&first));
    court.objects(seen(&first));
    court.objects(finished(&Leftovers::default(), &[(1, 2)]));
}

#[test]
fn text_placed_twice_on_a_screen_is_objected_to() {
    let mut court = Court::of("client-view");
    let client = 0;
    let (first, again) = (
        event(0, 1, 1, text_delta(0, "abc")),
        event(0, 1, 1, text_delta(2, "cd")),
    );
    court.agrees(Fact::Seen {
        client,
        event: &first,
    });
    court.objects(Fact::Seen {
        client,
        event: &again,
    });
}

#[test]
fn t12_a_transcript_that_a_vendor_rejects_is_objected_to() {
    let rejected = Request {
        verdict: Err("a call without an answer".into()),
        ..request(1, 1)
    };
    Court::of("valid-transcript").objects(Fact::Requested(&rejected));
}

#[test]
fn d48_a_request_about_a_transcript_that_cannot_be_read_back_is_objected_to() {
    let mut court = Court::of("valid-transcript");
    assert_eq!(super::lines::grant(&mut court, 1, 4), Ok(()));
    let conversation = &talk();
    court.agrees(Fact::Rotted { conversation });
    court.agrees(Fact::Requested(&request(1, 1)));
    assert_eq!(super::lines::grant(&mut court, 2, 4), Ok(()));
    court.objects(Fact::Requested(&request(2, 2)));
}

fn tool(command: &'static str, epoch: u64) -> Fact<'static> {
    Fact::ToolStarted {
        command,
        turn: TurnId(1),
        epoch: Epoch(epoch),
        call_id: "a",
        replica: 0,
        computer: None,
        deadline_ms: 600_000,
    }
}

#[test]
fn d21_a_command_that_is_run_again_or_answered_by_another_output_is_objected_to() {
    let mut court = Court::of("tool-once");
    court.agrees(tool("run 1", 1));
    court.objects(tool("run 1", 2));
    let call = tool_call(0, "a");
    court.agrees(Fact::Logged(&event(1, 1, 1, call)));
    let end = ToolEnd {
        ok: true,
        output: "its own".into(),
        duration_ms: 0,
        spilled: None,
    };
    court.agrees(Fact::ToolGone {
        command: "run 1",
        call_id: "a",
        turn: TurnId(1),
        end: Some(&end),
    });
    let result = EventBody::ToolResult {
        call_id: "a".into(),
        ok: true,
        output: "another".into(),
        duration_ms: 0,
        spilled: None,
    };
    court.objects(Fact::Logged(&event(2, 1, 1, result)));
}

#[test]
fn d37_a_stream_or_command_beside_an_orphan_is_objected_to() {
    let mut court = Court::of("no-orphan");
    court.agrees(tool("run 1", 1));
    court.agrees(tool("run 2", 1));
    court.objects(Fact::Opened {
        turn: TurnId(1),
        epoch: Epoch(2),
        stream: 1,
    });
    court.objects(tool("run 3", 2));
}

#[test]
fn c6_d31_two_turns_for_one_message_are_objected_to() {
    let mut court = Court::of("accepted-once");
    court.agrees(Fact::Logged(&event(1, 1, 0, start(4))));
    court.objects(Fact::Logged(&event(2, 2, 0, start(4))));
    let receipt = |turn| {
        Answer::Accepted(Receipt {
            conversation: talk(),
            turn: TurnId(turn),
            provider: north(),
            seq: 1,
            replayed: false,
        })
    };
    let mut court = Court::of("accepted-once");
    court.agrees(Fact::Logged(&event(1, 1, 0, start(4))));
    let token = Some(4);
    court.agrees(Fact::Answered {
        token,
        answer: &receipt(1),
    });
    court.objects(Fact::Answered {
        token,
        answer: &receipt(2),
    });
    court.objects(Fact::Answered {
        token,
        answer: &Answer::Rejected(Rejection::IdempotencyMismatch),
    });
}

#[test]
fn d02_a_slot_without_a_stream_is_objected_to_unless_its_owner_is_hindered() {
    let streaming = [(TurnId(1), false)];
    let look = || Fact::Slots {
        streaming: &streaming,
        idle: &[],
    };
    let mut court = Court::of("slot-has-stream");
    court.agrees(look());
    court.at_ms = 61_000;
    court.objects(look());
    let mut court = Court::of("slot-has-stream");
    court.agrees(look());
    court.agrees(lives(Life::Paused));
    court.at_ms = 900_000;
    court.agrees(look());
}

#[test]
fn d40_the_hard_limit_and_a_takeover_from_a_healthy_owner_are_objected_to() {
    let hard_limit = event(1, 1, 1, error("hard-limit", "hard-limit"));
    Court::of("no-backstop").objects(Fact::Logged(&hard_limit));
    let owned = TurnRow {
        lease_until: Timestamp(590_000),
        ..row(1, TurnState::Streaming, 1)
    };
    let taken = TurnRow {
        resumes: 1,
        ..row(1, TurnState::Parked, 2)
    };
    let taken_over = || Fact::Moved {
        before: Some(&owned),
        after: &taken,
    };
    let mut court = Court::of("no-backstop");
    court.agrees(lives(Life::Up));
    court.at_ms = 419_000;
    court.agrees(Fact::Trouble { replica: 0 });
    court.at_ms = 600_000;
    court.objects(taken_over());
    court.at_ms = 421_000;
    court.agrees(Fact::Trouble { replica: 0 });
    court.at_ms = 600_000;
    court.agrees(taken_over());
}

#[test]
fn a_broken_invariant_a_heavy_dispatcher_and_unrest_are_objected_to() {
    let result = Err("broken".to_owned());
    Court::of("core-check").objects(Fact::Checked { replica: 0, result });
    let weighed = |bytes| Fact::Weighed {
        replica: 0,
        bytes,
        fresh_bytes: 1_000,
    };
    Court::of("bounded").agrees(weighed(1_100));
    Court::of("bounded").objects(weighed(5_000));
    let leftovers = Leftovers {
        markers: 1,
        ..Leftovers::default()
    };
    Court::of("converged").agrees(finished(&Leftovers::default(), &[]));
    Court::of("converged").objects(finished(&leftovers, &[]));
}

#[test]
fn t5_t10_a_command_that_outlives_its_turn_or_its_deadline_is_objected_to() {
    let look = || Fact::Slots {
        streaming: &[],
        idle: &[],
    };
    let begun = || {
        let mut court = Court::of("command-ends");
        court.agrees(tool("run 1", 1));
        court
    };
    let mut court = begun();
    let owned = row(1, TurnState::Tools, 1);
    court.agrees(moved(&owned, &row(1, TurnState::Ended, 1)));
    court.at_ms = 30_000;
    court.agrees(look());
    court.at_ms = 31_000;
    court.objects(look());
    let mut court = begun();
    court.at_ms = 630_000;
    court.agrees(look());
    court.at_ms = 631_000;
    court.objects(look());
    court.agrees(lives(Life::Down));
    court.agrees(lives(Life::Up));
    court.at_ms = 2_000_000;
    court.agrees(look());
}

#[test]
fn a1_a_free_slot_that_who_is_first_in_line_does_not_get_is_objected_to() {
    let first = [TurnId(1)];
    let look = |idle| Fact::Slots {
        streaming: &[],
        idle,
    };
    let mut court = Court::of("no-idle-slot");
    court.agrees(look(&first));
    court.at_ms = 40_000;
    court.agrees(look(&[]));
    court.at_ms = 60_000;
    court.agrees(look(&first));
    court.at_ms = 106_000;
    court.objects(look(&first));
    court.agrees(Fact::Trouble { replica: 0 });
    court.agrees(look(&first));
}

#[test]
fn t13_tokens_that_do_not_add_up_are_objected_to() {
    let usage = |input_tokens, output_tokens| Usage {
        input_tokens,
        output_tokens,
        ..Usage::default()
    };
    let step = |usage| EventBody::StepComplete {
        step: 0,
        chunks: Vec::new(),
        usage,
        duration_ms: 0,
        partial: false,
    };
    let done = |usage| EventBody::Done {
        finish_reason: "stop".into(),
        usage,
        duration_ms: 0,
    };
    let mut court = Court::of("usage");
    court.objects(Fact::Logged(&event(1, 1, 1, step(usage(7, 0)))));
    let mut court = Court::of("usage");
    court.agrees(Fact::Logged(&event(1, 1, 1, step(usage(7, 3)))));
    court.agrees(Fact::Logged(&event(2, 1, 1, step(usage(7, 3)))));
    court.objects(Fact::Logged(&event(3, 1, 1, done(usage(7, 3)))));
    court.agrees(Fact::Logged(&event(3, 1, 1, done(usage(14, 6)))));
}

#[test]
fn a_panic_that_nobody_made_happen_is_objected_to() {
    Court::of("no-panic").objects(Fact::Burst { message: "oh" });
}

fn delivery(turn: u128, seq: u64, tries: u32) -> Delivery {
    Delivery {
        endpoint: hook(),
        turn: TurnId(turn),
        conversation: talk(),
        seq,
        tries,
    }
}

#[test]
fn c7_told_wants_every_end_told_or_given_up_after_thirty_tries() {
    let ended = |court: &mut Court| court.agrees(Fact::Logged(&event(2, 7, 1, done())));
    let rests = Leftovers::default();
    fn posted(delivery: &Delivery, is_taken: bool) -> Fact<'_> {
        Fact::Posted { delivery, is_taken }
    }

    let mut court = Court::of("told");
    ended(&mut court);
    court.objects(finished(&rests, &[]));

    let mut court = Court::of("told");
    ended(&mut court);
    court.agrees(posted(&delivery(7, 2, 1), false));
    court.agrees(posted(&delivery(7, 2, 2), true));
    court.agrees(posted(&delivery(7, 2, 3), true));
    court.agrees(finished(&rests, &[]));

    let mut court = Court::of("told");
    ended(&mut court);
    court.objects(posted(&delivery(7, 1, 1), true));
    court.objects(posted(&delivery(8, 2, 1), true));
    court.objects(posted(&delivery(7, 2, 31), false));
    let early = delivery(7, 2, 29);
    court.objects(Fact::GivenUp { delivery: &early });
    let in_time = delivery(7, 2, 30);
    court.agrees(Fact::GivenUp { delivery: &in_time });
    court.agrees(finished(&rests, &[]));
}

#[test]
fn d46_a_command_that_its_server_has_left_must_end_with_its_turn() {
    let outlives = |is_watched: bool| {
        let mut court = Court::of("command-ends");
        court.agrees(tool("run 1", 1));
        if !is_watched {
            court.agrees(lives(Life::Down));
            court.agrees(lives(Life::Up));
        }
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Tools, 1)),
            after: &row(1, TurnState::Ended, 1),
        });
        // After all that a restart may hold up.
        court.at_ms = 150_000 + 40_000;
        let soon = court.see(Fact::Slots {
            streaming: &[],
            idle: &[],
        });
        court.at_ms += 10_000;
        let later = court.see(Fact::Slots {
            streaming: &[],
            idle: &[],
        });
        (soon.is_err(), later.is_err())
    };
    assert_eq!(outlives(true), (true, true));
    assert_eq!(outlives(false), (false, true));
}

#[test]
fn l9_a_turn_that_goes_on_away_from_home_is_objected_to() {
    let bound = |node: &str| TurnRow {
        bound: Some(node.into()),
        ..row(1, TurnState::Streaming, 2)
    };
    let mut court = Court::of("at-home");
    let before = row(1, TurnState::Parked, 1);
    court.agrees(Fact::Moved {
        before: Some(&before),
        after: &bound("node-0"),
    });
    court.objects(Fact::Moved {
        before: Some(&before),
        after: &bound("node-1"),
    });
}

#[test]
fn l9_a_turn_that_is_given_up_while_its_node_is_there_is_objected_to() {
    let lost = || event(9, 1, 3, error("node-lost", "node-lost"));
    let mut court = Court::of("at-home");
    court.agrees(lives(Life::Up));
    let home = TurnRow {
        bound: Some("node-0".into()),
        ..row(1, TurnState::Tools, 2)
    };
    court.agrees(Fact::Moved {
        before: None,
        after: &home,
    });
    court.at_ms = 3_600_000;
    court.objects(Fact::Logged(&lost()));
    court.agrees(lives(Life::Down));
    court.at_ms += 300_000;
    court.objects(Fact::Logged(&lost()));
    court.at_ms += 300_000;
    court.agrees(Fact::Logged(&lost()));
}

#[test]
fn l9_a_node_that_is_known_by_an_earlier_life_again_is_objected_to() {
    let mut court = Court::of("at-home");
    let known = |node, life| Fact::Registered { node, life };
    court.agrees(known("node-0", 1));
    court.agrees(known("node-0", 2));
    court.agrees(known("node-1", 1));
    court.objects(known("node-0", 1));
}
