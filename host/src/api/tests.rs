//! The whole server over a real socket, with the scripted provider inside.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::{Settings, Sources};
use crate::net::TokioNet;
use crate::serve::{ServeError, serve};

mod refusals;

struct Server {
    address: SocketAddr,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), ServeError>>,
}

async fn start(dir: &Path, extra: &str, env: &[(&str, &str)]) -> Server {
    let file = format!("{extra}\n[providers.demo]\ndialect = 'scripted'\nlimit = 2\n");
    std::fs::write(dir.join("dispatch.toml"), file).unwrap();
    let settings = Settings::load(&Sources {
        data_dir: Some(dir.to_owned()),
        listen: Some("127.0.0.1:0".to_owned()),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        ..Sources::default()
    })
    .unwrap();
    let (announce, announced) = oneshot::channel();
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    let task = tokio::spawn(async move {
        serve(settings, None, TokioNet, token, |address| {
            announce.send(address).unwrap();
        })
        .await
    });
    Server {
        address: announced.await.unwrap(),
        shutdown,
        task,
    }
}

struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }

    fn lines(&self) -> Vec<Value> {
        let lines = self.body.lines();
        lines.map(|l| serde_json::from_str(l).unwrap()).collect()
    }

    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        assert_eq!(self.json()["status"], self.status);
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

impl Server {
    /// Sends a request as it stands and reads the head of the answer.
    async fn open(&self, head: &str, body: &[u8]) -> (u16, BTreeMap<String, String>, Body) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let mut request = format!("{head}\r\nconnection: close\r\n");
        if !head.contains("\r\nhost:") {
            request.push_str(&format!("host: {}\r\n", self.address));
        }
        if !body.is_empty() && !head.contains("content-length") {
            request.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).await.unwrap();
        let status = line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            line.clear();
            reader.read_line(&mut line).await.unwrap();
            let Some((name, value)) = line.trim().split_once(':') else {
                break;
            };
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let is_chunked = headers.contains_key("transfer-encoding");
        (status, headers, Body { reader, is_chunked })
    }

    async fn raw(&self, head: &str, body: &[u8]) -> Reply {
        let (status, headers, mut rest) = self.open(head, body).await;
        Reply {
            status,
            headers,
            body: rest.rest().await.expect("the answer ends as HTTP says"),
        }
    }

    async fn send(&self, method: &str, path: &str, body: Value) -> Reply {
        let head = format!("{method} {path} HTTP/1.1\r\ncontent-type: application/json");
        self.raw(&head, body.to_string().as_bytes()).await
    }

    async fn post(&self, path: &str, body: Value) -> Reply {
        self.send("POST", path, body).await
    }

    async fn get(&self, path: &str) -> Reply {
        self.raw(&format!("GET {path} HTTP/1.1"), b"").await
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }
}

struct Body {
    reader: BufReader<TcpStream>,
    is_chunked: bool,
}

impl Body {
    /// `None`: it is over; `Err`: it was cut.
    async fn piece(&mut self) -> Result<Option<String>, ()> {
        if !self.is_chunked {
            let mut rest = String::new();
            self.reader
                .read_to_string(&mut rest)
                .await
                .map_err(|_| ())?;
            return Ok((!rest.is_empty()).then_some(rest));
        }
        let mut line = String::new();
        if self.reader.read_line(&mut line).await.map_err(|_| ())? == 0 {
            return Err(());
        }
        let size = usize::from_str_radix(line.trim(), 16).map_err(|_| ())?;
        let mut piece = vec![0; size + 2];
        self.reader.read_exact(&mut piece).await.map_err(|_| ())?;
        piece.truncate(size);
        Ok((size > 0).then(|| String::from_utf8(piece).unwrap()))
    }

    async fn rest(&mut self) -> Result<String, ()> {
        let mut whole = String::new();
        while let Some(piece) = self.piece().await? {
            whole.push_str(&piece);
        }
        Ok(whole)
    }

    async fn until(&mut self, wanted: &str) -> String {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let piece = self.piece().await.unwrap();
            seen.push_str(&piece.unwrap_or_else(|| panic!("no {wanted} in {seen}")));
        }
        seen
    }
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|e| e["type"].as_str().unwrap()).collect()
}

fn seqs(events: &[Value]) -> Vec<u64> {
    events.iter().filter_map(|e| e["seq"].as_u64()).collect()
}

const HANG: &str = r#"script: [[{"text":"so far"},{"hang":true}]]"#;

/// Waits until a turn is in a state, by asking.
async fn in_state(server: &Server, turn: &str, state: &str) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let described = server.get(&format!("/turns/{turn}")).await.json();
        if described["state"] == state {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "{described}");
        tokio::task::yield_now().await;
    }
}

