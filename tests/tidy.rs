//! Keeps the house tidy: what no compiler checks and no reviewer should have to.

#![allow(clippy::unwrap_used)]

#[path = "tidy/purity.rs"]
mod purity;
#[path = "tidy/requirements.rs"]
mod requirements;
#[path = "tidy/sources.rs"]
mod sources;

use sources::{Source, root, tracked};

const _: () = assert!(
    cfg!(tokio_unstable),
    "tokio_unstable is not set, so a panic in a spawned task would go unseen: a RUSTFLAGS variable \
     overrides .cargo/config.toml; unset it and pass further cfgs by --config build.rustflags"
);

const MAX_LINES: usize = 600;

/// Files above [`MAX_LINES`]: path, what it may have, why it is not split.
const LONG_FILES: &[(&str, usize, &str)] = &[];

#[test]
fn no_source_file_is_too_long() {
    let found = too_long(&tracked("rs"), LONG_FILES);
    assert!(found.is_empty(), "split these:\n{}", found.join("\n"));
}

#[test]
fn every_exception_for_a_long_file_is_still_needed() {
    for (path, _, reason) in LONG_FILES {
        let text = std::fs::read_to_string(root().join(path)).unwrap_or_default();
        assert!(
            text.lines().count() > MAX_LINES,
            "{path} needs no exception any more ({reason})"
        );
    }
}

#[test]
fn nothing_is_left_over() {
    let found = left_over(&tracked("rs"));
    assert!(found.is_empty(), "finish these:\n{}", found.join("\n"));
}

#[test]
fn no_tracked_file_names_a_place_on_somebodys_machine() {
    let found = machine_paths(&tracked(""));
    assert!(
        found.is_empty(),
        "write relative paths:\n{}",
        found.join("\n")
    );
}

fn too_long(sources: &[Source], exceptions: &[(&str, usize, &str)]) -> Vec<String> {
    sources
        .iter()
        .filter_map(|source| {
            let lines = source.text.lines().count();
            let allowed = exceptions
                .iter()
                .find(|(path, ..)| *path == source.path)
                .map_or(MAX_LINES, |(_, allowed, _)| *allowed);
            (lines > allowed).then(|| format!("{}: {lines} lines of {allowed}", source.path))
        })
        .collect()
}

/// Spelled in two halves, so that this file is not among the findings.
const MARKERS: [&str; 3] = [
    concat!("TO", "DO"),
    concat!("FIX", "ME"),
    concat!("XX", "X"),
];
const MACROS: [&str; 3] = [
    concat!("db", "g!"),
    concat!("to", "do!"),
    concat!("unimpl", "emented!"),
];

fn left_over(sources: &[Source]) -> Vec<String> {
    let words = MARKERS.iter().chain(&MACROS);
    words.flat_map(|word| find(sources, word)).collect()
}

/// Placeholders that documentation and tests may use below a home directory.
const NOBODYS_HOMES: [&str; 4] = ["me", "you", "user", "dispatch"];

fn machine_paths(sources: &[Source]) -> Vec<String> {
    let forbidden = [
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
    ];
    let mut found: Vec<String> = forbidden
        .iter()
        .flat_map(|path| find(sources, path))
        .filter(|line| !is_part_of_a_longer_path(line, &forbidden))
        .collect();
    let home = concat!("/ho", "me/");
    found.extend(find(sources, home).into_iter().filter(|line| {
        line.split(home).skip(1).any(|rest| {
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric()).next();
            !NOBODYS_HOMES.contains(&name.unwrap_or_default())
        })
    }));
    found
}

/// What something else precedes is a relative path or a route, not the machine's.
fn is_part_of_a_longer_path(line: &str, forbidden: &[&str]) -> bool {
    forbidden.iter().all(|path| {
        line.match_indices(path).all(|(at, _)| {
            line[..at]
                .chars()
                .next_back()
                .is_some_and(|c| c.is_alphanumeric() || matches!(c, '.' | '_' | '-' | '}' | ')'))
        })
    })
}

/// Lines that contain `word`, not as a part of a longer word.
fn find(sources: &[Source], word: &str) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (n, line) in source.text.lines().enumerate() {
            if sources::has_word(line, word) {
                found.push(format!("{}:{}: {}", source.path, n + 1, line.trim()));
            }
        }
    }
    found
}

#[cfg(test)]
mod rules {
    use super::*;

    fn one(text: &str) -> Vec<Source> {
        vec![Source {
            path: "a.rs".into(),
            text: text.into(),
        }]
    }

    #[test]
    fn a_file_above_the_limit_is_found_and_an_exception_has_a_limit_of_its_own() {
        let long = one(&"x\n".repeat(601));
        assert_eq!(too_long(&long, &[]).len(), 1);
        assert_eq!(too_long(&long, &[("a.rs", 601, "why")]).len(), 0);
        assert_eq!(too_long(&long, &[("a.rs", 600, "why")]).len(), 1);
        assert_eq!(too_long(&one(&"x\n".repeat(600)), &[]).len(), 0);
    }

    #[test]
    fn each_leftover_is_found_but_not_inside_another_word() {
        for word in MARKERS.iter().chain(&MACROS) {
            assert_eq!(left_over(&one(&format!("// {word} later"))).len(), 1);
            assert_eq!(left_over(&one(&format!("my_{word}"))).len(), 0, "{word}");
        }
    }

    #[test]
    fn an_absolute_path_is_found_and_a_relative_one_is_not() {
        for path in [
            concat!("/ro", "ot/x"),
            concat!("\"/wo", "rk/x\""),
            concat!("/ho", "me/jane/x"),
        ] {
            assert_eq!(machine_paths(&one(path)).len(), 1, "{path}");
        }
        for path in [concat!("/ho", "me/me/x"), concat!("a/wo", "rk/x")] {
            assert_eq!(machine_paths(&one(path)).len(), 0, "{path}");
        }
    }
}
