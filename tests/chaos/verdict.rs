//! The verdict on what clients saw and what commands did outside. Pure: it is
//! given histories and judges them, and doctored ones show that it can fail.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{Ask, Call, Step};
use crate::support::client::{Receipt, count, step_text};
use crate::support::stream::{Event, EventExt};

/// What the model is told of a call whose owner died.
const UNKNOWN: &str = "interrupted, outcome unknown";

/// A broken promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// An acknowledged submit is not in the log, or not where it was said to be.
    Lost,
    /// One message, one key, and two turns.
    AcceptedTwice,
    NoEnd,
    TwoEnds,
    AfterEnd,
    /// Sequence numbers are not 1, 2, 3, ...
    Gap,
    /// A client was shown another log than the one that is kept.
    ShownOtherwise,
    /// A client could make no sense of what it was shown.
    Senseless,
    /// The steps are not the script's.
    Text,
    /// A call without answer or with two, an answer that cannot be true.
    Answer,
    RanTwice,
    /// A command ran that the log says nothing of.
    RanUnlogged,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    pub(crate) what: String,
}

fn broken(rule: Rule, what: impl Into<String>) -> Violation {
    let what = what.into();
    Violation { rule, what }
}

/// One message and its acknowledgement.
#[derive(Clone, Debug, Default)]
pub(crate) struct Asked {
    pub(crate) ask: Ask,
    pub(crate) receipt: Option<Receipt>,
}

/// A conversation, as its client tells it, and its log as it was read when all was over.
#[derive(Clone, Debug, Default)]
pub(crate) struct Talked {
    pub(crate) name: String,
    pub(crate) asked: Vec<Asked>,
    pub(crate) page: Page,
    /// What the client could make no sense of.
    pub(crate) complaints: Vec<String>,
    pub(crate) log: Vec<Event>,
}

/// How often each command has begun and ended, by what it left outside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects(BTreeMap<String, (u32, u32)>);

impl Effects {
    pub(crate) fn read(text: &str) -> Effects {
        let mut effects = Effects::default();
        for line in text.lines() {
            match line.split_once(' ') {
                Some(("begin", uid)) => effects.0.entry(uid.to_owned()).or_default().0 += 1,
                Some(("end", uid)) => effects.0.entry(uid.to_owned()).or_default().1 += 1,
                // A line that a dying command has not finished.
                _ => {}
            }
        }
        effects
    }

    fn of(&self, uid: &str) -> (u32, u32) {
        self.0.get(uid).copied().unwrap_or_default()
    }

    /// Commands that have begun and not ended.
    pub(crate) fn running(&self) -> impl Iterator<Item = &str> {
        let running = self.0.iter().filter(|(_, (begun, ended))| begun > ended);
        running.map(|(uid, _)| uid.as_str())
    }

    pub(crate) fn begun(&self) -> usize {
        self.0.len()
    }
}

/// What a client shows of a conversation, over all its connections.
#[derive(Clone, Debug, Default)]
pub(crate) struct Page {
    pub(crate) log: Vec<Event>,
    /// Provisional text by turn and step.
    open: BTreeMap<(String, u64), String>,
    closed: BTreeSet<(String, u64)>,
}

impl Page {
    /// The cursor to come back with.
    pub(crate) fn cursor(&self) -> u64 {
        self.log.last().and_then(EventExt::seq).unwrap_or(0)
    }

    /// A new connection tells again what was provisional.
    pub(crate) fn reconnected(&mut self) {
        self.open.clear();
    }

    pub(crate) fn has_ended(&self, turn: &str) -> bool {
        self.log.iter().any(|e| e.is_terminal() && e.turn() == turn)
    }

