//! `command-ends` (T5, T10, L10): a command is gone soon after its turn has
//! ended, also one that its server has left behind; and, while its server lives,
//! soon after its own deadline: the core does not rely on a supervisor that may
//! fail to keep it.

use std::collections::BTreeMap;

use dispatch_core::ids::TurnId;
use dispatch_core::store::TurnState;

use super::hindrance::Hindrance;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// A kill takes 5 s at most; then there is the way to and fro.
const SOON_US: Us = 30_000_000;
/// What nobody watches is looked for once a sweep.
const SWEEP_US: Us = 15_000_000;

#[derive(Debug)]
struct Running {
    turn: TurnId,
    /// `None`: its server has died or let go of it.
    replica: Option<usize>,
    due_at: Us,
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

    fn look(&self, at: Us) -> Result<(), Breach> {
        for (command, running) in &self.running {
            let ended_at = self.ended.get(&running.turn).copied();
            let due_at = running.due_at.min(ended_at.unwrap_or(Us::MAX));
            let Some(due_at) = self.hindrance.clear_since(due_at) else {
                continue;
            };
            let looked_for_us = if running.replica.is_none() {
                SWEEP_US
            } else {
                0
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
        match fact {
            Fact::ToolStarted {
                command,
                turn,
                replica,
                deadline_ms,
                ..
            }
            | Fact::ToolAdopted {
                command,
                turn,
                replica,
                deadline_ms,
                ..
            } => {
                let running = Running {
                    turn: *turn,
                    replica: Some(*replica),
                    due_at: moment.at + deadline_ms * 1_000,
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
