//! Repair of a transcript before it is sent (L5, T12): whatever was cut short,
//! no provider may find a reason to refuse it.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::transcript::Item;

/// What the model is told about a call whose answer was lost.
pub const OUTCOME_UNKNOWN: &str = "interrupted, outcome unknown";

/// What had to be put right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repairs {
    /// Calls that had no answer and got a synthetic one.
    pub answered: u32,
    /// Answers to calls that nobody made, or second answers.
    pub orphans: u32,
    /// Messages without content.
    pub empty: u32,
}

impl Repairs {
    /// Something was put right.
    pub fn any(&self) -> bool {
        *self != Repairs::default()
    }
}

/// Gives every tool call exactly one answer, right after the step that made
/// it, and drops what says nothing. Repairing twice changes nothing more.
pub fn repair(items: Vec<Item>) -> (Vec<Item>, Repairs) {
    let mut repairs = Repairs::default();
    let mut repaired = Vec::with_capacity(items.len());
    let mut unanswered: Vec<String> = Vec::new();
    for item in items {
        match &item {
            Item::ToolResult { call_id, .. } => {
                match unanswered.iter().position(|open| open == call_id) {
                    Some(n) => {
                        unanswered.remove(n);
                        repaired.push(item);
                    }
                    None => repairs.orphans += 1,
                }
                continue;
            }
            Item::User { text } if text.is_empty() => {
                repairs.empty += 1;
                continue;
            }
            Item::Assistant { text, calls, .. } if text.is_empty() && calls.is_empty() => {
                repairs.empty += 1;
                continue;
            }
            Item::User { .. } | Item::Assistant { .. } => {}
        }
        answer_rest(&mut repaired, &mut unanswered, &mut repairs);
        if let Item::Assistant { calls, .. } = &item {
            unanswered.extend(calls.iter().map(|call| call.call_id.clone()));
        }
        repaired.push(item);
    }
    answer_rest(&mut repaired, &mut unanswered, &mut repairs);
    (repaired, repairs)
}

fn answer_rest(repaired: &mut Vec<Item>, unanswered: &mut Vec<String>, repairs: &mut Repairs) {
    for call_id in unanswered.drain(..) {
        repairs.answered += 1;
        repaired.push(Item::ToolResult {
            call_id,
            ok: false,
            output: OUTCOME_UNKNOWN.to_string(),
        });
        if crate::planted!("D20") {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transcript::ToolCall;

    fn user(text: &str) -> Item {
        Item::User { text: text.into() }
    }
    fn asks(ids: &[&str]) -> Item {
        let calls = ids
            .iter()
            .map(|id| ToolCall {
                call_id: id.to_string(),
                name: "bash".into(),
                input: "{}".into(),
            })
            .collect();
        Item::Assistant {
            text: String::new(),
            reasoning: String::new(),
            calls,
            partial: false,
        }
    }
    fn says(text: &str) -> Item {
        Item::Assistant {
            text: text.into(),
            reasoning: String::new(),
            calls: Vec::new(),
            partial: false,
        }
    }
    fn result(id: &str) -> Item {
        Item::ToolResult {
            call_id: id.into(),
            ok: true,
            output: "fine".into(),
        }
    }

    #[test]
    fn l5_every_dangling_call_is_answered_not_only_the_first() {
        let (items, repairs) = repair(Vec::from([
            user("x"),
            asks(&["a", "b", "c"]),
            result("b"),
            user("y"),
        ]));
        assert_eq!(repairs.answered, 2);
        let ids: Vec<&str> = items
            .iter()
            .filter_map(|item| match item {
                Item::ToolResult { call_id, .. } => Some(call_id.as_str()),
                Item::User { .. } | Item::Assistant { .. } => None,
            })
            .collect();
        assert_eq!(ids, ["b", "a", "c"]);
        assert_eq!(items.last(), Some(&user("y")));
    }

    #[test]
    fn l5_orphaned_answers_and_empty_messages_are_dropped() {
        let (items, repairs) = repair(Vec::from([
            user("x"),
            result("nobody"),
            says(""),
            asks(&["a"]),
            result("a"),
            result("a"),
            user(""),
        ]));
        assert_eq!(items, [user("x"), asks(&["a"]), result("a")]);
        assert_eq!((repairs.orphans, repairs.empty), (2, 2));
    }

    #[test]
    fn l5_a_repaired_transcript_needs_no_repair() {
        let (items, _) = repair(Vec::from([
            user("x"),
            asks(&["a", "b"]),
            user("y"),
            result("b"),
            says("z"),
        ]));
        let (again, repairs) = repair(items.clone());
        assert_eq!(again, items);
        assert!(!repairs.any());
    }
}
