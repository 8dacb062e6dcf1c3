//! Dispatch's side: a link of the host library, and tools over it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dispatch::exec::remote::{RemoteExec, RemoteTools};
use dispatch::exec::{ToolDone, ToolEvent, ToolRequest};
use dispatch::net::TokioNet;
use dispatch::ssh::{Computers, HostKeys, Link, SshLimits, connect};
use dispatch_core::ids::{Epoch, TurnId};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::sshd::Home;

pub(crate) struct Ours {
    runtime: Runtime,
    link: Arc<dyn Link>,
    tools: RemoteTools,
}

impl Ours {
    pub(crate) fn connect(home: &Home) -> Ours {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        let env = BTreeMap::from([("HOME".to_owned(), home.path().display().to_string())]);
        let computers = Computers::new(Some(home.config()), Vec::new(), env, Vec::new());
        let keys = HostKeys::new(home.path());
        let limits = SshLimits {
            connect: Duration::from_secs(10),
            handshake: Duration::from_secs(15),
        };
        let link = runtime.block_on(async {
            let settings = computers.resolve("far").await.unwrap();
            connect(&settings, &TokioNet, &keys, limits).await.unwrap()
        });
        let link: Arc<dyn Link> = Arc::new(link);
        Ours {
            runtime,
            tools: RemoteExec::new("bench", 1 << 20).over(link.clone()),
            link,
        }
    }

    /// The same file, whole, through one handle of the link's SFTP session.
    pub(crate) fn read(&self, path: &Path, bytes: usize) {
        self.runtime.block_on(async {
            let files = self.link.tool_files().await.unwrap();
            let mut file = files.open(path.to_str().unwrap()).await.unwrap();
            let mut text = Vec::with_capacity(bytes);
            file.read_to_end(&mut text).await.unwrap();
            assert_eq!(text.len(), bytes);
        });
    }

    /// The tool goes through the whole file to its last line.
    pub(crate) fn read_by_tool(&self, path: &Path, text: &str) {
        let last = text.lines().count();
        let done = self.tool("read", 0, json!({ "path": path, "offset": last }));
        assert!(done.ok, "{}", done.output);
        assert!(done.output.starts_with(text.lines().next_back().unwrap()));
    }

    /// As the tool `write` does, which takes no more than 10 MB.
    pub(crate) fn write(&self, path: &Path, text: &str) {
        self.runtime.block_on(async {
            let files = self.link.tool_files().await.unwrap();
            let mut file = files.create(path.to_str().unwrap()).await.unwrap();
            file.write_all(text.as_bytes()).await.unwrap();
            file.flush().await.unwrap();
            file.shutdown().await.unwrap();
        });
        assert_eq!(std::fs::metadata(path).unwrap().len(), text.len() as u64);
    }

    pub(crate) fn run_true(&self) {
        let done = self
            .runtime
            .block_on(self.link.exec("true".to_owned(), Vec::new()));
        assert_eq!(done.unwrap().code, Some(0));
    }

    pub(crate) fn call_true(&self, n: usize) {
        let done = self.tool("bash", n, json!({ "command": "true" }));
        assert!(done.ok, "{}", done.output);
    }

    pub(crate) fn read_small(&self, path: &str) {
        let done = self.tool("read", 0, json!({ "path": path }));
        assert!(done.ok, "{}", done.output);
    }

    /// Every other time there is one to be replaced.
    pub(crate) fn write_small(&self, path: &str) {
        let done = self.tool("write", 0, json!({ "path": path, "content": "text\n" }));
        assert!(done.ok, "{}", done.output);
    }

    fn tool(&self, name: &str, n: usize, input: serde_json::Value) -> ToolDone {
        let request = ToolRequest {
            turn: TurnId(1),
            call_id: format!("call-{n}"),
            epoch: Epoch(1),
            name: name.to_owned(),
            input: input.to_string(),
            cwd: PathBuf::new(),
            deadline_ms: 60_000,
        };
        self.runtime.block_on(async {
            let (to, mut events) = mpsc::channel(64);
            let _handle = self.tools.start(request, 0, Duration::from_secs(60), to);
            loop {
                match events.recv().await {
                    Some(ToolEvent::Done(done)) => return done,
                    Some(_) => {}
                    None => panic!("no end"),
                }
            }
        })
    }
}
