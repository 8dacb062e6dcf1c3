//! What the demo's turns say and in which order they come: all from one seed.

use serde_json::{Value, json};

/// How a turn must end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `done`, with this text as its answer.
    Done(String),
    /// `error(stream-truncated)`, with this text kept.
    Truncated(String),
}

/// One turn to be submitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// For the table: `a`, `b3`, ...
    pub(super) label: String,
    /// What the user says; unlike every other message of the demo.
    pub(super) message: String,
    /// The workspace; `None`: `default`.
    pub(super) workspace: Option<&'static str>,
    /// How it must end.
    pub(super) end: End,
}

/// The whole demo.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) tools: Planned,
    /// Contents of `notes.txt`, which the first tool counts.
    pub(super) notes: String,
    /// What the second tool writes.
    pub(super) written: String,
    /// In the order of submission.
    pub(super) line: Vec<Planned>,
    pub(super) refused: Planned,
    pub(super) cut: Planned,
    pub(super) killed: Planned,
    /// The scripted provider's script.
    pub(super) script: Value,
}

/// The workspace that gets the star.
pub(super) const STARRED: &str = "urgent";
/// Every other workspace of the line.
pub(super) const UNSTARRED: &str = "someday";
/// The provider's limit.
pub(super) const LIMIT: usize = 2;
/// Waits before the attempts after a refusal, in seconds: the server's own
/// schedule is 5 s, 10 s, 30 s, 1 min, ...
pub(super) const SCHEDULE_S: [u64; 3] = [1, 2, 3];
/// So long the provider refuses: two attempts meet it, the third one does not.
pub(super) const STORM_MS: u64 = 2_000;

const NOUNS: [&str; 12] = [
    "harbour", "lantern", "orchard", "glacier", "compass", "meadow", "beacon", "canyon", "violin",
    "atlas", "ember", "tide",
];
const CLAIMS: [&str; 6] = [
    "waits for nobody",
    "keeps its own time",
    "is older than the map",
    "turns up where one stops looking",
    "has two sides and a middle",
    "remembers every winter",
];

/// SplitMix64 (Steele, Lea, Flood 2014): enough to vary words and orders.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n + 1));
        }
    }
}

impl Plan {
    /// The demo of this seed.
    pub(super) fn of(seed: u64) -> Plan {
        let mut draw = Draw(seed);
        let mut nouns = NOUNS;
        draw.shuffle(&mut nouns);
        let mut claims = CLAIMS;
        draw.shuffle(&mut claims);
        let mut rules = Vec::new();

        let notes = vec![format!("The {} {}.", nouns[0], claims[0]); 3 + draw.below(20)].join("\n");
        let words = notes.split_whitespace().count();
        let written = format!("notes.txt has {words} words.\n");
        let tools = tools_turn(&mut rules, words, &written);
        let line = line_turns(&mut draw, &mut rules, &nouns);

        let text = format!("Patience pays: the {} {} after all.", nouns[7], claims[1]);
        let message = format!("What of the {}? (The provider is refusing.)", nouns[7]);
        let refused = answered(&mut rules, "c1", &message, &text, 6, 25);

        let said = format!("The {} {}, and what is more, it", nouns[8], claims[2]);
        let message = format!("Tell me about the {}. (The stream will break.)", nouns[8]);
        let cut = Planned {
            label: "c2".to_owned(),
            end: End::Truncated(said.clone()),
            workspace: None,
            message: message.clone(),
        };
        // A second attempt would succeed, and show the beginning twice.
        let again = format!("{said} was never asked.");
        rules.push(json!({"when": {"equals": message}, "steps": [{"attempts": [
            [{"text": said, "chunk": 6, "delay_ms": 25}, {"delay_ms": 100}, {"cut": true}],
            [{"text": again, "chunk": 6, "delay_ms": 25}],
        ]}]}));

        let text = format!(
            "A long answer about the {}: it {}, it {}, and whoever is interrupted in the middle of it hears all of it in the end.",
            nouns[9], claims[3], claims[4]
        );
        let message = format!("Speak at length about the {}.", nouns[9]);
        let killed = answered(&mut rules, "d", &message, &text, 3, 55);

        Plan {
            tools,
            notes,
            written,
            line,
            refused,
            cut,
            killed,
            script: json!({ "rules": rules }),
        }
    }
}

fn answered(
    rules: &mut Vec<Value>,
    label: &str,
    message: &str,
    text: &str,
    chunk: u64,
    delay_ms: u64,
) -> Planned {
    rules.push(json!({
        "when": {"equals": message},
        "do": {"text": text, "chunk": chunk, "delay_ms": delay_ms},
    }));
    Planned {
        label: label.to_owned(),
        message: message.to_owned(),
        workspace: None,
        end: End::Done(text.to_owned()),
    }
}

