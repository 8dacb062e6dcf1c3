//! One link, used and ended in one of many ways.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dispatch::exec::remote::{RemoteExec, RemoteTools};
use dispatch::exec::{ToolDone, ToolEvent, ToolRequest};
use dispatch::ssh::{Link, SshFaultKind, SshLimits, SshLink};
use dispatch_core::ids::{Epoch, TurnId};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::support::Chance;
use crate::support::sshd::Sshd;
use crate::support::yard::Far;
use crate::yard::{LIMITS, Yard, until_true};

/// How a link fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Round {
    Used,
    /// By a tool, with a supervisor and files.
    ByTool,
    FailedHandshake,
    FailedLogin,
    CutInMidCommand,
    CutAnywhere,
}

impl Round {
    pub(crate) fn of(n: usize) -> Round {
        match n % 10 {
            0..5 => Round::Used,
            5 => Round::ByTool,
            6 => Round::FailedHandshake,
            7 => Round::FailedLogin,
            8 => Round::CutInMidCommand,
            _ => Round::CutAnywhere,
        }
    }
}

/// Computers, good and bad.
pub(crate) struct Scene {
    yard: Yard,
    pub(crate) web: Far,
    /// Where the user is not known.
    wrong: Sshd,
    exec: RemoteExec,
}

/// A tool call over a link, to its end.
pub(crate) async fn tool(tools: &RemoteTools, n: usize, name: &str, input: Value) -> ToolDone {
    let request = ToolRequest {
        turn: TurnId(1),
        call_id: format!("call-{n}"),
        epoch: Epoch(1),
        name: name.to_owned(),
        input: input.to_string(),
        cwd: PathBuf::new(),
        deadline_ms: 60_000,
    };
    let (to, mut events) = mpsc::channel(64);
    let _handle = tools.start(request, 0, Duration::from_secs(60), to);
    loop {
        match events.recv().await {
            Some(ToolEvent::Done(done)) => return done,
            Some(ToolEvent::LinkLost { cause }) => panic!("lost: {cause}"),
            Some(_) => {}
            None => panic!("no end"),
        }
    }
}

fn brief(handshake_ms: u64) -> SshLimits {
    SshLimits {
        connect: LIMITS.connect,
        handshake: Duration::from_millis(handshake_ms),
    }
}

