//! `told` (C7, D45): every terminal event reaches every endpoint that wants it
//! at least once, or is given up after thirty tries and not before; and no
//! endpoint is told of anything that is not in the log.

use std::collections::BTreeMap;
use std::rc::Rc;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{EndpointId, TurnId};
use dispatch_core::webhook::Delivery;

use super::{Breach, Oracle, Terms};
use crate::fact::{Fact, Moment};

/// C7's bound.
const TRIES: u32 = 30;

#[derive(Debug)]
pub(crate) struct Told {
    terms: Rc<Terms>,
    ends: BTreeMap<TurnId, AgentEvent>,
    open: BTreeMap<(EndpointId, TurnId), u32>,
    over: BTreeMap<(EndpointId, TurnId), u32>,
}

impl Told {
    pub(crate) fn new(terms: &Rc<Terms>) -> Told {
        Told {
            terms: terms.clone(),
            ends: BTreeMap::new(),
            open: BTreeMap::new(),
            over: BTreeMap::new(),
        }
    }

    fn logged(&mut self, event: &AgentEvent) {
        self.ends.insert(event.turn, event.clone());
        for endpoint in &self.terms.endpoints {
            let wanted = match &event.body {
                EventBody::Done { .. } => endpoint.wanted.done,
                EventBody::Error { .. } => endpoint.wanted.error,
                EventBody::Aborted { .. } => endpoint.wanted.aborted,
                _ => false,
            };
            if wanted {
                self.open.insert((endpoint.id.clone(), event.turn), 0);
            }
        }
    }

    fn posted(&mut self, delivery: &Delivery, is_taken: bool) -> Result<(), Breach> {
        let key = (delivery.endpoint.clone(), delivery.turn);
        let end = self.ends.get(&delivery.turn).filter(|end| {
            end.seq == Some(delivery.seq) && end.conversation == delivery.conversation
        });
        let (Some(_), Some(posts)) = (
            end,
            self.open.get_mut(&key).or_else(|| self.over.get_mut(&key)),
        ) else {
            let expected = format!(
                "only ends that {} wants: {:?}",
                key.0,
                self.ends.get(&key.1)
            );
            return Breach::new(expected, format!("{delivery:?}"));
        };
        *posts += 1;
        if *posts > TRIES || !(1..=TRIES).contains(&delivery.tries) {
            return Breach::new(format!("{TRIES} tries"), format!("{posts}: {delivery:?}"));
        }
        let posts = *posts;
        if is_taken && self.open.remove(&key).is_some() {
            self.over.insert(key, posts);
        }
        Ok(())
    }
}

impl Oracle for Told {
    fn name(&self) -> &'static str {
        "told"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) if event.is_terminal() => {
                self.logged(event);
                Ok(())
            }
            Fact::Posted { delivery, is_taken } => self.posted(delivery, *is_taken),
            Fact::GivenUp { delivery } if delivery.tries != TRIES => Breach::new(
                format!("nothing is given up before {TRIES} tries"),
                format!("{delivery:?}"),
            ),
            Fact::GivenUp { delivery } => {
                let key = (delivery.endpoint.clone(), delivery.turn);
                let posts = self.open.remove(&key).unwrap_or(0);
                self.over.entry(key).or_insert(posts);
                Ok(())
            }
            Fact::Finished { .. } => match self.open.first_key_value() {
                None => Ok(()),
                Some(((endpoint, turn), posts)) => Breach::new(
                    format!("{endpoint} is told: {:?}", self.ends.get(turn)),
                    format!("{posts} posts, none taken; {} such in all", self.open.len()),
                ),
            },
            _ => Ok(()),
        }
    }
}
