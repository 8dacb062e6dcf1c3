use std::process::{Command, Stdio};
use std::time::Duration;

use dispatch::ssh::{Link, SshLimits};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::support::PATIENCE;
use crate::support::census::{children, descriptors, tasks};
use crate::support::sshd::{Sshd, program};
use crate::{LIMITS, Yard};

const CYCLES: usize = 50;

/// In a process of its own: descriptors are counted for all of it.
#[test]
fn s4_nothing_is_left_of_fifty_links_that_came_about_and_fifty_that_did_not() {
    if program().is_none() {
        return;
    }
    let inner = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "leaks::in_a_process_of_its_own",
            "--ignored",
            "--nocapture",
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[inner.stdout, inner.stderr].concat()).into_owned();
    assert!(
        inner.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

#[test]
#[ignore = "counts the descriptors of its process; the test above runs it in one"]
fn in_a_process_of_its_own() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(count());
}

async fn count() {
    let Some((mut yard, sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    yard.home
        .add("mute", mute.local_addr().unwrap().port(), &[]);
    let greets = TcpListener::bind("127.0.0.1:0").await.unwrap();
    yard.home
        .add("greets", greets.local_addr().unwrap().port(), &[]);
    tokio::spawn(greet(greets));
    let wrong = Sshd::start(&[]).unwrap();
    yard.home.add("wrong", wrong.port, &[]);
    yard.home.add("far", sshd.port, &["ProxyJump web"]);
    yard.home.add(
        "far-mute",
        mute.local_addr().unwrap().port(),
        &["ProxyJump web"],
    );
    let command = "ProxyCommand sleep 1000";
    yard.home.add("piped", sshd.port, &[command]);
    // Whatever is made once and kept is made here.
    cycle(&yard, 0).await;
    let before = (descriptors(std::process::id()), tasks(), children());
    for n in 0..CYCLES {
        cycle(&yard, n).await;
    }
    let mut now = before;
    let calm = async {
        loop {
            now = (descriptors(std::process::id()), tasks(), children());
            if now.0 <= before.0 && now.1 <= before.1 && now.2 <= before.2 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, calm).await;
    assert!(
        waited.is_ok(),
        "descriptors, tasks and children were {before:?} and are {now:?}"
    );
}

/// Says hello and nothing more, for as long as anybody listens.
async fn greet(listener: TcpListener) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            stream.write_all(b"SSH-2.0-odd\r\n").await.ok();
            tokio::io::copy(&mut stream, &mut tokio::io::sink())
                .await
                .ok();
        });
    }
}

/// One link that comes about, used and ended in a way that `n` chooses, and one
/// that does not.
async fn cycle(yard: &Yard, n: usize) {
    let link = yard
        .connect(if n.is_multiple_of(5) { "far" } else { "web" })
        .await;
    let done = link.exec("echo hi".to_owned(), Vec::new()).await.unwrap();
    assert_eq!(done.output, b"hi\n");
    let files = link.files().await.unwrap();
    let running = tokio::spawn(link.exec("cat; sleep 0.01".to_owned(), vec![0; 1 << 20]));
    match n % 4 {
        0 => link.close().await,
        1 => drop(link),
        2 => {
            running.abort();
            drop(link);
        }
        _ => {
            link.ping(Duration::ZERO).await.ok();
            drop(link);
        }
    }
    drop(files);
    let brief = |ms| SshLimits {
        connect: Duration::from_millis(500),
        handshake: Duration::from_millis(ms),
    };
    let (alias, limits) = match n % 5 {
        0 => ("mute", brief(20)),
        1 => ("piped", brief(20)),
        2 => ("far-mute", brief(500)),
        3 => ("greets", brief(20)),
        _ => ("wrong", LIMITS),
    };
    yard.fault(alias, limits).await;
    // Given up in the middle.
    let settings = yard.settings("web").await;
    let keys = yard.keys();
    let trying = dispatch::ssh::connect(&settings, &dispatch::net::TokioNet, &keys, LIMITS);
    let wait = Duration::from_millis(n as u64 % 12);
    drop(tokio::time::timeout(wait, trying).await);
}
