//! The user's SSH configuration, read far enough to know which computers it
//! names, and how they are reached where no `ssh` is there to be asked.
//!
//! `ssh -G` is the authority on everything that this reading leaves out, most of
//! all on `Match`: of its blocks only `Match all` counts here.

use std::fs;
use std::path::{Path, PathBuf};

use super::known_hosts;
use super::pattern::{fits, fits_list, is_pattern};

/// Deeper than any sane nesting; OpenSSH stops here, too.
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 512;

/// A configuration with its includes in place.
#[derive(Clone, Debug, Default)]
pub(super) struct ConfigFile {
    blocks: Vec<Block>,
    /// What could not be read, a sentence each.
    pub(super) notes: Vec<String>,
    files: usize,
}

/// Lines under the same conditions.
#[derive(Clone, Debug)]
struct Block {
    /// All of them must hold.
    conditions: Vec<Condition>,
    keys: Vec<(String, String)>,
}

#[derive(Clone, Debug)]
enum Condition {
    Host(Vec<String>),
    /// A `Match` that only `ssh` itself can judge.
    Unknown,
}

impl Condition {
    fn holds(&self, alias: &str) -> bool {
        match self {
            Condition::Host(patterns) => fits_list(patterns.iter().map(String::as_str), alias),
            Condition::Unknown => false,
        }
    }
}

impl Block {
    fn holds(&self, alias: &str) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(alias))
    }
}

impl ConfigFile {
    /// Reads a configuration; `home` is what `~` and relative includes mean.
    pub(super) fn read(path: &Path, home: &Path) -> ConfigFile {
        let mut config = ConfigFile::default();
        config.include(path, home, &[], 0);
        config
    }

    /// The names that it has a `Host` line for, in order, each once.
    pub(super) fn aliases(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for block in &self.blocks {
            let Some(Condition::Host(names)) = block.conditions.last() else {
                continue;
            };
            for name in names.iter().filter(|name| !is_pattern(name)) {
                if block.holds(name) && !found.contains(name) {
                    found.push(name.clone());
                }
            }
        }
        found
    }

    /// Whether it may mean this name by a pattern, or by what only `ssh` can
    /// judge, or could not be read.
    pub(super) fn may_mean(&self, alias: &str) -> bool {
        let may = |condition: &Condition| match condition {
            Condition::Host(_) => condition.holds(alias),
            Condition::Unknown => true,
        };
        let mut blocks = self.blocks.iter();
        !self.notes.is_empty()
            || blocks.any(|block| !block.conditions.is_empty() && block.conditions.iter().all(may))
    }

    /// Everything that it says of an alias, in order, keys in lower case: the
    /// first value of a key counts.
    pub(super) fn values(&self, alias: &str) -> Vec<(String, String)> {
        let blocks = self.blocks.iter().filter(|block| block.holds(alias));
        blocks.flat_map(|block| block.keys.clone()).collect()
    }

    fn include(&mut self, path: &Path, home: &Path, outer: &[Condition], depth: usize) {
        self.files += 1;
        if depth > MAX_DEPTH || self.files > MAX_FILES {
            self.note(path, "too many files include each other");
            return;
        }
        let text = match known_hosts::read(path) {
            Ok(text) => text,
            Err(error) => {
                self.note(path, &error.to_string());
                return;
            }
        };
        self.open(outer);
        let mut conditions = outer.to_vec();
        for line in text.lines() {
            let Some((key, arguments)) = statement(line) else {
                continue;
            };
            match key.as_str() {
                "host" => {
                    conditions = outer.to_vec();
                    conditions.push(Condition::Host(arguments));
                    self.open(&conditions);
                }
                "match" => {
                    conditions = outer.to_vec();
                    let is_all = arguments.len() == 1 && arguments[0].eq_ignore_ascii_case("all");
                    if !is_all {
                        conditions.push(Condition::Unknown);
                    }
                    self.open(&conditions);
                }
                "include" => {
                    for file in arguments.iter().flat_map(|named| expand(named, home)) {
                        self.include(&file, home, &conditions, depth + 1);
                    }
                    // What follows is under the conditions of before.
                    self.open(&conditions);
                }
                _ => {
                    if let Some(block) = self.blocks.last_mut() {
                        block.keys.push((key, arguments.join(" ")));
                    }
                }
            }
        }
    }

    fn open(&mut self, conditions: &[Condition]) {
        self.blocks.push(Block {
            conditions: conditions.to_vec(),
            keys: Vec::new(),
        });
    }

    fn note(&mut self, path: &Path, what: &str) {
        self.notes.push(format!(
            "{} was left out of the SSH configuration: {what}",
            path.display()
        ));
    }
}

/// `Key value`, `Key=value`, with quotes; nothing for empty lines and comments.
fn statement(line: &str) -> Option<(String, Vec<String>)> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let end = line.find(|c: char| c.is_whitespace() || c == '=');
    let (key, rest) = line.split_at(end.unwrap_or(line.len()));
    let rest = rest.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest);
    let arguments = match key.to_ascii_lowercase().as_str() {
        // A command is taken as it stands.
        "proxycommand" => vec![rest.trim().to_owned()],
        _ => words(rest),
    };
    (!arguments.is_empty()).then(|| (key.to_ascii_lowercase(), arguments))
}

fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() && !rest.starts_with('#') {
        let (word, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => {
                let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
                rest.split_at(end)
            }
        };
        words.push(word.to_owned());
        rest = after.trim_start();
    }
    words
}

/// The files that an `Include` means, in the order of their names.
fn expand(named: &str, home: &Path) -> Vec<PathBuf> {
    let path = match named.strip_prefix("~/") {
        Some(rest) => home.join(rest),
        None => home.join(".ssh").join(named),
    };
    let mut found = vec![PathBuf::new()];
    for part in path.components() {
        let part = part.as_os_str();
        let pattern = part.to_string_lossy();
        if !pattern.contains(['*', '?']) {
            for base in &mut found {
                base.push(part);
            }
            continue;
        }
        found = found
            .iter()
            .flat_map(|base| children(base, &pattern))
            .collect();
    }
    found.retain(|path| path.is_file());
    found
}

fn children(dir: &Path, pattern: &str) -> Vec<PathBuf> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        // As in a shell: only a pattern with a dot shows what is hidden.
        .filter(|name| fits(pattern, name) && (!name.starts_with('.') || pattern.starts_with('.')))
        .collect();
    names.sort();
    names.into_iter().map(|name| dir.join(name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> ConfigFile {
        let home = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = home.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        ConfigFile::read(&home.path().join(files[0].0), home.path())
    }

    fn value(config: &ConfigFile, alias: &str, key: &str) -> Option<String> {
        let values = config.values(alias).into_iter();
        values
            .filter(|(name, _)| name == key)
            .map(|(_, value)| value)
            .next()
    }

    #[test]
    fn s2_aliases_are_the_names_of_host_lines_and_no_patterns() {
        let config = read(&[(
            ".ssh/config",
            "User everybody\n\
             host web  db \"two words\" *.example !not # a comment\n\
             \tHostName=10.0.0.1\n  Port = 2222\n\
             # Host commented\nHost web later\n  HostName 10.0.0.9\nMatch host x\n  User y\nHost *\n  User last\n",
        )]);
        assert_eq!(config.aliases(), ["web", "db", "two words", "later"]);
        assert_eq!(value(&config, "web", "hostname").unwrap(), "10.0.0.1");
        assert_eq!(value(&config, "web", "port").unwrap(), "2222");
        assert_eq!(value(&config, "web", "user").unwrap(), "everybody");
        assert_eq!(value(&config, "later", "hostname").unwrap(), "10.0.0.9");
        assert_eq!(config.notes, [""; 0]);
    }

    #[test]
    fn s2_includes_stand_where_they_are_named_and_under_its_conditions() {
        let config = read(&[
            (
                ".ssh/config",
                "Include conf.d/*.conf ~/.ssh/missing\nHost web\n  Include inner\n  User me\nInclude last\n",
            ),
            (".ssh/conf.d/b.conf", "Host b\n  User from-b\n"),
            (".ssh/conf.d/a.conf", "Host a b\n  User from-a\n"),
            (".ssh/conf.d/.hidden.conf", "Host hidden\n"),
            (".ssh/conf.d/other", "Host other\n"),
            (".ssh/inner", "Port 5\nHost web nobody\n  HostName inner\n"),
            (".ssh/last", "Host late\n"),
        ]);
        assert_eq!(config.aliases(), ["a", "b", "web"]);
        assert_eq!(value(&config, "b", "user").unwrap(), "from-a");
        assert_eq!(value(&config, "web", "port").unwrap(), "5");
        assert_eq!(value(&config, "web", "hostname").unwrap(), "inner");
        assert_eq!(value(&config, "web", "user").unwrap(), "me");
        assert_eq!(value(&config, "nobody", "hostname"), None);
    }

    #[test]
    fn s2_a_configuration_that_includes_itself_ends() {
        let config = read(&[(".ssh/config", "Host a\nInclude config\nInclude config\n")]);
        assert_eq!(config.aliases(), ["a"]);
        assert!(
            config.notes[0].contains("include each other"),
            "{:?}",
            config.notes
        );
        assert!(config.notes.len() < 2_000);
    }

    #[test]
    fn s2_a_match_block_is_left_to_ssh_except_for_all() {
        let config = read(&[(
            ".ssh/config",
            "Host a\n  Port 1\nMatch user root\n  User wrong\nMatch all\n  User right\n",
        )]);
        assert_eq!(value(&config, "a", "user").unwrap(), "right");
        assert_eq!(config.aliases(), ["a"]);
    }

    #[test]
    fn a_proxy_command_keeps_its_quotes_and_hashes() {
        let config = read(&[(
            ".ssh/config",
            "Host a\nProxyCommand sh -c \"nc %h %p\" # x\n",
        )]);
        let command = value(&config, "a", "proxycommand").unwrap();
        assert_eq!(command, "sh -c \"nc %h %p\" # x");
    }
}
