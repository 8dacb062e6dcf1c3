//! `show`: a run as a page.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::ArgGroup;
use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::Profile;
use dispatch_sim::timeline::{Timeline, html, journals_at, of_journal, of_recipe, of_seed};

use super::out::{Out, aside};
use super::{BROKEN, FINE, PROGRAM, USAGE, planted, quoted, same_runs};

/// Write a run as one HTML page that needs nothing else.
#[derive(clap::Args, Debug)]
#[command(group(ArgGroup::new("shown").required(true).args(["seed", "recipe", "journal"])))]
pub(crate) struct Args {
    /// Run this seed and show it.
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// What the seed draws.
    #[arg(long, value_enum, default_value_t, conflicts_with_all = ["recipe", "journal"])]
    profile: Profile,
    /// With these planted bugs, where the build holds them; a recipe names its own.
    #[arg(long, value_name = "ID", conflicts_with_all = ["recipe", "journal"])]
    plant: Vec<String>,
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

pub(crate) fn show(args: &Args, out: &mut Out) -> anyhow::Result<u8> {
    let page = args.page();
    args.spare_the_input(&page)?;
    let mut timeline = args.timeline()?;
    timeline.command = args.command();
    std::fs::write(&page, html(&timeline)).with_context(|| {
        format!(
            "cannot write {}; name another file with --out",
            page.display()
        )
    })?;
    tell(&timeline, &page, out);
    Ok(match (&timeline.violation, timeline.dropped.journals > 0) {
        (Some(_), _) => BROKEN,
        (None, true) => USAGE,
        (None, false) => FINE,
    })
}

impl Args {
    /// Where the page goes.
    fn page(&self) -> PathBuf {
        let default = || match (self.seed, &self.recipe, &self.journal) {
            (Some(seed), ..) => format!("seed-{seed}.html"),
            (None, Some(path), _) | (None, None, Some(path)) => {
                let name = path.file_stem().unwrap_or(path.as_os_str()).display();
                format!("{name}.html")
            }
            (None, None, None) => "nothing.html".to_owned(),
        };
        self.out.clone().unwrap_or_else(|| default().into())
    }

    /// What shows the same again.
    fn command(&self) -> String {
        let shown = match (self.seed, &self.recipe, &self.journal) {
            (Some(seed), ..) => {
                let options = same_runs(self.profile, &self.plant);
                format!("--seed {seed}{options}")
            }
            (None, Some(path), _) => format!("--recipe {}", quoted(path)),
            (None, None, Some(path)) => format!("--journal {}", quoted(path)),
            (None, None, None) => String::new(),
        };
        format!("{PROGRAM} show {shown}")
    }

    /// A page in the place of what it shows could not be shown again.
    fn spare_the_input(&self, page: &Path) -> anyhow::Result<()> {
        let inputs = match (&self.recipe, &self.journal) {
            (Some(recipe), _) => vec![recipe.clone()],
            (None, Some(journal)) => journals_at(journal)?,
            (None, None) => Vec::new(),
        };
        for input in inputs {
            ensure!(
                !is_same_file(&input, page),
                "the page would overwrite {}, which it shows; name another file with --out",
                input.display()
            );
        }
        Ok(())
    }

    fn timeline(&self) -> anyhow::Result<Timeline> {
        match (self.seed, &self.recipe, &self.journal) {
            (Some(seed), ..) => {
                planted::select(&self.plant)?;
                Ok(of_seed(seed, self.profile).0)
            }
            (None, Some(path), _) => {
                let recipe = Recipe::read(path)?;
                planted::select_for(&recipe)?;
                Ok(of_recipe(&recipe, path).0)
            }
            (None, None, Some(path)) => Ok(of_journal(path)?),
            (None, None, None) => {
                anyhow::bail!("nothing to show; give --seed N, --recipe FILE or --journal PATH")
            }
        }
    }
}

/// Also by another name: a link of either kind, or another way to it.
fn is_same_file(one: &Path, other: &Path) -> bool {
    #[cfg(unix)]
    let identity = |path: &Path| {
        use std::os::unix::fs::MetadataExt;
        let found = std::fs::metadata(path).ok()?;
        Some((found.dev(), found.ino()))
    };
    #[cfg(not(unix))]
    let identity = |path: &Path| std::fs::canonicalize(path).ok();
    let (one, other) = (identity(one), identity(other));
    one.is_some() && one == other
}

fn tell(timeline: &Timeline, page: &Path, out: &mut Out) {
    out.line(format_args!(
        "{}: {} events, {:.1} minutes, in {}",
        timeline.title,
        timeline.events(),
        timeline.end_us as f64 / 6e7,
        page.display()
    ));
    for remark in &timeline.remarks {
        aside(format_args!("note: {remark}"));
    }
    if let Some(violation) = &timeline.violation {
        out.line(format_args!(
            "{} violated\n  expected: {}\n  seen:     {}",
            violation.oracle, violation.expected, violation.seen
        ));
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        show: Args,
    }

    fn parsed(args: &[&str]) -> Result<Args, clap::Error> {
        let all = ["show"].iter().chain(args);
        Cli::try_parse_from(all).map(|cli| cli.show)
    }

    #[test]
    fn either_a_seed_or_a_journal_is_shown_never_both_and_never_neither() {
        let seed = parsed(&["--seed", "7", "--out", "a"])
            .expect("accepted")
            .seed;
        assert_eq!(seed, Some(7));
        assert!(parsed(&["--journal", "a"]).is_ok());
        assert!(parsed(&["--seed", "7", "--journal", "a"]).is_err());
        let told = parsed(&[]).map(|_| ()).expect_err("refused").to_string();
        assert!(
            told.contains("--seed <N>|--recipe <FILE>|--journal <PATH>"),
            "{told}"
        );
    }

    #[test]
    fn what_only_a_seed_has_is_refused_of_a_recipe() {
        assert!(parsed(&["--seed", "7", "--profile", "storm"]).is_ok());
        assert!(parsed(&["--recipe", "a", "--profile", "storm"]).is_err());
        assert!(parsed(&["--recipe", "a", "--plant", "D06"]).is_err());
    }

    #[test]
    fn a_page_never_takes_the_place_of_what_it_shows() {
        let folder = std::env::temp_dir().join(format!("dispatch-show-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let (input, link) = (folder.join("a.json"), folder.join("b.json"));
        std::fs::write(&input, "{}").expect("written");
        std::fs::hard_link(&input, &link).expect("linked");
        assert!(is_same_file(&input, &folder.join(".").join("a.json")));
        assert!(is_same_file(&input, &link));
        assert!(!is_same_file(&input, &folder.join("c.json")));
        std::fs::remove_dir_all(&folder).expect("removed");
    }
}