    /// # Errors
    /// What a client can make no sense of: a hole, a repetition, text that
    /// does not follow what is shown.
    pub(crate) fn show(&mut self, event: &Event) -> Result<(), String> {
        if let Some(seq) = event.seq() {
            if seq != self.cursor() + 1 {
                return Err(format!("after {} came {event}", self.cursor()));
            }
            self.log.push(event.clone());
        }
        let key = |event: &Event| (event.turn().to_owned(), event.number("step"));
        match event.kind() {
            "text-delta" | "snapshot" if self.closed.contains(&key(event)) => {
                Err(format!("after the end of its step: {event}"))
            }
            "text-delta" => {
                let open = self.open.entry(key(event)).or_default();
                if event.number("offset") != open.len() as u64 {
                    return Err(format!("{open:?} was shown, then came {event}"));
                }
                open.push_str(event.text("text"));
                Ok(())
            }
            "snapshot" => {
                let text = event.text("text").to_owned();
                self.open.insert(key(event), text);
                Ok(())
            }
            "step-restart" => {
                self.open.remove(&key(event));
                Ok(())
            }
            "step-complete" => {
                let shown = self.open.remove(&key(event)).unwrap_or_default();
                self.closed.insert(key(event));
                let whole = step_text(event);
                // What a dead owner had shown and not yet kept is gone.
                let is_less = event["partial"] == true && shown.starts_with(&whole);
                match whole.starts_with(&shown) || is_less {
                    true => Ok(()),
                    false => Err(format!("{shown:?} was shown, then came {event}")),
                }
            }
            _ => Ok(()),
        }
    }
}

/// Every promise that this conversation saw broken.
pub(crate) fn judge(talked: &Talked, effects: &Effects) -> Vec<Violation> {
    let mut found = Vec::new();
    for what in &talked.complaints {
        found.push(broken(Rule::Senseless, what));
    }
    let log = &talked.log;
    for (n, event) in log.iter().enumerate() {
        if event.seq() != Some(n as u64 + 1) {
            found.push(broken(Rule::Gap, format!("place {}: {event}", n + 1)));
            break;
        }
    }
    if let Some(n) = (0..talked.page.log.len()).find(|n| talked.page.log.get(*n) != log.get(*n)) {
        let (shown, kept) = (&talked.page.log[n], log.get(n));
        let what = format!("shown {shown}, kept {kept:?}");
        found.push(broken(Rule::ShownOtherwise, what));
    }
    for asked in &talked.asked {
        turn(asked, log, effects, &mut found);
    }
    for violation in &mut found {
        violation.what = format!("{}: {}", talked.name, violation.what);
    }
    found
}

fn turn(asked: &Asked, log: &[Event], effects: &Effects, found: &mut Vec<Violation>) {
    let ask = &asked.ask;
    let is_start = |event: &&Event| {
        event.kind() == "turn-start" && event["message"].as_str() == Some(&ask.message)
    };
    let starts: Vec<&Event> = log.iter().filter(is_start).collect();
    if starts.len() > 1 {
        let what = format!("{} has {} turns", ask.tag, starts.len());
        found.push(broken(Rule::AcceptedTwice, what));
    }
    let is_kept = |receipt: &Receipt| {
        let place = (receipt.turn.as_str(), Some(receipt.seq));
        starts
            .iter()
            .any(|start| (start.turn(), start.seq()) == place)
    };
    if asked
        .receipt
        .as_ref()
        .is_some_and(|receipt| !is_kept(receipt))
    {
        let what = format!("{} was acknowledged: {:?}", ask.tag, asked.receipt);
        found.push(broken(Rule::Lost, what));
    }
    for start in &starts {
        let of_turn = |event: &&Event| event.turn() == start.turn();
        let events: Vec<Event> = log.iter().filter(of_turn).cloned().collect();
        one_end(ask, &events, found);
        said(ask, &events, found);
        answered(ask, &events, effects, found);
    }
    ran(ask, log, effects, found);
}

fn one_end(ask: &Ask, events: &[Event], found: &mut Vec<Violation>) {
    let tag = &ask.tag;
    let ends = events.iter().filter(|event| event.is_terminal()).count();
    match ends {
        0 => found.push(broken(Rule::NoEnd, format!("{tag}: {events:?}"))),
        1 => {}
        _ => found.push(broken(Rule::TwoEnds, format!("{tag}: {events:?}"))),
    }
    let after = events.iter().skip_while(|event| !event.is_terminal());
    if let Some(event) = after.skip(1).find(|event| !event.is_terminal()) {
        found.push(broken(Rule::AfterEnd, format!("{tag}: {event}")));
    }
}