fn tools_turn(rules: &mut Vec<Value>, words: usize, written: &str) -> Planned {
    let message = "Count the words of notes.txt and write the result to answer.txt.";
    let answer = format!("notes.txt has {words} words; answer.txt says so now.");
    let count = "for n in 1 2 3; do echo \"reading, part $n\"; sleep 0.2; done; wc -w < notes.txt";
    rules.push(json!({"when": {"equals": message}, "steps": [
        [
            {"text": "I will count them and write it down.", "chunk": 4, "delay_ms": 30},
            {"tool_call": {"name": "bash", "arguments": {"command": count}}},
            {"tool_call": {"name": "write", "arguments": {"path": "answer.txt", "content": written}}},
        ],
        {"text": answer, "chunk": 4, "delay_ms": 30},
    ]}));
    Planned {
        label: "a".to_owned(),
        message: message.to_owned(),
        workspace: None,
        end: End::Done(answer),
    }
}

/// Two turns that take the slots, then four that wait, two of them starred.
fn line_turns(draw: &mut Draw, rules: &mut Vec<Value>, nouns: &[&str]) -> Vec<Planned> {
    let mut starred = [true, true, false, false];
    draw.shuffle(&mut starred);
    let starred = [[false; LIMIT].as_slice(), &starred].concat();
    let mut turns = Vec::new();
    for (n, starred) in starred.into_iter().enumerate() {
        let noun = nouns[n + 1];
        let message = format!("Is the {noun} worth a visit?");
        let text = format!("The {noun} is worth a visit, and better still two, one in the rain.");
        let mut actions = Vec::new();
        if n < LIMIT {
            actions.push(json!({"text": "Let me think. ", "chunk": 16}));
            actions.push(json!({"hold": hold(n)}));
        }
        actions.push(json!({"text": text, "chunk": 4, "delay_ms": 40}));
        let said = if n < LIMIT { "Let me think. " } else { "" };
        rules.push(json!({"when": {"equals": message}, "do": actions}));
        turns.push(Planned {
            label: format!("b{}", n + 1),
            end: End::Done(format!("{said}{text}")),
            workspace: Some(if starred { STARRED } else { UNSTARRED }),
            message,
        });
    }
    turns
}

/// What the turn at this place of the line waits for at the provider.
pub(super) fn hold(n: usize) -> String {
    format!("place-{n}")
}

/// The order in which the provider must meet the turns of the line: those that
/// take the free slots, then starred before unstarred, each in the order of
/// submission (A2). Fewer than four grants are contended, so that the fair
/// share (A7) does not come into play.
pub(super) fn expected_order(line: &[Planned]) -> Vec<String> {
    let (first, waiting) = line.split_at(LIMIT.min(line.len()));
    let of = |starred: bool| {
        let is_it = move |turn: &&Planned| (turn.workspace == Some(STARRED)) == starred;
        waiting.iter().filter(is_it)
    };
    first
        .iter()
        .chain(of(true))
        .chain(of(false))
        .map(|turn| turn.message.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scripted::Script;
    use std::collections::BTreeSet;

    #[test]
    fn every_seed_gives_a_script_that_can_be_followed_and_messages_of_their_own() {
        for seed in 0..200 {
            let plan = Plan::of(seed);
            Script::parse(&plan.script.to_string()).unwrap();
            let singles = [&plan.tools, &plan.refused, &plan.cut, &plan.killed];
            let all: BTreeSet<&str> = plan
                .line
                .iter()
                .chain(singles)
                .map(|turn| turn.message.as_str())
                .collect();
            assert_eq!(all.len(), 10, "seed {seed}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_demo_and_another_seed_another_one() {
        assert_eq!(Plan::of(7).script, Plan::of(7).script);
        assert_ne!(Plan::of(7).script, Plan::of(8).script);
    }

    #[test]
    fn starred_turns_overtake_those_that_wait_but_not_those_that_stream() {
        for seed in 0..50 {
            let line = Plan::of(seed).line;
            let order = expected_order(&line);
            let place = |turn: &Planned| order.iter().position(|m| *m == turn.message).unwrap();
            assert_eq!((place(&line[0]), place(&line[1])), (0, 1));
            for turn in &line[LIMIT..] {
                let starred = turn.workspace == Some(STARRED);
                assert_eq!(place(turn) < 4, starred, "seed {seed}: {}", turn.label);
            }
        }
    }
}
