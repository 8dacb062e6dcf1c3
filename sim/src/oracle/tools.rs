//! `tool-once` (L2): a command is started at most once, and its own answer is
//! what the log has. `no-orphan` (L10): while a turn streams or starts a
//! command, nothing of its earlier ownerships runs that was not adopted. `tools-answered` (T12,
//! D20): every call of a step has its answer before anything else is logged.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::EventBody;
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::tools::READ;

use super::{Breach, Oracle};
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

#[derive(Debug, Default)]
pub(crate) struct NoOrphan {
    running: BTreeMap<TurnId, BTreeMap<String, Epoch>>,
}

impl NoOrphan {
    fn alone(&self, turn: TurnId, what: &str, may_run: Option<Epoch>) -> Result<(), Breach> {
        let running = self.running.get(&turn).into_iter().flatten();
        for (command, epoch) in running {
            if Some(*epoch) != may_run {
                return Breach::new(
                    format!("nothing of turn {turn} runs when {what}"),
                    format!("`{command}` of epoch {} does", epoch.0),
                );
            }
        }
        Ok(())
    }
}

impl Oracle for NoOrphan {
    fn name(&self) -> &'static str {
        "no-orphan"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Opened { turn, .. } => self.alone(*turn, "it streams", None),
            Fact::ToolStarted {
                command,
                turn,
                epoch,
                ..
            } => {
                self.alone(*turn, "a later ownership starts a command", Some(*epoch))?;
                let running = self.running.entry(*turn).or_default();
                running.insert((*command).to_owned(), *epoch);
                Ok(())
            }
            Fact::ToolAdopted {
                command,
                turn,
                epoch,
                ..
            } => {
                let running = self.running.entry(*turn).or_default();
                running.insert((*command).to_owned(), *epoch);
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
