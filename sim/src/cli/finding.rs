//! A run that broke a promise, made small, and all that is told of it.

use std::path::{Path, PathBuf};

use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::{Violation, replay};
use dispatch_sim::shrink::{Patience, Shrunk, shrink};
use serde_json::{Value, json};

use super::keep::keep;
use super::out::{Out, aside};
use super::{PROGRAM, interrupt, quoted};

/// Enough for a run of a thousand events to become one of ten.
pub(super) const RUNS: u32 = 3_000;

/// See the module's page.
pub(super) struct Finding {
    /// As small as could be done.
    small: Recipe,
    /// How many things happened in it before.
    before: usize,
    /// What it took to make it small.
    runs: u32,
    /// What the small one breaks.
    violation: Option<Violation>,
    /// Where it was written to.
    kept: Option<PathBuf>,
    /// How it is seen again where it could not be written.
    otherwise: String,
}

impl Finding {
    /// Makes it small and writes it. That it cannot be written takes nothing
    /// from what was found, so it is only said. `otherwise` are the subcommand
    /// and options that show it without the file.
    pub(super) fn of(
        recipe: Recipe,
        runs: u32,
        folder: &Path,
        otherwise: String,
    ) -> anyhow::Result<Finding> {
        let before = recipe.events();
        let asked = interrupt::asked()?;
        aside("making it small; Ctrl-C keeps the smallest so far");
        let patience = Patience {
            runs,
            stop: Some(asked),
        };
        let Shrunk {
            recipe: small,
            runs,
        } = shrink(recipe, patience);
        let kept =
            keep(&small, folder).inspect_err(|error| aside(format_args!("error: {error:#}")));
        Ok(Finding {
            violation: replay(&small, None).outcome.violation,
            small,
            before,
            runs,
            kept: kept.ok(),
            otherwise,
        })
    }

    fn picture(&self) -> Option<String> {
        let path = quoted(self.kept.as_deref()?);
        Some(format!("{PROGRAM} show --recipe {path}"))
    }

    fn reproduce(&self) -> String {
        match &self.kept {
            Some(path) => format!("{PROGRAM} repro {}", quoted(path)),
            None => format!("{PROGRAM} {}", self.otherwise),
        }
    }

    /// How to see it again comes last.
    pub(super) fn tell(&self, out: &mut Out) {
        out.line(format_args!(
            "shrunk from {} happenings to {} in {} runs:\n\n{}",
            self.before,
            self.small.events(),
            self.runs,
            self.small
        ));
        if let Some(violation) = &self.violation {
            out.line(format_args!("{violation}\n"));
        }
        if let Some(picture) = self.picture() {
            out.line(format_args!("picture:   {picture}"));
        }
        out.line(format_args!("reproduce: {}", self.reproduce()));
    }

    /// The same for machines.
    pub(super) fn shown(&self) -> Value {
        let list = self.small.to_string();
        json!({
            "recipe": self.kept.as_ref().map(|path| path.display().to_string()),
            "happeningsBefore": self.before,
            "happenings": self.small.events(),
            "list": list.lines().collect::<Vec<_>>(),
            "runs": self.runs,
            "violation": self.violation.as_ref().map(shown_violation),
            "picture": self.picture(),
            "reproduce": self.reproduce(),
        })
    }
}

pub(super) fn shown_violation(violation: &Violation) -> Value {
    json!({
        "oracle": violation.what.name(),
        "seed": violation.seed,
        "atUs": violation.at_us,
        "expected": violation.expected,
        "seen": violation.seen,
    })
}
