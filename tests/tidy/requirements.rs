//! What `notes/requirements.md` calls done, a test must carry.

use std::collections::BTreeMap;

use crate::sources::{Source, has_word, root, tracked};

#[test]
fn every_requirement_that_is_done_is_carried_by_a_test() {
    let path = root().join("notes/requirements.md");
    let page = std::fs::read_to_string(&path)
        .expect("notes/requirements.md has a row for every requirement");
    let rows = parse(&page).unwrap_or_else(|reason| panic!("notes/requirements.md: {reason}"));
    let tests = tests_in(&tracked("rs"));
    let found = not_carried(&rows, &tests);
    assert!(
        found.is_empty(),
        "called done, but no test says so in its name (t3_...) or in an attribute: {}",
        found.join(" ")
    );
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Done,
    Part,
    Open,
}

/// Reads the rows `| id | status | what |`; other lines are prose.
fn parse(page: &str) -> Result<BTreeMap<String, Status>, String> {
    let mut rows = BTreeMap::new();
    for line in page
        .lines()
        .filter(|line| line.trim_start().starts_with('|'))
    {
        let mut cells = line.trim().trim_matches('|').split('|').map(str::trim);
        let (id, status) = (cells.next().unwrap_or_default(), cells.next());
        if id == "id" || id.chars().all(|c| matches!(c, '-' | ':')) {
            continue;
        }
        if !is_id(id) {
            return Err(format!("`{id}` is no requirement's id; write T3, A2, ..."));
        }
        let status = match status {
            Some("done") => Status::Done,
            Some("part") => Status::Part,
            Some("open") => Status::Open,
            other => {
                return Err(format!(
                    "{id} has the status {other:?}; write done, part or open"
                ));
            }
        };
        if rows.insert(id.to_owned(), status).is_some() {
            return Err(format!("{id} has two rows"));
        }
    }
    if rows.is_empty() {
        return Err("has no row".to_owned());
    }
    Ok(rows)
}

fn is_id(text: &str) -> bool {
    let digits = text.trim_start_matches(|c: char| c.is_ascii_uppercase());
    text.len() - digits.len() == 1
        && !digits.is_empty()
        && digits.bytes().all(|c| c.is_ascii_digit())
}

/// A test function: its name and its attributes.
struct Test {
    name: String,
    attributes: String,
}

impl Test {
    fn carries(&self, id: &str) -> bool {
        let lower = id.to_ascii_lowercase();
        self.name.split('_').any(|part| part == lower) || has_word(&self.attributes, id)
    }
}

fn not_carried(rows: &BTreeMap<String, Status>, tests: &[Test]) -> Vec<String> {
    rows.iter()
        .filter(|(_, status)| **status == Status::Done)
        .filter(|(id, _)| !tests.iter().any(|test| test.carries(id)))
        .map(|(id, _)| id.clone())
        .collect()
}

fn tests_in(sources: &[Source]) -> Vec<Test> {
    let mut tests = Vec::new();
    for source in sources {
        let mut attributes = String::new();
        for line in source.text.lines().map(str::trim) {
            if line.starts_with("#[") {
                attributes.push_str(line);
            } else if let Some(name) = function_name(line) {
                let attributes = std::mem::take(&mut attributes);
                if attributes.contains("#[test]") || attributes.contains("::test") {
                    let name = name.to_owned();
                    tests.push(Test { name, attributes });
                }
            } else if !line.starts_with("//") {
                attributes.clear();
            }
        }
    }
    tests
}

fn function_name(line: &str) -> Option<&str> {
    let (before, rest) = line.split_once("fn ")?;
    let is_signature = before
        .split_whitespace()
        .all(|word| matches!(word, "pub" | "async" | "const" | "pub(crate)"));
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    (is_signature && end > 0).then(|| &rest[..end])
}

mod rules {
    use super::*;

    fn tests_of(text: &str) -> Vec<Test> {
        tests_in(&[Source {
            path: "a.rs".into(),
            text: text.into(),
        }])
    }

    #[test]
    fn rows_are_read_and_prose_is_not() {
        let page = "# Requirements\nText.\n\n| id | status | what |\n|---|---|---|\n| T1 | done | a turn |\n| A12 | part | x | y |\n";
        let rows = parse(page).unwrap();
        assert_eq!(rows["T1"], Status::Done);
        assert_eq!(rows["A12"], Status::Part);
        assert_eq!(rows.len(), 2);
    }

    #[test]
    fn a_row_that_cannot_be_read_is_an_error() {
        for row in [
            "| T1 | nearly | x |",
            "| T1 |",
            "| Turn | done | x |",
            "| T1 | open | |\n| T1 | done | |",
            "",
        ] {
            assert!(parse(row).is_err(), "{row}");
        }
    }

    #[test]
    fn a_requirement_is_carried_by_a_tests_name_or_attribute_and_by_nothing_else() {
        let rows = parse("| T3 | done | |").unwrap();
        let carried = |text: &str| not_carried(&rows, &tests_of(text)).is_empty();
        assert!(carried("#[test]\nfn t3_waits() {}"));
        assert!(carried("#[test]\nfn a2_t3_both() {}"));
        assert!(carried(
            "#[test]\n#[cfg_attr(all(), doc = \"T3\")]\nfn waits() {}"
        ));
        assert!(carried(
            "#[tokio::test(start_paused = true)]\nasync fn t3_waits() {}"
        ));
        assert!(!carried("#[test]\nfn t31_waits() {}"));
        assert!(!carried("fn t3_helper() {}"));
        assert!(!carried("/// T3\n#[test]\nfn waits() {}"));
        assert!(!carried("#[test]\nfn waits() {\n    let t3_x = 1;\n}"));
    }
}
