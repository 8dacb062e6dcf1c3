//! Where recipes are written: never over another one, and tried before a run is
//! worth keeping.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use dispatch_sim::recipe::Recipe;

/// Of one seed and one oracle.
const MOST_NAMES: u32 = 1_000;

/// Whether recipes can be written into this directory, which is made.
pub(super) fn probe(folder: &Path) -> anyhow::Result<()> {
    make(folder)?;
    let name = format!(".probe-{}", std::process::id());
    let path = folder.join(name);
    let remedy = || format!("cannot write into {}; {REMEDY}", folder.display());
    File::create(&path).with_context(remedy)?;
    std::fs::remove_file(&path).with_context(remedy)
}

const REMEDY: &str = "name another directory with --out";

fn make(folder: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the directory {}; {REMEDY}", folder.display()))
}

/// Writes a recipe into a directory, under a name that tells what it shows.
/// One that is there already stays what it is; the same one is not written twice.
pub(super) fn keep(recipe: &Recipe, folder: &Path) -> anyhow::Result<PathBuf> {
    make(folder)?;
    let text = recipe.to_json();
    let name = format!("{}-{}", recipe.oracle, recipe.seed());
    let later = (2..=MOST_NAMES).map(|n| format!("{name}-{n}.json"));
    for name in std::iter::once(format!("{name}.json")).chain(later) {
        let path = folder.join(name);
        let failed = || format!("cannot write {}; {REMEDY}", path.display());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => {
                file.write_all(text.as_bytes()).with_context(failed)?;
                return Ok(path);
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                if std::fs::read_to_string(&path).is_ok_and(|old| old == text) {
                    return Ok(path);
                }
            }
            Err(error) => return Err(error).with_context(failed),
        }
    }
    bail!(
        "{} holds {MOST_NAMES} recipes of {name}; {REMEDY}",
        folder.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use dispatch_sim::run::{Profile, record};

    #[test]
    fn another_recipe_of_the_same_name_stays_what_it_is() {
        let folder = std::env::temp_dir().join(format!("dispatch-keep-{}", std::process::id()));
        probe(&folder).expect("can be written");
        let (_, mut recipe) = record(3, Profile::Swarm);
        recipe.oracle = "limit".to_owned();
        let first = keep(&recipe, &folder).expect("written");
        assert_eq!(keep(&recipe, &folder).expect("there already"), first);
        let old = std::fs::read_to_string(&first).expect("readable");
        recipe.about = "another".to_owned();
        let second = keep(&recipe, &folder).expect("written");
        assert_eq!(second.file_name().unwrap_or_default(), "limit-3-2.json");
        assert_eq!(std::fs::read_to_string(&first).expect("readable"), old);
        std::fs::remove_dir_all(&folder).expect("removed");
    }

    #[test]
    fn a_directory_that_cannot_be_is_refused_with_a_remedy() {
        let file = std::env::temp_dir().join(format!("dispatch-file-{}", std::process::id()));
        std::fs::write(&file, "").expect("written");
        let told = format!("{:#}", probe(&file.join("x")).expect_err("refused"));
        assert!(told.contains("--out"), "{told}");
        std::fs::remove_file(&file).expect("removed");
    }
}
