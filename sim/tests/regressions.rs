//! Runs that once broke a promise, each shrunk to what it takes: they must not
//! break it again. Those that need a planted bug must break it where that bug
//! is on, which shows that they still reach it.

use std::path::{Path, PathBuf};

use dispatch_sim::recipe::Recipe;
use dispatch_sim::run::replay;

fn recipes() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let entries = std::fs::read_dir(&folder).expect("sim/regressions is there");
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .collect();
    paths.sort();
    paths
}

/// A run in which what is listed befalls nothing is another run, and passes for
/// ever.
fn befell_something(path: &Path, idle: &[String]) {
    assert!(
        idle.is_empty(),
        "{}: the run has changed, so that these befall nothing: {idle:?}",
        path.display()
    );
}

// Planted bugs are switched on for the whole process, so for this test too.
#[cfg(not(planted))]
#[test]
fn runs_that_once_failed_do_not_fail_again() {
    let paths = recipes();
    assert!(!paths.is_empty());
    for path in paths {
        let recipe = Recipe::read(&path).expect("a recipe");
        assert!(!recipe.about.is_empty(), "{} says nothing", path.display());
        let played = replay(&recipe, None);
        if let Some(violation) = played.outcome.violation {
            panic!("{}: {violation}", path.display());
        }
        // Of a planted bug's run only a build with the bug can say so.
        if recipe.planted.is_empty() {
            befell_something(&path, &played.idle);
        }
    }
}

#[cfg(planted)]
#[test]
fn recipes_of_planted_bugs_still_reach_them() {
    for path in recipes() {
        let recipe = Recipe::read(&path).expect("a recipe");
        if recipe.planted.is_empty() {
            continue;
        }
        let ids: Vec<&str> = recipe.planted.iter().map(String::as_str).collect();
        dispatch_core::planted::select(&ids);
        let played = replay(&recipe, None);
        dispatch_core::planted::select(&[]);
        let seen = played.outcome.violation;
        let name = seen.map(|violation| violation.what.name());
        assert_eq!(name, Some(recipe.oracle.as_str()), "{}", path.display());
        befell_something(&path, &played.idle);
    }
}

#[test]
fn what_is_no_recipe_is_refused_with_a_reason() {
    let folder = std::env::temp_dir().join(format!("dispatch-recipes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let path = folder.join("x.json");
    let refused = |text: &str| {
        std::fs::write(&path, text).expect("written");
        Recipe::read(&path).expect_err("refused").to_string()
    };
    let whole = std::fs::read_to_string(&recipes()[0]).expect("readable");
    assert!(refused("{}").contains("is no recipe"));
    assert!(refused(&whole[..whole.len() / 2]).contains("is no recipe"));
    let other = whole.replacen("\"version\": ", "\"version\": 9", 1);
    assert!(refused(&other).contains("this build reads formats 1 to 2"));
    let lost = whole.replacen("\"replicas\": 1", "\"replicas\": 0", 1);
    assert!(refused(&lost).contains("cannot be played"));
    assert!(
        Recipe::read(&folder.join("absent.json"))
            .expect_err("refused")
            .to_string()
            .contains("cannot be read")
    );
    std::fs::remove_dir_all(&folder).expect("removed");
}
