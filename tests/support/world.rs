//! The small world of most tests: a scripted provider, a server, a directory.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::Receipt;
use super::process::{Provider, Server};
use super::stream::Stream;
use super::{config, end_commands};

pub(crate) struct World {
    pub(crate) provider: Provider,
    pub(crate) server: Server,
    pub(crate) dir: tempfile::TempDir,
}

impl World {
    pub(crate) fn new() -> World {
        World::with_limit(8)
    }

    pub(crate) fn with_limit(limit: u32) -> World {
        let dir = tempfile::tempdir().unwrap();
        let provider = Provider::start();
        let config = [
            config::retry(&[1], 20),
            "[server]\ndrain_s = 1\n".to_owned(),
            config::provider("mock", &provider.base_url(), limit),
        ]
        .concat();
        let server = Server::start(&dir.path().join("data"), &config);
        World {
            provider,
            server,
            dir,
        }
    }

    pub(crate) fn chat(&self, conversation: &str, script: &Value) -> Stream {
        let message = format!("{conversation} script: {script}");
        self.server
            .chat(&json!({ "conversationId": conversation, "message": message }))
    }

    pub(crate) fn submit(&self, conversation: &str, script: &Value) -> Receipt {
        let message = format!("{conversation} script: {script}");
        self.server
            .submit(&json!({ "conversationId": conversation, "message": message }))
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn is_asked(&self, tag: &str) -> bool {
        self.provider
            .requests(&format!("{tag} "))
            .iter()
            .any(|r| r["state"] == "open")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.kill();
        end_commands(self.dir.path());
    }
}

pub(crate) fn bash(command: &str) -> Value {
    json!({ "tool_call": { "name": "bash", "arguments": { "command": command } } })
}

/// A command with a child; both write their pids to `file` and stay.
pub(crate) fn lingering(file: &Path) -> Value {
    let file = file.display();
    bash(&format!(
        "echo $$ >> {file}; sleep 1000 & echo $! >> {file}; wait"
    ))
}
