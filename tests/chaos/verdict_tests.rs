use serde_json::json;

use super::*;

fn text(seq: u64, kind: &str, more: serde_json::Value) -> Event {
    let mut event = json!({ "seq": seq, "type": kind, "turnId": "t1" });
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    event
}

fn complete(seq: u64, step: u64, text_of_step: &str) -> Event {
    let chunks = json!([{ "type": "text", "text": text_of_step }]);
    text(
        seq,
        "step-complete",
        json!({ "step": step, "chunks": chunks }),
    )
}

/// A turn of two steps with one command, as it should be.
fn honest() -> (Talked, Effects) {
    let call = Call {
        uid: "a.0/0/0".to_owned(),
        command: "run".to_owned(),
    };
    let step = |text: &str, calls: Vec<Call>| Step {
        text: text.to_owned(),
        calls,
    };
    let ask = Ask {
        tag: "a.0".to_owned(),
        message: "a.0 script".to_owned(),
        steps: vec![step("I look.", vec![call]), step("I saw.", vec![])],
        detach: false,
    };
    let log = vec![
        text(1, "turn-start", json!({ "message": "a.0 script" })),
        complete(2, 0, "I look."),
        text(
            3,
            "tool-call",
            json!({ "step": 0, "callId": "c", "input": { "command": "run" } }),
        ),
        text(
            4,
            "tool-result",
            json!({ "callId": "c", "ok": true, "output": "a.0/0/0\n" }),
        ),
        complete(5, 1, "I saw."),
        text(6, "done", json!({})),
    ];
    let mut page = Page::default();
    for event in &log {
        page.show(event).unwrap();
    }
    let receipt = Receipt {
        conversation: "a".to_owned(),
        turn: "t1".to_owned(),
        seq: 1,
    };
    let talked = Talked {
        name: "a".to_owned(),
        asked: vec![Asked {
            ask,
            receipt: Some(receipt),
        }],
        page,
        complaints: Vec::new(),
        log,
    };
    (talked, Effects::read("begin a.0/0/0\nend a.0/0/0\n"))
}

/// The rules that a history breaks, once something is done to its log. Its
/// client saw the same: only the log's own faults count.
fn doctored(change: impl FnOnce(&mut Vec<Event>)) -> BTreeSet<Rule> {
    let (mut talked, effects) = honest();
    change(&mut talked.log);
    talked.page.log.clone_from(&talked.log);
    rules(&talked, &effects)
}

fn renumbered(change: impl FnOnce(&mut Vec<Event>)) -> BTreeSet<Rule> {
    doctored(|log| {
        change(log);
        for (n, event) in log.iter_mut().enumerate() {
            event["seq"] = (n as u64 + 1).into();
        }
    })
}

fn rules(talked: &Talked, effects: &Effects) -> BTreeSet<Rule> {
    let found = judge(talked, effects);
    found.iter().map(|violation| violation.rule).collect()
}

fn only(rule: Rule) -> BTreeSet<Rule> {
    BTreeSet::from([rule])
}

#[test]
fn an_honest_history_breaks_nothing() {
    let (talked, effects) = honest();
    assert_eq!(judge(&talked, &effects), []);
}

#[test]
fn a_lost_turn_is_found() {
    assert!(doctored(Vec::clear).contains(&Rule::Lost));
    let (mut talked, effects) = honest();
    talked.asked[0].receipt.as_mut().unwrap().turn = "t2".to_owned();
    assert_eq!(rules(&talked, &effects), only(Rule::Lost));
}

#[test]
fn a_message_that_was_never_acknowledged_need_not_be_there() {
    let (mut talked, _) = honest();
    talked.asked[0].receipt = None;
    talked.log.clear();
    talked.page.log.clear();
    assert_eq!(judge(&talked, &Effects::default()), []);
}

#[test]
fn a_second_turn_of_one_key_is_found() {
    let found = renumbered(|log| {
        let mut again = log.clone();
        for event in &mut again {
            event["turnId"] = "t2".into();
        }
        log.extend(again);
    });
    assert!(found.contains(&Rule::AcceptedTwice), "{found:?}");
}

#[test]
fn a_turn_without_end_and_one_with_two_are_found() {
    let none = renumbered(|log| {
        log.pop();
    });
    assert_eq!(none, only(Rule::NoEnd));
    let two = renumbered(|log| log.push(text(7, "error", json!({}))));
    assert_eq!(two, only(Rule::TwoEnds));
}

#[test]
fn an_event_after_the_end_is_found() {
    let found = renumbered(|log| log.push(text(7, "warning", json!({}))));
    assert_eq!(found, only(Rule::AfterEnd));
}

#[test]
fn a_gap_and_a_repetition_are_found() {
    let gap = doctored(|log| log[5]["seq"] = 7.into());
    assert_eq!(gap, only(Rule::Gap));
    let twice = doctored(|log| log[5]["seq"] = 5.into());
    assert_eq!(twice, only(Rule::Gap));
}

