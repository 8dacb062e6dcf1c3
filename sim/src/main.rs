//! `dispatch-sim`: runs seeded simulations and tells what they found.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use cli::out::{Out, last_word};
use dispatch_sim::watchdog;

#[derive(Parser)]
#[command(
    name = "dispatch-sim",
    version,
    about = "Seeded simulations of Dispatch",
    after_help = cli::EXIT_CODES
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run many seeds, up to the first broken promise, which is then made small.
    Sweep(cli::sweep::Args),
    /// Run one seed.
    Run(cli::run::Args),
    /// Run a recipe: the list of what happens in a run, as `shrink` and a failing sweep write it.
    Repro(cli::recipes::ReproArgs),
    /// Make the failing run of a seed, or a recipe of it, as small as possible.
    Shrink(cli::recipes::ShrinkArgs),
    /// Write a run, or a production journal, as one HTML page.
    Show(cli::show::Args),
    /// Look for planted bugs; needs a build that holds them.
    Planted(cli::planted::Args),
}

/// Far longer than any event takes, and soon enough to wait for.
const STANDSTILL: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // Without it, such a run only never ends.
    let _ = watchdog::watch(STANDSTILL, |told| last_word(&told, cli::BROKEN));
    let mut out = Out::stdout();
    let done = match Cli::parse().command {
        Command::Sweep(args) => cli::sweep::sweep(&args, &mut out),
        Command::Run(args) => cli::run::run(&args, &mut out),
        Command::Repro(args) => cli::recipes::repro(&args, &mut out),
        Command::Shrink(args) => cli::recipes::shrink(&args, &mut out),
        Command::Show(args) => cli::show::show(&args, &mut out),
        Command::Planted(args) => cli::planted::planted(&args, &mut out),
    };
    ExitCode::from(out.end(done))
}
