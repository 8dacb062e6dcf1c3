//! What a user of the server does all day, end to end over HTTP (T1, T5, T6,
//! T13, A3, C5, C6).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};

use support::client::{Receipt, count, kinds, logged, open_text, receipt, said};
use support::process::{Server, pid_of};
use support::stream::{EventExt, Stream};
use support::world::{World, bash, lingering};
use support::{is_alive, lines, until, until_true};

#[test]
fn t1_text_is_shown_as_it_comes() {
    let world = World::new();
    let script = json!([[{"text": "one two three ", "chunk": 4}, {"hold": "rest"}, "four"]]);
    let stream = world.chat("pieces", &script);
    let early = stream.wait("what was said before the end", |events| {
        open_text(events, 0) == "one two three "
    });
    assert_eq!(early[0].kind(), "turn-start");
    assert_eq!(count(&early, "step-complete"), 0);
    world.provider.release("rest");
    let events = stream.all();
    assert_eq!(
        kinds(&logged(&events)),
        ["turn-start", "step-complete", "done"]
    );
    assert_eq!(said(&events), "one two three four");
    // Who comes late is shown the beginning in one piece.
    let pieces = count(&events, "text-delta") + count(&events, "snapshot");
    assert!(pieces >= 2, "{events:#?}");
    let done = events.last().unwrap();
    assert_eq!(done.text("finishReason"), "stop");
    assert!(
        events
            .iter()
            .all(|e| e.text("conversationId") == "pieces" && e.turn() == done.turn())
    );
}

#[test]
fn t1_a_tool_is_run_and_its_output_goes_to_the_model() {
    let world = World::new();
    let file = world.file("made");
    let script = json!([
        [
            "I shall write. ",
            bash(&format!(
                "echo to-the-file > {}; echo to-the-model; echo and-this >&2; exit 3",
                file.display()
            ))
        ],
        "Written.",
    ]);
    let events = world.chat("tool", &script).all();
    assert_eq!(
        kinds(&logged(&events)),
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-result",
            "step-complete",
            "done"
        ]
    );
    assert_eq!(lines(&file), ["to-the-file"]);
    let result = events
        .iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap();
    assert_eq!(result["ok"], false, "it exits 3: {result}");
    for part in ["to-the-model", "and-this", "3"] {
        assert!(result.text("output").contains(part), "{result}");
    }
    assert_eq!(said(&events), "I shall write. Written.");
    assert_eq!(world.provider.stat("invalid"), 0);
}

#[test]
fn t1_files_are_written_and_read_where_the_conversation_is() {
    let world = World::new();
    let place = world.file("place");
    std::fs::create_dir(&place).unwrap();
    let script = json!([
        {"tool_call": {"name": "write", "arguments": {"path": "a/b.txt", "content": "Grüße\n"}}},
        {"tool_call": {"name": "read", "arguments": {"path": "a/b.txt"}}},
        bash("pwd"),
        "Done.",
    ]);
    let body = json!({ "message": format!("script: {script}"), "cwd": place });
    let events = world.server.chat(&body).all();
    let results: Vec<&Value> = events
        .iter()
        .filter(|event| event.kind() == "tool-result")
        .collect();
    assert_eq!(results.len(), 3, "{events:#?}");
    assert!(
        results.iter().all(|result| result["ok"] == true),
        "{results:#?}"
    );
    assert_eq!(
        std::fs::read_to_string(place.join("a/b.txt")).unwrap(),
        "Grüße\n"
    );
    assert!(
        results[1].text("output").contains("Grüße"),
        "{}",
        results[1]
    );
    assert!(
        results[2].text("output").contains(place.to_str().unwrap()),
        "{}",
        results[2]
    );
}

#[test]
fn c4_a_tool_runs_in_the_conversations_directory_else_the_workspaces_else_the_servers() {
    let world = World::new();
    let (own, shared) = (world.file("own"), world.file("shared"));
    for place in [&own, &shared] {
        std::fs::create_dir(place).unwrap();
    }
    let put = world
        .server
        .write("PUT", "/workspaces/team", &json!({ "defaultCwd": shared }));
    put.expect(200);
    let script = format!("script: {}", json!([bash("pwd"), "Done."]));
    let pwd = |body: Value| {
        let events = world.server.chat(&body).all();
        let result = events.iter().find(|event| event.kind() == "tool-result");
        result.unwrap().text("output").trim().to_owned()
    };
    let explicit = json!({ "conversationId": "explicit", "message": script, "workspaceId": "team", "cwd": own });
    assert_eq!(pwd(explicit), own.to_str().unwrap());
    let by_workspace =
        json!({ "conversationId": "by-workspace", "message": script, "workspaceId": "team" });
    assert_eq!(pwd(by_workspace), shared.to_str().unwrap());
    let by_server = json!({ "conversationId": "by-server", "message": script });
    let here = std::env::current_dir().unwrap();
    assert_eq!(pwd(by_server), here.to_str().unwrap());
    let cwd_of = |conversation: &str| {
        let path = format!("/conversations/{conversation}");
        world.server.get(&path).expect(200)["cwd"].clone()
    };
    assert_eq!(cwd_of("explicit"), own.to_str().unwrap());
    assert_eq!(cwd_of("by-workspace"), Value::Null, "only the explicit one");
}

