//! `one-terminal` (T2): an accepted turn has exactly one terminal event, and
//! nothing is logged for it afterwards. What a client is shown or answered as
//! a terminal event is that one.

use std::collections::BTreeMap;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::TurnId;
use dispatch_core::io::Answer;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct OneTerminal {
    /// Accepted turns, with their terminal event.
    turns: BTreeMap<TurnId, Option<AgentEvent>>,
}

impl OneTerminal {
    fn logged(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        if let EventBody::TurnStart { .. } = event.body {
            self.turns.entry(event.turn).or_insert(None);
        }
        let Some(terminal) = self.turns.get_mut(&event.turn) else {
            return Breach::new(
                "turn-start before any other event of a turn",
                format!("{} of turn {}", event.kind(), event.turn),
            );
        };
        if let Some(terminal) = terminal {
            return Breach::new(
                format!(
                    "nothing after the {} of turn {}",
                    terminal.kind(),
                    event.turn
                ),
                event.to_json(),
            );
        }
        if event.is_terminal() {
            *terminal = Some(event.clone());
        }
        Ok(())
    }

    fn is_the_one(&self, event: &AgentEvent, what: &str) -> Result<(), Breach> {
        match self.turns.get(&event.turn) {
            Some(Some(terminal)) if terminal == event => Ok(()),
            Some(Some(terminal)) => {
                Breach::new(format!("{what}: {}", terminal.to_json()), event.to_json())
            }
            Some(None) | None => Breach::new(
                format!("{what}: none, the turn has not ended"),
                event.to_json(),
            ),
        }
    }
}

impl Oracle for OneTerminal {
    fn name(&self) -> &'static str {
        "one-terminal"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => self.logged(event),
            Fact::Published { event, .. } if event.is_terminal() => self.is_the_one(
                event,
                "the terminal event shown to clients is the logged one",
            ),
            Fact::Answered {
                answer: Answer::Ended(event),
                ..
            } => self.is_the_one(event, "the terminal event in an answer is the logged one"),
            Fact::Answered {
                answer: Answer::Accepted(receipt),
                ..
            } if !self.turns.contains_key(&receipt.turn) => Breach::new(
                "an accepted turn is in the log",
                format!("turn {} is not", receipt.turn),
            ),
            Fact::Finished { .. } => match self.turns.iter().find(|(_, end)| end.is_none()) {
                Some((turn, _)) => Breach::new(
                    "every accepted turn has a terminal event",
                    format!("turn {turn} has none"),
                ),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
