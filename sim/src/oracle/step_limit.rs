//! `step-limit` (T7): where steps are limited, the last one is offered no tools,
//! and none is run for it; every other one is offered them.

use std::rc::Rc;

use dispatch_core::event::EventBody;

use super::{Breach, Oracle, Terms};
use crate::fact::{Fact, Moment};

#[derive(Debug)]
pub(crate) struct StepLimit {
    terms: Rc<Terms>,
}

impl StepLimit {
    pub(crate) fn new(terms: &Rc<Terms>) -> StepLimit {
        StepLimit {
            terms: terms.clone(),
        }
    }

    fn is_last(&self, step: u32) -> bool {
        self.terms.step_limit > 0 && step + 1 >= self.terms.step_limit
    }
}

impl Oracle for StepLimit {
    fn name(&self) -> &'static str {
        "step-limit"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Requested(request) if request.offers_tools == self.is_last(request.step) => {
                Breach::new(
                    format!(
                        "tools in every request but that of step {} of {}",
                        request.step, self.terms.step_limit
                    ),
                    format!("tools offered: {}", request.offers_tools),
                )
            }
            Fact::Logged(event) => match &event.body {
                EventBody::ToolCall { step, .. } if self.is_last(*step) => {
                    Breach::new("no tool call in the last step", event.to_json())
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