#[test]
fn t1_parallel_calls_run_side_by_side() {
    let world = World::new();
    let (one, two) = (world.file("one"), world.file("two"));
    // Each ends only when the other has begun.
    let meet = |own: &PathBuf, other: &PathBuf| {
        bash(&format!(
            "touch {}; while [ ! -e {} ]; do sleep 0.01; done; echo met",
            own.display(),
            other.display()
        ))
    };
    let script = json!([[meet(&one, &two), meet(&two, &one)], "Both met."]);
    let events = world.chat("parallel", &script).all();
    let results: Vec<&Value> = events
        .iter()
        .filter(|event| event.kind() == "tool-result")
        .collect();
    assert_eq!(results.len(), 2, "{events:#?}");
    assert!(
        results
            .iter()
            .all(|result| result["ok"] == true && result.text("output").trim() == "met")
    );
    assert_ne!(results[0]["callId"], results[1]["callId"]);
    assert_eq!(events.last().unwrap().kind(), "done");
}

#[test]
fn d28_a_background_child_that_keeps_its_output_open_holds_nothing_up() {
    let world = World::new();
    let file = world.file("pids");
    let script = json!([
        bash(&format!(
            "sleep 1000 & echo $! > {}; echo started",
            file.display()
        )),
        "It runs."
    ]);
    let events = world.chat("background", &script).all();
    let result = events
        .iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap();
    assert_eq!(
        (result["ok"].clone(), result.text("output").trim()),
        (true.into(), "started")
    );
    assert_eq!(events.last().unwrap().kind(), "done");
    // Left alone by the server, so ended by its test.
    let pid = pid_of(lines(&file)[0].parse().unwrap());
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn t5_an_abort_ends_a_turn_in_every_state() {
    let world = World::with_limit(1);
    let blocker = world.submit(
        "blocker",
        &json!([[{"text": "half"}, {"hold": "blocker"}, " whole"]]),
    );
    until_true("the slot is taken", || world.is_asked("blocker"));

    let parked = world.submit("parked", &json!(["never"]));
    world.server.turn_is(&parked.turn, "parked");
    let end = world.server.abort(&parked).expect(200);
    assert_eq!(
        (end.kind(), end.text("reason")),
        ("aborted", "a test says so")
    );
    assert_eq!(
        kinds(&world.server.outcome(&parked)),
        ["turn-start", "aborted"]
    );
    assert!(world.provider.requests("parked ").is_empty());

    let shown = world.server.follow(&blocker, 0);
    shown.wait("half of the answer", |events| {
        events.iter().any(|e| e["text"] == "half")
    });
    world.server.abort(&blocker);
    let log = world.server.outcome(&blocker);
    assert_eq!(kinds(&log), ["turn-start", "step-complete", "aborted"]);
    assert_eq!(
        (said(&log), log[1]["partial"].clone()),
        ("half".to_owned(), true.into()),
        "what was said is kept"
    );
    until_true("the stream is stopped", || !world.is_asked("blocker"));

    let pids = world.file("pids");
    let in_tool = world.submit("in-tool", &json!([lingering(&pids), "never"]));
    let running = until("the command and its child run", || {
        Some(lines(&pids)).filter(|l| l.len() == 2)
    });
    world.server.abort(&in_tool);
    let log = world.server.outcome(&in_tool);
    assert_eq!(
        kinds(&log),
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-result",
            "aborted"
        ]
    );
    for pid in &running {
        assert!(!is_alive(pid.parse().unwrap()), "{pid} outlives the abort");
    }

    let waits = world.submit("waits", &json!([{"attempts": [{"status": 503}, "never"]}]));
    until_true("it waits to try again", || {
        count(&world.server.log("waits"), "provider-retry") == 1
    });
    let end = world.server.abort(&waits).expect(200);
    assert_eq!(end.kind(), "aborted");
    assert_eq!(
        kinds(&world.server.outcome(&waits)),
        ["turn-start", "provider-retry", "aborted"]
    );
    assert_eq!(world.provider.requests("waits ").len(), 1);

    // Losing to a terminal event returns that event.
    assert_eq!(world.server.abort(&waits).expect(200), end);
    for (conversation, text) in [
        ("parked", "p"),
        ("blocker", "b"),
        ("in-tool", "t"),
        ("waits", "w"),
    ] {
        let log = world.server.says(conversation, text);
        assert_eq!(
            said(&log),
            format!("You said: {text}"),
            "the conversation goes on: {log:#?}"
        );
    }
    assert_eq!(world.provider.stat("invalid"), 0);
}

