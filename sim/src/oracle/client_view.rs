//! `client-view` (C5, D24): a client receives exactly its conversation's log,
//! in order, nothing before it is durable; and no text is placed twice.

use std::collections::BTreeMap;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, Epoch, Seq, TurnId};

use super::{Breach, Oracle};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
struct Screen {
    cursor: Seq,
    /// What is shown of open steps, and under which ownership.
    open: BTreeMap<TurnId, (Epoch, u32, u64)>,
}

#[derive(Debug, Default)]
pub(crate) struct ClientView {
    log: BTreeMap<(ConversationId, Seq), AgentEvent>,
    clients: BTreeMap<usize, Screen>,
}

impl ClientView {
    fn seen(&mut self, client: usize, event: &AgentEvent) -> Result<(), Breach> {
        let screen = self.clients.entry(client).or_default();
        let Some(seq) = event.seq else {
            return screen.provisional(event);
        };
        screen.cursor += 1;
        let logged = self.log.get(&(event.conversation.clone(), screen.cursor));
        if seq != screen.cursor || logged != Some(event) {
            return Breach::new(
                format!(
                    "event {} of {}: {}",
                    screen.cursor,
                    event.conversation,
                    logged.map_or("not committed".to_owned(), AgentEvent::to_json)
                ),
                event.to_json(),
            );
        }
        if event.is_terminal()
            || matches!(
                event.body,
                EventBody::StepComplete { .. } | EventBody::StepRestart { .. }
            )
        {
            screen.open.remove(&event.turn);
        }
        Ok(())
    }
}

impl Screen {
    fn provisional(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        let EventBody::TextDelta { step, offset, text } = &event.body else {
            return Ok(());
        };
        let (epoch, shown_step, shown) =
            self.open
                .entry(event.turn)
                .or_insert((event.epoch, *step, *offset));
        if event.epoch < *epoch {
            return Ok(());
        }
        if event.epoch > *epoch || *step != *shown_step {
            (*epoch, *shown_step, *shown) = (event.epoch, *step, *offset);
        }
        if *offset < *shown {
            return Breach::new(
                format!("text from byte {shown} on: what is before it is on the screen"),
                event.to_json(),
            );
        }
        *shown = offset + text.len() as u64;
        Ok(())
    }
}

impl Oracle for ClientView {
    fn name(&self) -> &'static str {
        "client-view"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => {
                if let Some(seq) = event.seq {
                    let at = (event.conversation.clone(), seq);
                    self.log.insert(at, (*event).clone());
                }
                Ok(())
            }
            Fact::Published { event, .. } => match event.seq {
                Some(seq) => {
                    let at = (event.conversation.clone(), seq);
                    if self.log.get(&at) == Some(event) {
                        return Ok(());
                    }
                    Breach::new(
                        "a logged event is durable before it is shown",
                        event.to_json(),
                    )
                }
                None => Ok(()),
            },
            Fact::Seen { client, event } => self.seen(*client, event),
            Fact::Finished { cursors, .. } => {
                match cursors.iter().find(|(seen, last)| seen != last) {
                    Some((seen, last)) => Breach::new(
                        format!("a client that has read up to {last}"),
                        format!("one that has read up to {seen}"),
                    ),
                    None => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }
}
