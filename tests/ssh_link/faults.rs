use std::time::Instant;

use dispatch::ssh::{Link, LinkError, SshFaultKind, SshLink};
use rustix::process::{Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::support::process::pid_of;
use crate::support::sshd::Sshd;
use crate::{LIMITS, SHORT, Yard, end_of, until_true};

/// The process at the other end of the link; what it has started is on `dir`'s
/// list, to be ended with the test.
async fn session_pid(link: &SshLink) -> u32 {
    let done = link
        .exec("echo $PPID".to_owned(), Vec::new())
        .await
        .unwrap();
    String::from_utf8(done.output)
        .unwrap()
        .trim()
        .parse()
        .unwrap()
}

/// A command that runs until its pid is killed, and that pid's file.
struct Running {
    dir: tempfile::TempDir,
    task: tokio::task::JoinHandle<Result<dispatch::ssh::ExecDone, LinkError>>,
}

impl Running {
    async fn start(link: &SshLink) -> Running {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("pid");
        let command = format!("echo $$ >{}; exec sleep 1000", file.display());
        let task = tokio::spawn(link.exec(command, Vec::new()));
        until_true("the command runs", || {
            std::fs::read_to_string(&file).is_ok_and(|text| text.ends_with('\n'))
        })
        .await;
        Running { dir, task }
    }

    async fn lost(self) -> dispatch::ssh::SshFault {
        let outcome = tokio::time::timeout(crate::support::PATIENCE, self.task).await;
        crate::support::end_commands(self.dir.path());
        match outcome.expect("a lost command is told").unwrap() {
            Err(LinkError::Down(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }
}

/// A stopped process: nobody else would end it, should the test fail.
struct Stopped(u32);

impl Stopped {
    fn new(pid: u32) -> Stopped {
        kill_process(pid_of(pid), Signal::STOP).unwrap();
        Stopped(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(pid_of(self.0), Signal::KILL).ok();
    }
}

#[tokio::test]
async fn s4_nobody_listening_is_told_at_once() {
    let mut yard = Yard::new();
    let unused = TcpListener::bind("127.0.0.1:0").await.unwrap();
    yard.home
        .add("web", unused.local_addr().unwrap().port(), &[]);
    drop(unused);
    let refusal = yard.refusal("web", SshFaultKind::Unreachable).await;
    assert!(
        refusal.contains("refused") && refusal.contains("port"),
        "{refusal}"
    );
    let mut settings = yard.settings("web").await;
    settings.host = "no-such-host.invalid".to_owned();
    let keys = yard.keys();
    let trying = dispatch::ssh::connect(&settings, &dispatch::net::TokioNet, &keys, LIMITS);
    let fault = trying.await.unwrap_err();
    assert_eq!(fault.kind, SshFaultKind::Unreachable);
    assert!(fault.message.contains("HostName"), "{fault}");
}

/// How a server misbehaves.
#[derive(Clone, Copy, Debug)]
enum Odd {
    Mute,
    Greets,
    HangsUp,
    GreetsAndHangsUp,
    OtherProtocol,
    Garbage,
}

async fn serve_oddly(listener: TcpListener, odd: Odd) {
    let mut held = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        match odd {
            Odd::Mute => held.push(stream),
            Odd::Greets => {
                let _ = stream.write_all(b"SSH-2.0-odd\r\n").await;
                held.push(stream);
            }
            Odd::HangsUp => {}
            Odd::GreetsAndHangsUp => {
                let _ = stream.write_all(b"SSH-2.0-odd\r\n").await;
                let _ = stream.read(&mut [0; 64]).await;
            }
            Odd::OtherProtocol => {
                let lines = b"HTTP/1.1 400 Bad Request\r\n".repeat(64);
                let _ = stream.write_all(&lines).await;
                held.push(stream);
            }
            Odd::Garbage => {
                let _ = stream
                    .write_all(b"SSH-2.0-odd\r\n\xff\xff\xff\xff\xffxxxxxxxxxxxx")
                    .await;
                held.push(stream);
            }
        }
    }
}

#[tokio::test]
async fn s4_a_server_that_misbehaves_in_the_handshake_is_told_within_the_deadline() {
    for (odd, kind) in [
        (Odd::Mute, SshFaultKind::Timeout),
        (Odd::Greets, SshFaultKind::Timeout),
        (Odd::HangsUp, SshFaultKind::Unreachable),
        (Odd::GreetsAndHangsUp, SshFaultKind::Unreachable),
        (Odd::OtherProtocol, SshFaultKind::Config),
        (Odd::Garbage, SshFaultKind::Unreachable),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut yard = Yard::new();
        yard.home
            .add("web", listener.local_addr().unwrap().port(), &[]);
        let serving = tokio::spawn(serve_oddly(listener, odd));
        let limits = if kind == SshFaultKind::Timeout {
            SHORT
        } else {
            LIMITS
        };
        let since = Instant::now();
        let fault = yard.fault("web", limits).await;
        assert_eq!(fault.kind, kind, "{odd:?}: {fault}");
        assert!(fault.message.contains("web (127.0.0.1:"), "{fault}");
        if kind == SshFaultKind::Timeout {
            assert!(since.elapsed() >= limits.handshake, "{odd:?}");
            assert!(fault.message.contains("greeting"), "{fault}");
        }
        serving.abort();
    }
}

#[tokio::test]
async fn s4_a_stopped_sshd_answers_connections_and_no_handshake() {
    let Some((yard, sshd)) = Yard::with_web(&[]) else {
        return;
    };
    sshd.signal(Signal::STOP);
    let fault = yard.fault("web", SHORT).await;
    assert_eq!(fault.kind, SshFaultKind::Timeout, "{fault}");
    sshd.signal(Signal::CONT);
    yard.connect("web").await.close().await;
}

#[tokio::test]
async fn s4_a_session_that_is_killed_in_mid_command_is_a_lost_link_and_no_success() {
    let Some((yard, _sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    let session = session_pid(&link).await;
    let running = Running::start(&link).await;
    let files = link.files().await.unwrap();
    kill_process(pid_of(session), Signal::KILL).unwrap();
    let fault = running.lost().await;
    assert_eq!(fault.kind, SshFaultKind::Lost);
    assert!(fault.message.contains("web (127.0.0.1:"), "{fault}");
    // One cause, however it is asked for, and however often.
    assert_eq!(end_of(&link).await, fault);
    assert_eq!(link.closed().await, fault);
    assert_eq!(link.ping(LIMITS.connect).await.unwrap_err(), fault);
    let again = link.exec("true".to_owned(), Vec::new()).await;
    assert_eq!(again.unwrap_err(), LinkError::Down(fault.clone()));
    assert_eq!(link.files().await.err(), Some(LinkError::Down(fault)));
    drop(files);
    link.close().await;
}

#[tokio::test]
async fn s4_a_stopped_session_does_not_answer_and_is_given_up() {
    let Some((yard, _sshd)) = Yard::with_web(&[]) else {
        return;
    };
    let link = yard.connect("web").await;
    link.ping(LIMITS.connect).await.unwrap();
    let session = session_pid(&link).await;
    let running = Running::start(&link).await;
    let _stopped = Stopped::new(session);
    // More than the socket holds: whoever writes is stuck, too.
    let stuck = tokio::spawn(link.exec("cat".to_owned(), vec![0; 8 << 20]));
    let fault = link.ping(SHORT.connect).await.unwrap_err();
    assert_eq!(fault.kind, SshFaultKind::Lost);
    assert!(
        fault.message.contains("did not answer within 400 ms"),
        "{fault}"
    );
    assert_eq!(running.lost().await, fault);
    assert_eq!(
        stuck.await.unwrap().unwrap_err(),
        LinkError::Down(fault.clone())
    );
    assert_eq!(end_of(&link).await, fault);
    link.close().await;
}

#[tokio::test]
async fn s4_a_jump_host_that_is_lost_is_told_as_the_cause() {
    let (Some((mut yard, inner)), Some(outer)) = (Yard::with_web(&[]), Sshd::start(&[])) else {
        return;
    };
    outer.authorize(&yard.home.key());
    yard.home.add("bastion", outer.port, &[]);
    yard.home.add("far", inner.port, &["ProxyJump bastion"]);
    // The only session of this sshd is the link's own.
    let link = yard.connect("far").await;
    let children = format!("/proc/{0}/task/{0}/children", outer.pid());
    let session = crate::support::until("one session", || {
        let children = std::fs::read_to_string(&children).unwrap();
        children.trim().parse().ok()
    });
    let running = Running::start(&link).await;
    kill_process(pid_of(session), Signal::KILL).unwrap();
    let fault = running.lost().await;
    assert_eq!(fault.kind, SshFaultKind::Lost);
    assert!(fault.message.contains("through its jump host"), "{fault}");
    assert!(
        fault.message.contains("far (") && fault.message.contains("bastion ("),
        "{fault}"
    );
    link.close().await;
    // And one that does not let its connections be used.
    let Some(closed) = Sshd::start(&["AllowTcpForwarding no"]) else {
        return;
    };
    closed.authorize(&yard.home.key());
    yard.home.add("closed", closed.port, &[]);
    yard.home.add("hidden", inner.port, &["ProxyJump closed"]);
    let refusal = yard.refusal("hidden", SshFaultKind::Unreachable).await;
    assert!(refusal.contains("AllowTcpForwarding"), "{refusal}");
}