#[test]
fn c6_the_same_key_gives_the_same_turn_and_another_body_is_refused() {
    let mut world = World::new();
    let post = |server: &Server, key: &str, body: &Value| {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key),
        ];
        server.ask("POST", "/chat", &headers, body.to_string().as_bytes())
    };
    let body = json!({ "message": "once", "conversationId": "once", "detach": true });
    let first = receipt(&post(&world.server, "key-1", &body).expect(202));
    let log = world.server.outcome(&first);
    let again = receipt(&post(&world.server, "key-1", &body).expect(202));
    assert_eq!((&again.turn, again.seq), (&first.turn, first.seq));
    // Written differently, meant the same.
    let reordered = br#"{"detach":true, "conversationId":"once" ,"message":"\u006fnce"}"#;
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "key-1"),
    ];
    let same = world
        .server
        .ask("POST", "/chat", &headers, reordered)
        .expect(202);
    assert_eq!(same.turn(), first.turn);
    let other = json!({ "message": "twice", "conversationId": "once", "detach": true });
    let refused = post(&world.server, "key-1", &other);
    assert_eq!(
        refused.header("content-type"),
        Some("application/problem+json")
    );
    refused.expect(422);
    world.server.crash_and_restart();
    let after = receipt(&post(&world.server, "key-1", &body).expect(202));
    assert_eq!(after.turn, first.turn);
    assert_eq!(world.server.log("once"), log, "nothing was added");
    let attached = json!({ "message": "live", "conversationId": "live" });
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "key-2"),
    ];
    let read = || {
        let answer = world
            .server
            .open("POST", "/chat", &headers, attached.to_string().as_bytes());
        logged(&Stream::read(answer).all())
    };
    assert_eq!(read(), read(), "a replay reads the whole turn again");
    assert_eq!(world.provider.stat("total"), 2);
}

#[test]
fn c5_a_detached_turn_is_followed_by_its_events() {
    let world = World::new();
    let at = world.submit(
        "detached",
        &json!([[{"text": "some "}, {"hold": "go"}, "text"]]),
    );
    assert_eq!((at.conversation.as_str(), at.seq), ("detached", 1));
    let for_ever = Stream::read(world.server.events("detached", "after=0", None));
    let one_turn = world.server.follow(&at, 0);
    one_turn.wait("the first words", |events| open_text(events, 0) == "some ");
    world.provider.release("go");
    assert_eq!(said(&one_turn.all()), "some text");
    for_ever.wait_for("done");
    let second = world.submit("detached", &json!(["second"]));
    let seen = for_ever.wait("the next turn on the same stream", |events| {
        events
            .iter()
            .any(|event| event.kind() == "done" && event.turn() == second.turn)
    });
    let seqs: Vec<u64> = logged(&seen).iter().filter_map(EventExt::seq).collect();
    assert_eq!(seqs, (1..=6).collect::<Vec<u64>>());
    let beyond = world
        .server
        .events("detached", &format!("turnId={}", at.turn), Some(at.seq + 2));
    assert_eq!(beyond.status, 204);
}

#[test]
fn t6_a_busy_conversation_takes_further_messages_one_after_the_other() {
    let world = World::new();
    let first = world.submit("busy", &json!([[{"hold": "first"}, "1"]]));
    until_true("the first one streams", || world.is_asked("busy"));
    let queued: Vec<Receipt> = (2..5)
        .map(|n| {
            let body = json!({ "message": format!("next-{n} script: [\"{n}\"]") });
            receipt(
                &world
                    .server
                    .write("POST", "/conversations/busy/queue", &body)
                    .expect(202),
            )
        })
        .collect();
    for at in &queued {
        let turn = world.server.turn(&at.turn);
        assert_eq!(turn["state"], "blocked", "{turn}");
    }
    assert_eq!(world.provider.stat("total"), 1);
    let conversation = world.server.get("/conversations/busy").expect(200);
    assert_eq!(conversation["status"], "active", "{conversation}");
    // One of them is taken back.
    let end = world.server.abort(&queued[1]).expect(200);
    assert_eq!(end.kind(), "aborted");
    world.provider.release("first");
    assert_eq!(said(&world.server.outcome(&first)), "1");
    assert_eq!(said(&world.server.outcome(&queued[0])), "2");
    assert_eq!(said(&world.server.outcome(&queued[2])), "4");
    let log = world.server.log("busy");
    assert_eq!(
        count(&log, "step-restart"),
        0,
        "nothing was disturbed: {log:#?}"
    );
    let ends: Vec<&str> = log
        .iter()
        .filter(|e| e.is_terminal())
        .map(EventExt::turn)
        .collect();
    assert_eq!(
        ends,
        [
            &queued[1].turn,
            &first.turn,
            &queued[0].turn,
            &queued[2].turn
        ]
    );
    let conversation = world.server.get("/conversations/busy").expect(200);
    assert_eq!(conversation["status"], "idle", "{conversation}");
}

