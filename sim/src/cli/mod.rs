//! The subcommands.

pub(crate) mod planted;
pub(crate) mod ring;
pub(crate) mod run;
pub(crate) mod sweep;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::Violation;

/// A promise was found broken, or a planted bug was not caught by its oracle.
pub(crate) const BROKEN: u8 = 10;
/// It could not be done as asked.
pub(crate) const USAGE: u8 = 2;

/// How runs are repeated by hand.
const PROGRAM: &str = "cargo run --release -p dispatch-sim --";

fn verdict(violation: Option<&Violation>) -> ExitCode {
    match violation {
        Some(_) => ExitCode::from(BROKEN),
        None => ExitCode::SUCCESS,
    }
}

/// Writes a recipe into a directory, under a name that tells what it shows.
fn keep(recipe: &Recipe, seed: u64, out: &Path) -> anyhow::Result<PathBuf> {
    std::fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let path = out.join(format!("{}-{seed}.json", recipe.oracle));
    std::fs::write(&path, recipe.to_json())
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

fn shown_violation(violation: &Violation) -> serde_json::Value {
    serde_json::json!({
        "oracle": violation.what.name(),
        "seed": violation.seed,
        "atUs": violation.at_us,
        "expected": violation.expected,
        "seen": violation.seen,
    })
}
