//! `dispatch demo`: a provider, a server and a client on this machine show
//! what the server promises, and check it.
//!
//! Nothing is needed and nothing is left behind: the provider is the scripted
//! one, both processes listen on loopback ports that the system picks, and all
//! that they write lies in one temporary directory.

mod acts;
mod checks;
mod child;
mod line;
mod plan;
mod screen;
mod stage;
mod view;

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::client::ClientError;
use checks::Evidence;
use plan::Plan;
use screen::{Screen, Tone};
use stage::Stage;

/// `dispatch demo`: the arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct DemoArgs {
    /// Leave server and provider running until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
    /// Varies what is said and who is starred.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Start the server with a planted bug, to see that the checks find it.
    #[cfg(planted)]
    #[arg(long, hide = true)]
    pub plant: Option<String>,
}

/// Names the planted bug to a server of a build with `--cfg planted`.
const PLANT_VARIABLE: &str = "DISPATCH_PLANT";

/// Switches on the bug that the environment names. Called first thing by a
/// build with `--cfg planted`, which is never one that serves anyone.
#[cfg(planted)]
pub fn plant_from_env() {
    if let Ok(id) = std::env::var(PLANT_VARIABLE) {
        dispatch_core::planted::select(&[&id]);
    }
}

/// Why the demo could not be played.
#[derive(Debug, thiserror::Error)]
enum DemoError {
    #[error("cannot use {}: {source}; make room there or set TMPDIR to another directory", path.display())]
    Directory { path: PathBuf, source: io::Error },
    #[error("cannot start `dispatch {name}`: {reason}")]
    Start { name: &'static str, reason: String },
    #[error("{0}; the server's log is in the directory of the demo (--keep leaves it)")]
    Client(#[from] ClientError),
    #[error("{0} did not come in time; is this machine very busy?")]
    Late(String),
    #[error("cannot wait for signals: {0}")]
    Signals(io::Error),
    #[error("the stage is closed")]
    NotOpen,
    #[error("no bug `{id}` can be planted; there are {known}")]
    #[cfg_attr(not(planted), allow(dead_code))]
    UnknownPlant { id: String, known: String },
}

/// Plays the demo. Exit codes: 0 all checks hold, 1 one does not or the demo
/// could not be played, 130 interrupted (O2).
pub async fn run(args: DemoArgs) -> ExitCode {
    match play(&args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dispatch demo: {error}");
            ExitCode::FAILURE
        }
    }
}

const INTERRUPTED: u8 = 130;

async fn play(args: &DemoArgs) -> Result<ExitCode, DemoError> {
    let mut signals = Signals::new()?;
    let mut stage = Stage::new(planted_bug(args)?)?;
    let screen = RefCell::new(Screen::new());
    let plan = Plan::of(args.seed);
    let outcome = tokio::select! {
        outcome = perform(&mut stage, &screen, &plan, args.seed) => Some(outcome),
        () = signals.any() => None,
    };
    let code = match outcome {
        None => {
            screen
                .borrow_mut()
                .say(Tone::Notice, "interrupted; cleaning up");
            Ok(ExitCode::from(INTERRUPTED))
        }
        Some(Ok(all_hold)) => {
            if args.keep {
                invite(&stage, &screen)?;
                signals.any().await;
                screen.borrow_mut().say(Tone::Quiet, "cleaning up");
            }
            Ok(if all_hold {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Some(Err(error)) => Err(error),
    };
    stage.close().await;
    code
}

#[cfg(planted)]
fn planted_bug(args: &DemoArgs) -> Result<Option<String>, DemoError> {
    let known = dispatch_core::planted::LEDGER;
    match &args.plant {
        Some(id) if !known.contains(&id.as_str()) => Err(DemoError::UnknownPlant {
            id: id.clone(),
            known: known.join(", "),
        }),
        plant => Ok(plant.clone()),
    }
}

#[cfg(not(planted))]
fn planted_bug(_: &DemoArgs) -> Result<Option<String>, DemoError> {
    Ok(None)
}

/// Answers whether every check holds.
async fn perform(
    stage: &mut Stage,
    screen: &RefCell<Screen>,
    plan: &Plan,
    seed: u64,
) -> Result<bool, DemoError> {
    let began = Instant::now();
    stage.open(plan).await?;
    {
        let mut screen = screen.borrow_mut();
        screen.heading(&format!("dispatch demo (seed {seed})"));
        let server = stage.server()?;
        let provider = stage.provider()?;
        screen.say(
            Tone::Quiet,
            format!(
                "server {}, scripted provider {}",
                server.base(),
                provider.base()
            ),
        );
    }
    acts::tools(stage, screen, plan).await?;
    acts::line(stage, screen, plan).await?;
    acts::refusals(stage, screen, plan).await?;
    acts::kill(stage, screen, plan).await?;
    stage.read_logs().await?;
    let evidence = Evidence::gather(stage, plan).await?;
    let checks = evidence.checks();
    checks::print(
        &mut screen.borrow_mut(),
        &evidence,
        &checks,
        began.elapsed(),
    );
    Ok(checks.iter().all(|check| check.verdict.is_ok()))
}

fn invite(stage: &Stage, screen: &RefCell<Screen>) -> Result<(), DemoError> {
    let server = stage.server()?.base().to_owned();
    let provider = stage.provider()?.base().to_owned();
    let mut screen = screen.borrow_mut();
    screen.heading("Server and provider stay up until Ctrl-C. To talk to them:");
    for line in [
        format!(
            "curl -N {server}/chat -H 'content-type: application/json' -d '{{\"message\": \"hello\"}}'"
        ),
        format!("curl '{server}/conversations/CONVERSATION?sinceSeq=0'"),
        format!("curl -N {server}/conversations/CONVERSATION/events"),
        format!("curl {server}/providers"),
        format!("curl {provider}/log"),
        format!("curl -X POST {provider}/storm -d '{{\"status\": 429, \"for_ms\": 5000}}'"),
    ] {
        screen.line(format!("  {line}"));
    }
    Ok(())
}

/// Everything that asks the demo to end.
struct Signals([Signal; 3]);

impl Signals {
    fn new() -> Result<Signals, DemoError> {
        let listen = |kind| signal(kind).map_err(DemoError::Signals);
        Ok(Signals([
            listen(SignalKind::interrupt())?,
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
        ]))
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.0;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}
