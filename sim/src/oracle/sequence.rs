//! `sequence`: a conversation's log is numbered 1, 2, 3, ... in commit order.

use std::collections::BTreeMap;

use dispatch_core::ids::{ConversationId, Seq};

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct Sequence {
    last: BTreeMap<ConversationId, Seq>,
}

impl Oracle for Sequence {
    fn name(&self) -> &'static str {
        "sequence"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Logged(event) = fact else {
            return Ok(());
        };
        let last = self.last.entry(event.conversation.clone()).or_default();
        *last += 1;
        if event.seq == Some(*last) {
            return Ok(());
        }
        Breach::new(
            format!("sequence number {last} in {}", event.conversation),
            event.to_json(),
        )
    }
}
