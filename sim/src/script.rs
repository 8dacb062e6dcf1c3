//! What the model says in a turn: drawn from the run's seed and a number that
//! the user message carries, so that provider and oracles agree on it without
//! talking to each other.

use serde::{Deserialize, Serialize};

use dispatch_core::tools::{BASH, READ};

use crate::rng::{Purpose, Rng};

/// A turn as the model will play it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// The number in the user message.
    pub token: u32,
    /// At least one; the last one asks for no tool.
    pub steps: Vec<StepScript>,
}

/// One step of a [`Script`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepScript {
    /// May be empty.
    pub reasoning: String,
    /// Unique in the run where it is the last step's; may be empty otherwise.
    pub text: String,
    /// The tools asked for.
    pub calls: Vec<CallScript>,
}

/// One tool call of a [`StepScript`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallScript {
    /// As the vendor names it: not always unique, sometimes nothing.
    pub id: String,
    /// Unique in the run: names the command in the call's arguments. One that
    /// begins with [`LOOK`] changes nothing.
    pub command: String,
}

/// How the command of a read-only call begins.
pub const LOOK: &str = "look ";

impl CallScript {
    /// The tool that is asked for.
    pub fn tool(&self) -> &'static str {
        match self.command.starts_with(LOOK) {
            true => READ.name,
            false => BASH.name,
        }
    }

    /// The call's arguments.
    pub fn input(&self) -> String {
        format!(r#"{{"command":"{}"}}"#, self.command)
    }
}

const WORDS: [&str; 12] = [
    "queue", "größer", "slot", "lease", "—", "retry", "naïve", "tick", "日本", "epoch", "🙂", "end",
];

impl Script {
    /// The script of a turn.
    pub fn of(seed: u64, token: u32) -> Script {
        let mut rng = Rng::keyed(seed, Purpose::Script, u64::from(token), 0);
        // A stream of its own: what is looked at changes nothing else of a seed.
        let mut looks = Rng::keyed(seed, Purpose::Script, u64::from(token), 1);
        let last = rng.weighted(&[(0, 45), (1, 30), (2, 15), (3, 8), (5, 2)]);
        let steps = (0..=last)
            .map(|step| StepScript::of(&mut rng, &mut looks, token, step, step == last))
            .collect();
        Script { token, steps }
    }

    /// What the user says to have this script played.
    pub fn message(token: u32) -> String {
        format!("play #{token}# please")
    }

    /// The number in a user message.
    pub fn token_in(message: &str) -> Option<u32> {
        message.split('#').nth(1)?.parse().ok()
    }
}

impl StepScript {
    fn of(rng: &mut Rng, looks: &mut Rng, token: u32, step: u32, is_last: bool) -> StepScript {
        let reasoning = if rng.chance(2_000) {
            words(rng, 6)
        } else {
            String::new()
        };
        if is_last {
            let text = format!("answer {token}: {}", words(rng, 12));
            return StepScript {
                reasoning,
                text,
                calls: Vec::new(),
            };
        }
        let text = if rng.chance(5_000) {
            format!("step {token}.{step}: {}", words(rng, 5))
        } else {
            String::new()
        };
        let calls = (0..rng.weighted(&[(1, 6), (2, 3), (3, 1)]))
            .map(|n: u32| CallScript {
                id: match rng.below(8) {
                    0 => String::new(),
                    1 => "call_0".to_owned(),
                    _ => format!("call_{token}_{step}_{n}"),
                },
                command: match looks.chance(1_500) {
                    true => format!("{LOOK}{token}-{step}-{n}"),
                    false => format!("run {token}-{step}-{n}"),
                },
            })
            .collect();
        StepScript {
            reasoning,
            text,
            calls,
        }
    }
}

fn words(rng: &mut Rng, most: u64) -> String {
    let count = rng.range(1, most);
    let words: Vec<&str> = (0..count).map(|_| *rng.pick(&WORDS)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_repeats_and_ends_in_a_step_without_tools() {
        for token in 0..200 {
            let script = Script::of(3, token);
            assert_eq!(script, Script::of(3, token));
            let (last, rest) = script.steps.split_last().unwrap();
            assert!(last.calls.is_empty() && !last.text.is_empty());
            assert!(rest.iter().all(|step| !step.calls.is_empty()));
            assert_eq!(Script::token_in(&Script::message(token)), Some(token));
        }
    }
}
