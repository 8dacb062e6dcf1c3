//! The page in a real browser. Where there is none, the tests say so and pass,
//! unless DISPATCH_REQUIRE names chromium.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use dispatch_sim::run::Profile;
use dispatch_sim::timeline::{Field, Shown, Timeline, html, of_journal, of_seed};

use crate::{driver, scratch};

fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&path)
        .flat_map(|dir| names.map(|name| dir.join(name)))
        .find(|program| program.is_file())
}

fn skip(what: &str) {
    let required = std::env::var("DISPATCH_REQUIRE").unwrap_or_default();
    let is_required = required.split(',').any(|name| name.trim() == "chromium");
    assert!(
        !is_required,
        "DISPATCH_REQUIRE names chromium, and it is not installed: install Chromium so that `chromium` is found"
    );
    // Not by the macro, which the test harness keeps to itself.
    let notice = format!("\nSKIPPED: sim/tests/timeline.rs, {what}: no Chromium here\n");
    std::io::stderr().write_all(notice.as_bytes()).unwrap();
}

/// What the browser shows of a page, and what it said on its console.
struct Opened {
    dom: String,
    console: Vec<String>,
}

fn open(program: &Path, dir: &Path, timeline: &Timeline, hash: &str) -> Opened {
    open_in(program, dir, timeline, hash, 1600)
}

fn open_in(program: &Path, dir: &Path, timeline: &Timeline, hash: &str, width: u32) -> Opened {
    let page = dir.join("page.html");
    std::fs::write(&page, html(timeline)).unwrap();
    let output = Command::new(program)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args(["--enable-logging=stderr", "--virtual-time-budget=4000"])
        .arg(format!("--window-size={width},1000"))
        .arg(format!("--user-data-dir={}", dir.join("profile").display()))
        .arg(format!("file://{}#{hash}", page.display()))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    Opened {
        dom: String::from_utf8(output.stdout).unwrap(),
        console: told
            .lines()
            .filter(|line| line.contains(":CONSOLE"))
            .map(ToOwned::to_owned)
            .collect(),
    }
}

impl Opened {
    fn is_well(&self) {
        assert!(self.console.is_empty(), "{:#?}", self.console);
        let start: String = self.dom.chars().take(400).collect();
        assert!(
            self.dom.contains(r#"data-ready="true""#),
            "the page stopped at: {start}"
        );
    }

    /// What the page has measured of itself.
    fn probed(&self) -> serde_json::Value {
        let (_, probed) = self.dom.split_once(r#"id="probed">"#).unwrap();
        let (probed, _) = probed.split_once("</script>").unwrap();
        serde_json::from_str(probed).unwrap()
    }

    /// What the panel shows, without its markup.
    fn panel(&self) -> String {
        let (_, rest) = self.dom.split_once("<aside").unwrap();
        let (panel, _) = rest.split_once("</aside>").unwrap();
        let mut text = String::new();
        let mut in_tag = true;
        for c in panel.chars() {
            match c {
                '<' => {
                    in_tag = true;
                    text.push(' ');
                }
                '>' => in_tag = false,
                c if !in_tag => text.push(c),
                _ => {}
            }
        }
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn w2_in_a_browser_stepping_to_the_last_event_shows_the_state_at_the_end() {
    let Some(program) = chromium() else {
        return skip("stepping through a storm");
    };
    let dir = scratch("browser");
    let (timeline, _) = of_seed(1, Profile::Storm);
    let opened = open(&program, &dir, &timeline, "probe");
    opened.is_well();
    let probed = opened.probed();
    assert_eq!(probed["events"], timeline.events());
    assert_eq!(
        probed["walked"], 300,
        "every arrow key is one step: {probed}"
    );
    assert_eq!(probed["atLast"], true);
    assert_eq!(probed["rulersBack"], 0, "time runs forward: {probed}");

    let panel = opened.panel();
    assert!(panel.contains("the run is over"), "{panel}");
    let state = timeline.state_after(timeline.events());
    let is_done = |((_, field), value): &(&(String, Field), &String)| {
        *field == Field::Terminal && value.as_str() == "done"
    };
    let done = state.iter().filter(is_done).count();
    let turns = state
        .keys()
        .filter(|(_, field)| *field == Field::Terminal)
        .count();
    assert!(
        panel.contains(&format!("{turns} so far; ended: ")),
        "{panel}"
    );
    assert!(panel.contains(&format!("{done} done")), "{panel}");
    for replica in 0..3 {
        assert!(panel.contains(&format!("node-{replica} up")), "{panel}");
    }
}

#[test]
fn in_a_browser_a_message_that_looks_like_markup_is_shown_as_text() {
    let Some(program) = chromium() else {
        return skip("markup in a message");
    };
    let dir = scratch("browser-markup");
    let mut run = driver::Run::new("here");
    run.submit(
        "talk",
        "</script><img id=taken src=x onerror=\"document.title='taken'\"><b>",
    );
    run.settle();
    let path = dir.join("journal");
    std::fs::write(&path, run.journal()).unwrap();
    let timeline = of_journal(&path).unwrap();
    let opened = open(&program, &dir, &timeline, "search=img&event=last");
    opened.is_well();
    assert!(!opened.dom.contains("<img"), "the message became markup");
    assert!(opened.panel().contains("onerror="), "{}", opened.panel());
}

#[test]
fn in_a_narrow_window_nothing_is_out_of_reach() {
    let Some(program) = chromium() else {
        return skip("a narrow window");
    };
    let dir = scratch("browser-narrow");
    let (mut timeline, _) = of_seed(59, Profile::Swarm);
    timeline.violation = Some(Shown {
        oracle: "limit".to_owned(),
        at_us: 1_000_000,
        expected: "at most 1 stream".to_owned(),
        seen: "2 streams".to_owned(),
    });
    let opened = open_in(&program, &dir, &timeline, "probe", 500);
    opened.is_well();
    let probed = opened.probed();
    assert!(probed["beyondTheWindow"].as_i64() <= Some(0), "{probed}");
    assert!(probed["chart"].as_i64() >= Some(250), "{probed}");
}
