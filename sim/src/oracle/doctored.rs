//! Every oracle against worlds that break its promise: an oracle that cannot
//! fail is no oracle.

use std::collections::BTreeSet;
use std::rc::Rc;

use dispatch_core::admission::{AdmissionView, Gate, Head, WaiterKey};
use dispatch_core::event::{AgentEvent, Chunk, ChunkKind, EventBody};
use dispatch_core::ids::{ConversationId, Epoch, Owner, ProviderId, TurnId};
use dispatch_core::io::{Answer, ToolEnd};
use dispatch_core::store::{ApplyGrants, Granted, Receipt, Rejection, TurnRow, TurnState};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle, Terms, all};
use crate::fact::{Cause, Fact, Leftovers, Life, Moment, Request, Waiting};
use crate::script::Script;

const SEED: u64 = 1;

fn terms() -> Rc<Terms> {
    Rc::new(Terms {
        scripts: (0..50).map(|token| Script::of(SEED, token)).collect(),
        repeats_cuts: false,
        seals: false,
        resume_limit: 3,
    })
}

/// A run's oracles, of which only one is asked.
struct Court {
    oracle: Box<dyn Oracle>,
    at_ms: u64,
}

impl Court {
    fn of(name: &str) -> Court {
        let mut oracles = all(&terms());
        let at = oracles.iter().position(|oracle| oracle.name() == name);
        Court {
            oracle: oracles.swap_remove(at.unwrap()),
            at_ms: 0,
        }
    }

    fn see(&mut self, fact: Fact<'_>) -> Result<(), Breach> {
        let moment = Moment {
            at: self.at_ms * 1_000,
            store_now: Timestamp(self.at_ms),
            calm: false,
        };
        self.oracle.see(&moment, &fact)
    }

    fn agrees(&mut self, fact: Fact<'_>) {
        let shown = format!("{fact:?}");
        assert_eq!(self.see(fact), Ok(()), "{shown}");
    }

    fn objects(&mut self, fact: Fact<'_>) {
        let shown = format!("{fact:?}");
        assert!(self.see(fact).is_err(), "not objected to: {shown}");
    }
}

fn talk() -> ConversationId {
    "talk".try_into().unwrap()
}

fn north() -> ProviderId {
    "north".try_into().unwrap()
}

fn event(seq: u64, turn: u128, epoch: u64, body: EventBody) -> AgentEvent {
    AgentEvent {
        seq: (seq > 0).then_some(seq),
        conversation: talk(),
        turn: TurnId(turn),
        epoch: Epoch(epoch),
        at: Timestamp(0),
        body,
    }
}

fn start(token: u32) -> EventBody {
    EventBody::TurnStart {
        message: Script::message(token),
        model: "north/model-1".into(),
        workspace_id: "default".try_into().unwrap(),
    }
}

fn done() -> EventBody {
    EventBody::Done {
        finish_reason: "stop".into(),
        usage: Default::default(),
        duration_ms: 0,
    }
}

fn error(code: &str, cause: &str) -> EventBody {
    EventBody::Error {
        code: code.into(),
        message: String::new(),
        cause: cause.into(),
        retryable: true,
    }
}

fn aborted() -> EventBody {
    EventBody::Aborted {
        by: "client".into(),
        reason: None,
    }
}

fn retry(attempt: u32, delay_ms: u64) -> EventBody {
    EventBody::ProviderRetry {
        attempt,
        delay_ms,
        due_at: Timestamp(delay_ms),
        message: String::new(),
        code: None,
        source: "schedule".into(),
    }
}

fn restart() -> EventBody {
    EventBody::StepRestart {
        step: 0,
        reason: String::new(),
    }
}

fn text_delta(offset: u64, text: &str) -> EventBody {
    EventBody::TextDelta {
        step: 0,
        offset,
        text: text.into(),
    }
}

