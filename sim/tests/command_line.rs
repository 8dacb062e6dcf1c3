//! The program as it is called: what it prints where, what it writes, and its
//! exit codes.
#![cfg(unix)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

struct Called {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dispatch-sim"));
    command.args(args).current_dir(folder).stdin(Stdio::null());
    command
}

fn call(folder: &Path, args: &[&str]) -> Called {
    let output = command(folder, args).output().expect("it runs");
    called(&output)
}

fn called(output: &Output) -> Called {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Called {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
    }
}

/// With a space in its name, which a shell would make two words of.
fn scratch(name: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("cli {name}"));
    // Left by an earlier run, or not there at all.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn regression(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    path.join(name).display().to_string()
}

#[test]
fn a_full_disk_is_an_error_and_a_reader_that_has_left_is_none() {
    let folder = scratch("out");
    let recipe = regression("too-late-to-begin.json");
    let page = ["show", "--seed", "3", "--out", "page.html"];
    for args in [
        &["run", "--seed", "3"][..],
        &["run", "--seed", "3", "--trace"],
        &["sweep", "--seeds", "1"],
        &["sweep", "--seeds", "1", "--json"],
        &["repro", &recipe],
        &page,
    ] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let into = |to: Stdio| {
            let mut child = command(&folder, args);
            child.stdout(to).stderr(Stdio::piped());
            called(&child.output().expect("it runs"))
        };
        let told = into(full.expect("a device").into());
        assert_eq!(told.code, Some(2), "{args:?}: {}", told.err);
        assert!(told.err.contains("cannot be written"), "{}", told.err);
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let told = into(writer.into());
        assert_eq!(told.code, Some(0), "{args:?}: {}", told.err);
        assert!(!told.err.contains("error"), "{args:?}: {}", told.err);
    }
}

