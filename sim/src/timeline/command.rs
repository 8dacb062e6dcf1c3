//! `dispatch-sim show`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{ArgGroup, Args};

use super::{Timeline, html, of_journal, of_recipe, of_seed};
use crate::recipe::Recipe;
use crate::run::Profile;

/// Write a run as one HTML page that needs nothing else.
#[derive(Args, Debug)]
#[command(group(ArgGroup::new("shown").required(true).args(["seed", "recipe", "journal"])))]
pub struct Show {
    /// Run this seed and show it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What the seed draws.
    #[arg(long, value_enum, default_value_t, requires = "seed")]
    profile: Profile,
    /// Run this recipe and show it.
    #[arg(long, value_name = "FILE")]
    recipe: Option<PathBuf>,
    /// Show what `dispatch serve --journal` recorded: a file, or a directory of them.
    #[arg(long, value_name = "PATH")]
    journal: Option<PathBuf>,
    /// Where to; seed-N.html or NAME.html here unless given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Show {
    /// Draws, writes, and says where to.
    ///
    /// # Errors
    /// When the journal cannot be read or the page cannot be written.
    pub fn obey(&self) -> anyhow::Result<()> {
        let named = |path: &Path| {
            let name = path.file_stem().unwrap_or(path.as_os_str()).display();
            format!("{name}.html")
        };
        let (timeline, default) = match (self.seed, &self.recipe, &self.journal) {
            (Some(seed), ..) => (of_seed(seed, self.profile).0, format!("seed-{seed}.html")),
            (None, Some(path), _) => {
                let recipe = Recipe::read(path)?;
                #[cfg(planted)]
                dispatch_core::planted::select(&recipe.planted_ids());
                (of_recipe(&recipe, path).0, named(path))
            }
            (None, None, Some(path)) => (of_journal(path)?, named(path)),
            (None, None, None) => {
                anyhow::bail!("nothing to show; give --seed N, --recipe FILE or --journal PATH")
            }
        };
        let out = self.out.clone().unwrap_or_else(|| default.into());
        std::fs::write(&out, html(&timeline)).with_context(|| {
            format!(
                "cannot write {}; name another file with --out",
                out.display()
            )
        })?;
        println!("{}", told(&timeline, &out.display().to_string()));
        Ok(())
    }
}

fn told(timeline: &Timeline, out: &str) -> String {
    let mut text = format!(
        "{}: {} events, {:.1} minutes, in {out}",
        timeline.title,
        timeline.events(),
        timeline.end_us as f64 / 6e7
    );
    for remark in &timeline.remarks {
        text.push_str("\nnote: ");
        text.push_str(remark);
    }
    if let Some(violation) = &timeline.violation {
        text.push_str(&format!(
            "\n{} violated\n  expected: {}\n  seen:     {}",
            violation.oracle, violation.expected, violation.seen
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        show: Show,
    }

    #[test]
    fn either_a_seed_or_a_journal_is_shown_never_both_and_never_neither() {
        let parsed = |args: &[&str]| {
            let all = ["show"].iter().chain(args);
            Cli::try_parse_from(all).map(|cli| cli.show)
        };
        assert_eq!(
            parsed(&["--seed", "7", "--out", "a"]).unwrap().seed,
            Some(7)
        );
        assert!(parsed(&["--journal", "a"]).is_ok());
        assert!(parsed(&["--seed", "7", "--journal", "a"]).is_err());
        let told = parsed(&[]).unwrap_err().to_string();
        assert!(
            told.contains("--seed <N>|--recipe <FILE>|--journal <PATH>"),
            "{told}"
        );
    }
}