async fn detached(server: &Server, conversation: &str, message: &str) -> String {
    let body = json!({"message": message, "conversationId": conversation, "detach": true});
    let reply = server.post("/chat", body).await;
    assert_eq!(reply.status, 202, "{}", reply.body);
    reply.json()["turnId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_streams_its_turn_from_start_rest() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let reply = server
        .post("/chat", json!({"message": "hello", "conversationId": "c"}))
        .await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers["content-type"], "application/x-ndjson");
    assert_eq!(reply.headers["cache-control"], "no-store");
    assert_eq!(reply.headers["x-accel-buffering"], "no");
    let events = reply.lines();
    assert_eq!(kinds(&events).first(), Some(&"turn-start"));
    assert_eq!(kinds(&events).last(), Some(&"done"));
    assert_eq!(seqs(&events), [1, 2, 3]);
    let spoken: String = events
        .iter()
        .filter(|e| e["type"] == "text-delta")
        .map(|e| e["text"].as_str().unwrap())
        .collect();
    assert_eq!(spoken, "You said: hello");

    let head = "POST /chat HTTP/1.1\r\ncontent-type: application/json\r\naccept: text/event-stream";
    let reply = server
        .raw(head, br#"{"message":"again","conversationId":"c"}"#)
        .await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    assert!(reply.body.starts_with("id: 4\nevent: turn-start\ndata: {"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_gives_the_same_turn_again_and_never_another_body() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let head = "POST /chat HTTP/1.1\r\ncontent-type: application/json\r\nidempotency-key: k1";
    let first = server.raw(head, br#"{"message":"hello"}"#).await.lines();
    let again = server.raw(head, br#"{ "message": "hello" }"#).await.lines();
    assert_eq!(first[0], again[0]);
    assert_eq!(first.last(), again.last());
    let other = server.raw(head, br#"{"message":"bye"}"#).await;
    assert_eq!(
        (other.status, other.code().as_str()),
        (422, "idempotency-mismatch")
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_turn_is_followed_by_cursor_and_204_lies_beyond_its_end() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let turn = detached(&server, "c", "hello").await;
    let path = format!("/conversations/c/events?turnId={turn}");
    let reply = server.get(&format!("{path}&after=0")).await;
    assert_eq!(reply.headers["content-type"], "text/event-stream");
    let ids: Vec<_> = reply
        .body
        .lines()
        .filter_map(|l| l.strip_prefix("id: "))
        .collect();
    assert_eq!(ids, ["1", "2", "3"]);
    let head = format!("GET {path}&after=0 HTTP/1.1\r\nlast-event-id: 2");
    let reply = server.raw(&head, b"").await;
    assert!(
        reply.body.starts_with("id: 3\nevent: done"),
        "{}",
        reply.body
    );
    assert_eq!(server.get(&format!("{path}&after=3")).await.status, 204);

    let page = server.get("/conversations/c?sinceSeq=1").await.json();
    assert_eq!(seqs(page["events"].as_array().unwrap()), [2, 3]);
    assert_eq!(page["status"], "idle");
    assert_eq!(page["lastSeq"], 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_behind_another_one_is_explained_and_aborted_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let first = detached(&server, "c", HANG).await;
    in_state(&server, &first, "streaming").await;
    let reply = server
        .post("/conversations/c/queue", json!({"message": "later"}))
        .await;
    assert_eq!(reply.status, 202);
    let second = reply.json()["turnId"].as_str().unwrap().to_owned();
    let why = server.get(&format!("/turns/{second}/why")).await.json();
    assert_eq!(why["behind"], *first);
    assert!(why["why"].as_str().unwrap().contains(&first));
    let body = json!({"turnId": second, "reason": "no need"});
    let reply = server.post("/conversations/c/abort", body).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.json()["type"], "aborted");
    assert_eq!(reply.json()["reason"], "no need");
    server.post("/conversations/c/abort", json!({})).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_of_a_waiting_turn_leaves_the_running_one_to_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let first = detached(&server, "c", HANG).await;
    in_state(&server, &first, "streaming").await;
    let second = detached(&server, "c", "later").await;
    let body = json!({"turnId": second});
    server.post("/conversations/c/abort", body).await;
    let reply = server.post("/conversations/c/abort", json!({})).await;
    assert_eq!(
        (reply.status, &reply.json()["turnId"]),
        (200, &json!(first))
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_turn_is_shown_to_who_comes_late_and_aborted_within_two_seconds() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let turn = detached(&server, "c", HANG).await;
    let follower = format!("GET /conversations/c/events?turnId={turn} HTTP/1.1");
    let (_, _, mut first) = server.open(&follower, b"").await;
    first.until(r#""text":"so far""#).await;
    let (_, _, mut late) = server.open(&follower, b"").await;
    let replay = late.until("event: synced").await;
    assert!(
        replay.contains(r#""type":"snapshot","step":0,"text":"so far""#),
        "{replay}"
    );
    let reply = server.post("/conversations/c/abort", json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(reply.json()["turnId"], *turn);
    for mut stream in [first, late] {
        let rest = stream.rest().await.unwrap();
        assert!(rest.contains("event: step-complete") && rest.contains("event: aborted"));
    }
    let ended = server.get(&format!("/turns/{turn}/why")).await.json();
    assert_eq!(ended["terminal"]["type"], "aborted");
    assert_eq!(ended["why"], "It was aborted by client.");
    let reply = server.post("/conversations/c/abort", json!({})).await;
    assert_eq!((reply.status, reply.code().as_str()), (409, "no-open-turn"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_client_is_told_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let reply = server
        .send("PUT", "/providers/demo/limit", json!({"limit": 1}))
        .await;
    assert_eq!(reply.json()["limit"], 1);
    let first = detached(&server, "a", HANG).await;
    in_state(&server, &first, "streaming").await;
    let head = "POST /chat HTTP/1.1\r\ncontent-type: application/json";
    let body = json!({"message": "me too", "conversationId": "b"}).to_string();
    let (_, _, mut stream) = server.open(head, body.as_bytes()).await;
    let seen = stream.until(r#""type":"status""#).await;
    assert!(
        seen.contains(r#""state":"queued","position":1,"provider":"demo""#),
        "{seen}"
    );
    server.post("/conversations/a/abort", json!({})).await;
    let rest = stream.rest().await.unwrap();
    assert!(rest.contains(r#""type":"done""#), "{rest}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workspaces_are_created_changed_starred_and_read() {
    let dir = tempfile::tempdir().unwrap();
    let computers = dir.path().join("ssh_config");
    std::fs::write(&computers, "Host build-box\n").unwrap();
    let config = format!("[ssh]\nconfig = \"{}\"\n", computers.display());
    let server = start(dir.path(), &config, &[]).await;
    let body = json!({"title": "Lab", "defaultCwd": "/tmp", "defaultComputer": "build-box"});
    for _ in 0..2 {
        let reply = server.send("PUT", "/workspaces/lab", body.clone()).await;
        assert_eq!(reply.status, 200);
        assert_eq!(reply.json()["title"], "Lab");
        assert_eq!(reply.json()["starred"], false);
    }
    let starred = server.raw("PUT /workspaces/lab/star HTTP/1.1", b"").await;
    assert_eq!(starred.json()["starred"], true);
    let unstarred = server
        .raw("DELETE /workspaces/lab/star HTTP/1.1", b"")
        .await;
    assert_eq!(unstarred.json()["starred"], false);
    assert_eq!(
        server.get("/workspaces/lab").await.json()["defaultCwd"],
        "/tmp"
    );
    assert_eq!(
        server.get("/workspaces/lab").await.json()["defaultComputer"],
        "build-box"
    );
    for none in ["-oProxyCommand=x", "built-box"] {
        let body = json!({ "defaultComputer": none });
        let reply = server.send("PUT", "/workspaces/lab", body).await;
        assert_eq!(reply.code(), "invalid-field", "{none}");
    }
    assert_eq!(server.get("/workspaces/default").await.status, 200);
    let reply = server.raw("PUT /workspaces/none/star HTTP/1.1", b"").await;
    assert_eq!(reply.code(), "workspace-not-found");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_ends_streams_cleanly_and_the_turn_goes_on_after_the_restart() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[]).await;
    let written = std::fs::read_to_string(dir.path().join("address")).unwrap();
    assert_eq!(written.trim(), server.address.to_string());
    server
        .post("/chat", json!({"message": "one", "conversationId": "c"}))
        .await;
    let (_, _, mut stream) = server
        .open("GET /conversations/c/events HTTP/1.1", b"")
        .await;
    stream.until("event: synced").await;
    server.shutdown.cancel();
    stream.rest().await.expect("the stream ends as HTTP says");
    server.task.await.unwrap().unwrap();
    assert!(!dir.path().join("address").exists());

    let server = start(dir.path(), "", &[]).await;
    let page = server.get("/conversations/c").await.json();
    assert_eq!(seqs(page["events"].as_array().unwrap()), [1, 2, 3]);
    let events = server.post("/chat", json!({"message": "two", "conversationId": "c"}));
    assert_eq!(seqs(&events.await.lines()), [4, 5, 6]);
    server.stop().await;
}
