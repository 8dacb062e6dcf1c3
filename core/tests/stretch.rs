//! A turn through the Dispatcher, with the Model as its store: the smallest
//! world in which the core's promises can be seen.

#![allow(clippy::unwrap_used)]

#[path = "stretch/adoption.rs"]
mod adoption;
#[path = "stretch/computers.rs"]
mod computers;
#[path = "stretch/world.rs"]
mod world;

use dispatch_core::Dispatcher;
use dispatch_core::io::{Answer, FailKind, Input};
use dispatch_core::store::{AbortOf, Verb};
use dispatch_core::time::Timestamp;
use world::World;

#[test]
fn t1_a_turn_runs_through_steps_and_parallel_tools_to_done() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.asks_for_tools(id, &["a", "b"]);
    assert_eq!(world.tools.len(), 2);
    world.tool_ends();
    world.tool_ends();
    let id = world.stream();
    world.says(id, "finished");
    world.stops(id);
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-call",
            "tool-result",
            "tool-result",
            "step-complete",
            "done"
        ]
    );
    assert!(world.is_at_rest());
}

#[test]
fn t2_what_is_logged_is_published_once_and_in_order() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.says(id, "hi");
    world.stops(id);
    let seqs: Vec<u64> = world
        .published
        .iter()
        .filter_map(|event| event.seq)
        .collect();
    assert_eq!(seqs, [1, 2, 3]);
    let deltas = world
        .published
        .iter()
        .filter(|e| e.kind() == "text-delta")
        .count();
    assert_eq!(deltas, 1);
}

#[test]
fn t3_refusals_before_content_are_retried_on_schedule() {
    let mut world = World::new();
    world.submit("hello");
    for wait_ms in [5_000, 10_000] {
        let id = world.stream();
        world.head(id, 429, &[]);
        world.feed(Input::ProviderEnd { id });
        assert_eq!(
            world.core.owned_turns().count(),
            0,
            "a waiting turn is nobody's"
        );
        world.pass(wait_ms - 100);
        assert!(world.streams.is_empty());
        world.pass(100);
    }
    let id = world.stream();
    world.says(id, "hi");
    world.stops(id);
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "retry(0, 5000)",
            "retry(1, 10000)",
            "step-complete",
            "done"
        ]
    );
}

#[test]
fn t3_a_failure_after_content_is_not_retried_and_keeps_what_was_said() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.says(id, "half an ans");
    world.feed(Input::ProviderFailed {
        id,
        kind: FailKind::Body,
        message: "cut".into(),
    });
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "step-partial",
            "error(stream-truncated, stream-cut)"
        ]
    );
    assert!(world.is_at_rest());
}

#[test]
fn t4_a_final_refusal_ends_the_turn_at_once() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.head(id, 401, &[]);
    world.feed(Input::ProviderBytes {
        id,
        bytes: br#"{"error":{"message":"no"}}"#.to_vec(),
    });
    world.feed(Input::ProviderEnd { id });
    assert_eq!(
        world.log(),
        ["turn-start", "error(provider-unauthorized, http-401)"]
    );
}

#[test]
fn t10_silence_is_a_failure_before_and_after_the_first_byte() {
    let mut world = World::new();
    world.submit("hello");
    let _mute = world.stream();
    world.pass(120_000);
    assert_eq!(world.log(), ["turn-start", "retry(0, 5000)"]);
    world.pass(5_000);
    let id = world.stream();
    world.says(id, "half");
    world.pass(120_000);
    assert_eq!(
        world.log()[2..],
        ["step-partial", "error(stream-truncated, idle-timeout)"]
    );
}

#[test]
fn t11_an_empty_completion_is_repeated_once_and_announced() {
    let mut world = World::new();
    world.submit("hello");
    for _ in 0..2 {
        let id = world.stream();
        world.head(id, 200, &[("content-type", "text/event-stream")]);
        world.stops(id);
    }
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "step-restart",
            "error(empty-completion, empty-completion)"
        ]
    );
}

#[test]
fn t11_a_finish_without_words_is_an_empty_completion_unless_it_was_cut() {
    let mut world = World::new();
    let turn = world.submit("hello").turn;
    for (pass_ms, kind) in [(5_000, FailKind::Refused), (0, FailKind::Body)] {
        let id = world.stream();
        world.head(id, 200, &[("content-type", "text/event-stream")]);
        world.sse(
            id,
            &[r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#],
        );
        world.pass(pass_ms);
        let message = String::new();
        world.feed(Input::ProviderFailed { id, kind, message });
    }
    let cause = world.model.turns[&turn].retry.last.clone().unwrap().cause;
    assert_eq!(cause, "stream-cut");
    assert_eq!(world.log()[1..], ["step-restart", "retry(0, 5000)"]);
}

#[test]
fn t5_an_abort_ends_a_parked_a_streaming_and_a_tool_running_turn() {
    let mut world = World::new();
    let receipt = world.submit("streaming");
    let id = world.stream();
    world.says(id, "half");
    world.abort(receipt.turn);
    world.pass(250);
    assert!(world.closed.contains(&id));
    assert_eq!(world.log(), ["turn-start", "step-partial", "aborted"]);

    let receipt = world.submit("tools");
    let id = world.stream();
    world.asks_for_tools(id, &["a"]);
    world.abort(receipt.turn);
    world.pass(250);
    assert_eq!(world.killed.len(), 1);
    world.tool_ends();
    assert_eq!(
        world.log()[3..],
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-result",
            "aborted"
        ]
    );

    let receipt = world.submit("waiting");
    let id = world.stream();
    world.head(id, 503, &[]);
    world.feed(Input::ProviderEnd { id });
    assert!(matches!(world.abort(receipt.turn), Answer::Ended(_)));
    assert!(
        matches!(world.abort(receipt.turn), Answer::Ended(_)),
        "a second abort returns the same end"
    );
    world.pass(60_000);
    assert!(world.streams.is_empty(), "an aborted turn does not wake");
    assert!(world.is_at_rest());
}

