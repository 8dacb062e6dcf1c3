//! `usage` (T13): a whole step's tokens are what its provider said last, and a
//! turn's are the sum of its steps'.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::EventBody;
use dispatch_core::ids::TurnId;
use dispatch_core::transcript::Usage;

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};
use crate::sse::USAGE;

/// Input and output tokens of each turn so far.
#[derive(Debug, Default)]
pub(crate) struct OfSteps {
    sums: BTreeMap<TurnId, (u64, u64)>,
    /// Their step in hand ended without the tail that tells of tokens.
    cut: BTreeSet<TurnId>,
}

fn tokens(usage: &Usage) -> (u64, u64) {
    (usage.input_tokens, usage.output_tokens)
}

impl Oracle for OfSteps {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Logged(event) = fact else {
            return Ok(());
        };
        if matches!(&event.body, EventBody::Warning { code, .. } if code == "terminator-missing") {
            self.cut.insert(event.turn);
        }
        let sum = self.sums.entry(event.turn).or_default();
        match &event.body {
            EventBody::StepComplete { usage, partial, .. } => {
                let of_step = tokens(usage);
                let is_cut = self.cut.remove(&event.turn);
                if !partial && !is_cut && of_step != USAGE {
                    return Breach::new(
                        format!("{USAGE:?} tokens of a whole step, as the provider said"),
                        format!("{of_step:?}"),
                    );
                }
                *sum = (sum.0 + of_step.0, sum.1 + of_step.1);
                Ok(())
            }
            EventBody::Done { usage, .. } if tokens(usage) != *sum => Breach::new(
                format!("{sum:?} tokens, the sum of turn {}'s steps", event.turn),
                format!("{:?}", tokens(usage)),
            ),
            _ => Ok(()),
        }
    }
}