fn step_complete(step: u32, text: &str, reasoning: &str, partial: bool) -> EventBody {
    let chunk = |kind, text: &str| Chunk {
        kind,
        text: text.into(),
    };
    EventBody::StepComplete {
        step,
        chunks: vec![
            chunk(ChunkKind::Reasoning, reasoning),
            chunk(ChunkKind::Text, text),
        ],
        usage: Default::default(),
        duration_ms: 0,
        partial,
    }
}

fn row(turn: u128, state: TurnState, epoch: u64) -> TurnRow {
    TurnRow {
        turn: TurnId(turn),
        conversation: talk(),
        ordinal: 0,
        provider: north(),
        model: "model-1".into(),
        state,
        key: WaiterKey {
            unstarred: true,
            started_at: Timestamp(0),
            seq: 0,
        },
        due_at: Timestamp(0),
        owner: state.is_owned().then(|| Owner {
            node: "node-0".into(),
            boot: 7,
            incarnation: 0,
        }),
        lease_until: Timestamp(60_000),
        epoch: Epoch(epoch),
        step: 0,
        items: 0,
        restarts: Default::default(),
        retry: Default::default(),
        resumes: 0,
        abort: None,
        accepted_at: Timestamp(0),
        since: Timestamp(0),
        timing: Default::default(),
        usage: Default::default(),
    }
}

fn lives(state: Life) -> Fact<'static> {
    Fact::Lives {
        replica: 0,
        life: 1,
        boot: 7,
        state,
    }
}

fn request(stream: u32, turn: u128) -> Request {
    Request {
        stream,
        replica: 0,
        life: 1,
        provider: north(),
        turn: TurnId(turn),
        step: 0,
        verdict: Ok(()),
    }
}

fn refused() -> Cause {
    Cause::Refused {
        cause: "http-503".into(),
        retry_after_ms: None,
    }
}

fn finished<'l>(leftovers: &'l Leftovers, cursors: &'l [(u64, u64)]) -> Fact<'l> {
    Fact::Finished { leftovers, cursors }
}

/// A token whose script has one step and no reasoning.
fn plain_token() -> u32 {
    let plain = |script: &&Script| script.steps.len() == 1 && script.steps[0].reasoning.is_empty();
    terms().scripts.iter().find(plain).unwrap().token
}

fn plain_text() -> String {
    Script::of(SEED, plain_token()).steps[0].text.clone()
}

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
    court.objects(Fact::Published {
        replica: 0,
        event: &shown,
    });
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
    let (turn, epoch) = (TurnId(1), Epoch(2));
    let shown = || Fact::Published {
        replica: 0,
        event: &delta,
    };
    court.at_ms = 60_000;
    court.agrees(shown());
    court.agrees(Fact::Opened { turn, epoch });
    court.at_ms = 60_001;
    court.objects(shown());
    court.objects(Fact::Opened { turn, epoch });
    court.objects(Fact::Opened {
        turn,
        epoch: Epoch(9),
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
        let delay_ms = super::retry_schedule::wait_ms(attempt).unwrap();
        court.agrees(Fact::Logged(&event(1, 1, 1, retry(attempt, delay_ms))));
    }
    court.objects(Fact::Logged(&event(1, 1, 1, retry(21, 1_800_000))));
    let waits = (0..21).filter_map(super::retry_schedule::wait_ms);
    assert_eq!(waits.sum::<u64>(), 27_105_000);
}

