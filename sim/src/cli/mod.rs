//! The subcommands.

mod finding;
mod interrupt;
mod keep;
pub(crate) mod out;
pub(crate) mod planted;
pub(crate) mod recipes;
pub(crate) mod ring;
pub(crate) mod run;
pub(crate) mod show;
pub(crate) mod sweep;

use std::path::Path;

use dispatch_sim::run::{Profile, Violation};

/// Nothing was found.
pub(crate) const FINE: u8 = 0;
/// It could not be done as asked.
pub(crate) const USAGE: u8 = 2;
/// A promise was found broken, or was not put to the proof. Tells more than any
/// other code and goes before all of them.
pub(crate) const BROKEN: u8 = 10;
/// Somebody interrupted it, as shells have it of SIGINT.
pub(crate) const INTERRUPTED: u8 = 130;

pub(crate) const EXIT_CODES: &str = "Exit codes:
  0    nothing was found
  2    it could not be done as asked, or not all of it
  10   a promise was found broken; a planted bug was not caught by its oracle;
       a sweep of a thousand seeds or more never met one of the rare situations
  130  it was interrupted before its end, and found nothing until then
10 goes before all others.";

/// How it is called by hand, in this build.
#[cfg(not(planted))]
const PROGRAM: &str = "cargo run --release -p dispatch-sim --";
#[cfg(planted)]
const PROGRAM: &str = "cargo run --config 'build.rustc-workspace-wrapper=\".cargo/planted-rustc\"' -p dispatch-sim --";

fn verdict(violation: Option<&Violation>) -> u8 {
    match violation {
        Some(_) => BROKEN,
        None => FINE,
    }
}

/// The options that draw the same runs again, each with a space before it.
fn same_runs(profile: Profile, plant: &[String]) -> String {
    let mut options = match profile {
        Profile::Swarm => String::new(),
        Profile::Storm => " --profile storm".to_owned(),
    };
    for id in plant {
        options.push_str(&format!(" --plant {id}"));
    }
    options
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text,
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_quoted_path_as_one_word() {
        assert_eq!(
            quoted(Path::new("target/sim/a-1.json")),
            "target/sim/a-1.json"
        );
        assert_eq!(quoted(Path::new("my runs/a.json")), "'my runs/a.json'");
        assert_eq!(quoted(Path::new("it's")), r"'it'\''s'");
    }
}
