//! `accepted-once` (C6, D31): a message makes one turn, however often its
//! submission was lost, repeated or asked again of the store.

use std::collections::BTreeMap;

use dispatch_core::event::EventBody;
use dispatch_core::ids::TurnId;
use dispatch_core::io::Answer;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};
use crate::script::Script;

#[derive(Debug, Default)]
pub(crate) struct AcceptedOnce {
    turns: BTreeMap<u32, TurnId>,
}

impl Oracle for AcceptedOnce {
    fn name(&self) -> &'static str {
        "accepted-once"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => {
                let EventBody::TurnStart { message, .. } = &event.body else {
                    return Ok(());
                };
                let Some(token) = Script::token_in(message) else {
                    return Ok(());
                };
                match self.turns.insert(token, event.turn) {
                    None => Ok(()),
                    Some(first) => Breach::new(
                        format!("one turn for message {token}: {first}"),
                        event.to_json(),
                    ),
                }
            }
            Fact::Answered {
                token: Some(token),
                answer,
            } => match answer {
                Answer::Accepted(receipt) if self.turns.get(token) == Some(&receipt.turn) => Ok(()),
                Answer::Accepted(receipt) => Breach::new(
                    format!("a receipt for {:?}", self.turns.get(token)),
                    format!("one for {}", receipt.turn),
                ),
                Answer::Rejected(_) | Answer::Invalid(_) => Breach::new(
                    format!("message {token} is accepted"),
                    format!("{answer:?}"),
                ),
                Answer::Unconfirmed | Answer::ShuttingDown => Ok(()),
                Answer::Ended(_)
                | Answer::AbortRequested { .. }
                | Answer::NotFound
                | Answer::Workspace(_)
                | Answer::Set
                | Answer::Tested(_) => {
                    Breach::new("an answer to a submission", format!("{answer:?}"))
                }
            },
            _ => Ok(()),
        }
    }
}
