use std::net::SocketAddr;
use std::sync::Mutex;

use dispatch_core::event::EventBody;
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::webhook::Wanted;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::net::TokioNet;

fn key(text: &str) -> Result<SigningKey, BadKey> {
    SigningKey::parse(&Secret::new(text).unwrap())
}

/// The example of the Standard Webhooks libraries' own tests.
#[test]
fn c7_a_signature_is_the_specifications() {
    let key = key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signature = key.sign(
        "msg_p5jXN8AQM9LWM0D4loKWxJek",
        1_614_265_330,
        br#"{"test": 2432232314}"#,
    );
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    assert_eq!(format!("{key:?}"), "***");
}

#[test]
fn c7_a_secret_that_is_none_of_the_specification_is_refused() {
    for bad in [
        "short",
        "whsec_",
        "whsec_c2hvcnQ=",
        "not base64 at all, but long enough",
    ] {
        assert_eq!(key(bad).err(), Some(BadKey), "{bad}");
    }
    assert!(
        key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").is_ok(),
        "the prefix may be left out"
    );
}

#[test]
fn c7_an_address_shows_its_host_and_nothing_that_may_be_secret() {
    let address = Address::parse("https://Hooks.example:8443/T0/secret-path?token=abc").unwrap();
    assert_eq!(address.authority(), "hooks.example:8443");
    assert_eq!(format!("{address:?}"), "hooks.example:8443");
    for (text, why) in [
        ("hooks.example/x", BadAddress::Scheme),
        ("ftp://hooks.example/x", BadAddress::Scheme),
        ("https://u:pw@hooks.example/x", BadAddress::Credentials),
        ("https://hooks.example:99999/x", BadAddress::NoUrl),
        ("https://hooks.example/x#y", BadAddress::Fragment),
        ("", BadAddress::Scheme),
        ("http://", BadAddress::NoUrl),
    ] {
        assert_eq!(Address::parse(text), Err(why), "{text}");
    }
}

/// Answers every connection with this text, once it has read a whole request.
async fn endpoint(answer: &'static str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let told = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                let mut piece = [0; 4_096];
                let n = stream.read(&mut piece).await.unwrap();
                request.extend_from_slice(&piece[..n]);
            }
            told.lock()
                .unwrap()
                .push(String::from_utf8(request).unwrap());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (address, heard)
}

fn event() -> AgentEvent {
    AgentEvent {
        seq: Some(7),
        conversation: "talk".try_into().unwrap(),
        turn: TurnId(5),
        epoch: Epoch(1),
        at: Timestamp(1_000),
        body: EventBody::Aborted {
            by: "client".into(),
            reason: None,
        },
    }
}

fn delivery(tries: u32) -> Delivery {
    Delivery {
        endpoint: "here".try_into().unwrap(),
        turn: TurnId(5),
        conversation: "talk".try_into().unwrap(),
        seq: 7,
        tries,
    }
}

async fn post(url: String, tries: u32) -> Result<(), String> {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let settings = WebhookSettings {
        id: "here".try_into().unwrap(),
        address: Address::parse(&url).unwrap(),
        key: SigningKey::parse(&secret).ok(),
        secret: Some(secret),
        secret_env: None,
        wanted: Wanted::ALL,
        timeout_s: 5,
    };
    let webhooks = Webhooks::new(&[settings], TokioNet, []);
    let now = Timestamp(1_614_265_330_999);
    webhooks.post(&delivery(tries), &event(), now).await
}

fn header<'r>(request: &'r str, name: &str) -> Option<&'r str> {
    let mut lines = request.lines();
    lines.find_map(|line| line.strip_prefix(&format!("{name}: ")))
}

#[tokio::test]
async fn c7_the_event_is_posted_as_it_is_on_the_wire_and_every_try_bears_the_same_id() {
    let (address, heard) = endpoint("HTTP/1.1 204 No Content\r\n\r\n").await;
    for tries in [1, 2] {
        let url = format!("http://{address}/hooks?x=1");
        assert_eq!(post(url, tries).await, Ok(()));
    }
    let heard = heard.lock().unwrap().clone();
    let (head, body) = heard[0].split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("POST /hooks?x=1 HTTP/1.1"), "{head}");
    assert_eq!(body, event().to_json());
    assert_eq!(header(head, "content-type"), Some("application/json"));
    assert_eq!(header(head, "webhook-timestamp"), Some("1614265330"));
    let id = header(head, "webhook-id").unwrap();
    assert_eq!(id, format!("{}-7", TurnId(5)));
    assert_eq!(header(&heard[1], "webhook-id"), Some(id));
    let key = key("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signature = key.sign(id, 1_614_265_330, body.as_bytes());
    assert_eq!(header(head, "webhook-signature"), Some(signature.as_str()));
}

#[tokio::test]
async fn c7_only_2xx_counts_and_no_redirect_is_followed() {
    let (elsewhere, lured) = endpoint("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let to = format!(
        "HTTP/1.1 307 Temporary Redirect\r\nlocation: http://{elsewhere}/\r\ncontent-length: 0\r\n\r\n"
    );
    let (address, _) = endpoint(to.leak()).await;
    let refused = post(format!("http://{address}/"), 1).await.unwrap_err();
    assert!(refused.contains("307"), "{refused}");
    assert!(lured.lock().unwrap().is_empty());
    let (address, _) = endpoint("HTTP/1.1 503 Busy\r\ncontent-length: 2\r\n\r\nno").await;
    let refused = post(format!("http://{address}/"), 1).await.unwrap_err();
    assert!(refused.contains("503"), "{refused}");
    // A body without end delays nothing.
    let (address, _) = endpoint("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nno").await;
    assert_eq!(post(format!("http://{address}/"), 1).await, Ok(()));
}

#[tokio::test]
async fn p4_an_error_tells_neither_path_nor_secret() {
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = unused.local_addr().unwrap();
    drop(unused);
    let why = post(format!("http://{address}/T0/secret-path"), 1)
        .await
        .unwrap_err();
    assert!(why.contains(&address.to_string()), "{why}");
    assert!(
        !why.contains("secret-path") && !why.contains("MfKQ"),
        "{why}"
    );
}