#[test]
fn t6_a_busy_conversation_queues_the_next_turn() {
    let mut world = World::new();
    world.submit("one");
    let first = world.stream();
    world.submit("two");
    world.pass(1_000);
    assert!(world.streams.is_empty());
    world.says(first, "1");
    world.stops(first);
    let second = world.stream();
    world.says(second, "2");
    world.stops(second);
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "turn-start",
            "step-complete",
            "done",
            "step-complete",
            "done"
        ]
    );
}

#[test]
fn t5_an_abort_of_a_queued_turn_leaves_the_running_one_alone() {
    let mut world = World::new();
    world.submit("one");
    let first = world.stream();
    let queued = world.submit("two");
    assert!(matches!(world.abort(queued.turn), Answer::Ended(_)));
    world.pass(1_000);
    world.says(first, "1");
    world.stops(first);
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "turn-start",
            "aborted",
            "step-complete",
            "done"
        ]
    );
    assert!(world.is_at_rest());
}

#[test]
fn l4_a_crash_in_mid_stream_costs_no_turn() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.says(id, "half an ans");
    world.pass(1_000);
    assert_eq!(
        world.model.segments.len(),
        1,
        "what was said is checkpointed"
    );
    world.crash();
    let id = world.stream();
    world.says(id, "whole");
    world.stops(id);
    assert_eq!(
        world.log(),
        ["turn-start", "step-restart", "step-complete", "done"]
    );
    assert!(world.is_at_rest());
}

#[test]
fn l4_a_step_that_kills_the_server_again_and_again_ends_the_turn() {
    let mut world = World::new();
    world.submit("hello");
    for _ in 0..4 {
        world.stream();
        world.crash();
    }
    assert_eq!(
        world.log().last().map(String::as_str),
        Some("error(replica-lost, resume-limit)")
    );
    assert!(world.is_at_rest());
}

#[test]
fn l2_every_lost_outcome_is_found_out_and_nothing_lands_twice() {
    let mut world = World::new();
    world.lose_outcomes = 1;
    world.submit("hello");
    world.lose_outcomes = 1;
    let id = world.stream();
    world.lose_outcomes = 2;
    world.asks_for_tools(id, &["a"]);
    world.pass(1_000);
    world.lose_outcomes = 2;
    world.tool_ends();
    world.pass(1_000);
    let id = world.stream();
    world.lose_outcomes = 1;
    world.says(id, "hi");
    world.stops(id);
    world.pass(1_000);
    assert_eq!(
        world.log(),
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-result",
            "step-complete",
            "done"
        ]
    );
    assert!(world.is_at_rest());
}

#[test]
fn l8_a_shutdown_lets_go_of_what_does_not_end_in_time() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.says(id, "half");
    world.feed(Input::Shutdown);
    assert!(!world.drained);
    world.pass(10_000);
    assert!(world.drained);
    world.crash();
    let id = world.stream();
    world.says(id, "whole");
    world.stops(id);
    assert_eq!(
        world.log(),
        ["turn-start", "step-restart", "step-complete", "done"]
    );
}

#[test]
fn o3_a_dispatcher_survives_serialisation_in_mid_turn() {
    let mut world = World::new();
    world.submit("hello");
    let id = world.stream();
    world.says(id, "half");
    let bytes = postcard::to_allocvec(&world.core).unwrap();
    let copy: Dispatcher = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(copy, world.core);
}

#[test]
fn t5_an_abort_that_meets_a_retry_being_scheduled_does_not_sleep_through_it() {
    let mut world = World::new();
    let receipt = world.submit("hello");
    let id = world.stream();
    // The wish is durable, but its owner has not read it when the refusal comes.
    world.model.now = Timestamp(1_000_000 + world.now_ms);
    let wish = AbortOf {
        turn: Some(receipt.turn),
        conversation: None,
        by: "other replica's client".into(),
        reason: None,
        patience_ms: 10_000,
    };
    world.model.apply(&Verb::RequestAbort(wish));
    world.head(id, 503, &[]);
    world.feed(Input::ProviderEnd { id });
    assert_eq!(world.log(), ["turn-start", "aborted"]);
    assert!(world.is_at_rest());
}
