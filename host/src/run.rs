//! `dispatch run`: one message, its turn, and the turn's end as an exit code.
//!
//! An ordinary client: it submits with an idempotency key, follows by cursor,
//! and so survives a dropped connection as well as a restart of the server.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::client::{Client, ClientError};

mod shown;
use shown::Shown;

/// What the command line says.
#[derive(Clone, Debug, clap::Args)]
pub struct RunArgs {
    /// What to say.
    message: String,
    /// Go on with this conversation, or begin it.
    #[arg(long, value_name = "ID")]
    conversation: Option<String>,
    /// The workspace of a new conversation.
    #[arg(long, value_name = "SLUG")]
    workspace: Option<String>,
    /// PROVIDER/MODEL, or a model of the default provider.
    #[arg(long)]
    model: Option<String>,
    /// The conversation's working directory.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Print the events as lines of JSON instead of the text.
    #[arg(long)]
    json: bool,
    /// The server's address; left out: what the data directory says.
    #[arg(long, value_name = "URL")]
    server: Option<String>,
    /// The data directory of a server on this computer.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

/// How a run ends.
const FAILED: u8 = 5;
const UNREACHABLE: u8 = 4;
const USAGE: u8 = 2;
const INTERRUPTED: u8 = 130;

/// A server may take so long to come back.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(250);

/// Why there is no end to report.
enum Lost {
    Unreachable(ClientError),
    Refused(String),
    Interrupted,
}

/// Runs one message to its end. Exit codes: 0 done, 4 unreachable, 5 the turn
/// failed or was aborted, 2 the message was refused, 130 interrupted (O2).
pub async fn run(args: RunArgs, default_data_dir: &Path) -> ExitCode {
    let base = match &args.server {
        Some(server) if server.starts_with("http://") => server.clone(),
        Some(server) => format!("http://{server}"),
        None => address_in(args.data_dir.as_deref().unwrap_or(default_data_dir)),
    };
    let token = std::env::var("DISPATCH_TOKEN")
        .ok()
        .filter(|token| !token.is_empty());
    let client = Client::new(&base).with_token(token);
    match converse(&client, &args).await {
        Ok(code) => ExitCode::from(code),
        Err(Lost::Refused(why)) => {
            eprintln!("dispatch: {why}");
            ExitCode::from(USAGE)
        }
        Err(Lost::Unreachable(error)) => {
            eprintln!("dispatch: no server answers at {base}: {error}");
            eprintln!("dispatch: start one with `dispatch serve`, or name it with --server URL");
            ExitCode::from(UNREACHABLE)
        }
        Err(Lost::Interrupted) => ExitCode::from(INTERRUPTED),
    }
}

fn address_in(data_dir: &Path) -> String {
    let written = std::fs::read_to_string(data_dir.join("address")).unwrap_or_default();
    match written.trim() {
        "" => "http://127.0.0.1:4747".to_owned(),
        address if address.starts_with("http://") => address.to_owned(),
        address => format!("http://{address}"),
    }
}

async fn converse(client: &Client, args: &RunArgs) -> Result<u8, Lost> {
    let receipt = submit(client, args).await?;
    let text = |name: &str| receipt[name].as_str().unwrap_or_default().to_owned();
    let (conversation, turn) = (text("conversationId"), text("turnId"));
    if args.conversation.is_none() && !args.json {
        eprintln!("conversation {conversation}");
    }
    let after = receipt["seq"].as_u64().unwrap_or(1).saturating_sub(1);
    let mut shown = Shown::new(args.json, std::io::stderr().is_terminal(), after);
    let mut interrupts = 0;
    let mut lost_at: Option<Instant> = None;
    loop {
        let follow = follow(client, &conversation, &turn, &mut shown);
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts > 1 {
                    return Err(Lost::Interrupted);
                }
                eprintln!("\naborting; press Ctrl-C again to leave the turn to itself");
                let body = json!({ "turnId": turn, "reason": "interrupted at the terminal" });
                let _ = client.post(&format!("/conversations/{conversation}/abort"), &body).await;
            }
            outcome = follow => match outcome {
                Ok(Some(_)) if interrupts > 0 => return Err(Lost::Interrupted),
                Ok(Some(code)) => return Ok(code),
                // A clean end without a terminal event: the server is going down.
                Ok(None) => lost_at = lost_at.or(Some(Instant::now())),
                Err(ClientError::Refused { detail, .. }) => return Err(Lost::Refused(detail)),
                Err(error @ ClientError::Lost { .. }) => {
                    let since = *lost_at.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        eprintln!("\nturn {turn} goes on in the server; nothing of it is lost");
                        return Err(Lost::Unreachable(error));
                    }
                }
            }
        }
        if shown.take_progress() {
            lost_at = None;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Accepts the message once, however often it must be sent.
async fn submit(client: &Client, args: &RunArgs) -> Result<Value, Lost> {
    let mut body = json!({ "message": args.message, "detach": true });
    let cwd = args
        .cwd
        .as_ref()
        .map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone()));
    let options = [
        ("conversationId", args.conversation.clone()),
        ("workspaceId", args.workspace.clone()),
        ("model", args.model.clone()),
        ("cwd", cwd.map(|dir| dir.to_string_lossy().into_owned())),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            body[name] = Value::String(value);
        }
    }
    let mut random = [0; 16];
    let key = match getrandom::fill(&mut random) {
        Ok(()) => format!("run-{:032x}", u128::from_le_bytes(random)),
        Err(error) => {
            return Err(Lost::Refused(format!(
                "no randomness for an idempotency key: {error}"
            )));
        }
    };
    let mut tries = 0;
    loop {
        match client.post_once("/chat", &body, &key).await {
            Ok(receipt) => return Ok(receipt),
            Err(
                ClientError::Refused {
                    status: 503 | 429, ..
                }
                | ClientError::Lost { .. },
            ) if tries < 8 => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(ClientError::Refused { detail, .. }) => return Err(Lost::Refused(detail)),
            Err(error) => return Err(Lost::Unreachable(error)),
        }
    }
}

/// Follows a turn from the cursor; the exit code once it has ended.
async fn follow(
    client: &Client,
    conversation: &str,
    turn: &str,
    shown: &mut Shown,
) -> Result<Option<u8>, ClientError> {
    let Some(mut events) = client
        .events(conversation, Some(turn), shown.cursor())
        .await?
    else {
        return Ok(shown.end().or(Some(FAILED)));
    };
    loop {
        let next = tokio::select! {
            next = events.next() => next?,
            () = shown.tick() => {
                let _ = std::io::stderr().flush();
                continue;
            }
        };
        let Some(event) = next else {
            return Ok(shown.end());
        };
        if event["turnId"].as_str().is_none_or(|of| of == turn) {
            shown.take(&event);
        }
        if let Some(code) = shown.end() {
            return Ok(Some(code));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_read_from_the_data_directory_or_is_the_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(address_in(dir.path()), "http://127.0.0.1:4747");
        std::fs::write(dir.path().join("address"), "127.0.0.1:9\n").unwrap();
        assert_eq!(address_in(dir.path()), "http://127.0.0.1:9");
    }
}
