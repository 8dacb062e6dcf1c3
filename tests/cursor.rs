//! Clients that are cut and come back by their cursor (C5): nothing missed,
//! nothing twice, and nothing shown that is later contradicted.

#![allow(clippy::unwrap_used)]

mod support;

use serde_json::{Value, json};

use support::client::{Receipt, Screen, kinds, logged, open_text, started};
use support::stream::{EventExt, Stream};
use support::world::World;

/// Comes back with what `screen` has seen last, and stays to the end.
fn come_back(world: &World, at: &Receipt, screen: &mut Screen) {
    for event in world.server.follow(at, screen.cursor()).all() {
        screen.show(&event);
    }
}

fn is_whole(world: &World, at: &Receipt, screen: &Screen, steps: &[&str]) {
    assert_eq!(screen.log, world.server.log(&at.conversation));
    let shown: Vec<&str> = screen.steps.values().map(String::as_str).collect();
    assert_eq!(shown, steps, "{:#?}", screen.log);
    let ends = screen.log.iter().filter(|event| event.is_terminal());
    assert_eq!(ends.count(), 1);
}

/// Two steps with text in pieces of several bytes a character, and a tool.
fn long_script() -> Value {
    json!([
        [
            {"text": "Grüße, ich sehe nach. ", "chunk": 4, "delay_ms": 4},
            {"tool_call": {"name": "bash", "arguments": {"command": "echo eins; echo zwei"}}},
        ],
        {"attempts": [{"status": 503}, [{"text": "Es sind 2 → fertig.", "chunk": 4, "delay_ms": 4}]]},
    ])
}

const LONG_STEPS: [&str; 2] = ["Grüße, ich sehe nach. ", "Es sind 2 → fertig."];

#[test]
fn c5_a_client_cut_after_any_event_comes_back_to_the_rest() {
    let world = World::new();
    let mut cuts = 0;
    // All turns at once, each cut one event later than the one before it.
    let clients: Vec<(Receipt, Stream)> = (0..40)
        .map(|n| {
            let at = world.submit(&format!("cut-{n}"), &long_script());
            let stream = world.server.follow(&at, at.seq - 1);
            (at, stream)
        })
        .collect();
    std::thread::scope(|scope| {
        let mut threads = Vec::new();
        for (n, (at, stream)) in clients.into_iter().enumerate() {
            let world = &world;
            threads.push(scope.spawn(move || cut_after(world, &at, stream, n)));
        }
        for thread in threads {
            cuts += usize::from(thread.join().unwrap());
        }
    });
    // turn-start, deltas, step-complete, tool-call, tool-result, retry, deltas, ...
    assert!(cuts >= 20, "only {cuts} clients were cut before the end");
}

/// Whether the cut came before the terminal event.
fn cut_after(world: &World, at: &Receipt, stream: Stream, n: usize) -> bool {
    stream.wait("the event to be cut after", |events| {
        events.len() >= n || events.iter().any(EventExt::is_terminal)
    });
    let mut before = stream.cut();
    before.truncate(n);
    let mut screen = Screen::default();
    // The turn is the conversation's first: a client that has seen nothing begins at 0.
    for event in &before {
        screen.show(event);
    }
    if before.iter().any(EventExt::is_terminal) {
        let answer = world.server.events(
            &at.conversation,
            &format!("turnId={}", at.turn),
            Some(screen.cursor()),
        );
        assert_eq!(
            answer.status, 204,
            "there is nothing beyond the terminal event"
        );
    } else {
        come_back(world, at, &mut screen);
    }
    is_whole(world, at, &screen, &LONG_STEPS);
    !before.iter().any(EventExt::is_terminal)
}