impl Scene {
    pub(crate) async fn new() -> Option<Scene> {
        let web = Far::with_sftp_server("exec ")?;
        let wrong = Sshd::start(&[])?;
        let mut yard = Yard::new();
        web.sshd.authorize(&yard.home.key());
        yard.home.add("web", web.wire.port, &[]);
        yard.home.add("wrong", wrong.port, &[]);
        for (alias, greeting) in [("mute", ""), ("greets", "SSH-2.0-odd\r\n")] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            yard.home.add(alias, port, &[]);
            tokio::spawn(greet(listener, greeting));
        }
        Some(Scene {
            yard,
            web,
            wrong,
            exec: RemoteExec::new("cycles", 1 << 20),
        })
    }

    /// Connections that the computers know of.
    pub(crate) fn sessions(&self) -> usize {
        self.web.sshd.sessions().len() + self.wrong.sessions().len()
    }

    pub(crate) async fn play(&self, round: Round, n: usize) {
        match round {
            Round::Used => self.used(n).await,
            Round::ByTool => self.by_tool(n).await,
            Round::FailedHandshake => self.failed_handshake(n).await,
            Round::FailedLogin => {
                let fault = self.yard.fault("wrong", LIMITS).await;
                assert_eq!(fault.kind, SshFaultKind::Auth, "{fault}");
            }
            Round::CutInMidCommand => self.cut_in_mid_command(n).await,
            Round::CutAnywhere => self.cut_anywhere(n).await,
        }
    }

    async fn used(&self, n: usize) {
        let link = self.yard.connect("web").await;
        let done = link.exec("true".to_owned(), Vec::new()).await.unwrap();
        assert_eq!(done.code, Some(0));
        if n.is_multiple_of(2) {
            link.close().await;
        }
    }

    async fn by_tool(&self, n: usize) {
        let link = Arc::new(self.yard.connect("web").await);
        let tools = self.exec.over(link.clone());
        let done = tool(&tools, n, "bash", json!({ "command": "true" })).await;
        assert!(done.ok, "{done:?}");
        let write = json!({ "path": "written", "content": "text\n" });
        assert!(tool(&tools, n, "write", write).await.ok);
        let read = tool(&tools, n, "read", json!({ "path": "written" })).await;
        assert_eq!(read.output.trim_end(), "text");
        // Files are closed in tasks of their own, which a lost link would keep
        // waiting for half a minute.
        for _ in 0..3 {
            link.ping(LIMITS.connect).await.unwrap();
        }
    }

    async fn failed_handshake(&self, n: usize) {
        let cut = |bytes| self.web.wire.cut_each_after(bytes);
        match n / 10 % 4 {
            0 => drop(self.yard.fault("mute", brief(20)).await),
            1 => drop(self.yard.fault("greets", brief(20)).await),
            2 => {
                cut(Some(1 + Chance::new(n as u64).below(2_500) as u64));
                self.yard.fault("web", LIMITS).await;
                cut(None);
            }
            _ => {
                let connecting = self.yard.connect("web");
                let wait = Duration::from_millis(n as u64 % 12);
                drop(tokio::time::timeout(wait, connecting).await);
            }
        }
    }

    async fn cut_in_mid_command(&self, n: usize) {
        let link = self.yard.connect("web").await;
        let up = self.web.home().join(format!("up-{n}"));
        // It goes when its session does.
        let command = format!(
            "touch {}; while kill -0 $PPID 2>/dev/null; do sleep 0.1; done",
            up.display()
        );
        let running = tokio::spawn(link.exec(command, Vec::new()));
        let files = link.files().await.unwrap();
        until_true("it runs", || up.exists()).await;
        self.web.wire.cut();
        let lost = running.await.unwrap().unwrap_err();
        let fault = lost.fault().unwrap();
        assert_eq!(fault.kind, SshFaultKind::Lost, "{fault}");
        assert_eq!(link.closed().await, *fault);
        drop(files);
    }

    /// In whatever is under way, which ends one way or the other.
    async fn cut_anywhere(&self, n: usize) {
        let mut chance = Chance::new(n as u64);
        let link = self.yard.connect("web").await;
        let before = self.web.wire.cuts();
        self.web.wire.cut_after(1 + chance.below(300_000) as u64);
        let echo = link.exec("cat".to_owned(), vec![b'x'; 100_000]);
        let (echoed, copied, _) = tokio::join!(echo, copy(&link, n), link.ping(LIMITS.connect));
        if self.web.wire.cuts() == before {
            assert!(echoed.is_ok() && copied, "nothing was cut");
        }
        drop(link);
        self.web.wire.cut();
        self.web.wire.cut_after(u64::MAX);
    }
}

/// A file there and back, unless the link is lost.
async fn copy(link: &SshLink, n: usize) -> bool {
    let work = async {
        let files = link.files().await.ok()?;
        let name = format!("copy-{n}");
        let mut file = files.create(&name).await.ok()?;
        file.write_all(&vec![b'y'; 50_000]).await.ok()?;
        file.shutdown().await.ok()?;
        let mut file = files.open(&name).await.ok()?;
        let mut text = Vec::new();
        file.read_to_end(&mut text).await.ok()?;
        Some(text.len() == 50_000)
    };
    tokio::select! {
        done = work => done.unwrap_or(false),
        _ = link.closed() => false,
    }
}

/// Says this and nothing more, for as long as anybody listens.
async fn greet(listener: TcpListener, greeting: &'static str) {
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        tokio::spawn(async move {
            stream.write_all(greeting.as_bytes()).await.ok();
            let mut nothing = tokio::io::sink();
            tokio::io::copy(&mut stream, &mut nothing).await.ok();
        });
    }
}
