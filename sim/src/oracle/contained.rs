//! `link-fault-contained` (S4, L7): what goes wrong with a computer costs no call
//! but those on that computer, and is told of no other one.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ComputerId, ConversationId, TurnId};

use super::hindrance::Hindrance;
use super::troubles::Troubles;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

/// For so long a computer may still be left alone after its trouble is over:
/// a pause, a quarantine, a try that fails for the last time.
const AFTERMATH_US: Us = 400_000_000;
/// How commands name a computer in what they tell of it.
const NAMED: &str = "computer `";

#[derive(Debug, Default)]
pub(crate) struct LinkFaultContained {
    computers: BTreeMap<TurnId, Option<ComputerId>>,
    asked_at: BTreeMap<(TurnId, String), Us>,
    /// Calls whose command has come to an end, whichever.
    gone: BTreeSet<(TurnId, String)>,
    troubles: Troubles,
    aborted_turns: BTreeSet<TurnId>,
    aborted_conversations: BTreeSet<ConversationId>,
    hindrance: Hindrance,
}

impl LinkFaultContained {
    /// Nothing was wrong with the computer while the call was open.
    fn was_well(&self, computer: &ComputerId, since: Us) -> bool {
        let until = self.troubles.until(computer);
        until.is_none_or(|until| until + AFTERMATH_US < since)
    }

    fn answered(&self, event: &AgentEvent, call_id: &str, output: &str) -> Result<(), Breach> {
        let call = (event.turn, call_id.to_owned());
        let computer = self.computers.get(&event.turn).and_then(Option::as_ref);
        let named = named_in(output);
        if named.is_some() && named != computer.map(ComputerId::as_str) {
            return Breach::new(
                format!("a call on {computer:?} is told of no other computer"),
                event.to_json(),
            );
        }
        let since = self.asked_at.get(&call).copied().unwrap_or_default();
        let is_clear = self.hindrance.clear_since(since) == Some(since);
        let is_asked_for = self.aborted_turns.contains(&event.turn)
            || self.aborted_conversations.contains(&event.conversation);
        let ran = self.gone.contains(&call);
        match computer {
            Some(computer)
                if is_clear && !is_asked_for && !ran && self.was_well(computer, since) =>
            {
                Breach::new(
                    format!("a call on {computer}, with which all is well, is carried out"),
                    event.to_json(),
                )
            }
            _ => Ok(()),
        }
    }

    fn logged(&mut self, at: Us, event: &AgentEvent) -> Result<(), Breach> {
        match &event.body {
            EventBody::ToolCall { call_id, .. } => {
                self.asked_at.insert((event.turn, call_id.clone()), at);
                Ok(())
            }
            EventBody::ToolResult {
                call_id,
                ok: false,
                output,
                ..
            } => self.answered(event, call_id, output),
            _ => Ok(()),
        }
    }
}

/// The computer that a text tells of.
fn named_in(output: &str) -> Option<&str> {
    let (_, rest) = output.split_once(NAMED)?;
    rest.split_once('`').map(|(name, _)| name)
}

impl Oracle for LinkFaultContained {
    fn name(&self) -> &'static str {
        "link-fault-contained"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.hindrance.see(moment, fact);
        self.troubles.see(fact);
        match fact {
            Fact::Logged(event) => return self.logged(moment.at, event),
            Fact::Moved { after, .. } => {
                self.computers
                    .entry(after.turn)
                    .or_insert_with(|| after.computer.clone());
            }
            Fact::ToolGone { turn, call_id, .. } => {
                self.gone.insert((*turn, (*call_id).to_owned()));
            }
            Fact::AbortAsked { turn, conversation } => {
                self.aborted_turns.extend(turn);
                self.aborted_conversations.extend(conversation.cloned());
            }
            _ => {}
        }
        Ok(())
    }
}