#[test]
fn t3_a_retry_after_content_or_a_request_before_its_time_is_objected_to() {
    let mut court = Court::of("retry-schedule");
    let delta = event(0, 1, 1, text_delta(0, "x"));
    court.agrees(Fact::Published {
        replica: 0,
        event: &delta,
    });
    court.objects(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
    let mut court = Court::of("retry-schedule");
    court.agrees(Fact::Logged(&event(1, 1, 1, retry(0, 5_000))));
    court.at_ms = 4_999;
    court.objects(Fact::Requested(&request(1, 1)));
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
    let shown = || Fact::Published {
        replica: 0,
        event: &delta,
    };
    court.agrees(shown());
    court.objects(shown());
}

#[test]
fn a_call_that_was_not_asked_for_is_objected_to() {
    let mut court = Court::of("content");
    court.agrees(Fact::Logged(&event(1, 1, 0, start(plain_token()))));
    let call = EventBody::ToolCall {
        step: 0,
        call_id: "a".into(),
        name: "bash".into(),
        input: "{}".into(),
    };
    court.objects(Fact::Logged(&event(2, 1, 1, call)));
}

fn granted(turn: u128) -> Granted {
    Granted {
        turn: TurnId(turn),
        conversation: talk(),
        epoch: Epoch(1),
    }
}

fn grant(court: &mut Court, turn: u128, limit: u32) -> Result<(), Breach> {
    let parked = row(turn, TurnState::Parked, 0);
    court.agrees(Fact::Moved {
        before: Some(&parked),
        after: &row(turn, TurnState::Streaming, 1),
    });
    court.see(Fact::Granted {
        provider: &north(),
        limit,
        cooldown_ms: 200,
        turns: &[granted(turn)],
    })
}

#[test]
fn a1_a_grant_beyond_the_limit_is_objected_to() {
    let mut court = Court::of("limit");
    assert_eq!(grant(&mut court, 1, 1), Ok(()));
    assert!(grant(&mut court, 2, 1).is_err());
}

#[test]
fn a4_a_grant_into_a_slot_that_is_still_warm_is_objected_to() {
    for (at_ms, is_early) in [(199, true), (200, false)] {
        let mut court = Court::of("limit");
        assert_eq!(grant(&mut court, 1, 1), Ok(()));
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Streaming, 1)),
            after: &row(1, TurnState::Tools, 1),
        });
        court.at_ms = at_ms;
        assert_eq!(grant(&mut court, 2, 1).is_err(), is_early);
    }
}

#[test]
fn a1_more_requests_than_slots_are_objected_to_unless_their_process_stands_still() {
    for (state, is_too_many) in [(Life::Up, true), (Life::Paused, false), (Life::Down, false)] {
        let mut court = Court::of("limit");
        court.agrees(lives(Life::Up));
        assert_eq!(grant(&mut court, 1, 1), Ok(()));
        court.agrees(Fact::Requested(&request(1, 1)));
        court.agrees(lives(state));
        let another = Request {
            replica: 1,
            ..request(2, 2)
        };
        court.agrees(Fact::Lives {
            replica: 1,
            life: 1,
            boot: 8,
            state: Life::Up,
        });
        court.agrees(Fact::Moved {
            before: Some(&row(1, TurnState::Streaming, 1)),
            after: &row(1, TurnState::Tools, 1),
        });
        court.at_ms = 500;
        assert_eq!(grant(&mut court, 2, 1), Ok(()));
        assert_eq!(court.see(Fact::Requested(&another)).is_err(), is_too_many);
    }
}

fn head(turn: u128) -> Head {
    Head {
        turn: TurnId(turn),
        key: WaiterKey {
            unstarred: true,
            started_at: Timestamp(0),
            seq: 0,
        },
        epoch: Epoch(0),
    }
}

fn view(starred: &[u128], unstarred: &[u128]) -> AdmissionView {
    AdmissionView {
        version: 1,
        now: Timestamp(0),
        limit: 4,
        streaming: 0,
        cooling: vec![],
        cooldown_ms: 200,
        gate: Gate::Open,
        fair: 0,
        starred: starred.iter().map(|turn| head(*turn)).collect(),
        unstarred: unstarred.iter().map(|turn| head(*turn)).collect(),
        next_due: None,
    }
}

