use super::*;
use crate::demo::plan::Planned;
use crate::demo::view::View;
use serde_json::json;

/// Evidence of a demo that went well.
fn good() -> Evidence {
    let plan = Plan::of(3);
    let mut evidence = Evidence {
        played: Vec::new(),
        requests: Vec::new(),
        stats: json!({"max_in_flight": 2, "invalid": 0, "total": 14}),
        written: plan.written.clone(),
        plan,
    };
    let plan = evidence.plan.clone();
    let words = plan.notes.split_whitespace().count();
    let results = [format!("reading\n{words}\n"), "written".to_owned()];
    let results: Vec<Value> = results
        .iter()
        .map(|output| json!({"type": "tool-result", "ok": true, "output": output}))
        .collect();
    evidence.add(&plan.tools, results, &[(0, "finished"), (700, "finished")]);
    let order = expected_order(&plan.line);
    for planned in &plan.line {
        let place = order.iter().position(|m| *m == planned.message).unwrap() as u64;
        evidence.add(planned, vec![], &[(1_000 + place * 400, "finished")]);
        let waiting = place.checked_sub(LIMIT as u64);
        let places = waiting.map_or(vec![], |n| (1..=n + 1).rev().collect());
        evidence.played.last_mut().unwrap().view.positions = places;
    }
    let retry = |attempt: u64| {
        let delay_ms = SCHEDULE_S[attempt as usize] * 1_000;
        json!({"type": "provider-retry", "attempt": attempt, "delayMs": delay_ms, "at": 50, "dueAt": 50 + delay_ms})
    };
    let attempts = [(5_000, "refused"), (6_010, "refused"), (8_030, "finished")];
    evidence.add(&plan.refused, vec![retry(0), retry(1)], &attempts);
    evidence.add(&plan.cut, vec![], &[(9_000, "cut")]);
    let restart = json!({"type": "step-restart", "step": 0});
    let attempts = [(10_000, "cut-by-client"), (11_000, "finished")];
    evidence.add(&plan.killed, vec![restart], &attempts);
    evidence.turn_mut("d").view.reconnects = 1;
    evidence
}

impl Evidence {
    fn add(&mut self, planned: &Planned, middle: Vec<Value>, requests: &[(u64, &str)]) {
        let (text, end) = match &planned.end {
            End::Done(text) => (text, json!({"type": "done"})),
            End::Truncated(text) => (text, json!({"type": "error", "code": "stream-truncated"})),
        };
        let complete =
            json!({"type": "step-complete", "step": 0, "chunks": [{"type": "text", "text": text}]});
        let mut log = vec![json!({"type": "turn-start"})];
        log.extend(middle);
        log.extend([complete, end]);
        for (n, event) in log.iter_mut().enumerate() {
            event["seq"] = json!(n + 1);
        }
        let logged = log
            .iter()
            .map(|event| (event["seq"].as_u64().unwrap(), kind(event).to_owned()));
        let mut view = View::default();
        view.logged = logged.collect();
        self.played.push(Played {
            planned: planned.clone(),
            conversation: "c".to_owned(),
            turn: "t".to_owned(),
            view,
            log,
        });
        for (at_ms, state) in requests {
            let message = &planned.message;
            self.requests
                .push(json!({"message": message, "at_ms": at_ms, "state": state}));
        }
    }

    fn turn_mut(&mut self, label: &str) -> &mut Played {
        let turn = self.played.iter_mut().find(|p| p.planned.label == label);
        turn.unwrap()
    }

    fn request_mut(&mut self, label: &str, n: usize) -> &mut Value {
        let message = self.turn(label).unwrap().planned.message.clone();
        let mut requests = self
            .requests
            .iter_mut()
            .filter(|r| r["message"] == message.as_str());
        requests.nth(n).unwrap()
    }

    fn failed(&self) -> Vec<usize> {
        let checks = self.checks();
        let failed = checks
            .iter()
            .enumerate()
            .filter(|(_, c)| c.verdict.is_err());
        failed.map(|(n, _)| n).collect()
    }
}

fn failed_after(doctor: impl FnOnce(&mut Evidence)) -> Vec<usize> {
    let mut evidence = good();
    doctor(&mut evidence);
    evidence.failed()
}

#[test]
fn a_demo_that_went_well_passes_every_check() {
    for check in good().checks() {
        assert_eq!(check.verdict, Ok(()), "{}", check.statement);
    }
}

