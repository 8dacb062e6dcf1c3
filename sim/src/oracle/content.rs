//! `content`: what a turn says is what its script says, once. A `done` turn
//! has all steps; every delta stands where the script has it.

use std::collections::BTreeMap;
use std::rc::Rc;

use dispatch_core::event::{AgentEvent, Chunk, ChunkKind, EventBody};
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle, Terms};
use crate::fact::{Fact, Moment};
use crate::script::{Script, StepScript};

#[derive(Debug, Default)]
struct Told {
    token: u32,
    steps: usize,
    calls: usize,
    /// A partial step has been logged: only the end may follow.
    cut: bool,
}

#[derive(Debug)]
pub(crate) struct Content {
    terms: Rc<Terms>,
    turns: BTreeMap<TurnId, Told>,
    /// Bytes shown of a step's text and reasoning under an ownership, after so
    /// many repetitions of the turn's steps.
    shown: BTreeMap<(TurnId, Epoch, usize, u32, ChunkKind), usize>,
    /// When steps were repeated.
    restarts: BTreeMap<TurnId, Vec<Timestamp>>,
}

impl Content {
    pub(crate) fn new(terms: &Rc<Terms>) -> Content {
        Content {
            terms: terms.clone(),
            turns: BTreeMap::new(),
            shown: BTreeMap::new(),
            restarts: BTreeMap::new(),
        }
    }

    fn script(&self, token: u32) -> Option<&Script> {
        self.terms.scripts.get(token as usize)
    }

    fn logged(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        if let EventBody::TurnStart { message, .. } = &event.body {
            let Some(token) = Script::token_in(message) else {
                return Breach::new("the message as it was sent", event.to_json());
            };
            let told = Told {
                token,
                ..Told::default()
            };
            self.turns.insert(event.turn, told);
            return Ok(());
        }
        let Some(mut told) = self.turns.remove(&event.turn) else {
            return Ok(());
        };
        let judged = self.judge(&mut told, event);
        self.turns.insert(event.turn, told);
        judged
    }

    fn judge(&mut self, told: &mut Told, event: &AgentEvent) -> Result<(), Breach> {
        let Some(script) = self.script(told.token) else {
            return Breach::new("a scripted turn", format!("token {}", told.token));
        };
        match &event.body {
            EventBody::StepComplete {
                step,
                chunks,
                partial,
                ..
            } => {
                let Some(scripted) = script.steps.get(told.steps) else {
                    return Breach::new(format!("{} steps", script.steps.len()), event.to_json());
                };
                let matches = if *partial {
                    scripted.text.starts_with(&text_of(chunks, ChunkKind::Text))
                        && scripted
                            .reasoning
                            .starts_with(&text_of(chunks, ChunkKind::Reasoning))
                } else {
                    scripted.text == text_of(chunks, ChunkKind::Text)
                        && scripted.reasoning == text_of(chunks, ChunkKind::Reasoning)
                };
                if !matches || *step as usize != told.steps || told.cut {
                    return Breach::new(
                        format!("step {} once: {scripted:?}", told.steps),
                        event.to_json(),
                    );
                }
                told.cut |= partial;
                told.steps += usize::from(!partial);
                told.calls = 0;
                Ok(())
            }
            EventBody::ToolCall { name, input, .. } => {
                let asked = told
                    .steps
                    .checked_sub(1)
                    .and_then(|step| script.steps[step].calls.get(told.calls));
                told.calls += 1;
                match asked {
                    Some(call) if name == call.tool() && *input == call.input() => Ok(()),
                    asked => Breach::new(format!("the call {asked:?}"), event.to_json()),
                }
            }
            EventBody::Done { finish_reason, .. }
                if finish_reason == "step-limit"
                    && told.steps == self.terms.step_limit as usize
                    && told.steps < script.steps.len()
                    && !told.cut =>
            {
                Ok(())
            }
            EventBody::Done { .. } if told.steps != script.steps.len() || told.cut => Breach::new(
                format!("done after {} steps", script.steps.len()),
                format!("done after {} steps", told.steps),
            ),
            EventBody::StepRestart { .. } => {
                self.restarts.entry(event.turn).or_default().push(event.at);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A process that stood still shows what it had decided to before: that goes
    /// on where it was, though the step has been repeated since.
    fn shown(
        &mut self,
        (event, decided_at): (&AgentEvent, Timestamp),
        step: u32,
        offset: u64,
        kind: ChunkKind,
        text: &str,
    ) -> Result<(), Breach> {
        let restarts = self.restarts.get(&event.turn);
        let restarts = restarts.map_or(0, |all| all.iter().filter(|at| **at <= decided_at).count());
        let token = self.turns.get(&event.turn).map(|told| told.token);
        let scripted = token
            .and_then(|token| self.terms.scripts.get(token as usize))
            .and_then(|script| script.steps.get(step as usize))
            .map_or("", |step| part(step, kind));
        let shown = self
            .shown
            .entry((event.turn, event.epoch, restarts, step, kind))
            .or_default();
        let in_place = *shown as u64 == offset
            && scripted
                .get(*shown..)
                .is_some_and(|rest| rest.starts_with(text));
        if !in_place {
            return Breach::new(
                format!("the text of step {step} from byte {shown} of {scripted:?}"),
                event.to_json(),
            );
        }
        *shown += text.len();
        Ok(())
    }
}

fn part(step: &StepScript, kind: ChunkKind) -> &str {
    match kind {
        ChunkKind::Text => &step.text,
        ChunkKind::Reasoning => &step.reasoning,
    }
}

fn text_of(chunks: &[Chunk], kind: ChunkKind) -> String {
    let of_kind = chunks.iter().filter(|chunk| chunk.kind == kind);
    of_kind.map(|chunk| chunk.text.as_str()).collect()
}

impl Oracle for Content {
    fn name(&self) -> &'static str {
        "content"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => self.logged(event),
            Fact::Published {
                event, decided_at, ..
            } => match &event.body {
                EventBody::TextDelta { step, offset, text } => {
                    let shown = (*event, *decided_at);
                    self.shown(shown, *step, *offset, ChunkKind::Text, text)
                }
                EventBody::ReasoningDelta { step, offset, text } => {
                    let shown = (*event, *decided_at);
                    self.shown(shown, *step, *offset, ChunkKind::Reasoning, text)
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
