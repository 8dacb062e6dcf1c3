//! Conversations with an OpenAI-compatible server that is not ours (P1): a
//! LiteLLM proxy with a local model behind it. `tests/litellm/install.sh` makes
//! the virtual environment; `DISPATCH_LITELLM_PYTHON` names another one.

#![allow(clippy::unwrap_used)]

mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use support::client::{count, kinds, logged, said};
use support::process::{Process, Server};
use support::stream::EventExt;
use support::{config, http, until_true};

#[test]
fn p1_a_litellm_proxy_is_spoken_to_like_any_provider() {
    let Some(python) = python() else {
        return skip();
    };
    let dir = tempfile::tempdir().unwrap();
    let proxy = proxy(&python, &dir.path().join("litellm.stderr"));
    let config = format!(
        "{}models = [\"pieces\"]\n",
        config::provider("lite", &format!("http://{}/v1", proxy.addr), 4)
            .replace("models = [\"m\"]\n", "")
    );
    let mut server = Server::start(&dir.path().join("data"), &config);

    let body = json!({ "conversationId": "lite", "message": "hello there" });
    let events = server.chat(&body).all();
    assert_eq!(
        kinds(&logged(&events)),
        ["turn-start", "step-complete", "done"],
        "{events:#?}"
    );
    assert_eq!(
        said(&events),
        "Message 1 of this conversation, the first was: hello there"
    );
    assert!(
        count(&events, "text-delta") + count(&events, "snapshot") > 1,
        "the text came in pieces: {events:#?}"
    );
    let usage = &events.last().unwrap()["usage"];
    assert!(
        usage.to_string().contains('7'),
        "the proxy's usage is kept: {usage}"
    );

    let events = server.says("lite", "run: echo out of the tool");
    assert_eq!(
        kinds(&logged(&events)),
        [
            "turn-start",
            "step-complete",
            "tool-call",
            "tool-result",
            "step-complete",
            "done"
        ],
        "{events:#?}"
    );
    assert_eq!(
        said(&events),
        "Let me see. The command printed: out of the tool."
    );

    assert!(server.terminate().success());
    server.restart();
    let events = server.says("lite", "do you remember?");
    assert_eq!(
        said(&events),
        "Message 3 of this conversation, the first was: hello there"
    );
    server.crash_and_restart();
    let events = server.says("lite", "run: echo again");
    assert_eq!(said(&events), "Let me see. The command printed: again.");
    assert_eq!(events.last().unwrap().kind(), "done");
}

/// The interpreter of an environment that has LiteLLM, if there is one.
fn python() -> Option<PathBuf> {
    let named = std::env::var_os("DISPATCH_LITELLM_PYTHON").map(PathBuf::from);
    let installed = || {
        // TARGET/debug/dispatch
        let target = Path::new(env!("CARGO_BIN_EXE_dispatch"))
            .ancestors()
            .nth(2)?;
        Some(target.join("litellm/bin/python"))
    };
    named.or_else(installed).filter(|python| python.exists())
}

fn skip() {
    let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name.trim() == "litellm");
    assert!(
        !is_required,
        "DISPATCH_REQUIRE names litellm, and it is not installed: run tests/litellm/install.sh"
    );
    // Not by the macro, which the test harness keeps to itself.
    let notice =
        b"\nSKIPPED: tests/litellm.rs, no LiteLLM here; tests/litellm/install.sh installs it\n";
    std::io::stderr().write_all(notice).unwrap();
}

fn proxy(python: &Path, stderr: &Path) -> Process {
    let mut command = Command::new(python);
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/litellm/serve.py"
    ));
    command.stdin(Stdio::null());
    for name in [
        "DATABASE_URL",
        "LITELLM_MASTER_KEY",
        "HTTP_PROXY",
        "http_proxy",
    ] {
        command.env_remove(name);
    }
    let proxy = Process::start(command, stderr);
    until_true("the proxy is ready", || {
        http::request(proxy.addr, "GET", "/health/liveliness", &[], b"")
            .is_ok_and(|answer| answer.status == 200)
    });
    proxy
}
