use super::*;
use crate::net::TokioNet;
use crate::provider::{BaseUrl, Secret};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const KEY: &str = "sk-0123456789abcdef";

fn provider(base_url: &str) -> HttpProvider<TokioNet> {
    let config = ProviderConfig {
        id: "test".to_owned(),
        base_url: BaseUrl::parse(base_url).unwrap(),
        key: Secret::new(KEY),
        masked: vec![Secret::new("hunter2-password").unwrap()],
    };
    HttpProvider::new(&config, TokioNet).unwrap()
}

/// A server for one connection.
async fn server<F>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, JoinHandle<F::Output>)
where
    F: Future<Output: Send> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let served = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await
    });
    (addr, served)
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut buffer = [0u8; 4096];
    loop {
        let n = stream.read(&mut buffer).await.unwrap();
        assert_ne!(n, 0, "the request ended early");
        request.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "))
            .unwrap()
            .parse()
            .unwrap();
        if body.len() >= length {
            return text.into_owned();
        }
    }
}

async fn exchange(addr: SocketAddr, path: &str) -> Vec<ProviderInput> {
    let (sink, mut inputs) = mpsc::channel(4);
    let stream = provider(&format!("http://{addr}{path}")).open("{}".into(), 5_000, sink);
    let mut seen = Vec::new();
    while let Some(input) = inputs.recv().await {
        seen.push(input);
    }
    while !stream.is_finished() {
        tokio::task::yield_now().await;
    }
    seen
}