#[test]
fn t13_a_turn_says_where_it_is_and_why() {
    let world = World::with_limit(1);
    let holder = world.submit(
        "holder",
        &json!([[{"text": "half"}, {"hold": "holder"}, " whole"]]),
    );
    let waiter = world.submit("waiter", &json!([{"attempts": [{"status": {"code": 503, "body": {"error": {"message": "too busy"}}}}, "fine"]}]));
    world.server.turn_is(&holder.turn, "streaming");
    let parked = world.server.turn_is(&waiter.turn, "parked");
    assert_eq!(parked["position"], 1, "{parked}");
    let why = world
        .server
        .get(&format!("/turns/{}/why", waiter.turn))
        .expect(200)
        .to_string();
    assert!(
        why.contains("mock"),
        "it names the provider it waits for: {why}"
    );
    let watcher = world.server.follow(&waiter, 0);
    let status = watcher.wait_for("status");
    assert_eq!(
        (status.text("state"), status.number("position")),
        ("queued", 1),
        "{status}"
    );
    world.provider.release("holder");
    watcher.wait_for("provider-retry");
    let why = world
        .server
        .get(&format!("/turns/{}/why", waiter.turn))
        .expect(200)
        .to_string();
    assert!(
        why.contains("too busy") || why.contains("fine") || why.contains("done"),
        "{why}"
    );
    assert_eq!(watcher.all().last().unwrap().kind(), "done");
    let turn = world.server.turn(&waiter.turn);
    assert_eq!(turn["state"], "ended", "{turn}");
    assert_eq!(turn["terminal"]["type"], "done", "{turn}");
}

#[test]
fn a3_a_star_moves_a_whole_workspace_to_the_front() {
    let world = World::with_limit(1);
    world.submit("holder", &json!([[{"hold": "holder"}, "whole"]]));
    until_true("the slot is taken", || world.is_asked("holder"));
    let submit = |tag: &str, workspace: &str| {
        let message = format!("{tag} script: [\"fine\"]");
        world
            .server
            .submit(&json!({ "message": message, "workspaceId": workspace }))
    };
    let turns = [
        submit("plain", "plain"),
        submit("liked", "liked"),
        submit("fickle", "fickle"),
    ];
    let star = |method: &str, workspace: &str| {
        let reply =
            world
                .server
                .write(method, &format!("/workspaces/{workspace}/star"), &json!({}));
        assert!((200..300).contains(&reply.status), "{}", reply.text());
        world
            .server
            .get(&format!("/workspaces/{workspace}"))
            .expect(200)["starred"]
            .clone()
    };
    assert_eq!(star("PUT", "fickle"), true);
    assert_eq!(star("PUT", "liked"), true);
    assert_eq!(star("PUT", "liked"), true, "a second star changes nothing");
    assert_eq!(star("DELETE", "fickle"), false);
    assert_eq!(world.server.turn(&turns[1].turn)["position"], 1);
    world.provider.release("holder");
    for at in &turns {
        assert_eq!(world.server.outcome(at).last().unwrap().kind(), "done");
    }
    let log = world.provider.log(0);
    let order: Vec<&str> = log
        .iter()
        .map(|e| e.text("message").split(' ').next().unwrap())
        .collect();
    assert_eq!(order, ["holder", "liked", "plain", "fickle"]);
}

#[test]
fn l4_a_conversation_remembers_across_a_restart() {
    let mut world = World::new();
    world.server.says("memory", "script: [\"first answer\"]");
    world.server.crash_and_restart();
    let log = world.server.says("memory", "and now?");
    assert_eq!(said(&log), "You said: and now?");
    // Attempts are told apart by all user messages: the first one was sent along.
    let asked = world.provider.log(0);
    assert_eq!(asked.len(), 2);
    let path = "/conversations/memory?sinceSeq=3";
    let page = world.server.get(path).expect(200);
    let kinds: Vec<&str> = page["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(EventExt::kind)
        .collect();
    assert_eq!(kinds, ["turn-start", "step-complete", "done"]);
    assert_eq!(world.provider.stat("invalid"), 0);
}