#[test]
fn a_client_that_was_shown_something_else_is_heard() {
    let (mut talked, effects) = honest();
    talked.page.log[4] = complete(5, 1, "I saw nothing.");
    assert_eq!(rules(&talked, &effects), only(Rule::ShownOtherwise));
    let (mut talked, effects) = honest();
    talked.page.log.push(text(7, "warning", json!({})));
    assert_eq!(rules(&talked, &effects), only(Rule::ShownOtherwise));
    let (mut talked, effects) = honest();
    talked.complaints.push("no sense".to_owned());
    assert_eq!(rules(&talked, &effects), only(Rule::Senseless));
}

#[test]
fn text_that_is_not_the_scripts_is_found() {
    let other = doctored(|log| log[4] = complete(5, 1, "I say."));
    assert_eq!(other, only(Rule::Text));
    let again = doctored(|log| log[4] = complete(5, 1, "I saw.I saw."));
    assert_eq!(again, only(Rule::Text));
    let swapped = doctored(|log| log[4] = complete(5, 0, "I saw."));
    assert_eq!(swapped, only(Rule::Text));
    let missing = renumbered(|log| {
        log.remove(4);
    });
    assert_eq!(missing, only(Rule::Text));
}

#[test]
fn a_turn_that_failed_has_the_scripts_beginning() {
    let failed = |said: &str| {
        doctored(|log| {
            log[4] = complete(5, 1, said);
            log[4]["partial"] = true.into();
            log[5] = text(6, "error", json!({}));
        })
    };
    assert_eq!(failed("I s"), BTreeSet::new());
    assert_eq!(failed("We s"), only(Rule::Text));
}

#[test]
fn a_command_that_ran_twice_is_found() {
    let (talked, _) = honest();
    let twice = Effects::read("begin a.0/0/0\nbegin a.0/0/0\nend a.0/0/0\n");
    let found = rules(&talked, &twice);
    assert!(found.contains(&Rule::RanTwice), "{found:?}");
}

#[test]
fn a_command_that_ran_unlogged_is_found() {
    let found = renumbered(|log| {
        log.drain(2..4);
    });
    assert!(found.contains(&Rule::RanUnlogged), "{found:?}");
}

#[test]
fn an_answer_must_be_true() {
    let (talked, _) = honest();
    for lies in ["", "begin a.0/0/0\n"] {
        assert_eq!(
            rules(&talked, &Effects::read(lies)),
            only(Rule::Answer),
            "{lies:?}"
        );
    }
    let said = |ok: bool, output: &str| {
        doctored(|log| {
            log[3]["ok"] = ok.into();
            log[3]["output"] = output.into();
        })
    };
    assert_eq!(said(true, "a.0/0/1"), only(Rule::Answer));
    assert_eq!(said(false, "it broke"), only(Rule::Answer));
    assert_eq!(said(false, "interrupted, outcome unknown"), BTreeSet::new());
}

#[test]
fn every_call_has_one_answer_and_is_the_scripts() {
    let none = renumbered(|log| {
        log.remove(3);
    });
    assert_eq!(none, only(Rule::Answer));
    let two = renumbered(|log| log.insert(4, log[3].clone()));
    assert_eq!(two, only(Rule::Answer));
    let orphan = doctored(|log| log[3]["callId"] = "d".into());
    assert_eq!(orphan, only(Rule::Answer));
    let (mut talked, effects) = honest();
    talked.asked[0].ask.steps[0].calls[0].command = "another".to_owned();
    assert!(rules(&talked, &effects).contains(&Rule::Answer));
}

#[test]
fn a_page_refuses_what_a_client_could_not_show() {
    let delta = |offset: u64, said: &str| json!({ "type": "text-delta", "turnId": "t1", "step": 0, "offset": offset, "text": said });
    let mut page = Page::default();
    page.show(&delta(0, "I lo")).unwrap();
    assert!(page.clone().show(&delta(5, "k.")).is_err());
    assert!(
        page.clone().show(&complete(2, 0, "I look.")).is_err(),
        "a hole"
    );
    assert!(page.clone().show(&complete(1, 0, "We look.")).is_err());
    page.show(&complete(1, 0, "I look.")).unwrap();
    assert!(
        page.clone().show(&complete(1, 0, "I look.")).is_err(),
        "twice"
    );
    assert!(page.show(&delta(0, "I")).is_err(), "after its step");
    page.reconnected();
    assert_eq!(page.cursor(), 1);
}

#[test]
fn only_a_step_that_was_cut_short_may_have_less_than_was_shown() {
    let mut page = Page::default();
    let delta =
        json!({ "type": "text-delta", "turnId": "t1", "step": 0, "offset": 0, "text": "I lo" });
    page.show(&delta).unwrap();
    let mut less = complete(1, 0, "I l");
    assert!(page.clone().show(&less).is_err());
    less["partial"] = true.into();
    page.clone().show(&less).unwrap();
    let mut other = complete(1, 0, "You");
    other["partial"] = true.into();
    assert!(page.show(&other).is_err());
}
