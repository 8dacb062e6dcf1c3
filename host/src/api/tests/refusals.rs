use serde_json::json;

use super::start;

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_request_has_a_code_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "[server]\nmax_body_bytes = 2000", &[]).await;
    let json_type = "content-type: application/json";
    let chat = format!("POST /chat HTTP/1.1\r\n{json_type}");
    let chunked = format!("{chat}\r\ntransfer-encoding: chunked\r\nx-note: content-length");
    let long_chunk = format!("bb8\r\n{}\r\n0\r\n\r\n", "x".repeat(3_000));
    let long = format!(r#"{{"message":"{}"}}"#, "x".repeat(3_000));
    let no_turn = "/turns/00000000000000000000000000";
    let cases: Vec<(String, Vec<u8>, u16, &str)> = vec![
        (chat.clone(), b"{".to_vec(), 400, "malformed-json"),
        (chat.clone(), b"[1]".to_vec(), 400, "malformed-json"),
        (chat.clone(), b"".to_vec(), 400, "empty-body"),
        (
            chat.clone(),
            b"{\"message\":\"\xff\"}".to_vec(),
            400,
            "invalid-utf8",
        ),
        (
            chat.clone(),
            br#"{"message":"\ud800"}"#.to_vec(),
            400,
            "malformed-json",
        ),
        (
            chat.clone(),
            br#"{"message":7}"#.to_vec(),
            400,
            "invalid-field",
        ),
        (
            chat.clone(),
            br#"{"message":""}"#.to_vec(),
            422,
            "empty-message",
        ),
        (
            chat.clone(),
            br#"{"message":"x","model":"nobody/m"}"#.to_vec(),
            422,
            "unknown-provider",
        ),
        (
            chat.clone(),
            br#"{"message":"x","delivery":"steer"}"#.to_vec(),
            422,
            "not-supported",
        ),
        (chat.clone(), long.into_bytes(), 413, "body-too-large"),
        (chunked, long_chunk.into_bytes(), 413, "body-too-large"),
        (
            "POST /chat HTTP/1.1\r\ncontent-type: text/plain".into(),
            b"{}".to_vec(),
            415,
            "unsupported-media-type",
        ),
        (
            "POST /chat HTTP/1.1".into(),
            b"{}".to_vec(),
            415,
            "unsupported-media-type",
        ),
        (
            format!("{chat}\r\norigin: https://evil.example"),
            br#"{"message":"x"}"#.to_vec(),
            403,
            "foreign-origin",
        ),
        (
            "GET /providers HTTP/1.1\r\nhost: evil.example".into(),
            b"".to_vec(),
            403,
            "foreign-host",
        ),
        (
            "GET /nothing HTTP/1.1\r\nhost: evil.example".into(),
            b"".to_vec(),
            403,
            "foreign-host",
        ),
        (
            "GET /nothing HTTP/1.1".into(),
            b"".to_vec(),
            404,
            "no-such-path",
        ),
        (
            "GET /chat HTTP/1.1".into(),
            b"".to_vec(),
            405,
            "method-not-allowed",
        ),
        (
            "GET /conversations/none HTTP/1.1".into(),
            b"".to_vec(),
            404,
            "conversation-not-found",
        ),
        (
            "GET /conversations/none/events HTTP/1.1".into(),
            b"".to_vec(),
            404,
            "conversation-not-found",
        ),
        (
            "GET /conversations/a%20b HTTP/1.1".into(),
            b"".to_vec(),
            400,
            "invalid-parameter",
        ),
        (
            "GET /conversations/%ff HTTP/1.1".into(),
            b"".to_vec(),
            400,
            "invalid-parameter",
        ),
        (
            format!("GET {no_turn} HTTP/1.1"),
            b"".to_vec(),
            404,
            "turn-not-found",
        ),
        (
            "GET /turns/x HTTP/1.1".into(),
            b"".to_vec(),
            400,
            "invalid-parameter",
        ),
        (
            "GET /workspaces/none HTTP/1.1".into(),
            b"".to_vec(),
            404,
            "workspace-not-found",
        ),
        (
            "GET /workspaces/No HTTP/1.1".into(),
            b"".to_vec(),
            400,
            "invalid-parameter",
        ),
        (
            format!("PUT /providers/none/limit HTTP/1.1\r\n{json_type}"),
            br#"{"limit":1}"#.to_vec(),
            404,
            "provider-not-found",
        ),
        (
            format!("PUT /providers/demo/limit HTTP/1.1\r\n{json_type}"),
            br#"{"limit":0}"#.to_vec(),
            422,
            "zero-limit",
        ),
        (
            format!("PUT /providers/demo/limit HTTP/1.1\r\n{json_type}"),
            br#"{"limit":-1}"#.to_vec(),
            400,
            "invalid-field",
        ),
    ];
    for (head, body, status, code) in cases {
        let reply = server.raw(&head, &body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{head}"
        );
    }
    server
        .post("/chat", json!({"message": "x", "conversationId": "c"}))
        .await;
    for (path, status, code) in [
        ("/conversations/c/events?after=99", 400, "cursor-ahead"),
        ("/conversations/c/events?after=x", 400, "invalid-parameter"),
        ("/conversations/c?sinceSeq=-1", 400, "invalid-parameter"),
        (
            "/conversations/c/events?turnId=00000000000000000000000000",
            404,
            "turn-not-found",
        ),
    ] {
        let reply = server.get(path).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (status, code),
            "{path}"
        );
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_every_request_needs_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = start(dir.path(), "", &[("DISPATCH_TOKEN", "tok")]).await;
    let reply = server.get("/healthz").await;
    assert_eq!((reply.status, reply.code().as_str()), (401, "unauthorized"));
    assert_eq!(reply.headers["www-authenticate"], "Bearer");
    let head = "GET /healthz HTTP/1.1\r\nauthorization: Bearer tok\r\nhost: elsewhere.example";
    assert_eq!(server.raw(head, b"").await.status, 200);
    server.stop().await;
}
