//! `at-home` (L9): a turn whose tools have run on a node is granted by that node
//! alone, and is given up for its node's absence only if that was long; a node is
//! known by the latest of its lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use dispatch_core::event::EventBody;
use dispatch_core::ids::TurnId;
use dispatch_core::store::{TurnRow, TurnState};

use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// Ten minutes, less the time for which a node that serves may be silent: the
/// pause between two renewals, and one that was lost.
const ABSENCE_US: Us = 550_000_000;
/// For so long after a start or after trouble a node may not have been heard of.
const UNHEARD_US: Us = 700_000_000;

#[derive(Debug, Default)]
pub(crate) struct AtHome {
    homes: BTreeMap<TurnId, Arc<str>>,
    /// Since when a node is as it is.
    lives: BTreeMap<usize, (Life, Us)>,
    trouble_at: BTreeMap<usize, Us>,
    /// The life by which a node is known: whether it is away is told by that one.
    known: BTreeMap<String, u64>,
}

impl AtHome {
    fn moved(&mut self, after: &TurnRow) -> Result<(), Breach> {
        if let Some(home) = &after.bound {
            self.homes.insert(after.turn, home.clone());
        }
        let (Some(home), Some(owner)) = (&after.bound, &after.owner) else {
            return Ok(());
        };
        if after.state != TurnState::Streaming || owner.node == *home {
            return Ok(());
        }
        Breach::new(
            format!("turn {} goes on at {home}", after.turn),
            format!("{} was granted it", owner.node),
        )
    }

    fn given_up(&self, at: Us, turn: TurnId) -> Result<(), Breach> {
        let replica = self.homes.get(&turn).and_then(|home| {
            let number = home.strip_prefix("node-")?;
            number.parse::<usize>().ok()
        });
        let was_away = replica.is_some_and(|replica| {
            let trouble = self.trouble_at.get(&replica);
            let troubled = trouble.is_some_and(|since| at - since <= UNHEARD_US);
            match self.lives.get(&replica) {
                Some((Life::Up, since)) => at - since <= UNHEARD_US || troubled,
                Some((_, since)) => at - since >= ABSENCE_US || troubled,
                None => true,
            }
        });
        if was_away {
            return Ok(());
        }
        Breach::new(
            format!("turn {turn} is given up once its node was away for ten minutes"),
            format!("{:?}: {:?}", self.homes.get(&turn), self.lives),
        )
    }
}

impl Oracle for AtHome {
    fn name(&self) -> &'static str {
        "at-home"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Moved { after, .. } => return self.moved(after),
            Fact::Logged(event) => {
                if let EventBody::Error { cause, .. } = &event.body
                    && cause == "node-lost"
                {
                    return self.given_up(moment.at, event.turn);
                }
            }
            Fact::Lives { replica, state, .. } => {
                // Who dies while it stands still has been away since it stood still.
                let since = match self.lives.get(replica) {
                    Some((Life::Paused, since)) if *state != Life::Up => *since,
                    _ => moment.at,
                };
                self.lives.insert(*replica, (*state, since));
            }
            Fact::Registered { node, life } => {
                let known = self.known.entry((*node).to_owned()).or_default();
                if *life < *known {
                    return Breach::new(
                        format!("{node} is known by its life {known}"),
                        format!("its life {life} took that back"),
                    );
                }
                *known = *life;
            }
            Fact::Trouble { replica } => {
                self.trouble_at.insert(*replica, moment.at);
            }
            _ => {}
        }
        Ok(())
    }
}
