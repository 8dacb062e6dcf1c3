//! The one hard wall: the core has no clock, runtime, socket, file or thread,
//! and no order that depends on a hash.

use crate::sources::{Source, has_word, root, tracked};

#[test]
fn the_core_stays_without_std() {
    let core = core_sources();
    let lib = core.iter().find(|s| s.path == "core/src/lib.rs");
    let lib = &lib.expect("the core has a root").text;
    for attribute in [
        "#![no_std]",
        "#![forbid(unsafe_code)]",
        "#![deny(missing_docs)]",
    ] {
        assert!(lib.contains(attribute), "core/src/lib.rs lacks {attribute}");
    }
    let found = impurities(&core);
    assert!(found.is_empty(), "not in the core:\n{}", found.join("\n"));
}

#[test]
fn the_core_depends_on_no_crate_with_std() {
    let read = |path: &str| {
        let text = std::fs::read_to_string(root().join(path)).expect(path);
        text.parse::<toml::Table>().expect(path)
    };
    let found = std_dependencies(&read("core/Cargo.toml"), &read("Cargo.toml"));
    assert!(found.is_empty(), "{}", found.join("\n"));
}

fn core_sources() -> Vec<Source> {
    let mut sources = tracked("rs");
    sources.retain(|source| source.path.starts_with("core/src/"));
    sources
}

const IMPURE: [&str; 5] = [
    "extern crate std",
    "std::",
    "HashMap",
    "HashSet",
    "SystemTime",
];

fn impurities(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        // Unit tests may use what they like; they stand last in a file.
        let code = source.text.split("#[cfg(test)]").next().unwrap_or_default();
        for (n, line) in code.lines().enumerate() {
            let statement = line.split("//").next().unwrap_or_default();
            for word in IMPURE.iter().filter(|word| has_word(statement, word)) {
                found.push(format!("{}:{}: {word}", source.path, n + 1));
            }
        }
    }
    found
}

fn std_dependencies(core: &toml::Table, workspace: &toml::Table) -> Vec<String> {
    let shared = &workspace["workspace"]["dependencies"];
    let mut found = Vec::new();
    for (name, local) in core["dependencies"].as_table().expect("a table") {
        let is_shared = local
            .get("workspace")
            .is_some_and(|w| w.as_bool() == Some(true));
        let Some(shared) = shared.get(name).filter(|_| is_shared) else {
            found.push(format!("{name} is not declared in the workspace"));
            continue;
        };
        if shared.get("default-features").and_then(|d| d.as_bool()) != Some(false) {
            found.push(format!("{name} comes with its default features"));
        }
        let features = [shared, local]
            .into_iter()
            .filter_map(|d| d.get("features"));
        let features = features.filter_map(|list| list.as_array()).flatten();
        if features
            .into_iter()
            .any(|feature| feature.as_str() == Some("std"))
        {
            found.push(format!("{name} comes with its feature std"));
        }
    }
    found
}

mod rules {
    use super::*;

    fn found_in(text: &str) -> usize {
        let source = Source {
            path: "core/src/x.rs".into(),
            text: text.into(),
        };
        impurities(&[source]).len()
    }

    #[test]
    fn std_paths_and_hash_maps_are_found_in_code_only() {
        assert_eq!(found_in("use std::vec::Vec;"), 1);
        assert_eq!(found_in("extern crate std;"), 1);
        assert_eq!(found_in("let m: HashMap<u8, u8>;"), 1);
        assert_eq!(found_in("// as std::vec::Vec has it"), 0);
        assert_eq!(found_in("use my_std::x; no_std::y"), 0);
        assert_eq!(
            found_in("fn a() {}\n#[cfg(test)]\nmod tests { use std::fmt; }"),
            0
        );
    }

    #[test]
    fn a_dependency_with_std_is_found_however_it_comes_in() {
        let core = |line: &str| format!("[dependencies]\n{line}").parse().unwrap();
        let workspace: toml::Table = "[workspace.dependencies]\n\
             pure = { version = \"1\", default-features = false, features = [\"alloc\"] }\n\
             full = \"1\"\n\
             asked = { version = \"1\", default-features = false, features = [\"std\"] }"
            .parse()
            .unwrap();
        let count = |line: &str| std_dependencies(&core(line), &workspace).len();
        assert_eq!(count("pure.workspace = true"), 0);
        assert_eq!(count("full.workspace = true"), 1);
        assert_eq!(count("asked.workspace = true"), 1);
        assert_eq!(
            count("pure = { workspace = true, features = [\"std\"] }"),
            1
        );
        assert_eq!(count("own = \"1\""), 1);
    }
}
