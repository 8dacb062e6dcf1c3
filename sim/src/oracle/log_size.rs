//! `log-size` (T8, D27, D39): the log grows by what happened, not by how often
//! it was shown. What a client sees in passing is never logged, and no event
//! is larger than a step or a tool's output may be.

use std::rc::Rc;

use dispatch_core::event::EventBody;

use super::{Breach, Oracle, Terms};
use crate::fact::{Fact, Moment};

#[derive(Debug)]
pub(crate) struct LogSize {
    terms: Rc<Terms>,
}

impl LogSize {
    pub(crate) fn new(terms: &Rc<Terms>) -> LogSize {
        LogSize {
            terms: terms.clone(),
        }
    }
}

/// The bytes of an event's content; `None`: this kind is never logged.
fn content_bytes(body: &EventBody) -> Option<usize> {
    match body {
        EventBody::StepComplete { chunks, .. } => {
            Some(chunks.iter().map(|chunk| chunk.text.len()).sum())
        }
        EventBody::ToolCall { input, .. } => Some(input.len()),
        EventBody::ToolResult { output, .. } => Some(output.len()),
        EventBody::TurnStart { .. }
        | EventBody::StepRestart { .. }
        | EventBody::ProviderRetry { .. }
        | EventBody::Warning { .. }
        | EventBody::Done { .. }
        | EventBody::Error { .. }
        | EventBody::Aborted { .. } => Some(0),
        EventBody::Status { .. }
        | EventBody::TextDelta { .. }
        | EventBody::ReasoningDelta { .. }
        | EventBody::ToolOutput { .. }
        | EventBody::Snapshot { .. } => None,
    }
}

impl Oracle for LogSize {
    fn name(&self) -> &'static str {
        "log-size"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Logged(event) = fact else {
            return Ok(());
        };
        let limit_bytes = self.terms.step_limit_bytes;
        match content_bytes(&event.body) {
            None => Breach::new("what is shown in passing is not logged", event.to_json()),
            Some(bytes) if bytes > limit_bytes => Breach::new(
                format!("no logged event of more than {limit_bytes} bytes"),
                format!("{} of {bytes} bytes, turn {}", event.kind(), event.turn),
            ),
            Some(_) => Ok(()),
        }
    }
}
