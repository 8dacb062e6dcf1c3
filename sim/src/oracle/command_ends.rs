//! `command-ends` (T5, T10, L10): a command is gone soon after its turn has
//! ended, also one that its server has left behind; and, while its server lives,
//! soon after its own deadline: the core does not rely on a supervisor that may
//! fail to keep it. On a computer with which something was wrong, that holds
//! from the next look over a link that stays open.

use std::collections::BTreeMap;

use dispatch_core::ids::{ComputerId, TurnId};
use dispatch_core::store::TurnState;

use super::hindrance::Hindrance;
use super::links::Links;
use super::troubles::Troubles;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// A kill takes 5 s at most; then there is the way to and fro.
const SOON_US: Us = 30_000_000;
/// What nobody watches is looked for once a sweep.
const SWEEP_US: Us = 15_000_000;
/// And over a link, every ten minutes.
const FAR_SWEEP_US: Us = 600_000_000;

#[derive(Debug)]
struct Running {
    turn: TurnId,
    /// `None`: its server has died or let go of it.
    replica: Option<usize>,
    due_at: Us,
    /// Where it runs, if not there.
    computer: Option<ComputerId>,
    begun_at: Us,
}

impl Running {
    /// Only its own supervisor knows its deadline now.
    fn let_go(&mut self) {
        self.replica = None;
        self.due_at = Us::MAX;
    }
}

#[derive(Debug, Default)]
pub(crate) struct CommandEnds {
    running: BTreeMap<String, Running>,
    ended: BTreeMap<TurnId, Us>,
    /// To which computer, and open since when.
    links: Links<(ComputerId, Us)>,
    troubles: Troubles,
    hindrance: Hindrance,
}

impl CommandEnds {
    /// What a dead server has left its own supervisor must end at its deadline.
    fn leave(&mut self, replica: usize) {
        for running in self.running.values_mut() {
            if running.replica == Some(replica) {
                running.let_go();
            }
        }
    }

    /// From when on it must be found, and within how long; `None`: nobody can.
    fn looked_for(&self, running: &Running, due_at: Us) -> Option<(Us, Us)> {
        let is_left = running.replica.is_none();
        let Some(computer) = &running.computer else {
            return Some((due_at, if is_left { SWEEP_US } else { 0 }));
        };
        let trouble_until = self.troubles.until(computer);
        // It may have been found only now, to be killed.
        let due_at = due_at.max(running.begun_at);
        let was_well = trouble_until.is_none_or(|until| until < running.begun_at);
        if was_well && !is_left {
            return Some((due_at, 0));
        }
        let links = self.links.all.values().filter(|(to, _)| to == computer);
        let open_since = links.map(|(_, since)| *since).min()?;
        let clear_at = due_at
            .max(open_since)
            .max(trouble_until.unwrap_or_default());
        Some((clear_at, FAR_SWEEP_US))
    }

    fn look_at_links(&mut self, at: Us, fact: &Fact<'_>) {
        self.links.see(fact);
        self.troubles.see(fact);
        match fact {
            Fact::LinkWished {
                replica,
                computer,
                link,
            } => {
                let wished = ((*computer).clone(), Us::MAX);
                self.links.all.insert((*replica, *link), wished);
            }
            Fact::LinkUp { replica, link } => {
                if let Some((_, since)) = self.links.all.get_mut(&(*replica, *link)) {
                    *since = at;
                }
            }
            _ => {}
        }
    }

    fn look(&self, at: Us) -> Result<(), Breach> {
        for (command, running) in &self.running {
            let ended_at = self.ended.get(&running.turn).copied();
            let due_at = running.due_at.min(ended_at.unwrap_or(Us::MAX));
            let Some(due_at) = self.hindrance.clear_since(due_at) else {
                continue;
            };
            let Some((due_at, looked_for_us)) = self.looked_for(running, due_at) else {
                continue;
            };
            if at.saturating_sub(due_at) > SOON_US + looked_for_us {
                let end = if ended_at.is_some() {
                    "turn's end"
                } else {
                    "deadline"
                };
                return Breach::new(
                    format!("`{command}` is gone soon after its {end}"),
                    format!("it runs {} s later", (at - due_at) / 1_000_000),
                );
            }
        }
        Ok(())
    }
}

impl Oracle for CommandEnds {
    fn name(&self) -> &'static str {
        "command-ends"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.hindrance.see(moment, fact);
        self.look_at_links(moment.at, fact);
        match fact {
            Fact::ToolStarted {
                command,
                turn,
                replica,
                computer,
                deadline_ms,
                ..
            }
            | Fact::ToolAdopted {
                command,
                turn,
                replica,
                computer,
                deadline_ms,
                ..
            } => {
                let running = Running {
                    turn: *turn,
                    replica: Some(*replica),
                    due_at: moment.at + deadline_ms * 1_000,
                    computer: computer.cloned(),
                    begun_at: moment.at,
                };
                self.running.insert((*command).to_owned(), running);
            }
            Fact::ToolLeft { command } => {
                if let Some(running) = self.running.get_mut(*command) {
                    running.let_go();
                }
            }
            Fact::ToolGone { command, .. } => {
                self.running.remove(*command);
            }
            Fact::Moved { after, .. } if after.state == TurnState::Ended => {
                self.ended.entry(after.turn).or_insert(moment.at);
            }
            Fact::Lives {
                replica,
                state: Life::Down,
                ..
            }
            | Fact::Panicked { replica, .. } => self.leave(*replica),
            Fact::Slots { .. } => return self.look(moment.at),
            _ => {}
        }
        Ok(())
    }
}
