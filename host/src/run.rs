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

use crate::client::{Client, ClientError, address, named};

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
/// A message is offered for so long to a server that is busy, or not there.
const BUSY_PATIENCE: Duration = Duration::from_secs(30);
const CONNECT_PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(250);

/// Why there is no end to report.
enum Lost {
    Unreachable(String),
    Refused(String),
    Interrupted,
}

/// Runs one message to its end. Exit codes: 0 done, 4 unreachable or not let
/// in, 5 the turn failed or was aborted, 2 the message was refused, 130
/// interrupted (O2).
pub async fn run(args: RunArgs, default_data_dir: &Path) -> ExitCode {
    let place = Place {
        server: args.server.clone(),
        data_dir: args.data_dir.clone(),
        default_data_dir: default_data_dir.to_owned(),
    };
    match converse(&place, &args).await {
        Ok(code) => ExitCode::from(code),
        Err(Lost::Refused(why)) => {
            tell(&format!("dispatch: {why}"));
            ExitCode::from(USAGE)
        }
        Err(Lost::Unreachable(why)) => {
            tell(&format!("dispatch: {why}"));
            ExitCode::from(UNREACHABLE)
        }
        Err(Lost::Interrupted) => ExitCode::from(INTERRUPTED),
    }
}

/// Where the server is: asked anew for each connection, because a server that
/// was started again may listen elsewhere.
struct Place {
    server: Option<String>,
    data_dir: Option<PathBuf>,
    default_data_dir: PathBuf,
}

impl Place {
    fn client(&self) -> Result<Client, Lost> {
        Ok(Client::new(&self.base()?).with_own_token())
    }

    fn base(&self) -> Result<String, Lost> {
        if let Some(server) = &self.server {
            return named(server).map_err(Lost::Refused);
        }
        let dir = self.data_dir.as_ref().unwrap_or(&self.default_data_dir);
        match (address(dir), &self.data_dir) {
            (Some(base), _) => Ok(base),
            (None, Some(dir)) => Err(Lost::Unreachable(format!(
                "no server is running on {}; start one with `dispatch serve --data-dir {}`",
                dir.display(),
                dir.display()
            ))),
            (None, None) => Ok("http://127.0.0.1:4747".to_owned()),
        }
    }

    fn unreachable(&self, error: &ClientError) -> Lost {
        let base = self.base().unwrap_or_default();
        Lost::Unreachable(format!(
            "no server answers at {base}: {error}; start one with `dispatch serve`, or name it with --server URL"
        ))
    }
}

/// A line for the person at the terminal; one that cannot be shown is dropped.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// What a refusal means for the one who started this.
fn refused(status: u16, detail: String) -> Lost {
    match status {
        401 | 403 => {
            Lost::Unreachable(format!("{detail} (the token is taken from DISPATCH_TOKEN)"))
        }
        429 | 503 => Lost::Unreachable(detail),
        _ => Lost::Refused(detail),
    }
}

async fn converse(place: &Place, args: &RunArgs) -> Result<u8, Lost> {
    let receipt = submit(place, args).await?;
    let text = |name: &str| receipt[name].as_str().unwrap_or_default().to_owned();
    let (conversation, turn) = (text("conversationId"), text("turnId"));
    if args.conversation.is_none() && !args.json {
        tell(&format!("conversation {conversation}"));
    }
    let after = receipt["seq"].as_u64().unwrap_or(1).saturating_sub(1);
    let mut shown = Shown::new(args.json, std::io::stderr().is_terminal(), after);
    let mut interrupts = 0;
    let mut lost_at: Option<Instant> = None;
    loop {
        let client = match place.client() {
            Ok(client) => client,
            Err(Lost::Unreachable(_))
                if lost_at.is_some_and(|since| since.elapsed() < PATIENCE) =>
            {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            Err(lost) => return Err(lost),
        };
        let follow = follow(&client, &conversation, &turn, &mut shown);
        tokio::select! {
            biased;
            _ = tokio::signal::ctrl_c() => {
                interrupts += 1;
                if interrupts > 1 {
                    return Err(Lost::Interrupted);
                }
                tell("\naborting; press Ctrl-C again to leave the turn to itself");
                let body = json!({ "turnId": turn, "reason": "interrupted at the terminal" });
                let _ = client.post(&format!("/conversations/{conversation}/abort"), &body).await;
            }
            outcome = follow => match outcome {
                Ok(Some(_)) if interrupts > 0 => return Err(Lost::Interrupted),
                Ok(Some(code)) => return Ok(code),
                // A clean end without a terminal event: the server is going down.
                Ok(None) => lost_at = lost_at.or(Some(Instant::now())),
                Err(ClientError::Refused { status, detail, .. }) if !matches!(status, 429 | 503) => {
                    return Err(refused(status, detail));
                }
                Err(error) => {
                    let since = *lost_at.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        tell(&format!("\nturn {turn} is safe in the server's store, and goes on with it"));
                        return Err(place.unreachable(&error));
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
async fn submit(place: &Place, args: &RunArgs) -> Result<Value, Lost> {
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
    let began = Instant::now();
    loop {
        let patience = match place.client()?.post_once("/chat", &body, &key).await {
            Ok(receipt) => return Ok(receipt),
            // Starting, draining or full: it says so itself, and that passes.
            Err(ClientError::Refused {
                status: 429 | 503, ..
            }) => BUSY_PATIENCE,
            Err(ClientError::Lost { .. }) => CONNECT_PATIENCE,
            Err(ClientError::Refused { status, detail, .. }) => {
                return Err(refused(status, detail));
            }
        };
        if began.elapsed() > patience {
            return match place.client()?.post_once("/chat", &body, &key).await {
                Ok(receipt) => Ok(receipt),
                Err(ClientError::Refused { status, detail, .. }) => Err(refused(status, detail)),
                Err(error) => Err(place.unreachable(&error)),
            };
        }
        tokio::time::sleep(PAUSE).await;
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

    fn place(data_dir: Option<&Path>, default: &Path) -> Place {
        Place {
            server: None,
            data_dir: data_dir.map(Path::to_owned),
            default_data_dir: default.to_owned(),
        }
    }

    #[test]
    fn the_address_is_what_the_data_directory_says_whenever_it_is_asked() {
        let dir = tempfile::tempdir().unwrap();
        let named = place(Some(dir.path()), dir.path());
        assert!(
            matches!(named.base(), Err(Lost::Unreachable(why)) if why.contains("serve --data-dir"))
        );
        for address in ["127.0.0.1:9", "127.0.0.1:10"] {
            std::fs::write(dir.path().join("address"), format!("{address}\n")).unwrap();
            assert!(matches!(named.base(), Ok(base) if base == format!("http://{address}")));
        }
    }

    #[test]
    fn only_where_no_directory_was_named_there_is_a_default_address() {
        let dir = tempfile::tempdir().unwrap();
        let unnamed = place(None, dir.path());
        assert!(matches!(unnamed.base(), Ok(base) if base == "http://127.0.0.1:4747"));
    }
}
