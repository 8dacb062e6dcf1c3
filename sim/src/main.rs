//! `dispatch-sim`: runs seeded simulations and tells what they found.

mod cli;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use dispatch_sim::timeline::Show;
use dispatch_sim::watchdog;

#[derive(Parser)]
#[command(
    name = "dispatch-sim",
    version,
    about = "Seeded simulations of Dispatch",
    after_help = "Exit codes: 0 nothing found, 2 it could not be done as asked, 10 a promise was found broken or a planted bug was not caught."
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
    Run(cli::run::RunArgs),
    /// Run a recipe: the list of what happens in a run, as `shrink` and a failing sweep write it.
    Repro(cli::run::ReproArgs),
    /// Make the failing run of a seed, or a recipe of it, as small as possible.
    Shrink(cli::run::ShrinkArgs),
    /// Write a run, or a production journal, as one HTML page.
    Show(Show),
    /// Look for planted bugs; needs a build that holds them.
    Planted(cli::planted::Args),
}

/// Far longer than any event takes, and soon enough to wait for.
const STANDSTILL: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    // Without it, such a run only never ends.
    let _ = watchdog::watch(STANDSTILL, |told| {
        println!("{told}");
        std::process::exit(10);
    });
    let done = match Cli::parse().command {
        Command::Sweep(args) => cli::sweep::sweep(&args),
        Command::Run(args) => cli::run::run(&args),
        Command::Repro(args) => cli::run::repro(&args),
        Command::Shrink(args) => cli::run::shrink(&args),
        Command::Show(show) => show.obey().map(|()| ExitCode::SUCCESS),
        Command::Planted(args) => cli::planted::planted(&args),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(cli::USAGE)
    })
}
