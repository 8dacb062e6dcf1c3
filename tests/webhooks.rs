//! Webhooks with the real binary (C7): what an endpoint receives through
//! refusals and the server's death, and who may say that it came from here.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use support::client::Receipt;
use support::process::{Provider, Server};
use support::stream::EventExt;
use support::{config, until, until_true};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// One request as it came, and whether it was answered with 204.
#[derive(Clone, Debug)]
struct Post {
    head: String,
    body: String,
    is_taken: bool,
}

impl Post {
    fn header(&self, name: &str) -> &str {
        let mut lines = self.head.lines();
        let line = lines.find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_else(|| panic!("no {name} in {}", self.head))
    }

    fn event(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// As the specification's verifiers do it.
    fn is_signed(&self) -> bool {
        let key = STANDARD.decode(SECRET.strip_prefix("whsec_").unwrap());
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.unwrap()).unwrap();
        let (id, at) = (self.header("webhook-id"), self.header("webhook-timestamp"));
        mac.update(format!("{id}.{at}.{}", self.body).as_bytes());
        let expected = STANDARD.encode(mac.finalize().into_bytes());
        self.header("webhook-signature") == format!("v1,{expected}")
    }
}

/// An endpoint that can be told how to behave.
struct Receiver {
    addr: SocketAddr,
    posts: Arc<Mutex<Vec<Post>>>,
    /// So many requests are answered with 503.
    refusals: Arc<AtomicUsize>,
    /// Requests are read and never answered.
    hangs: Arc<AtomicBool>,
}

impl Receiver {
    fn start() -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let receiver = Receiver {
            addr: listener.local_addr().unwrap(),
            posts: Arc::default(),
            refusals: Arc::default(),
            hangs: Arc::default(),
        };
        let (posts, refusals) = (receiver.posts.clone(), receiver.refusals.clone());
        let hangs = receiver.hangs.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (posts, refusals, hangs) = (posts.clone(), refusals.clone(), hangs.clone());
                std::thread::spawn(move || serve(stream, &posts, &refusals, &hangs));
            }
        });
        receiver
    }

    fn posts(&self) -> Vec<Post> {
        self.posts.lock().unwrap().clone()
    }

    fn taken(&self) -> Vec<Post> {
        let mut posts = self.posts();
        posts.retain(|post| post.is_taken);
        posts
    }

    fn config(&self, name: &str, more: &str) -> String {
        format!(
            "[[webhooks]]\nname = \"{name}\"\nurl = \"http://{}/hook\"\n{more}\n",
            self.addr
        )
    }
}

/// One request a connection.
fn serve(
    mut stream: TcpStream,
    posts: &Mutex<Vec<Post>>,
    refusals: &AtomicUsize,
    hangs: &AtomicBool,
) {
    let mut request = Vec::new();
    let (head, body) = loop {
        let mut piece = [0; 4_096];
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(n) => request.extend_from_slice(&piece[..n]),
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if length.is_some_and(|length| length.parse() == Ok(body.len())) {
            break (head.to_owned(), body.to_owned());
        }
    };
    let left = refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
    let is_hanging = hangs.load(Ordering::SeqCst);
    let is_taken = left.is_err() && !is_hanging;
    posts.lock().unwrap().push(Post {
        head,
        body,
        is_taken,
    });
    if is_hanging {
        // Until the other side has enough of it.
        let _ = stream.read(&mut [0; 1]);
        return;
    }
    let status = match is_taken {
        true => "204 No Content\r\n",
        false => "503 Busy\r\ncontent-length: 0\r\n",
    };
    let answer = format!("HTTP/1.1 {status}connection: close\r\n\r\n");
    // The other side may have had enough of it.
    let _ = stream.write_all(answer.as_bytes());
}

struct World {
    _provider: Provider,
    server: Server,
    dir: tempfile::TempDir,
}

impl World {
    fn new(webhooks: &[String]) -> World {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let config = [
            config::retry(&[1], 20),
            "[server]\ndrain_s = 1\n".to_owned(),
            config::provider("mock", &provider.base_url(), 8),
            webhooks.concat(),
        ]
        .concat();
        let env = [("HOOK_SECRET", SECRET)];
        World {
            server: Server::start_with(&dir.path().join("data"), &config, &env),
            _provider: provider,
            dir,
        }
    }

