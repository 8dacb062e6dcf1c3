//! `valid-transcript` (T12): no request leaves that a strict vendor would
//! reject, or that is about another turn than its own, or that leaves out what
//! the store could not read back.

use std::collections::BTreeSet;

use dispatch_core::ids::{ConversationId, TurnId};

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct ValidTranscript {
    rotten: BTreeSet<ConversationId>,
    /// Granted after that: they cannot know the whole transcript.
    in_the_dark: BTreeSet<TurnId>,
}

impl Oracle for ValidTranscript {
    fn name(&self) -> &'static str {
        "valid-transcript"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Rotted { conversation } => {
                self.rotten.insert((*conversation).clone());
                Ok(())
            }
            Fact::Granted { turns, .. } => {
                let dark = turns
                    .iter()
                    .filter(|granted| self.rotten.contains(&granted.conversation));
                self.in_the_dark.extend(dark.map(|granted| granted.turn));
                Ok(())
            }
            Fact::Requested(request) if self.in_the_dark.contains(&request.turn) => Breach::new(
                "no request about a transcript that cannot be read back",
                format!("turn {}", request.turn),
            ),
            Fact::Requested(request) => match &request.verdict {
                Ok(()) => Ok(()),
                Err(why) => Breach::new(
                    "a transcript that every vendor accepts",
                    format!("turn {}: {why}", request.turn),
                ),
            },
            _ => Ok(()),
        }
    }
}
