//! `tool-once` (L2): a command is started at most once, and its own answer is
//! what the log has. `no-orphan` (L10): while a turn streams or starts a
//! command, nothing of its earlier ownerships runs that was not adopted. `tools-answered` (T12,
//! D20): every call of a step has its answer before anything else is logged.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::EventBody;
use dispatch_core::ids::{ComputerId, Epoch, TurnId};
use dispatch_core::tools::READ;

use super::troubles::Troubles;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct ToolOnce {
    started: BTreeSet<String>,
    outputs: BTreeMap<(TurnId, String), String>,
    answered: BTreeSet<(TurnId, String)>,
    asked: BTreeSet<(TurnId, String)>,
    looks: BTreeSet<(TurnId, String)>,
}

impl Oracle for ToolOnce {
    fn name(&self) -> &'static str {
        "tool-once"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::ToolStarted { command, turn, .. } => {
                if self.started.insert((*command).to_owned()) {
                    return Ok(());
                }
                Breach::new(
                    "a tool call is run once",
                    format!("`{command}` of turn {turn} was started again"),
                )
            }
            Fact::ToolGone {
                turn,
                call_id,
                end: Some(end),
                ..
            } if end.ok => {
                let call = (*turn, (*call_id).to_owned());
                self.outputs.insert(call, end.output.clone());
                Ok(())
            }
            Fact::Logged(event) => match &event.body {
                EventBody::ToolCall { call_id, name, .. } => {
                    let call = (event.turn, call_id.clone());
                    if name == READ.name {
                        self.looks.insert(call.clone());
                    }
                    self.asked.insert(call);
                    Ok(())
                }
                EventBody::ToolResult {
                    call_id,
                    ok,
                    output,
                    ..
                } => {
                    let call = (event.turn, call_id.clone());
                    let ran = self.outputs.get(&call);
                    // What changes nothing may be run as often as need be, and
                    // leaves no trace.
                    let looked = self.looks.contains(&call);
                    if !self.asked.contains(&call) || !self.answered.insert(call) {
                        return Breach::new("one answer for each call", event.to_json());
                    }
                    if *ok && !looked && ran != Some(output) {
                        return Breach::new(
                            format!("the command's own output {ran:?}"),
                            event.to_json(),
                        );
                    }
                    Ok(())
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct ToolsAnswered {
    open: BTreeMap<TurnId, BTreeSet<String>>,
}

impl Oracle for ToolsAnswered {
    fn name(&self) -> &'static str {
        "tools-answered"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let Fact::Logged(event) = fact else {
            return Ok(());
        };
        let open = self.open.entry(event.turn).or_default();
        match &event.body {
            EventBody::ToolCall { call_id, .. } => {
                open.insert(call_id.clone());
            }
            EventBody::ToolResult { call_id, .. } => {
                open.remove(call_id);
            }
            EventBody::StepComplete { .. } if !open.is_empty() => {
                return Breach::new(
                    format!("an answer to {open:?} before the next step"),
                    event.to_json(),
                );
            }
            _ if event.is_terminal() && !open.is_empty() => {
                return Breach::new(
                    format!("an answer to {open:?} before the end"),
                    event.to_json(),
                );
            }
            _ => {}
        }
        Ok(())
    }
}

/// A command of an ownership.
#[derive(Debug)]
struct Begun {
    epoch: Epoch,
    computer: Option<ComputerId>,
    at: Us,
}

#[derive(Debug, Default)]
pub(crate) struct NoOrphan {
    running: BTreeMap<TurnId, BTreeMap<String, Begun>>,
    troubles: Troubles,
}

impl NoOrphan {
    /// It cannot be told apart from a dead one: its turn goes on without it, and
    /// `command-ends` sees to the rest.
    fn is_out_of_reach(&self, begun: &Begun) -> bool {
        let computer = begun.computer.as_ref();
        let until = computer.and_then(|computer| self.troubles.until(computer));
        until.is_some_and(|until| until >= begun.at)
    }

    fn alone(&self, turn: TurnId, what: &str, may_run: Option<Epoch>) -> Result<(), Breach> {
        let running = self.running.get(&turn).into_iter().flatten();
        for (command, begun) in running {
            let epoch = begun.epoch;
            if Some(epoch) != may_run && !self.is_out_of_reach(begun) {
                return Breach::new(
                    format!("nothing of turn {turn} runs when {what}"),
                    format!("`{command}` of epoch {} does", epoch.0),
                );
            }
        }
        Ok(())
    }
}

impl NoOrphan {
    fn begun(
        &mut self,
        at: Us,
        turn: TurnId,
        command: &str,
        epoch: Epoch,
        computer: Option<&ComputerId>,
    ) {
        let begun = Begun {
            epoch,
            computer: computer.cloned(),
            at,
        };
        let running = self.running.entry(turn).or_default();
        // Who finds it to kill it does not own it anew.
        let is_known = |known: &Begun| known.epoch >= epoch;
        if !running.get(command).is_some_and(is_known) {
            running.insert(command.to_owned(), begun);
        }
    }
}

impl Oracle for NoOrphan {
    fn name(&self) -> &'static str {
        "no-orphan"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.troubles.see(fact);
        match fact {
            Fact::Opened { turn, .. } => self.alone(*turn, "it streams", None),
            Fact::ToolStarted {
                command,
                turn,
                epoch,
                computer,
                ..
            } => {
                self.alone(*turn, "a later ownership starts a command", Some(*epoch))?;
                self.begun(moment.at, *turn, command, *epoch, *computer);
                Ok(())
            }
            Fact::ToolAdopted {
                command,
                turn,
                epoch,
                computer,
                ..
            } => {
                self.begun(moment.at, *turn, command, *epoch, *computer);
                Ok(())
            }
            Fact::ToolGone { command, turn, .. } => {
                if let Some(running) = self.running.get_mut(turn) {
                    running.remove(*command);
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