    fn submit(&self, conversation: &str) -> Receipt {
        let message = format!("{conversation} script: [\"hello\"]");
        self.server
            .submit(&json!({ "conversationId": conversation, "message": message }))
    }

    /// The turn's terminal event, as the log has it.
    fn end(&self, at: &Receipt) -> Value {
        let log = self.server.outcome(at);
        let end = log.last().unwrap();
        assert!(end.is_terminal());
        end.clone()
    }
}

#[test]
fn c7_an_end_is_posted_through_refusals_and_a_kill_9_with_its_seq_and_a_valid_signature() {
    let receiver = Receiver::start();
    let hook = receiver.config("ops", "secret_env = \"HOOK_SECRET\"\ntimeout_s = 5");
    let mut world = World::new(&[hook]);
    receiver.refusals.store(2, Ordering::SeqCst);
    let first = world.submit("first");
    let post = until("a refusal is forgiven", || receiver.taken().pop());
    let end = world.end(&first);
    assert_eq!(post.event(), end, "the event as clients read it");
    assert_eq!(post.event()["seq"], end["seq"]);
    let posts = receiver.posts();
    assert_eq!(posts.len(), 3, "two refusals and one that was taken");
    let id = |post: &Post| post.header("webhook-id").to_owned();
    assert!(posts.iter().all(|other| id(other) == id(&post)));
    assert!(posts.iter().all(Post::is_signed), "{posts:?}");

    // The server dies between the turn's end and its delivery.
    receiver.hangs.store(true, Ordering::SeqCst);
    let second = world.submit("second");
    let end = world.end(&second);
    until_true("the delivery is under way", || receiver.posts().len() == 4);
    world.server.kill();
    receiver.hangs.store(false, Ordering::SeqCst);
    world.server.restart();
    let post = until("it is delivered after the restart", || {
        receiver.taken().into_iter().nth(1)
    });
    assert_eq!(post.event(), end);
    assert!(post.is_signed());
    assert_eq!(id(&post), id(&receiver.posts()[3]), "the same delivery");

    let third = world.submit("third");
    let end = world.end(&third);
    until_true("the next one is delivered", || {
        receiver.taken().iter().any(|post| post.event() == end)
    });
    // At least once each; the id tells what was told before.
    let ids: BTreeSet<String> = receiver.taken().iter().map(id).collect();
    assert_eq!(ids.len(), 3);
    let said = world.server.stderr();
    assert!(!said.contains("MfKQ9r8G"), "{said}");
    for file in std::fs::read_dir(world.dir.path().join("data")).unwrap() {
        let path = file.unwrap().path();
        let bytes = std::fs::read(&path).unwrap_or_default();
        let kept = String::from_utf8_lossy(&bytes);
        assert!(!kept.contains("MfKQ9r8G"), "{}", path.display());
    }
}

#[test]
fn c7_a_silent_endpoint_delays_no_other_one_and_each_is_told_what_it_wants() {
    let (silent, ops, pager) = (Receiver::start(), Receiver::start(), Receiver::start());
    silent.hangs.store(true, Ordering::SeqCst);
    let world = World::new(&[
        silent.config("silent", "timeout_s = 300"),
        ops.config("ops", ""),
        pager.config("pager", "events = [\"error\", \"aborted\"]"),
    ]);
    let talks = ["a", "b", "c", "a", "b", "c", "a", "a"];
    let turns: Vec<Receipt> = talks.map(|talk| world.submit(talk)).to_vec();
    let ends: Vec<Value> = turns.iter().map(|at| world.end(at)).collect();
    until_true("the others are told of all", || {
        ops.taken().len() == ends.len()
    });
    let told: Vec<Value> = ops.taken().iter().map(Post::event).collect();
    for end in &ends {
        assert!(told.contains(end), "{end}");
    }
    // Nothing failed, so the order within a conversation is that of the log.
    for talk in ["a", "b", "c"] {
        let of_talk = told.iter().filter(|end| end["conversationId"] == talk);
        let seqs: Vec<u64> = of_talk.map(|end| end["seq"].as_u64().unwrap()).collect();
        assert!(seqs.is_sorted(), "{talk}: {seqs:?}");
    }
    assert!(pager.posts().is_empty(), "nothing went wrong");
    assert!(silent.posts().len() <= 4, "so many at once");
    assert!(
        ops.posts()[0]
            .head
            .contains("content-type: application/json")
    );
    assert!(!ops.posts()[0].head.contains("webhook-signature"));
}
