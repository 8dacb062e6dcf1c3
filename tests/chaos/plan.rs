//! What clients ask for: conversations of a few turns, each of several steps
//! with tools, all of it drawn from a seed.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::Chance;

/// What the model is to say and to call in one step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) text: String,
    pub(crate) calls: Vec<Call>,
}

/// A command with a name of its own, by which its effects are counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) uid: String,
    pub(crate) command: String,
}

/// One message, and the turn that it must become.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ask {
    /// First word of the message, and the `Idempotency-Key`.
    pub(crate) tag: String,
    pub(crate) message: String,
    pub(crate) steps: Vec<Step>,
    /// The client leaves after the submit and comes back by cursor.
    pub(crate) detach: bool,
}

/// One conversation of one client.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Talk {
    pub(crate) name: String,
    pub(crate) asks: Vec<Ask>,
    /// All is submitted at once: turns wait for their predecessors.
    pub(crate) is_eager: bool,
}

const MOST_ASKS: usize = 3;

impl Talk {
    /// Conversation `name`, of at most `most` turns; its commands append to `effects`.
    pub(crate) fn draw(chance: &mut Chance, name: &str, most: usize, effects: &Path) -> Talk {
        let count = match chance.below(4) {
            0 => 2 + chance.below(MOST_ASKS - 1),
            _ => 1,
        };
        let asks = (0..count.min(most))
            .map(|n| ask(chance, &format!("{name}.{n}"), effects))
            .collect();
        Talk {
            name: name.to_owned(),
            asks,
            is_eager: chance.one_in(3),
        }
    }
}

fn ask(chance: &mut Chance, tag: &str, effects: &Path) -> Ask {
    let count = 2 + chance.below(5);
    let mut steps = Vec::with_capacity(count);
    let mut script = Vec::with_capacity(count);
    for n in 0..count {
        let is_last = n + 1 == count;
        let calls = match is_last {
            true => 0,
            false => 1 + usize::from(chance.one_in(4)),
        };
        let step = Step {
            text: text(chance, tag, n),
            calls: (0..calls)
                .map(|k| call(chance, &format!("{tag}/{n}/{k}"), effects))
                .collect(),
        };
        script.push(played(chance, &step));
        steps.push(step);
    }
    Ask {
        tag: tag.to_owned(),
        message: format!("{tag} script: {}", Value::from(script)),
        steps,
        detach: chance.one_in(2),
    }
}

/// Never the same twice, and with characters of several bytes at chunks' ends.
fn text(chance: &mut Chance, tag: &str, step: usize) -> String {
    let mut text = format!("{tag} → {step}:");
    for _ in 0..3 + chance.below(12) {
        text.push_str([" ein", " zwei", " drei", " fünf", " zwölf", " —"][chance.below(6)]);
    }
    text
}

fn call(chance: &mut Chance, uid: &str, effects: &Path) -> Call {
    let file = effects.display();
    let wait_ms = 30 + chance.below(300);
    Call {
        uid: uid.to_owned(),
        command: format!(
            "echo 'begin {uid}' >> '{file}'; sleep 0.{wait_ms:03}; echo 'end {uid}' >> '{file}'; echo '{uid}'"
        ),
    }
}

/// Shorter than the time between two kills: a turn that is met four times in
/// one step is given up, as `turns.resume_limit` says.
fn played(chance: &mut Chance, step: &Step) -> Value {
    let mut actions = vec![json!({
        "text": step.text,
        "chunk": 1 + chance.below(9),
        "delay_ms": chance.below(8),
    })];
    actions.extend(step.calls.iter().map(
        |call| json!({ "tool_call": { "name": "bash", "arguments": { "command": call.command } } }),
    ));
    match chance.one_in(20) {
        true => json!({ "attempts": [{ "status": 503 }, actions] }),
        false => Value::from(actions),
    }
}
