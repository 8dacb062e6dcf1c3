//! `planted`: the defect ledger.

use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this one.
    id: Option<String>,
}

#[cfg(planted)]
pub(crate) fn planted(args: &Args) -> anyhow::Result<ExitCode> {
    use dispatch_sim::planted::{BUDGET, LEDGER, Verdict, hunt};

    let only = args.id.as_deref();
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
                println!("{id} not caught within {BUDGET} seeds");
            }
        }
    }
    Ok(match all_caught {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(super::BROKEN),
    })
}

#[cfg(not(planted))]
pub(crate) fn planted(_: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!(
        "this build holds no planted bugs; build it with: cargo run --config \"build.rustflags=['--cfg','tokio_unstable','--cfg','planted']\" --target-dir target/planted -p dispatch-sim -- planted"
    )
}
