//! `run`: one seed.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use dispatch_sim::run::{Outcome, Profile, Sink, journals};

use super::out::Out;
use super::ring::Ring;
use super::verdict;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Which.
    #[arg(long)]
    seed: u64,
    /// What it draws.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// In which ring.
    #[arg(long, value_enum, default_value_t)]
    ring: Ring,
    /// Print every event.
    #[arg(long)]
    trace: bool,
    /// With these planted bugs, where the build holds them.
    #[arg(long, value_name = "ID")]
    plant: Vec<String>,
    /// Write a journal of every life of every replica here, as a server would.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["trace", "twice"])]
    journals: Option<PathBuf>,
    /// Run it twice and compare.
    #[arg(long, conflicts_with = "trace")]
    twice: bool,
}

pub(crate) fn run(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    super::planted::select(&args.plant)?;
    let (ring, profile) = (args.ring, args.profile);
    ring.check(profile)?;
    ensure!(
        ring == Ring::Core || args.journals.is_none(),
        "only the core ring keeps journals; leave --journals or --ring out"
    );
    let outcome = match (&args.journals, args.trace, args.twice) {
        (Some(folder), ..) => keep_journals(args.seed, profile, folder)?,
        (None, true, _) => ring.trace(args.seed, profile, into(out)),
        (None, false, true) => ring.twice(args.seed, profile),
        (None, false, false) => ring.run(args.seed, profile),
    };
    tell(&format!("seed {}", args.seed), &outcome, out);
    Ok(verdict(outcome.violation.as_ref()))
}

fn keep_journals(seed: u64, profile: Profile, folder: &Path) -> anyhow::Result<Outcome> {
    let remedy = "name another directory with --journals";
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the directory {}; {remedy}", folder.display()))?;
    let (outcome, journals) = journals(seed, profile);
    for (name, bytes) in journals {
        let path = folder.join(format!("seed{seed}-{name}.journal"));
        std::fs::write(&path, bytes)
            .with_context(|| format!("cannot write {}; {remedy}", path.display()))?;
    }
    Ok(outcome)
}

/// Every event of a run, a line each.
pub(super) fn into(out: &mut Out) -> Sink<'_> {
    Box::new(|line| out.line(line))
}

pub(super) fn tell(what: &str, outcome: &Outcome, out: &mut Out) {
    out.line(format_args!(
        "{what}: {} events, {:.1} simulated minutes, digest {:016x}",
        outcome.events,
        outcome.simulated_us as f64 / 6e7,
        outcome.digest
    ));
    if let Some(violation) = &outcome.violation {
        out.line(violation);
    }
}