/// What a server that writes `answer` and closes looks like to the core.
async fn answered(answer: &'static [u8]) -> Vec<ProviderInput> {
    let (addr, served) = server(move |mut stream| async move {
        read_request(&mut stream).await;
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let seen = exchange(addr, "/v1").await;
    served.await.unwrap();
    seen
}

fn body_of(inputs: &[ProviderInput]) -> String {
    let mut body = Vec::new();
    for input in inputs {
        if let ProviderInput::Bytes(piece) = input {
            assert!(!piece.is_empty());
            body.extend_from_slice(piece);
        }
    }
    String::from_utf8(body).unwrap()
}

fn failure_of(inputs: &[ProviderInput]) -> (FailKind, &str) {
    match inputs.last() {
        Some(ProviderInput::Failed { kind, message }) => (*kind, message),
        other => panic!("no failure, but {other:?}"),
    }
}

#[tokio::test]
async fn a_request_has_the_path_the_headers_and_the_body_that_vendors_want() {
    let (addr, served) = server(|mut stream| async move {
        let request = read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 204 No Content\r\n\r\n")
            .await
            .unwrap();
        request
    })
    .await;
    let seen = exchange(addr, "/v1/").await;
    let request = served.await.unwrap();
    let lower = request.to_ascii_lowercase();
    assert!(
        request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"),
        "{request}"
    );
    for line in [
        "content-type: application/json".to_owned(),
        "accept: text/event-stream".to_owned(),
        format!("authorization: bearer {KEY}"),
        format!("host: {addr}"),
    ] {
        assert!(lower.contains(&line), "{line} in {request}");
    }
    assert!(request.ends_with("\r\n\r\n{}"));
    assert_eq!(
        seen,
        [
            ProviderInput::Head {
                status: 204,
                headers: vec![]
            },
            ProviderInput::End
        ]
    );
}

#[tokio::test]
async fn a_whole_stream_ends_and_only_known_headers_pass() {
    let seen = answered(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nSet-Cookie: a=b\r\nServer: x\r\n\
          X-Request-Id: req-1\r\nRetry-After: 7\r\nRetry-After-Ms: 7000\r\nX-Should-Retry: false\r\n\
          Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n",
    )
    .await;
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        seen[0],
        ProviderInput::Head {
            status: 200,
            headers: vec![
                header("content-type", "text/event-stream"),
                header("retry-after", "7"),
                header("retry-after-ms", "7000"),
                header("x-should-retry", "false"),
                header("x-request-id", "req-1"),
            ]
        }
    );
    assert_eq!(body_of(&seen), "hello world");
    assert_eq!(seen.last(), Some(&ProviderInput::End));
    let ends = seen
        .iter()
        .filter(|input| matches!(input, ProviderInput::End | ProviderInput::Failed { .. }));
    assert_eq!(ends.count(), 1);
}

#[tokio::test]
async fn a_long_header_value_is_cut_and_odd_bytes_are_replaced() {
    let (addr, served) = server(|mut stream| async move {
        read_request(&mut stream).await;
        let mut answer = b"HTTP/1.1 200 OK\r\nx-request-id: ".to_vec();
        answer.extend_from_slice(&[0xff; 5_000]);
        answer.extend_from_slice(b"\r\ncontent-length: 0\r\n\r\n");
        stream.write_all(&answer).await.unwrap();
    })
    .await;
    let seen = exchange(addr, "").await;
    served.await.unwrap();
    let ProviderInput::Head { headers, .. } = &seen[0] else {
        panic!("{seen:?}");
    };
    assert_eq!(headers[0].1, "\u{fffd}".repeat(341));
}

#[tokio::test]
async fn a_redirect_is_a_status_and_not_followed() {
    let seen = answered(
        b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    assert!(matches!(seen[0], ProviderInput::Head { status: 307, .. }));
    assert_eq!(seen.last(), Some(&ProviderInput::End));
}

#[tokio::test]
async fn a_chunked_body_without_its_last_chunk_is_a_cut() {
    let seen =
        answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n").await;
    assert_eq!(body_of(&seen), "hello");
    assert_eq!(failure_of(&seen).0, FailKind::Body);
}

#[tokio::test]
async fn a_cut_within_a_chunk_keeps_what_came() {
    let seen = answered(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nhel").await;
    assert_eq!(body_of(&seen), "hel");
    assert_eq!(failure_of(&seen).0, FailKind::Body);
}

#[tokio::test]
async fn a_body_shorter_than_its_length_is_a_cut() {
    let seen = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
    assert_eq!(body_of(&seen), "hello");
    assert_eq!(failure_of(&seen).0, FailKind::Body);
}

#[tokio::test]
async fn a_connection_closed_before_the_head_is_a_reset() {
    let seen = answered(b"").await;
    assert_eq!(seen.len(), 1);
    assert_eq!(failure_of(&seen).0, FailKind::Reset);
}

#[tokio::test]
async fn a_tcp_reset_before_the_head_is_a_reset() {
    let (addr, served) = server(|mut stream| async move {
        let mut one = [0u8; 1];
        // Closing a socket with unread bytes in it makes the kernel reset it.
        stream.read_exact(&mut one).await.unwrap();
    })
    .await;
    let seen = exchange(addr, "").await;
    served.await.unwrap();
    assert_eq!(failure_of(&seen).0, FailKind::Reset, "{seen:?}");
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_a_transport_failure() {
    let seen = answered(b"SSH-2.0-OpenSSH_9.2\r\n").await;
    assert_eq!(failure_of(&seen).0, FailKind::Transport, "{seen:?}");
}

#[tokio::test]
async fn a_closed_port_is_refused_with_the_remedy() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = unused.local_addr().unwrap();
    drop(unused);
    let seen = exchange(addr, "/v1").await;
    let (kind, message) = failure_of(&seen);
    assert_eq!((seen.len(), kind), (1, FailKind::Refused));
    assert!(
        message.contains(&addr.to_string()) && message.contains("check that"),
        "{message}"
    );
}

#[tokio::test]
async fn https_to_a_plain_port_is_a_tls_failure() {
    let (addr, served) = server(|mut stream| async move {
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let (sink, mut inputs) = mpsc::channel(4);
    let _stream = provider(&format!("https://{addr}")).open("{}".into(), 5_000, sink);
    let last = inputs.recv().await.unwrap();
    assert_eq!(failure_of(&[last]).0, FailKind::Tls);
    served.await.unwrap();
}

#[tokio::test]
async fn a_connection_that_is_not_ready_in_time_is_a_connect_timeout() {
    let (addr, served) = server(|mut stream| async move {
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let (sink, mut inputs) = mpsc::channel(4);
    let _stream = provider(&format!("https://{addr}")).open("{}".into(), 40, sink);
    let last = inputs.recv().await.unwrap();
    let (kind, message) = failure_of(std::slice::from_ref(&last));
    assert_eq!(kind, FailKind::ConnectTimeout);
    assert!(message.contains("40 ms"), "{message}");
    served.await.unwrap();
}

/// Reads till the peer is gone.
async fn until_closed(stream: &mut TcpStream) {
    let mut buffer = [0u8; 64];
    while matches!(stream.read(&mut buffer).await, Ok(n) if n > 0) {}
}

#[tokio::test]
async fn a_mute_server_yields_nothing_and_cancelling_drops_the_connection() {
    let (asked, was_asked) = tokio::sync::oneshot::channel();
    let (addr, served) = server(|mut stream| async move {
        read_request(&mut stream).await;
        asked.send(()).unwrap();
        until_closed(&mut stream).await;
    })
    .await;
    let (sink, mut inputs) = mpsc::channel(4);
    let stream = provider(&format!("http://{addr}")).open("{}".into(), 5_000, sink);
    was_asked.await.unwrap();
    assert!(inputs.is_empty() && !stream.is_finished());
    stream.cancel();
    stream.cancel();
    served.await.unwrap();
    assert_eq!(inputs.recv().await, None);
}

async fn server_that_streams_for_ever() -> (SocketAddr, JoinHandle<()>) {
    server(|mut stream| async move {
        read_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            .await
            .unwrap();
        until_closed(&mut stream).await;
    })
    .await
}

#[tokio::test]
async fn dropping_the_handle_in_mid_stream_drops_the_connection() {
    let (addr, served) = server_that_streams_for_ever().await;
    let (sink, mut inputs) = mpsc::channel(4);
    let stream = provider(&format!("http://{addr}")).open("{}".into(), 5_000, sink);
    assert!(matches!(
        inputs.recv().await,
        Some(ProviderInput::Head { .. })
    ));
    assert_eq!(
        inputs.recv().await,
        Some(ProviderInput::Bytes("hello".into()))
    );
    drop(stream);
    served.await.unwrap();
    assert_eq!(inputs.recv().await, None);
}

#[tokio::test]
async fn dropping_the_receiver_drops_the_connection_too() {
    let (addr, served) = server_that_streams_for_ever().await;
    let (sink, mut inputs) = mpsc::channel(4);
    let stream = provider(&format!("http://{addr}")).open("{}".into(), 5_000, sink);
    inputs.recv().await.unwrap();
    drop(inputs);
    served.await.unwrap();
    while !stream.is_finished() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_consumer_that_does_not_read_stops_the_sender() {
    const PIECE: usize = 16 * 1024;
    const PIECES: usize = 4_096;
    let sent = Arc::new(AtomicUsize::new(0));
    let sent_in = sent.clone();
    let (stalled, was_stalled) = tokio::sync::oneshot::channel();
    let (addr, served) = server(move |mut stream| async move {
        read_request(&mut stream).await;
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n",
            PIECE * PIECES
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; PIECE];
        let mut stalled = Some(stalled);
        for _ in 0..PIECES {
            let mut write = std::pin::pin!(stream.write_all(&piece));
            // Half a second in which the kernel takes nothing more is a stall.
            let limit = std::time::Duration::from_millis(500);
            if tokio::time::timeout(limit, &mut write).await.is_err() {
                if let Some(stalled) = stalled.take() {
                    stalled.send(()).unwrap();
                }
                write.await.unwrap();
            }
            sent_in.fetch_add(1, Ordering::SeqCst);
        }
    })
    .await;
    let (sink, mut inputs) = mpsc::channel(2);
    let _stream = provider(&format!("http://{addr}")).open("{}".into(), 5_000, sink);
    was_stalled.await.unwrap();
    let stalled_at = sent.load(Ordering::SeqCst);
    assert!(
        stalled_at < PIECES / 2,
        "{stalled_at} of {PIECES} pieces were taken"
    );
    let mut received = 0;
    let mut last = None;
    while let Some(input) = inputs.recv().await {
        if let ProviderInput::Bytes(piece) = &input {
            assert!(piece.len() <= 64 * 1024);
            received += piece.len();
        }
        last = Some(input);
    }
    assert_eq!(received, PIECE * PIECES);
    assert_eq!(last, Some(ProviderInput::End));
    served.await.unwrap();
}

#[tokio::test]
async fn the_key_is_masked_in_headers_refusals_and_answers() {
    let seen = answered(
        b"HTTP/1.1 401 Unauthorized\r\nx-request-id: for-sk-0123456789abcdef\r\nContent-Length: 56\r\n\r\n\
          bad key sk-0123456789abcdef (password hunter2-password)\n",
    )
    .await;
    let ProviderInput::Head { headers, .. } = &seen[0] else {
        panic!("{seen:?}");
    };
    assert_eq!(headers[0].1, "for-***");
    assert_eq!(body_of(&seen), "bad key *** (password ***)\n");

    let seen = answered(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
          7\r\na sk-01\r\n10\r\n23456789abcdef b\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(body_of(&seen), "a *** b");
    assert_eq!(seen.last(), Some(&ProviderInput::End));
}

#[tokio::test]
async fn nothing_that_prints_shows_the_key() {
    let provider = provider("http://127.0.0.1:1");
    let shown = format!("{provider:?}");
    assert!(!shown.contains("0123456789abcdef"), "{shown}");
    assert_eq!(provider.mask("x sk-0123456789abcdef"), "x ***");
}

#[tokio::test]
async fn a_failure_message_is_masked_and_bounded() {
    // A network whose errors repeat the credential.
    #[derive(Clone, Debug)]
    struct Talkative;
    impl Net for Talkative {
        type Stream = TcpStream;
        type Listener = crate::net::TokioListener;
        async fn connect(&self, _: &str, _: u16) -> io::Result<TcpStream> {
            Err(io::Error::other(format!("{KEY} {}", "é".repeat(2_000))))
        }
        async fn bind(&self, addr: SocketAddr) -> io::Result<Self::Listener> {
            TokioNet.bind(addr).await
        }
    }
    let config = ProviderConfig {
        id: "test".to_owned(),
        base_url: BaseUrl::parse("http://127.0.0.1:1").unwrap(),
        key: Secret::new(KEY),
        masked: Vec::new(),
    };
    let (sink, mut inputs) = mpsc::channel(4);
    let provider = HttpProvider::new(&config, Talkative).unwrap();
    let _stream = provider.open("{}".into(), 5_000, sink);
    let last = inputs.recv().await.unwrap();
    let (kind, message) = failure_of(std::slice::from_ref(&last));
    assert_eq!(kind, FailKind::Connect);
    assert!(
        message.contains("***") && !message.contains(KEY),
        "{message}"
    );
    assert!(message.len() <= 1_024);
}

#[tokio::test]
async fn a_connection_is_used_again_after_a_whole_answer() {
    let (addr, served) = server(|mut stream| async move {
        for _ in 0..2 {
            read_request(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                .await
                .unwrap();
        }
    })
    .await;
    let provider = provider(&format!("http://{addr}"));
    for _ in 0..2 {
        let (sink, mut inputs) = mpsc::channel(4);
        let _stream = provider.open("{}".into(), 5_000, sink);
        let mut last = None;
        while let Some(input) = inputs.recv().await {
            last = Some(input);
        }
        assert_eq!(last, Some(ProviderInput::End));
        // The connection goes back to the pool beside the stream's end.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    served.await.unwrap();
}
