//! `dispatch-sim`: runs seeded simulations and tells what they found.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Parser, Subcommand};
use dispatch_sim::run::{Outcome, Violation, run, run_twice, trace};
use dispatch_sim::sweep::{Swept, sweep};
use dispatch_sim::timeline::Show;

/// A promise was found broken, or a planted bug was not caught by its oracle.
const BROKEN: u8 = 10;

#[derive(Parser)]
#[command(
    name = "dispatch-sim",
    version,
    about = "Seeded simulations of Dispatch"
)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run many seeds, up to the first broken promise.
    Sweep {
        /// How many.
        #[arg(long, default_value_t = 1_000)]
        seeds: u64,
        /// The first one.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Seeds that run at the same time.
        #[arg(long, default_value_t = 2)]
        threads: usize,
        /// Run every seed twice and compare.
        #[arg(long)]
        twice: bool,
        /// Tell the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run one seed.
    Run {
        /// Which.
        #[arg(long)]
        seed: u64,
        /// Print every event.
        #[arg(long)]
        trace: bool,
    },
    /// Write a run, or a production journal, as one HTML page.
    Show(Show),
    /// Look for planted bugs; needs a build with `--config build.rustflags`
    /// that sets `--cfg planted`.
    Planted {
        /// Only this one.
        id: Option<String>,
    },
}

/// It could not be done as asked.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    obey(Cli::parse().command).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(USAGE)
    })
}

fn obey(command: What) -> anyhow::Result<ExitCode> {
    match command {
        What::Sweep {
            seeds,
            from,
            threads,
            twice,
            json,
        } => {
            let one = if twice { run_twice } else { run };
            let swept = sweep_seeds(from, seeds, threads, one);
            tell(&swept, from, json)
        }
        What::Run { seed, trace } => run_seed(seed, trace),
        What::Show(show) => show.obey().map(|()| ExitCode::SUCCESS),
        What::Planted { id } => planted(id.as_deref()),
    }
}

fn sweep_seeds(from: u64, seeds: u64, threads: usize, one: fn(u64) -> Outcome) -> Swept {
    let (started, shown) = (Instant::now(), AtomicU64::new(0));
    let is_watched = std::io::stderr().is_terminal();
    sweep(from..from.saturating_add(seeds), threads, one, |done| {
        let second = started.elapsed().as_secs();
        if is_watched && shown.swap(second, Ordering::Relaxed) != second {
            let rate = done as f64 / started.elapsed().as_secs_f64();
            eprint!("\r{done} of {seeds} seeds, {rate:.0} a second ");
        }
    })
}

fn tell(swept: &Swept, from: u64, json: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let violation = swept.violation.as_ref();
    if json {
        let shown = serde_json::json!({
            "from": from,
            "seeds": swept.seeds,
            "events": swept.events,
            "simulatedHours": swept.simulated_hours(),
            "tookMs": u64::try_from(swept.took.as_millis())?,
            "seedsPerSecond": swept.seeds_per_s(),
            "violation": violation.map(shown_violation),
        });
        writeln!(out, "{shown}")?;
    } else {
        writeln!(
            out,
            "{} seeds from {from}: {} events, {:.1} simulated hours in {:.1} s ({:.0} seeds/s)",
            swept.seeds,
            swept.events,
            swept.simulated_hours(),
            swept.took.as_secs_f64(),
            swept.seeds_per_s()
        )?;
        if let Some(violation) = violation {
            writeln!(out, "{violation}")?;
        }
    }
    Ok(verdict(violation))
}

fn shown_violation(violation: &Violation) -> serde_json::Value {
    serde_json::json!({
        "oracle": violation.what.name(),
        "seed": violation.seed,
        "atUs": violation.at_us,
        "expected": violation.expected,
        "seen": violation.seen,
        "reproduce": violation.command(),
    })
}

fn verdict(violation: Option<&Violation>) -> ExitCode {
    match violation {
        Some(_) => ExitCode::from(BROKEN),
        None => ExitCode::SUCCESS,
    }
}

fn run_seed(seed: u64, traced: bool) -> anyhow::Result<ExitCode> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let outcome = match traced {
        true => {
            let mut failed = Ok(());
            let outcome = trace(
                seed,
                Box::new(|line| {
                    if failed.is_ok() {
                        failed = writeln!(out, "{line}");
                    }
                }),
            );
            failed?;
            outcome
        }
        false => run(seed),
    };
    writeln!(
        out,
        "seed {seed}: {} events, {:.1} simulated minutes, digest {:016x}",
        outcome.events,
        outcome.simulated_us as f64 / 6e7,
        outcome.digest
    )?;
    if let Some(violation) = &outcome.violation {
        writeln!(out, "{violation}")?;
    }
    out.flush()?;
    Ok(verdict(outcome.violation.as_ref()))
}

#[cfg(planted)]
fn planted(only: Option<&str>) -> anyhow::Result<ExitCode> {
    use dispatch_sim::planted::{LEDGER, Verdict, hunt};

    let wanted: Vec<_> = LEDGER
        .into_iter()
        .filter(|(id, _)| only.is_none_or(|only| only == *id))
        .collect();
    anyhow::ensure!(
        !wanted.is_empty(),
        "no bug {} is planted here; these are: {}",
        only.unwrap_or_default(),
        LEDGER.map(|(id, _)| id).join(" ")
    );
    let mut all_caught = true;
    for (id, right) in wanted {
        match hunt(id, right) {
            Verdict::Caught(name, seeds) => println!("{id} caught by {name} after {seeds} seeds"),
            Verdict::Mistaken(name, seeds) => {
                all_caught = false;
                println!("{id} met by {name} after {seeds} seeds, but {right:?} should have");
            }
            Verdict::Missed => {
                all_caught = false;
                println!(
                    "{id} not caught within {} seeds",
                    dispatch_sim::planted::BUDGET
                );
            }
        }
    }
    Ok(match all_caught {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(BROKEN),
    })
}

#[cfg(not(planted))]
fn planted(_: Option<&str>) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "this build holds no planted bugs; build it with: cargo run --config \"build.rustflags=['--cfg','tokio_unstable','--cfg','planted']\" --target-dir target/planted -p dispatch-sim -- planted"
    )
}
