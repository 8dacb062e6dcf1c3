//! `run`, `repro` and `shrink`: one run, of a seed or of a recipe.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::{Outcome, Profile, Sink, journals, record, replay};
use dispatch_sim::shrink::{Patience, Shrunk, shrink as shrink_recipe};

use super::ring::Ring;
use super::{PROGRAM, keep, verdict};

#[derive(clap::Args)]
pub(crate) struct RunArgs {
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
    #[arg(long)]
    plant: Vec<String>,
    /// Write a journal of every life of every replica here, as a server would.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["trace", "twice"])]
    journals: Option<PathBuf>,
    /// Run it twice and compare.
    #[arg(long, conflicts_with = "trace")]
    twice: bool,
}

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
    /// The recipe of a failing run.
    #[arg(required_unless_present = "seed", conflicts_with = "seed")]
    file: Option<PathBuf>,
    /// A failing seed.
    #[arg(long)]
    seed: Option<u64>,
    /// What it draws.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// With these planted bugs, where the build holds them.
    #[arg(long)]
    plant: Vec<String>,
    /// What the recipe says of itself to its readers.
    #[arg(long)]
    about: Option<String>,
    /// Runs at most.
    #[arg(long, default_value_t = RUNS)]
    runs: u32,
    /// Where the small recipe is written.
    #[arg(long, default_value = "target/sim")]
    out: PathBuf,
}

/// Enough for a run of a thousand events to become one of ten.
const RUNS: u32 = 3_000;

pub(crate) fn run(args: &RunArgs) -> anyhow::Result<ExitCode> {
    super::planted::select(&args.plant)?;
    let (ring, profile) = (args.ring, args.profile);
    ring.check(profile)?;
    ensure!(
        ring == Ring::Core || args.journals.is_none(),
        "only the core ring keeps journals; leave --journals or --ring out"
    );
    let outcome = match (&args.journals, args.trace, args.twice) {
        (Some(folder), ..) => keep_journals(args.seed, profile, folder)?,
        (None, true, _) => traced(|sink| ring.trace(args.seed, profile, sink))?,
        (None, false, true) => ring.twice(args.seed, profile),
        (None, false, false) => ring.run(args.seed, profile),
    };
    tell(&format!("seed {}", args.seed), &outcome)
}

fn keep_journals(seed: u64, profile: Profile, folder: &Path) -> anyhow::Result<Outcome> {
    let (outcome, journals) = journals(seed, profile);
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    for (name, bytes) in journals {
        let path = folder.join(format!("seed{seed}-{name}.journal"));
        std::fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(outcome)
}

pub(crate) fn repro(args: &ReproArgs) -> anyhow::Result<ExitCode> {
    let recipe = Recipe::read(&args.file)?;
    select(&recipe)?;
    let outcome = match args.trace {
        true => traced(|sink| replay(&recipe, Some(sink)).outcome)?,
        false => replay(&recipe, None).outcome,
    };
    if !recipe.about.is_empty() {
        println!("{}\n", recipe.about);
    }
    println!("{recipe}");
    let code = tell(&args.file.display().to_string(), &outcome)?;
    if outcome.violation.is_some() {
        println!("reproduce: {PROGRAM} repro {}", args.file.display());
    }
    Ok(code)
}

/// A recipe that needs planted bugs gets them where this build has them.
fn select(recipe: &Recipe) -> anyhow::Result<()> {
    #[cfg(planted)]
    super::planted::select(&recipe.planted)?;
    #[cfg(not(planted))]
    if !recipe.planted.is_empty() {
        eprintln!(
            "this recipe fails with {} planted; this build holds no planted bugs and should find nothing",
            recipe.planted.join(" and ")
        );
    }
    Ok(())
}

pub(crate) fn shrink(args: &ShrinkArgs) -> anyhow::Result<ExitCode> {
    let (mut recipe, seed) = match (&args.file, args.seed) {
        (Some(file), _) => {
            let recipe = Recipe::read(file)?;
            select(&recipe)?;
            let outcome = replay(&recipe, None).outcome;
            let seen = outcome.violation.map(|violation| violation.what.name());
            ensure!(
                seen == Some(recipe.oracle.as_str()),
                "{} does not fail by `{}` in this build, so there is nothing to shrink",
                file.display(),
                recipe.oracle
            );
            (recipe, violation_seed(file))
        }
        (None, seed) => {
            let seed = seed.unwrap_or_default();
            super::planted::select(&args.plant)?;
            let (outcome, mut recipe) = record(seed, args.profile);
            recipe.planted = args.plant.clone();
            ensure!(
                outcome.violation.is_some(),
                "seed {seed} breaks no promise, so there is nothing to shrink"
            );
            (recipe, seed)
        }
    };
    if let Some(about) = &args.about {
        recipe.about.clone_from(about);
    }
    small(recipe, seed, args.runs, &args.out)
}

/// The number in a recipe's file name, so that the small one gets the same name.
fn violation_seed(file: &Path) -> u64 {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let number = stem.and_then(|stem| stem.rsplit('-').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// What a failing seed comes to.
pub(crate) fn make_small(seed: u64, profile: Profile, out: &Path) -> anyhow::Result<ExitCode> {
    let (_, recipe) = record(seed, profile);
    small(recipe, seed, RUNS, out)
}

fn small(recipe: Recipe, seed: u64, runs: u32, out: &Path) -> anyhow::Result<ExitCode> {
    let before = recipe.events();
    let patience = Patience { runs, stop: None };
    let Shrunk { recipe, runs } = shrink_recipe(recipe, patience);
    let path = keep(&recipe, seed, out)?;
    let outcome = replay(&recipe, None).outcome;
    let mut to = std::io::stderr().lock();
    writeln!(
        to,
        "shrunk from {before} happenings to {} in {runs} runs:\n\n{recipe}",
        recipe.events()
    )?;
    if let Some(violation) = &outcome.violation {
        writeln!(to, "{violation}")?;
    }
    writeln!(to, "picture:   {PROGRAM} show --recipe {}", path.display())?;
    writeln!(to, "reproduce: {PROGRAM} repro {}", path.display())?;
    Ok(verdict(outcome.violation.as_ref()))
}

fn traced(run: impl FnOnce(Sink<'_>) -> Outcome) -> anyhow::Result<Outcome> {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let mut failed = Ok(());
    let outcome = run(Box::new(|line| {
        if failed.is_ok() {
            failed = writeln!(out, "{line}");
        }
    }));
    failed?;
    out.flush()?;
    Ok(outcome)
}

fn tell(what: &str, outcome: &Outcome) -> anyhow::Result<ExitCode> {
    println!(
        "{what}: {} events, {:.1} simulated minutes, digest {:016x}",
        outcome.events,
        outcome.simulated_us as f64 / 6e7,
        outcome.digest
    );
    if let Some(violation) = &outcome.violation {
        println!("{violation}");
    }
    Ok(verdict(outcome.violation.as_ref()))
}
