//! Timelines: what a page holds, journals as pages, and the page in a browser.

#![allow(clippy::unwrap_used)]

#[path = "timeline/browser.rs"]
mod browser;
#[path = "timeline/driver.rs"]
mod driver;

use std::path::PathBuf;

use dispatch_core::store::TurnState;
use dispatch_sim::run::Profile;
use dispatch_sim::timeline::{
    Field, JournalError, Kind, LaneKind, SpanKind, Timeline, html, of_journal, of_seed,
};

fn scratch(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("timeline-{name}"));
    // Left by an earlier run, or not there at all.
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// The page's own copy of the data.
fn data(page: &str) -> serde_json::Value {
    let (_, rest) = page
        .split_once(r#"<script type="application/json" id="data">"#)
        .unwrap();
    let (json, _) = rest.split_once("</script>").unwrap();
    serde_json::from_str(json).unwrap()
}

#[test]
fn w2_a_page_needs_nothing_but_itself_and_its_data_can_be_read() {
    let (timeline, outcome) = of_seed(59, Profile::Swarm);
    assert_eq!(outcome.violation, None);
    let page = html(&timeline);
    for outside in [
        "http://", "https://", "src=", "href=", "@import", "url(", "fetch(",
    ] {
        assert!(!page.contains(outside), "{outside} leads out of the page");
    }
    for left in ["{{title}}", "{{style}}", "{{data}}", "{{script}}"] {
        assert!(!page.contains(left), "{left} was not filled in");
    }
    let read: Timeline = serde_json::from_value(data(&page)).unwrap();
    assert_eq!(read, timeline);
}

#[test]
fn a_storm_shows_its_faults_its_jumps_of_time_and_what_was_in_flight() {
    let (timeline, _) = of_seed(1, Profile::Storm);
    assert_eq!(timeline.lanes_of(LaneKind::Replica).len(), 3);
    assert!(timeline.events_of(Kind::Fault) > 50);
    assert!(timeline.spans_of(SpanKind::Storm) > 0);
    assert!(timeline.spans_of(SpanKind::Request) > 30);
    assert!(timeline.spans_of(SpanKind::Command) > 10);
    let wakes: Vec<&str> = (0..timeline.events())
        .filter_map(|n| timeline.wake(n))
        .collect();
    for reason in ["retry-due t", "look-due north", "sweep-due", "renew-due"] {
        assert!(
            wakes.iter().any(|wake| wake.starts_with(reason)),
            "no {reason}"
        );
    }
    assert!(timeline.command.ends_with("show --seed 1 --profile storm"));
}

#[test]
fn a_text_that_looks_like_markup_stays_a_text() {
    let dir = scratch("markup");
    let path = dir.join("journal");
    let evil = "</script><script>document.title='taken'</script><!--";
    let mut run = driver::Run::new("here");
    run.submit("talk", evil);
    run.settle();
    std::fs::write(&path, run.journal()).unwrap();
    let page = html(&of_journal(&path).unwrap());
    assert!(!page.contains("document.title='taken'</script>"));
    assert!(data(&page).to_string().contains("document.title='taken'"));
}

#[test]
fn o3_a_journal_shows_its_turns_as_the_store_had_them_at_every_moment_of_rest() {
    let dir = scratch("rows");
    let mut compared = 0;
    let mut states = std::collections::BTreeSet::new();
    for most in 5..260 {
        let mut run = driver::Run::new("here");
        run.story(most);
        if !run.is_at_rest() {
            continue;
        }
        let path = dir.join(format!("journal-{most}"));
        std::fs::write(&path, run.journal()).unwrap();
        let timeline = of_journal(&path).unwrap();
        assert_eq!(timeline.violation, None);
        assert_eq!(
            timeline.lanes_of(LaneKind::Turn).len(),
            run.model.turns.len()
        );
        let state = timeline.state_after(timeline.events());
        for row in run.model.turns.values() {
            let value = |field| {
                let found = state.get(&(row.turn.to_string(), field));
                found.cloned().unwrap_or_default()
            };
            let name = format!("{:?}", row.state).to_lowercase();
            assert_eq!(value(Field::State), name, "after {most} inputs");
            assert_eq!(value(Field::Step), row.step.to_string());
            assert_eq!(
                value(Field::Attempt).parse().unwrap_or(0),
                row.retry.attempt
            );
            let owner = row.owner.as_ref().map_or("", |owner| &*owner.node);
            assert_eq!(value(Field::Owner), owner);
            let has_ended = row.state == TurnState::Ended;
            assert_eq!(!value(Field::Terminal).is_empty(), has_ended);
            states.insert(name);
            compared += 1;
        }
    }
    assert!(compared > 60, "only {compared} rows were compared");
    assert_eq!(states.len(), 5, "not every state was met: {states:?}");
}

#[test]
fn o3_a_directory_of_journals_is_one_picture_with_a_lane_for_each_replica() {
    let dir = scratch("replicas");
    for node in ["east", "west"] {
        let mut run = driver::Run::new(node);
        run.story(120);
        run.restart();
        run.story(40);
        let mut journal = run.journal();
        journal.truncate(journal.len() - 3);
        std::fs::write(dir.join(node), journal).unwrap();
    }
    std::fs::write(dir.join("dispatch.db"), "no journal").unwrap();
    let timeline = of_journal(&dir).unwrap();
    assert_eq!(timeline.lanes_of(LaneKind::Replica), ["east", "west"]);
    assert_eq!(timeline.remarks.len(), 2, "{:?}", timeline.remarks);
    assert!(timeline.remarks[0].contains("incomplete"));
    assert_eq!(timeline.violation, None);
}

#[test]
fn a_journal_that_cannot_be_drawn_says_why_and_what_to_do() {
    let dir = scratch("damaged");
    let path = dir.join("journal");
    let mut run = driver::Run::new("here");
    run.story(60);
    let good = run.journal();

    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 0x40;
    std::fs::write(&path, damaged).unwrap();
    let told = of_journal(&path).unwrap_err().to_string();
    assert!(
        told.contains("corrupt at byte") && told.contains("restore it"),
        "{told}"
    );

    std::fs::write(&path, "<html>no journal</html>").unwrap();
    let told = of_journal(&path).unwrap_err().to_string();
    assert!(told.contains("is this a journal?"), "{told}");

    std::fs::write(&path, "").unwrap();
    assert!(matches!(of_journal(&path), Err(JournalError::Empty(_))));
    std::fs::remove_file(&path).unwrap();
    assert!(matches!(of_journal(&path), Err(JournalError::Io { .. })));
    assert!(matches!(of_journal(&dir), Err(JournalError::None(_))));
}

#[test]
fn a_journal_that_this_build_would_not_write_so_is_drawn_up_to_there() {
    let dir = scratch("diverged");
    let path = dir.join("journal");
    let mut run = driver::Run::new("here");
    run.story(40);
    run.lie();
    run.story(80);
    std::fs::write(&path, run.journal()).unwrap();
    let timeline = of_journal(&path).unwrap();
    let violation = timeline.violation.unwrap();
    assert_eq!(violation.oracle, "replay");
    assert!(violation.seen.contains("decides differently"));
}

#[test]
fn o3_of_several_journals_what_cannot_be_shown_is_left_out_and_said() {
    let dir = scratch("several");
    let mut run = driver::Run::new("east");
    run.story(60);
    let good = run.journal();
    std::fs::write(dir.join("a"), &good).unwrap();
    std::fs::write(dir.join("a-copy"), &good).unwrap();
    let mut run = driver::Run::new("west");
    run.story(60);
    let mut damaged = run.journal();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x40;
    std::fs::write(dir.join("damaged"), damaged).unwrap();

    let timeline = of_journal(&dir).unwrap();
    let has = |words: &str| timeline.remarks.iter().any(|told| told.contains(words));
    assert!(has("tell of the same replica"), "{:?}", timeline.remarks);
    assert!(has("corrupt at byte"), "{:?}", timeline.remarks);
    assert_eq!(timeline.dropped.journals, 1);
    assert_eq!(timeline.lanes_of(LaneKind::Replica), ["east", "west"]);
}

#[test]
fn o3_of_very_many_journals_it_is_said_how_many_are_left_out() {
    let dir = scratch("many");
    let mut run = driver::Run::new("east");
    run.story(5);
    for n in 0..70 {
        std::fs::write(dir.join(format!("{n:02}")), run.journal()).unwrap();
    }
    let timeline = of_journal(&dir).unwrap();
    assert_eq!(timeline.dropped.journals, 6);
    let told = timeline.remarks.join("\n");
    assert!(told.contains("6 journals are left out"), "{told}");
}
