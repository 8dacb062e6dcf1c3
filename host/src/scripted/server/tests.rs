use super::*;
use crate::provider::{
    BaseUrl, FailKind, HttpProvider, ProviderConfig, ProviderInput, StreamHandle,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

struct Running {
    provider: ScriptedProvider,
    addr: SocketAddr,
    shutdown: CancellationToken,
    server: JoinHandle<()>,
}

impl Running {
    async fn start() -> Running {
        let provider = ScriptedProvider::new(None);
        let listener = TokioNet.bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(serve_on(provider.clone(), listener, shutdown.clone()));
        Running {
            provider,
            addr,
            shutdown,
            server,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.server.await.unwrap();
    }

    /// Through the client that production uses.
    fn open(&self, message: &str) -> (StreamHandle, mpsc::Receiver<ProviderInput>) {
        let config = ProviderConfig {
            id: "scripted".to_owned(),
            base_url: BaseUrl::parse(&format!("http://{}/v1", self.addr)).unwrap(),
            key: None,
            masked: Vec::new(),
        };
        let client = HttpProvider::new(&config, TokioNet).unwrap();
        let (sink, inputs) = mpsc::channel(64);
        (client.open(body(message).into(), 5_000, sink), inputs)
    }

    async fn play(&self, message: &str) -> Vec<ProviderInput> {
        let (_stream, mut inputs) = self.open(message);
        let mut seen = Vec::new();
        while let Some(input) = inputs.recv().await {
            seen.push(input);
        }
        seen
    }

    async fn raw(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (
            head[9..12].parse().unwrap(),
            serde_json::from_str(body).unwrap(),
        )
    }

    async fn until_in_flight(&self, wanted: u64) {
        let reached = async {
            while self.provider.stats().in_flight != wanted {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), reached)
            .await
            .unwrap();
    }
}

fn body(message: &str) -> String {
    json!({
        "model": "scripted", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": message}],
    })
    .to_string()
}

fn bytes_of(inputs: &[ProviderInput]) -> String {
    let mut bytes = Vec::new();
    for input in inputs {
        if let ProviderInput::Bytes(piece) = input {
            bytes.extend_from_slice(piece);
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn socket_and_process_give_the_same_bytes() {
    let running = Running::start().await;
    let message = r#"script: [["hello wörld", {"reasoning": "r"}, {"tool_call": {"name": "t"}}]]"#;
    let seen = running.play(message).await;
    let ProviderInput::Head {
        status: 200,
        headers,
    } = &seen[0]
    else {
        panic!("{seen:?}");
    };
    assert_eq!(
        headers,
        &[("content-type".to_owned(), "text/event-stream".to_owned())]
    );
    assert_eq!(seen.last(), Some(&ProviderInput::End));
    let mut in_process = Vec::new();
    for action in running.provider.respond(body(message).as_bytes()) {
        if let super::super::ResponseAction::Bytes(piece) = action {
            in_process.extend_from_slice(&piece);
        }
    }
    assert_eq!(bytes_of(&seen).as_bytes(), in_process);
    running.stop().await;
}

#[tokio::test]
async fn a_cut_delivers_what_was_said_and_then_breaks() {
    let running = Running::start().await;
    for n in 0..50 {
        let message = format!(r#"script: [["last words {n}", {{"cut": true}}]]"#);
        let seen = running.play(&message).await;
        assert!(
            bytes_of(&seen).contains(&format!("last words {n}")),
            "{seen:?}"
        );
        assert!(
            matches!(
                seen.last(),
                Some(ProviderInput::Failed {
                    kind: FailKind::Body,
                    ..
                })
            ),
            "{seen:?}"
        );
    }
    let seen = running.play(r#"script: [{"cut": true}]"#).await;
    assert!(
        matches!(
            &seen[..],
            [ProviderInput::Failed {
                kind: FailKind::Reset,
                ..
            }]
        ),
        "{seen:?}"
    );
    assert_eq!(running.provider.stats().cut, 51);
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_goes_away_is_noticed_before_and_after_the_head() {
    let running = Running::start().await;
    let (before, _inputs) = running.open(r#"script: [{"hang": true}]"#);
    let (after, mut inputs) = running.open(r#"script: [["a", {"hang": true}]]"#);
    while !matches!(inputs.recv().await, Some(ProviderInput::Bytes(_))) {}
    running.until_in_flight(2).await;
    drop(before);
    running.until_in_flight(1).await;
    drop(after);
    running.until_in_flight(0).await;
    let (_, stats) = running.raw("GET", "/stats", "").await;
    assert_eq!(
        (&stats["cut_by_client"], &stats["max_in_flight"]),
        (&json!(2), &json!(2))
    );
    running.stop().await;
}

#[tokio::test]
async fn the_log_shows_the_requests_in_the_order_of_arrival() {
    let running = Running::start().await;
    running.play("one").await;
    running.play("two").await;
    let (status, log) = running.raw("GET", "/log", "").await;
    assert_eq!(status, 200);
    let seen: Vec<&str> = (0..2)
        .map(|n| log[n]["message"].as_str().unwrap())
        .collect();
    assert_eq!(seen, ["one", "two"]);
    assert_eq!(
        (&log[1]["n"], &log[1]["state"]),
        (&json!(2), &json!("finished"))
    );
    assert!(log[1]["at_ms"].as_u64() >= log[0]["at_ms"].as_u64());
    let (_, rest) = running.raw("GET", "/log?after=1&limit=5", "").await;
    assert_eq!(rest.as_array().unwrap().len(), 1);
    running.raw("POST", "/reset", "").await;
    assert_eq!(running.raw("GET", "/log", "").await.1, json!([]));
    running.stop().await;
}

#[tokio::test]
async fn a_hold_is_released_over_http() {
    let running = Running::start().await;
    let (_stream, mut inputs) = running.open(r#"script: [["before ", {"hold": "h"}, "after"]]"#);
    while !matches!(inputs.recv().await, Some(ProviderInput::Bytes(piece)) if piece.ends_with(b"\"before \"},\"finish_reason\":null}]}\n\n"))
    {
    }
    assert!(inputs.is_empty());
    assert_eq!(running.raw("POST", "/release/h", "").await.0, 200);
    let mut rest = Vec::new();
    while let Some(input) = inputs.recv().await {
        rest.push(input);
    }
    assert!(bytes_of(&rest).contains("\"after\""));
    assert_eq!(running.raw("POST", "/release/no%20spaces", "").await.0, 400);
    assert_eq!(running.raw("POST", "/release-all", "").await.0, 200);
    running.stop().await;
}

#[tokio::test]
async fn a_storm_is_raised_and_ended_over_http() {
    let running = Running::start().await;
    let storm = r#"{"status": 503, "for_ms": 600000, "retry_after": 2}"#;
    assert_eq!(running.raw("POST", "/storm", storm).await.0, 200);
    let seen = running.play("hi").await;
    let ProviderInput::Head { status, headers } = &seen[0] else {
        panic!("{seen:?}");
    };
    assert_eq!(*status, 503);
    assert!(headers.contains(&("retry-after".to_owned(), "2".to_owned())));
    running
        .raw("POST", "/storm", r#"{"status": 503, "for_ms": 0}"#)
        .await;
    let seen = running.play("hi").await;
    assert!(matches!(seen[0], ProviderInput::Head { status: 200, .. }));
    for bad in [
        "",
        r#"{"status": 200, "for_ms": 1}"#,
        r#"{"status": 503, "for_ms": 1, "x": 1}"#,
    ] {
        assert_eq!(running.raw("POST", "/storm", bad).await.0, 400, "{bad}");
    }
    running.stop().await;
}

#[tokio::test]
async fn an_invalid_request_gets_400_and_the_reason() {
    let running = Running::start().await;
    let (status, answer) = running
        .raw("POST", "/v1/chat/completions", "{\"messages\": []}")
        .await;
    assert_eq!(status, 400);
    assert!(!answer["error"]["message"].as_str().unwrap().is_empty());
    assert_eq!(running.provider.stats().invalid, 1);
    running.stop().await;
}

#[tokio::test]
async fn an_unknown_path_names_those_that_there_are() {
    let running = Running::start().await;
    let (status, answer) = running.raw("GET", "/nope", "").await;
    assert_eq!(status, 404);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("/v1/chat/completions")
    );
    assert_eq!(
        running.raw("GET", "/v1/models", "").await.1["data"][0]["id"],
        "scripted"
    );
    running.stop().await;
}

#[tokio::test]
async fn control_is_for_loopback_clients_only() {
    for (peer, expected) in [
        ("127.0.0.1:9", StatusCode::OK),
        ("[::1]:9", StatusCode::OK),
        ("[::ffff:127.0.0.1]:9", StatusCode::OK),
        ("10.0.0.1:9", StatusCode::FORBIDDEN),
    ] {
        let mut request = Request::get("/stats").body(Body::empty()).unwrap();
        let peer: SocketAddr = peer.parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = control(ScriptedProvider::new(None))
            .oneshot(request)
            .await
            .unwrap();
        assert_eq!(answer.status(), expected, "{peer}");
    }
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_hang() {
    let running = Running::start().await;
    let (_stream, mut inputs) = running.open(r#"script: [["a", {"hang": true}]]"#);
    while !matches!(inputs.recv().await, Some(ProviderInput::Bytes(_))) {}
    let provider = running.provider.clone();
    running.stop().await;
    assert_eq!(provider.stats().in_flight, 0);
}

#[tokio::test]
async fn what_prevents_serving_is_said_with_its_remedy() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let bad = directory.path().join("bad.json");
    std::fs::write(&bad, "{\"rules\": [{\"do\": {\"txt\": 1}}]}").unwrap();
    let missing = directory.path().join("missing.json");
    for (listen, script, expected) in [
        (taken.local_addr().unwrap(), None, "port 0"),
        (
            "127.0.0.1:0".parse().unwrap(),
            Some(missing),
            "check --script",
        ),
        ("127.0.0.1:0".parse().unwrap(), Some(bad), "known are: text"),
    ] {
        let error = serve(ProviderArgs { listen, script }).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
    }
}