#[test]
fn c5_a_client_may_stay_away_across_the_end_of_a_step() {
    let world = World::new();
    let script = json!([
        [{"text": "half of it", "chunk": 3}, {"hold": "rest"}, ", the rest",
         {"tool_call": {"name": "bash", "arguments": {"command": "true"}}}],
        [{"hold": "second"}, "second"],
    ]);
    let at = world.submit("across", &script);
    let mut screen = Screen::default();
    let stream = world.server.follow(&at, 0);
    stream.wait("the first half", |events| {
        open_text(events, 0) == "half of it"
    });
    stream.cut().iter().for_each(|event| screen.show(event));
    let witness = world.server.follow(&at, 0);
    world.provider.release("rest");
    witness.wait_for("tool-result");
    let back = world.server.follow(&at, screen.cursor());
    back.wait_for("synced");
    world.provider.release("second");
    let rest = back.all();
    rest.iter().for_each(|event| screen.show(event));
    is_whole(&world, &at, &screen, &["half of it, the rest", "second"]);
    let first = kinds(&rest)[0];
    assert_eq!(
        first, "step-complete",
        "what superseded the deltas comes first"
    );
}

#[test]
fn c5_a_cursor_survives_a_restart_of_the_server() {
    let mut world = World::new();
    let script = json!([[{"text": "half of it", "chunk": 3}, {"hold": "rest"}, ", the rest"]]);
    let at = world.submit("restart", &script);
    let mut screen = Screen::default();
    let stream = world.server.follow(&at, 0);
    stream.wait("the first half", |events| {
        open_text(events, 0) == "half of it"
    });
    world.server.kill();
    stream
        .finish()
        .0
        .iter()
        .for_each(|event| screen.show(event));
    assert_eq!(screen.open_text(0), "half of it");
    world.server.restart();
    let back = world.server.follow(&at, screen.cursor());
    back.wait_for("step-restart");
    world.provider.release("rest");
    back.all().iter().for_each(|event| screen.show(event));
    is_whole(&world, &at, &screen, &["half of it, the rest"]);
}

#[test]
fn c5_a_snapshot_replaces_what_a_late_client_did_not_see() {
    let world = World::new();
    let script = json!([[{"text": "half of it", "chunk": 3}, {"hold": "rest"}, ", the rest"]]);
    let at = world.submit("late", &script);
    let first = world.server.follow(&at, 0);
    first.wait("the first half", |events| {
        open_text(events, 0) == "half of it"
    });
    let late = world.server.follow(&at, 0);
    let seen = late.wait("it has caught up", |events| {
        kinds(events).contains(&"synced")
    });
    let snapshot = seen
        .iter()
        .find(|event| event.kind() == "snapshot")
        .unwrap();
    assert_eq!(
        (snapshot.number("step"), snapshot.text("text")),
        (0, "half of it")
    );
    world.provider.release("rest");
    let mut screen = Screen::default();
    late.all().iter().for_each(|event| screen.show(event));
    is_whole(&world, &at, &screen, &["half of it, the rest"]);
    drop(first);
}

#[test]
fn c5_every_way_to_read_a_turn_shows_the_same_log() {
    let world = World::new();
    let message = format!("ways script: {}", long_script());
    let chat = world
        .server
        .chat(&json!({ "conversationId": "ways", "message": message }));
    let at = started(&chat);
    let by_chat = logged(&chat.all());
    let by_events = logged(&world.server.follow(&at, 0).all());
    let path = format!("/conversations/ways/events?turnId={}&after=0", at.turn);
    let ndjson = [("accept", "application/x-ndjson")];
    let by_ndjson = logged(&Stream::read(world.server.open("GET", &path, &ndjson, b"")).all());
    let by_log = world.server.log("ways");
    assert_eq!(by_chat, by_log);
    assert_eq!(by_events, by_log);
    assert_eq!(by_ndjson, by_log);
    let body = json!({ "conversationId": "ways-sse", "message": message }).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("accept", "text/event-stream"),
    ];
    let answer = world
        .server
        .open("POST", "/chat", &headers, body.as_bytes());
    assert_eq!(answer.header("content-type"), Some("text/event-stream"));
    let by_sse = logged(&Stream::read(answer).all());
    assert_eq!(by_sse, world.server.log("ways-sse"));
}