#[test]
fn a_second_or_a_missing_terminal_event_is_found() {
    let twice = failed_after(|e| {
        let turn = e.turn_mut("b1");
        let end = turn.log.last().unwrap().clone();
        turn.log.push(end);
    });
    assert!(twice.contains(&0));
    assert!(failed_after(|e| drop(e.turn_mut("b1").log.pop())).contains(&0));
    let afterwards = failed_after(|e| e.turn_mut("b1").log.push(json!({"type": "warning"})));
    assert!(afterwards.contains(&0));
    assert!(failed_after(|e| drop(e.played.pop())).contains(&0));
}

#[test]
fn what_was_shown_otherwise_than_logged_is_found() {
    let hole = |e: &mut Evidence| e.turn_mut("a").view.faults.push("a hole".to_owned());
    assert_eq!(failed_after(hole), [1]);
    let missed = |e: &mut Evidence| drop(e.turn_mut("a").view.logged.pop());
    assert_eq!(failed_after(missed), [1]);
}

#[test]
fn another_text_or_another_end_is_found() {
    let other = |e: &mut Evidence| {
        let complete = &mut e.turn_mut("d").log[2];
        complete["chunks"][0]["text"] = json!("A long answer A long answer");
    };
    assert_eq!(failed_after(other), [2]);
    let code = |e: &mut Evidence| e.turn_mut("c2").log.last_mut().unwrap()["code"] = json!("x");
    assert_eq!(failed_after(code), [2]);
}

#[test]
fn tools_that_failed_or_counted_wrongly_are_found() {
    let failed = |e: &mut Evidence| e.turn_mut("a").log[1]["ok"] = json!(false);
    assert_eq!(failed_after(failed), [3]);
    let wrong = |e: &mut Evidence| e.turn_mut("a").log[1]["output"] = json!("0\n");
    assert_eq!(failed_after(wrong), [3]);
    assert_eq!(failed_after(|e| e.written.clear()), [3]);
}

#[test]
fn a_limit_that_was_exceeded_or_never_reached_is_found() {
    for most in [1, 3] {
        assert_eq!(
            failed_after(|e| e.stats["max_in_flight"] = json!(most)),
            [4]
        );
    }
}

#[test]
fn a_turn_that_came_too_early_or_heard_a_wrong_place_is_found() {
    let label = {
        let evidence = good();
        let last = expected_order(&evidence.plan.line).pop().unwrap();
        let last = evidence.played.iter().find(|p| p.planned.message == last);
        last.unwrap().planned.label.clone()
    };
    let early = |e: &mut Evidence| e.request_mut(&label, 0)["at_ms"] = json!(1_500);
    assert_eq!(failed_after(early), [5]);
    let silent = |e: &mut Evidence| e.turn_mut(&label).view.positions.clear();
    assert_eq!(failed_after(silent), [5]);
    let back = |e: &mut Evidence| e.turn_mut(&label).view.positions = vec![4, 2, 3];
    assert_eq!(failed_after(back), [5]);
}

#[test]
fn an_attempt_off_schedule_or_unannounced_is_found() {
    let early = |e: &mut Evidence| e.request_mut("c1", 1)["at_ms"] = json!(5_500);
    assert_eq!(failed_after(early), [6]);
    let late = |e: &mut Evidence| e.request_mut("c1", 2)["at_ms"] = json!(12_000);
    assert_eq!(failed_after(late), [6]);
    let wrong = |e: &mut Evidence| e.turn_mut("c1").log[1]["delayMs"] = json!(5);
    assert_eq!(failed_after(wrong), [6]);
    let other = |e: &mut Evidence| e.turn_mut("c1").log[2]["type"] = json!("warning");
    assert!(failed_after(other).contains(&6));
}

#[test]
fn a_repetition_after_content_is_found() {
    let again = |e: &mut Evidence| {
        let request = e.request_mut("c2", 0).clone();
        e.requests.push(request);
    };
    assert_eq!(failed_after(again), [7]);
}

#[test]
fn a_kill_that_was_none_or_cost_the_turn_is_found() {
    let unbroken = |e: &mut Evidence| e.turn_mut("d").view.reconnects = 0;
    assert_eq!(failed_after(unbroken), [8]);
    let sealed = failed_after(|e| drop(e.turn_mut("d").log.remove(1)));
    assert!(sealed.contains(&8));
    let not_cut = |e: &mut Evidence| e.request_mut("d", 0)["state"] = json!("finished");
    assert_eq!(failed_after(not_cut), [8]);
}

#[test]
fn an_invalid_request_is_found() {
    assert_eq!(failed_after(|e| e.stats["invalid"] = json!(1)), [9]);
}
