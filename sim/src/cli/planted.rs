//! `planted`: the defect ledger.

use std::process::ExitCode;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only this one.
    id: Option<String>,
    /// So many pairs, drawn by the seed, instead of each alone.
    #[arg(long, conflicts_with = "id")]
    pairs: Option<usize>,
    /// Where the search begins.
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Ranges of seeds in which each is looked for.
    #[arg(long, default_value_t = dispatch_sim::planted::RANGES)]
    ranges: u64,
}

/// Switches planted bugs on.
///
/// # Errors
/// This build holds no such bug.
#[cfg(planted)]
pub(crate) fn select(ids: &[String]) -> anyhow::Result<()> {
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let known = dispatch_core::planted::LEDGER;
    for id in &ids {
        anyhow::ensure!(
            known.contains(id),
            "no bug {id}; these are: {}",
            known.join(" ")
        );
    }
    dispatch_core::planted::select(&ids);
    Ok(())
}

#[cfg(not(planted))]
const NO_BUGS: &str = "this build holds no planted bugs; build it with: cargo run --config \"build.rustflags=['--cfg','tokio_unstable','--cfg','planted']\" --target-dir target/planted -p dispatch-sim -- planted";

#[cfg(not(planted))]
pub(crate) fn select(ids: &[String]) -> anyhow::Result<()> {
    anyhow::ensure!(ids.is_empty(), NO_BUGS);
    Ok(())
}

#[cfg(planted)]
pub(crate) fn planted(args: &Args) -> anyhow::Result<ExitCode> {
    use std::io::Write;

    use dispatch_sim::planted::{Hunt, LEDGER, hunt, median, pairs, range_start, table_head};

    let mut out = std::io::stdout();
    let (mut all_caught, mut seeds) = (true, Vec::new());
    let mut tell = |hunt: Hunt| {
        all_caught &= hunt.is_caught();
        seeds.extend(hunt.seeds());
        writeln!(out, "{hunt}").and_then(|()| out.flush())
    };
    println!("{}", table_head());
    match args.pairs {
        Some(count) => {
            for (n, pair) in (0..).zip(pairs(count, args.seed)) {
                tell(hunt(&pair, std::iter::once(range_start(args.seed, n))))?;
            }
        }
        None => {
            let wanted = |id: &str| args.id.as_ref().is_none_or(|only| only == id);
            anyhow::ensure!(
                LEDGER.iter().any(|(id, _)| wanted(id)),
                "no bug {} is planted here; these are: {}",
                args.id.as_deref().unwrap_or_default(),
                LEDGER.map(|(id, _)| id).join(" ")
            );
            for bug in LEDGER.iter().filter(|(id, _)| wanted(id)) {
                let starts = (0..args.ranges).map(|range| range_start(args.seed, range));
                tell(hunt(&[*bug], starts))?;
            }
        }
    }
    if let Some(median) = median(seeds) {
        println!("median: {median} seeds");
    }
    Ok(match all_caught {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(super::BROKEN),
    })
}

#[cfg(not(planted))]
pub(crate) fn planted(_: &Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!(NO_BUGS)
}
