//! The command line (O2). Exit codes: 0 done, 1 failed, 2 usage, 3
//! configuration, 4 unreachable, 5 the turn failed, 130 interrupted.

mod computers;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::config::{ConfigError, Settings, Sources, places};
use crate::demo::{self, DemoArgs};
use crate::net::TokioNet;
use crate::run::{self, RunArgs};
use crate::scripted::{self, ProviderArgs};
use crate::serve::serve;
use crate::{exec, panics, replay};

/// Runs many AI-agent turns at once; every accepted turn ends in exactly one
/// terminal event.
#[derive(Debug, Parser)]
#[command(name = "dispatch", version, about, long_about = None)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Serve turns over HTTP
    Serve(ServeArgs),
    /// Run one message to its end, through dropped connections and restarts
    Run(RunArgs),
    /// List the computers that tools can run on; `test` or `show` one of them
    Computers(computers::ComputersArgs),
    /// Watch what is promised on this machine, and check it
    Demo(DemoArgs),
    /// Run a journal again and compare every effect
    Replay(ReplayArgs),
    /// Serve a scripted model provider, for tests and demonstrations
    Provider(ProviderArgs),
}

#[derive(Debug, Args)]
struct ServeArgs {
    /// Address and port; port 0 picks one [default: 127.0.0.1:4747]
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Where everything durable lies [default: ~/.local/state/dispatch]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Record every input of the core; holds what people and models say
    #[arg(long, value_name = "FILE")]
    journal: Option<PathBuf>,
    /// The configuration [default: dispatch.toml in the data directory]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// A journal that `dispatch serve --journal` wrote
    file: PathBuf,
}

const FAILED: u8 = 1;
const CONFIGURATION: u8 = 3;
const UNREACHABLE: u8 = 4;
const INTERRUPTED: u8 = 130;

/// The whole program.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|verb| verb == exec::SUPERVISE) {
        return exec::supervisor::main(args);
    }
    #[cfg(planted)]
    demo::plant_from_env();
    let verb = Cli::parse().verb;
    log_to_stderr();
    if let Verb::Replay(args) = &verb {
        return replay_file(args);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(FAILED, &format!("cannot start threads: {error}")),
    };
    let code = runtime.block_on(carry_out(verb));
    // What is still blocking (a read of a terminal, a resolver) must not hold the exit.
    runtime.shutdown_background();
    code
}

async fn carry_out(verb: Verb) -> ExitCode {
    match verb {
        Verb::Serve(args) => serve_until_signal(args).await,
        Verb::Run(args) => match places(None, &Sources::env()) {
            Ok(places) => run::run(args, &places.data_dir).await,
            Err(ConfigError::NoDataDir) => run::run(args, std::path::Path::new(".")).await,
            Err(error) => fail(CONFIGURATION, &error.to_string()),
        },
        Verb::Computers(args) => computers::run(args).await,
        Verb::Demo(args) => demo::run(args).await,
        Verb::Provider(args) => match scripted::serve(args).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => fail(FAILED, &error.to_string()),
        },
        Verb::Replay(args) => replay_file(&args),
    }
}

async fn serve_until_signal(args: ServeArgs) -> ExitCode {
    let settings = Settings::load(&Sources {
        file: args.config,
        data_dir: args.data_dir,
        listen: args.listen,
        env: Sources::env(),
    });
    let settings = match settings {
        Ok(settings) => settings,
        Err(error) => return fail(CONFIGURATION, &error.to_string()),
    };
    panics::log_unguarded();
    let shutdown = CancellationToken::new();
    let signals = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    );
    let (Ok(terminate), Ok(interrupt)) = signals else {
        return fail(FAILED, "cannot listen for signals");
    };
    let hurry = watch_signals(terminate, interrupt, shutdown.clone());
    let serving = serve(
        settings,
        args.journal.as_deref(),
        TokioNet,
        shutdown,
        |address| {
            // Whoever started the server may have closed its output.
            let _ = writeln!(std::io::stdout(), "listening on http://{address}");
        },
    );
    tokio::select! {
        biased;
        () = hurry => ExitCode::from(INTERRUPTED),
        served = serving => match served {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) if error.is_configuration() => fail(CONFIGURATION, &error.to_string()),
            Err(error) => fail(FAILED, &error.to_string()),
        },
    }
}

/// The first signal begins the graceful end; comes back with the second (L8).
async fn watch_signals(mut terminate: Signal, mut interrupt: Signal, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if shutdown.is_cancelled() {
            tracing::warn!("a second signal: the server ends at once");
            return;
        }
        shutdown.cancel();
    }
}

fn replay_file(args: &ReplayArgs) -> ExitCode {
    match replay::replay(&args.file) {
        Ok(report) => {
            let _ = writeln!(std::io::stdout(), "{report}");
            ExitCode::from(report.exit_code())
        }
        Err(error) => fail(FAILED, &error.to_string()),
    }
}

/// `DISPATCH_LOG` filters as `tracing` does: `debug`, `dispatch::store=trace`.
fn log_to_stderr() {
    let filter = EnvFilter::try_from_env("DISPATCH_LOG")
        .unwrap_or_else(|_| EnvFilter::new("warn,dispatch=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A log that cannot be written (a closed pipe, a full disk) must not
        // end the server: the default reports that on the same stderr, and panics.
        .log_internal_errors(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "dispatch: {message}");
    ExitCode::from(code)
}