#[test]
fn an_interrupted_sweep_tells_what_it_has_and_how_to_go_on() {
    let folder = scratch("interrupted");
    let args = ["sweep", "--seeds", "1000000", "--threads", "1"];
    let mut child = command(&folder, &args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // The first line of progress shows that it listens.
    let mut progress = String::new();
    let mut err = std::io::BufReader::new(child.stderr.take().expect("piped"));
    std::io::BufRead::read_line(&mut err, &mut progress).expect("read");
    assert!(progress.contains(" of 1000000 seeds"), "{progress}");
    let id = child.id().to_string();
    let sent = Command::new("kill").args(["-INT", &id]).status();
    assert!(sent.expect("sent").success());
    let told = called(&child.wait_with_output().expect("it ends"));
    assert_eq!(told.code, Some(130), "{}", told.out);
    assert!(told.out.contains(" seeds from 0: "), "{}", told.out);
    assert!(told.out.contains("go on with --from "), "{}", told.out);
}

#[test]
fn what_contradicts_itself_is_refused() {
    let folder = scratch("refused");
    std::fs::write(folder.join("file"), "").expect("written");
    let last = u64::MAX.to_string();
    for args in [
        &["sweep", "--seeds", "1", "--threads", "0"][..],
        &["sweep", "--seeds", "9", "--from", &last],
        &["sweep", "--seeds", "1", "--ring", "network", "--points"],
        &["sweep", "--seeds", "1", "--out", "file/x"],
        &["shrink", "file", "--profile", "storm"],
        &["shrink", "--seed", "1", "--out", "file/x"],
        &["planted", "--ranges", "0"],
        &["planted", "--pairs", "0"],
        &["planted", "--pairs", "1", "--ranges", "3"],
    ] {
        let told = call(&folder, args);
        assert_eq!(told.code, Some(2), "{args:?}: {}", told.out);
        assert!(told.err.contains("error: "), "{args:?}: {}", told.err);
        assert!(told.out.is_empty(), "{args:?}: {}", told.out);
    }
}

#[test]
fn a_page_never_overwrites_what_it_shows() {
    let folder = scratch("spared");
    let own = folder.join("own.json");
    std::fs::copy(regression("too-late-to-begin.json"), &own).expect("copied");
    let before = std::fs::read(&own).expect("readable");
    let told = call(
        &folder,
        &["show", "--recipe", "own.json", "--out", "own.json"],
    );
    assert_eq!(told.code, Some(2), "{}", told.out);
    assert_eq!(std::fs::read(&own).expect("readable"), before);

    let told = call(&folder, &["run", "--seed", "4", "--journals", "lives"]);
    assert_eq!(told.code, Some(0), "{}", told.err);
    let lives = std::fs::read_dir(folder.join("lives")).expect("a folder");
    let one = lives.map(|life| life.expect("readable").path()).next();
    let one = one.expect("a life").display().to_string();
    for shown in ["lives", &one] {
        let told = call(&folder, &["show", "--journal", shown, "--out", &one]);
        assert_eq!(told.code, Some(2), "{}", told.out);
        assert!(told.err.contains("would overwrite"), "{}", told.err);
    }
}

#[test]
fn a_recipe_is_compared_with_what_was_recorded_of_it() {
    let folder = scratch("compared");
    let told = call(&folder, &["repro", &regression("too-late-to-begin.json")]);
    assert_eq!(told.code, Some(0), "{}", told.out);
    let compared = "recorded: fenced; now: nothing broken";
    assert!(told.out.contains(compared), "{}", told.out);
}

/// The way from a sweep to a picture, on a bug that was planted for it.
#[cfg(planted)]
mod rehearsal {
    use super::*;

    const SWEEP: [&str; 7] = [
        "sweep", "--plant", "D06", "--seeds", "60", "--out", "my runs",
    ];

    fn path_in(text: &str, line: &str) -> String {
        let found = text.lines().find(|found| found.starts_with(line));
        let found = found.unwrap_or_else(|| panic!("no line {line} in:\n{text}"));
        let (before, _) = found.rsplit_once('\'').expect("a quoted path");
        let (_, path) = before.rsplit_once('\'').expect("a quoted path");
        path.to_owned()
    }

    #[test]
    fn a_sweep_finds_a_bug_makes_it_small_and_tells_how_to_see_it_again() {
        let folder = scratch("rehearsal");
        let told = call(&folder, &SWEEP);
        assert_eq!(told.code, Some(10), "{}\n{}", told.out, told.err);
        assert!(told.out.contains("retry-schedule violated by seed "));
        assert!(told.out.contains("shrunk from "));
        let last = told.out.lines().last().unwrap_or_default();
        assert!(last.starts_with("reproduce: "), "{}", told.out);
        let recipe = path_in(&told.out, "reproduce:");
        assert_eq!(recipe, path_in(&told.out, "picture:"));

        let again = call(&folder, &["repro", &recipe]);
        assert_eq!(again.code, Some(10), "{}", again.out);
        assert!(!again.out.contains("recorded:"), "{}", again.out);
        assert_eq!(again.err, "");
        let shown = call(&folder, &["show", "--recipe", &recipe, "--out", "a.html"]);
        assert_eq!(shown.code, Some(10), "{}", shown.out);
        let page = std::fs::read_to_string(folder.join("a.html")).expect("a page");
        assert!(page.contains("retry-schedule"));
        let seed = ["show", "--seed", "0", "--plant", "D06", "--out", "b.html"];
        assert_eq!(call(&folder, &seed).code, Some(10));
        let smaller = call(&folder, &["shrink", &recipe, "--out", "my runs"]);
        assert_eq!(smaller.code, Some(10), "{}", smaller.err);
    }

    #[test]
    fn machines_are_told_the_same() {
        let folder = scratch("machines");
        let args = [&SWEEP[..], &["--json"]].concat();
        let told = call(&folder, &args);
        assert_eq!(told.code, Some(10), "{}", told.err);
        let shown: serde_json::Value = serde_json::from_str(&told.out).expect("one object");
        let violation = &shown["violation"];
        assert_eq!(violation["oracle"], "retry-schedule");
        let small = &violation["small"];
        let recipe = small["recipe"].as_str().expect("a path");
        assert!(folder.join(recipe).is_file(), "{small}");
        assert!(small["list"].as_array().is_some_and(|list| list.len() > 1));
        let command = small["reproduce"].as_str().expect("a command");
        assert!(command.ends_with(&format!("repro '{recipe}'")), "{command}");
    }

    #[test]
    fn what_was_found_goes_before_what_cannot_be_written() {
        let folder = scratch("unwritten");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
        let mut sweep = command(&folder, &SWEEP);
        sweep.stdout(full.expect("a device")).stderr(Stdio::piped());
        let told = called(&sweep.output().expect("it runs"));
        assert_eq!(told.code, Some(10), "{}", told.err);
        assert!(told.err.contains("cannot be written"), "{}", told.err);
    }
}