#[test]
fn a2_a3_a_line_in_another_order_or_with_a_stale_star_is_objected_to() {
    // The later one has the lower id: only the order of acceptance tells.
    let waits = |turn: u128, starred| Waiting {
        turn: TurnId(turn),
        starred,
        accepted_at: Timestamp(5),
    };
    let judge = |view: &AdmissionView, line: &[Waiting]| {
        let mut court = Court::of("order");
        for turn in [9, 3] {
            court.agrees(Fact::Moved {
                before: None,
                after: &row(turn, TurnState::Parked, 0),
            });
        }
        court.see(Fact::ViewRead {
            provider: &north(),
            view,
            line,
            streaming: 0,
        })
    };
    let line = [waits(3, false), waits(9, false)];
    assert_eq!(judge(&view(&[], &[9, 3]), &line), Ok(()));
    assert!(judge(&view(&[], &[3, 9]), &line).is_err());
    assert!(judge(&view(&[], &[9]), &line).is_err());
    let starred = [waits(3, true), waits(9, false)];
    assert_eq!(judge(&view(&[3], &[9]), &starred), Ok(()));
    assert!(judge(&view(&[], &[9, 3]), &starred).is_err());
}

#[test]
fn a4_d02_a_slot_that_counts_though_nobody_left_it_just_now_is_objected_to() {
    let mut leaked = view(&[], &[]);
    leaked.cooling = vec![Timestamp(u64::MAX / 2)];
    Court::of("limit").objects(Fact::ViewRead {
        provider: &north(),
        view: &leaked,
        line: &[],
        streaming: 0,
    });
}

#[test]
fn a7_a_plan_out_of_order_or_without_the_fair_share_is_objected_to() {
    let judge = |grants: &[u128], fair, version| {
        let mut court = Court::of("order");
        court.agrees(Fact::ViewHeard {
            replica: 0,
            provider: &north(),
            view: &view(&[1, 2, 3, 4], &[7, 8]),
        });
        let plan = ApplyGrants {
            provider: north(),
            version,
            fair,
            owner: row(1, TurnState::Tools, 0).owner.unwrap(),
            grants: grants
                .iter()
                .map(|turn| dispatch_core::admission::Grant {
                    turn: TurnId(*turn),
                    epoch: Epoch(0),
                })
                .collect(),
            lease_ms: 60_000,
        };
        court.see(Fact::Planned {
            replica: 0,
            plan: &plan,
        })
    };
    assert_eq!(judge(&[1, 2, 3, 7], 0, 1), Ok(()));
    assert!(judge(&[1, 2, 3, 4], 0, 1).is_err());
    assert!(judge(&[2, 1], 2, 1).is_err());
    assert!(judge(&[1, 2], 3, 1).is_err());
    assert!(judge(&[1, 2], 2, 5).is_err());
}

#[test]
fn c5_d24_a_client_that_misses_repeats_or_foresees_an_event_is_objected_to() {
    let (first, second) = (event(1, 1, 0, start(0)), event(2, 1, 1, done()));
    let mut court = Court::of("client-view");
    court.agrees(Fact::Logged(&first));
    let seen = |event| Fact::Seen { client: 0, event };
    court.objects(Fact::Published {
        replica: 0,
        event: &second,
    });
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

fn tool(command: &'static str, epoch: u64) -> Fact<'static> {
    Fact::ToolStarted {
        command,
        turn: TurnId(1),
        epoch: Epoch(epoch),
        call_id: "a",
    }
}

#[test]
fn d21_a_command_that_is_run_again_or_answered_by_another_output_is_objected_to() {
    let mut court = Court::of("tool-once");
    court.agrees(tool("run 1", 1));
    court.objects(tool("run 1", 2));
    let call = EventBody::ToolCall {
        step: 0,
        call_id: "a".into(),
        name: "bash".into(),
        input: "{}".into(),
    };
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
    let owned = row(1, TurnState::Streaming, 1);
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
    court.at_ms = 600_000;
    court.objects(taken_over());
    court.agrees(Fact::Trouble { replica: 0 });
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

/// The tests above name their oracles as text: none may be forgotten.
#[test]
fn every_oracle_has_its_doctored_world() {
    let page = include_str!("doctored.rs");
    let named: BTreeSet<&str> = page
        .split("Court::of(\"")
        .skip(1)
        .filter_map(|rest| rest.split('"').next())
        .collect();
    let all: BTreeSet<&str> = super::names().into_iter().collect();
    assert_eq!(named.intersection(&all).count(), all.len(), "{all:?}");
}
