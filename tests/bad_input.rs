//! Whatever clients and providers send: a clear refusal, nothing lost, nothing
//! secret told, and no way for a web page to reach a tool (O5, O6, C8).

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;

use serde_json::{Value, json};

use support::client::{count, said};
use support::http::{self, Reply};
use support::process::{Provider, Server};
use support::stream::EventExt;
use support::{config, until_true};

const SECRET: &str = "sk-very-secret-8c1f02";
const JSON: (&str, &str) = ("content-type", "application/json");

struct World {
    provider: Provider,
    server: Server,
    _dir: tempfile::TempDir,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let mut config = config::provider("mock", &provider.base_url(), 8);
        config.push_str("key_env = \"OPENAI_API_KEY\"\n");
        let env = [("OPENAI_API_KEY", SECRET), ("DISPATCH_LOG", "trace")];
        let server = Server::start_with(&dir.path().join("data"), &config, &env);
        World {
            provider,
            server,
            _dir: dir,
        }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Reply {
        self.server.ask(method, path, headers, body)
    }

    fn post(&self, body: &[u8]) -> Reply {
        self.ask("POST", "/chat", &[JSON], body)
    }

    /// No turn was accepted, and none is asked of the provider.
    fn nothing_was_begun(&self) {
        assert_eq!(
            self.provider.stat("total"),
            0,
            "{:#?}",
            self.provider.log(0)
        );
        self.server.get("/conversations/c-none").expect(404);
    }
}

/// A refusal in the shape that every refusal has.
#[track_caller]
fn is_refused(reply: &Reply, statuses: &[u16]) -> String {
    let text = reply.text();
    assert!(statuses.contains(&reply.status), "{} {text}", reply.status);
    assert_eq!(
        reply.header("content-type"),
        Some("application/problem+json"),
        "{text}"
    );
    let problem = reply.json();
    assert_eq!(problem.number("status"), u64::from(reply.status), "{text}");
    let code = problem.text("code");
    let is_kebab = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    assert!(!code.is_empty() && code.chars().all(is_kebab), "{text}");
    assert!(problem.text("detail").len() > 15, "no remedy in {text}");
    assert!(!problem.text("title").is_empty(), "{text}");
    code.to_owned()
}

