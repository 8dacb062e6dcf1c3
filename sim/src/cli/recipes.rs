//! `repro` and `shrink`: runs that are written down.

use std::path::PathBuf;

use anyhow::ensure;
use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::{Outcome, Profile, record, replay};

use super::finding::{Finding, RUNS};
use super::out::{Out, aside};
use super::run::{into, tell};
use super::{BROKEN, PROGRAM, keep, planted, quoted, same_runs, verdict};

#[derive(clap::Args)]
pub(crate) struct ReproArgs {
    /// The recipe.
    file: PathBuf,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

#[derive(clap::Args)]
pub(crate) struct ShrinkArgs {
    /// The recipe of a failing run, which names its planted bugs itself.
    #[arg(required_unless_present = "seed", conflicts_with_all = ["seed", "profile", "plant"])]
    file: Option<PathBuf>,
    /// A failing seed.
    #[arg(long)]
    seed: Option<u64>,
    /// What it draws.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// With these planted bugs, where the build holds them.
    #[arg(long, value_name = "ID")]
    plant: Vec<String>,
    /// What the recipe says of itself to its readers.
    #[arg(long)]
    about: Option<String>,
    /// Runs at most.
    #[arg(long, default_value_t = RUNS)]
    runs: u32,
    /// Where the small recipe is written.
    #[arg(long, value_name = "DIR", default_value = "target/sim")]
    out: PathBuf,
}

pub(crate) fn repro(args: &ReproArgs, out: &mut Out) -> anyhow::Result<u8> {
    let recipe = Recipe::read(&args.file)?;
    planted::select_for(&recipe)?;
    let played = match args.trace {
        true => replay(&recipe, Some(into(out))),
        false => replay(&recipe, None),
    };
    if !recipe.about.is_empty() {
        out.line(format_args!("{}\n", recipe.about));
    }
    out.line(&recipe);
    let outcome = &played.outcome;
    tell(&args.file.display().to_string(), outcome, out);
    if let Some(compared) = compared(&recipe, outcome) {
        out.line(compared);
    }
    for idle in &played.idle {
        aside(format_args!("warning: this befell nothing: {idle}"));
    }
    if outcome.violation.is_some() {
        let path = quoted(&args.file);
        out.line(format_args!("reproduce: {PROGRAM} repro {path}"));
    }
    Ok(verdict(outcome.violation.as_ref()))
}

/// Where the run is judged otherwise than it was when it was written down.
fn compared(recipe: &Recipe, outcome: &Outcome) -> Option<String> {
    let now = outcome.violation.as_ref().map(|found| found.what.name());
    let (recorded, seen) = (recipe.oracle.as_str(), now.unwrap_or("nothing broken"));
    (now != Some(recorded)).then(|| format!("recorded: {recorded}; now: {seen}"))
}

pub(crate) fn shrink(args: &ShrinkArgs, out: &mut Out) -> anyhow::Result<u8> {
    keep::probe(&args.out)?;
    let (mut recipe, otherwise) = match (&args.file, args.seed) {
        (Some(file), _) => {
            let recipe = Recipe::read(file)?;
            planted::select_for(&recipe)?;
            let outcome = replay(&recipe, None).outcome;
            if let Some(compared) = compared(&recipe, &outcome) {
                anyhow::bail!(
                    "{} does not fail as it did in this build, so there is nothing to shrink; {compared}",
                    file.display()
                );
            }
            (recipe, format!("repro {}", quoted(file)))
        }
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            planted::select(&args.plant)?;
            let (outcome, mut recipe) = record(seed, args.profile);
            recipe.planted.clone_from(&args.plant);
            ensure!(
                outcome.violation.is_some(),
                "seed {seed} breaks no promise, so there is nothing to shrink"
            );
            let options = same_runs(args.profile, &args.plant);
            (recipe, format!("run --seed {seed}{options} --trace"))
        }
    };
    if let Some(about) = &args.about {
        recipe.about.clone_from(about);
    }
    Finding::of(recipe, args.runs, &args.out, otherwise)?.tell(out);
    Ok(BROKEN)
}