/// The steps are the script's: all of them where the turn is done, else the
/// first ones, the last of which may be cut short.
fn said(ask: &Ask, events: &[Event], found: &mut Vec<Violation>) {
    let steps: Vec<&Event> = events
        .iter()
        .filter(|e| e.kind() == "step-complete")
        .collect();
    let is_done = count(events, "done") > 0;
    if steps.len() > ask.steps.len() || (is_done && steps.len() < ask.steps.len()) {
        let what = format!("{}: {} steps of {}", ask.tag, steps.len(), ask.steps.len());
        found.push(broken(Rule::Text, what));
    }
    for (n, (event, step)) in steps.iter().zip(&ask.steps).enumerate() {
        let text = step_text(event);
        let is_partial = event["partial"] == true && !is_done;
        let is_it = text == step.text || (is_partial && step.text.starts_with(&text));
        if event.number("step") != n as u64 || !is_it {
            let what = format!("{}: wanted {:?}, not {event}", ask.tag, step.text);
            found.push(broken(Rule::Text, what));
        }
    }
}

/// Each call of the script, and no other, is asked once and answered once, by
/// the truth or by `outcome unknown`.
fn answered(ask: &Ask, events: &[Event], effects: &Effects, found: &mut Vec<Violation>) {
    let mut wrong = |what: String| {
        found.push(broken(Rule::Answer, format!("{}: {what}", ask.tag)));
    };
    let is_done = count(events, "done") > 0;
    let calls: Vec<&Event> = events.iter().filter(|e| e.kind() == "tool-call").collect();
    let results: Vec<&Event> = events
        .iter()
        .filter(|e| e.kind() == "tool-result")
        .collect();
    for result in &results {
        let asks = calls
            .iter()
            .filter(|call| call["callId"] == result["callId"]);
        if asks.count() != 1 {
            wrong(format!("an answer to nothing: {result}"));
        }
    }
    for (
        n,
        Step {
            calls: scripted, ..
        },
    ) in ask.steps.iter().enumerate()
    {
        let of_step = calls.iter().filter(|call| call.number("step") == n as u64);
        let of_step: Vec<&&Event> = of_step.collect();
        let is_asked = of_step.len() == scripted.len();
        if !is_asked && (is_done || !of_step.is_empty()) {
            wrong(format!("step {n} asks {of_step:?}"));
        }
        for (call, Call { uid, command }) in of_step.iter().zip(scripted) {
            if call["input"]["command"].as_str() != Some(command) {
                wrong(format!("not the script's: {call}"));
            }
            let answers = results
                .iter()
                .filter(|result| result["callId"] == call["callId"]);
            let answers: Vec<&&Event> = answers.collect();
            match answers[..] {
                [answer] if !is_true(answer, uid, effects.of(uid)) => {
                    wrong(format!("{:?}, and yet {answer}", effects.of(uid)));
                }
                [_] => {}
                [] if !is_done => {}
                _ => wrong(format!("{} answers to {call}", answers.len())),
            }
        }
    }
}

fn is_true(answer: &Event, uid: &str, (begun, ended): (u32, u32)) -> bool {
    let output = answer.text("output");
    if answer["ok"] == true {
        return (begun, ended) == (1, 1) && output.trim() == uid;
    }
    // What was not begun may be refused in any words.
    output.contains(UNKNOWN) || begun == 0
}

fn ran(ask: &Ask, log: &[Event], effects: &Effects, found: &mut Vec<Violation>) {
    for Call { uid, command } in ask.steps.iter().flat_map(|step| &step.calls) {
        let (begun, ended) = effects.of(uid);
        if begun > 1 || ended > 1 {
            found.push(broken(Rule::RanTwice, format!("{uid}: {begun}, {ended}")));
        }
        let is_call = |event: &&Event| {
            event.kind() == "tool-call" && event["input"]["command"].as_str() == Some(command)
        };
        if begun > 0 && log.iter().find(is_call).is_none() {
            found.push(broken(Rule::RanUnlogged, uid));
        }
    }
}

#[cfg(test)]
#[path = "verdict_tests.rs"]
mod tests;