#[test]
fn o5_a_body_that_is_no_message_is_refused_with_its_reason() {
    let world = World::new();
    let chat = |message: Value| world.post(json!({ "message": message }).to_string().as_bytes());
    is_refused(&world.post(b"hello"), &[400]);
    is_refused(&world.post(b""), &[400]);
    is_refused(&world.post(b"{\"message\": \"cut"), &[400]);
    is_refused(&world.post(b"[1, 2]"), &[400]);
    is_refused(&world.post(b"{}"), &[400, 422]);
    is_refused(&world.post(b"{\"message\": \"\xff\xfe\"}"), &[400]);
    is_refused(&world.post(br#"{"message": "\ud800 alone"}"#), &[400]);
    is_refused(&world.post("[".repeat(100_000).as_bytes()), &[400]);
    is_refused(&chat(json!("")), &[400, 422]);
    is_refused(&chat(json!(" \n\t ")), &[400, 422]);
    is_refused(&chat(json!(7)), &[400, 422]);
    let with = |field: &str, value: Value| {
        let mut body = json!({ "message": "hello" });
        body[field] = value;
        world.post(body.to_string().as_bytes())
    };
    for slug in ["Not A Slug", "-a", "a-", "../etc", "", "ä"] {
        is_refused(&with("workspaceId", json!(slug)), &[400, 422]);
    }
    for id in ["a b", "../../etc/passwd", "-x", "", "x/y"] {
        is_refused(&with("conversationId", json!(id)), &[400, 422]);
    }
    is_refused(&with("conversationId", json!("x".repeat(65))), &[400, 422]);
    is_refused(&with("model", json!("nobody/m")), &[400, 404, 422]);
    is_refused(&with("delivery", json!("pigeon")), &[400, 422]);
    is_refused(&with("detach", json!("yes")), &[400, 422]);
    world.nothing_was_begun();
}

#[test]
fn o5_a_body_of_20_mb_is_refused_before_it_is_read() {
    let world = World::new();
    let body = json!({ "message": "x".repeat(20 * 1024 * 1024) }).to_string();
    is_refused(&world.post(body.as_bytes()), &[413]);
    // Of a length that nobody told.
    let head = format!(
        "POST /chat HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        world.server.addr
    );
    let piece = format!("100000\r\n{}\r\n", "x".repeat(0x10_0000));
    let body = format!("{}0\r\n\r\n", piece.repeat(20));
    let reply = http::raw(world.server.addr, head.as_bytes(), body.as_bytes()).unwrap();
    is_refused(&reply.read().unwrap(), &[413]);
    world.nothing_was_begun();
}

#[test]
fn c8_a_misspelt_field_is_named_beside_those_that_there_are() {
    let world = World::new();
    let asked = [
        (
            "POST",
            "/chat",
            r#"{"message": "hi", "convesationId": "c-none"}"#,
        ),
        ("PUT", "/workspaces/lab", r#"{"cwd": "/tmp"}"#),
        ("PUT", "/providers/mock/limit", r#"{"limits": 3}"#),
    ];
    for (method, path, body) in asked {
        let answer = world
            .ask(method, path, &[JSON], body.as_bytes())
            .expect(400);
        assert_eq!(answer["code"], "unknown-field", "{path}: {answer}");
        let known = answer["detail"].as_str().unwrap();
        let right = ["conversationId", "defaultCwd", "limit"];
        assert!(right.iter().any(|field| known.contains(field)), "{known}");
    }
    world.nothing_was_begun();
}

#[test]
fn c8_unknown_things_are_named_as_unknown() {
    let world = World::new();
    let get = |path: &str| world.server.get(path);
    is_refused(&get("/turns/00000000000000000000000005"), &[404]);
    is_refused(&get("/turns/00000000000000000000000005/why"), &[404]);
    is_refused(&get("/turns/not-a-turn"), &[400, 404, 422]);
    is_refused(&get("/conversations/c-none"), &[404]);
    is_refused(&get("/conversations/c-none/events"), &[404]);
    is_refused(&get("/conversations/%2e%2e%2fetc"), &[400, 404, 422]);
    is_refused(&get("/conversations/%ff%fe"), &[400, 404, 422]);
    is_refused(&get("/workspaces/nowhere"), &[404]);
    is_refused(&get("/workspaces/Not%20A%20Slug"), &[400, 404, 422]);
    is_refused(&get("/no/such/path"), &[404]);
    is_refused(
        &world
            .server
            .write("POST", "/conversations/c-none/abort", &json!({})),
        &[404],
    );
    is_refused(
        &world.server.write(
            "POST",
            "/conversations/c-none/queue",
            &json!({"message": "hi"}),
        ),
        &[404],
    );
    is_refused(
        &world
            .server
            .write("PUT", "/providers/nobody/limit", &json!({"limit": 3})),
        &[404],
    );
    is_refused(&world.ask("DELETE", "/chat", &[], b""), &[405]);
    is_refused(&world.ask("GET", "/chat", &[], b""), &[405]);
    is_refused(&world.ask("BREW", "/health", &[], b""), &[405]);
    is_refused(
        &world
            .server
            .write("PUT", "/providers/mock/limit", &json!({"limit": -1})),
        &[400, 422],
    );
    is_refused(
        &world
            .server
            .write("PUT", "/providers/mock/limit", &json!({"limit": "many"})),
        &[400, 422],
    );
    is_refused(
        &world.server.write("PUT", "/workspaces/-x", &json!({})),
        &[400, 422],
    );
    world.nothing_was_begun();
}

#[test]
fn a1_a_limit_of_zero_is_refused_or_holds_everything_without_losing_it() {
    let world = World::new();
    let reply = world
        .server
        .write("PUT", "/providers/mock/limit", &json!({"limit": 0}));
    if reply.status >= 400 {
        is_refused(&reply, &[400, 422]);
        assert_eq!(said(&world.server.says("zero", "hello")), "You said: hello");
        return;
    }
    let at = world
        .server
        .submit(&json!({"conversationId": "zero", "message": "hello"}));
    world.server.turn_is(&at.turn, "parked");
    world
        .server
        .write("PUT", "/providers/mock/limit", &json!({"limit": 1}))
        .expect(200);
    assert_eq!(world.server.outcome(&at).last().unwrap().kind(), "done");
}

#[test]
fn o6_a_web_page_cannot_reach_a_tool() {
    let world = World::new();
    let target = world.server.dir.join("reached");
    let script = json!([{"tool_call": {"name": "bash", "arguments": {"command": format!("touch {}", target.display())}}}, "done"]);
    let body = json!({ "message": format!("script: {script}") }).to_string();
    let post = |headers: &[(&str, &str)], body: &[u8]| world.ask("POST", "/chat", headers, body);
    // What a page can send without asking first: simple content types, forms.
    let form = ("content-type", "application/x-www-form-urlencoded");
    let multipart = ("content-type", "multipart/form-data; boundary=x");
    let origin = ("origin", "https://evil.example");
    for kind in [("content-type", "text/plain"), form, multipart] {
        is_refused(&post(&[kind], body.as_bytes()), &[415]);
        is_refused(&post(&[kind, origin], body.as_bytes()), &[403, 415]);
    }
    is_refused(&post(&[], body.as_bytes()), &[415]);
    is_refused(&post(&[origin], body.as_bytes()), &[403, 415]);
    is_refused(&post(&[form, origin], b"message=hello"), &[403, 415]);
    is_refused(&post(&[JSON, origin], body.as_bytes()), &[403]);
    is_refused(&post(&[JSON, ("origin", "null")], body.as_bytes()), &[403]);
    // A name that was pointed at this machine after the page had loaded.
    is_refused(
        &post(&[JSON, ("host", "evil.example")], body.as_bytes()),
        &[403],
    );
    is_refused(
        &post(
            &[JSON, ("host", "127.0.0.1.evil.example:80")],
            body.as_bytes(),
        ),
        &[403],
    );
    is_refused(
        &world.ask(
            "GET",
            "/conversations/c-1",
            &[("host", "evil.example")],
            b"",
        ),
        &[403],
    );
    is_refused(
        &world.ask("GET", "/conversations/c-1", &[origin], b""),
        &[403],
    );
    // What a browser asks first is not granted.
    let preflight = world.ask(
        "OPTIONS",
        "/chat",
        &[
            origin,
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "content-type"),
        ],
        b"",
    );
    assert!(preflight.status >= 400, "{}", preflight.status);
    assert_eq!(preflight.header("access-control-allow-origin"), None);
    world.nothing_was_begun();
    assert!(!target.exists());
    // The same from its own origin is a message like any other.
    let own = format!("http://{}", world.server.addr);
    let reply = post(&[JSON, ("origin", &own)], body.as_bytes());
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert!(target.exists());
}

#[test]
fn o5_headers_without_measure_end_only_their_own_connection() {
    let world = World::new();
    let at = world.server.submit(&json!({
        "conversationId": "calm",
        "message": r#"script: [[{"text": "before"}, {"hold": "calm"}, " and after"]]"#,
    }));
    until_true("the turn streams", || world.provider.stat("in_flight") == 1);
    let huge = "x".repeat(2 * 1024 * 1024);
    let addr = world.server.addr;
    let refusals = [
        http::request(addr, "GET", "/health", &[("x-huge", &huge)], b""),
        http::request(addr, "GET", &format!("/{huge}"), &[], b""),
        http::raw(
            addr,
            format!(
                "GET /health HTTP/1.1\r\nhost: x\r\n{}\r\n",
                "a: b\r\n".repeat(50_000)
            )
            .as_bytes(),
            b"",
        ),
        http::raw(
            addr,
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"",
        ),
        http::raw(addr, b"GET\r\n\r\n", b""),
    ];
    for answer in refusals.into_iter().flatten() {
        assert!((400..500).contains(&answer.status), "{}", answer.status);
    }
    is_refused(&world.post(b"not json"), &[400]);
    world.provider.release("calm");
    let log = world.server.outcome(&at);
    assert_eq!(
        (log.last().unwrap().kind(), said(&log)),
        ("done", "before and after".to_owned())
    );
}

#[test]
fn p2_what_a_provider_garbles_ends_as_text_that_can_be_read() {
    let world = World::new();
    let chunk = |delta: &str| format!("data: {{\"choices\":[{{\"delta\":{delta}}}]}}\n\n");
    let lone = chunk(r#"{"content":"a lone \ud800 surrogate"}"#);
    let script = json!([[{ "raw": lone }, " and more"]]);
    let log = world.server.says("lone", &format!("script: {script}"));
    let end = log.last().unwrap();
    match end.kind() {
        "done" => assert_eq!(said(&log), "a lone \u{fffd} surrogate and more"),
        kind => panic!("{kind}: {log:#?}"),
    }
    let mut broken = chunk(r#"{"content":"bytes @@ of no text"}"#).into_bytes();
    for byte in &mut broken {
        if *byte == b'@' {
            *byte = 0xff;
        }
    }
    let script = json!([[{ "raw": broken }, " and more"]]);
    let log = world.server.says("bytes", &format!("script: {script}"));
    assert_eq!(log.last().unwrap().kind(), "done", "{log:#?}");
    assert!(said(&log).contains('\u{fffd}'), "{log:#?}");
    // A conversation goes on after it, with a transcript that a strict provider takes.
    assert_eq!(said(&world.server.says("lone", "hello")), "You said: hello");
    assert_eq!(
        said(&world.server.says("bytes", "hello")),
        "You said: hello"
    );
    // Arguments that are no JSON are answered, not run.
    let script = json!([{"tool_call": {"name": "bash", "arguments": "{\"command\": "}}, "I see."]);
    let log = world.server.says("arguments", &format!("script: {script}"));
    assert_eq!(
        (log.last().unwrap().kind(), count(&log, "tool-result")),
        ("done", 1),
        "{log:#?}"
    );
    let result = log
        .iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap();
    assert_eq!(result["ok"], false, "{result}");
    let script = json!([{"tool_call": {"name": "no_such_tool", "arguments": {}}}, "I see."]);
    let log = world.server.says("tool", &format!("script: {script}"));
    let result = log
        .iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap();
    assert_eq!(
        (result["ok"].clone(), log.last().unwrap().kind()),
        (false.into(), "done")
    );
    assert_eq!(world.provider.stat("invalid"), 0);
}

#[test]
fn p4_the_key_is_in_no_log_no_event_and_no_file() {
    let mut world = World::new();
    // A provider that repeats the key in its refusal, and a command that looks for it.
    let script = json!([
        {"tool_call": {"name": "bash", "arguments": {"command": "env; echo looked"}}},
        {"attempts": [
            {"status": {"code": 503, "body": {"error": {"message": "no luck with key {KEY}"}}}},
            {"status": {"code": 401, "body": {"error": {"message": "Incorrect API key provided: {KEY}"}}}},
        ]},
    ]);
    // The script names the key only on its way to the provider: the message is content.
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("script.json");
    let rules = json!({"rules": [{"when": {"contains": "repeat"}, "steps": script}]});
    std::fs::write(&file, rules.to_string().replace("{KEY}", SECRET)).unwrap();
    let provider = Provider::with_script(&file);
    let mut config = config::provider("mock", &provider.base_url(), 8);
    config.push_str("key_env = \"OPENAI_API_KEY\"\n");
    config.push_str(&config::retry(&[1], 5));
    world.server.terminate();
    std::fs::write(world.server.dir.join("dispatch.toml"), config).unwrap();
    world.server.restart();
    let log = world.server.says("secret", "please repeat");
    assert_eq!(log.last().unwrap().kind(), "error", "{log:#?}");
    assert_eq!(log.last().unwrap().text("code"), "provider-unauthorized");
    let result = log
        .iter()
        .find(|event| event.kind() == "tool-result")
        .unwrap();
    assert!(result.text("output").contains("looked"), "{result}");
    let told = json!(log).to_string();
    assert!(!told.contains(SECRET), "{told}");
    assert!(world.server.terminate().success());
    assert!(
        !world.server.stderr().contains(SECRET),
        "the log tells the key"
    );
    let found = holding(&world.server.dir, SECRET.as_bytes());
    assert!(found.is_empty(), "the key is in {found:?}");
}

/// Files that hold `needle`.
fn holding(dir: &Path, needle: &[u8]) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = std::fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            found.extend(holding(&path, needle));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap();
            if bytes.windows(needle.len()).any(|window| window == needle) {
                found.push(path);
            }
        }
    }
    found
}
