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

// Planted bugs are switched on for the whole process, so for this test too.
#[cfg(not(planted))]
#[test]
fn runs_that_once_failed_do_not_fail_again() {
    let paths = recipes();
    assert!(!paths.is_empty());
    for path in paths {
        let recipe = Recipe::read(&path).expect("a recipe");
        assert!(!recipe.about.is_empty(), "{} says nothing", path.display());
        let outcome = replay(&recipe, None);
        if let Some(violation) = outcome.violation {
            panic!("{}: {violation}", path.display());
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
        let seen = replay(&recipe, None).violation;
        dispatch_core::planted::select(&[]);
        let name = seen.map(|violation| violation.what.name());
        assert_eq!(name, Some(recipe.oracle.as_str()), "{}", path.display());
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
    let other = whole.replacen("\"version\": 1", "\"version\": 2", 1);
    assert!(refused(&other).contains("format 2; this build reads format 1"));
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
