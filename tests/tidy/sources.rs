//! The tracked files.

use std::path::{Path, PathBuf};
use std::process::Command;

/// One text file.
pub(crate) struct Source {
    /// From the project's root.
    pub(crate) path: String,
    pub(crate) text: String,
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every tracked text file with this extension; an empty one means all.
/// Outside a checkout, every file that a checkout would track.
pub(crate) fn tracked(extension: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    for path in listed().unwrap_or_else(walked) {
        let has_extension = Path::new(&path).extension().is_some_and(|e| e == extension);
        if !extension.is_empty() && !has_extension {
            continue;
        }
        // Deleted but still tracked, or not text: nothing to read.
        if let Ok(text) = std::fs::read_to_string(root().join(&path)) {
            sources.push(Source { path, text });
        }
    }
    assert!(!sources.is_empty(), "no .{extension} file was found");
    sources
}

/// Whether `word` stands in `text` with no letter, digit or underscore beside it.
pub(crate) fn has_word(text: &str, word: &str) -> bool {
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    let starts_as_word = joins(word.chars().next());
    let ends_as_word = joins(word.chars().next_back());
    text.match_indices(word).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + word.len()..].chars().next();
        !(starts_as_word && joins(before) || ends_as_word && joins(after))
    })
}

fn listed() -> Option<Vec<String>> {
    let listing = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .current_dir(root())
        .output()
        .ok()?;
    let names = String::from_utf8(listing.stdout).ok()?;
    let paths: Vec<String> = names
        .split_terminator('\0')
        .map(ToOwned::to_owned)
        .collect();
    (listing.status.success() && !paths.is_empty()).then_some(paths)
}

fn walked() -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![PathBuf::new()];
    while let Some(dir) = open.pop() {
        let entries = std::fs::read_dir(root().join(&dir)).expect("a readable directory");
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = dir.join(&name);
            let kind = entry.file_type().expect("a file type");
            if kind.is_dir() && name != "target" && name != ".git" {
                open.push(path);
            } else if kind.is_file() {
                found.push(path.to_string_lossy().into_owned());
            }
        }
    }
    found
}
