//! `content` (T2): what a turn says is what its script says, once.

use std::collections::BTreeMap;

use dispatch_core::event::{AgentEvent, Chunk, ChunkKind, EventBody};
use dispatch_core::ids::TurnId;

use super::{Breach, Case, run_ms};
use crate::script::{Script, StepScript};

pub(super) fn content(case: &Case<'_>) -> Result<(), Breach> {
    let mut steps: BTreeMap<TurnId, usize> = BTreeMap::new();
    for event in case.events() {
        let Some(script) = case.script(event.turn) else {
            continue;
        };
        logged(&script, steps.entry(event.turn).or_default(), event)?;
    }
    for (at_ms, _, event) in case.shown() {
        if let Some(script) = case.script(event.turn) {
            delta(&script, at_ms, event)?;
        }
    }
    Ok(())
}

fn logged(script: &Script, done: &mut usize, event: &AgentEvent) -> Result<(), Breach> {
    let at_ms = run_ms(event.at);
    match &event.body {
        EventBody::StepComplete {
            step,
            chunks,
            partial,
            ..
        } => {
            let matches = script.steps.get(*done).is_some_and(|scripted| {
                *step as usize == *done && says(scripted, chunks, *partial)
            });
            if !matches {
                let wanted = format!("step {done} once: {:?}", script.steps.get(*done));
                return Breach::new(at_ms, wanted, event.to_json());
            }
            *done += usize::from(!partial);
            Ok(())
        }
        EventBody::Done { .. } if *done != script.steps.len() => Breach::new(
            at_ms,
            format!("done after {} steps", script.steps.len()),
            format!("done after {done}"),
        ),
        _ => Ok(()),
    }
}

fn says(scripted: &StepScript, chunks: &[Chunk], partial: bool) -> bool {
    let said = |kind: ChunkKind| -> String {
        let own = chunks.iter().filter(|chunk| chunk.kind == kind);
        own.map(|chunk| chunk.text.as_str()).collect()
    };
    let fits = |whole: &str, said: &str| whole == said || partial && whole.starts_with(said);
    fits(&scripted.text, &said(ChunkKind::Text))
        && fits(&scripted.reasoning, &said(ChunkKind::Reasoning))
}

type Part = fn(&StepScript) -> &str;

/// A delta stands where the script has it; a snapshot is its beginning.
fn delta(script: &Script, at_ms: u64, event: &AgentEvent) -> Result<(), Breach> {
    let fits = |step: u32, part: Part, offset: u64, piece: &str| {
        let scripted = script.steps.get(step as usize).map(part);
        let rest = usize::try_from(offset).ok();
        scripted
            .and_then(|whole| whole.get(rest?..))
            .is_some_and(|rest| rest.starts_with(piece))
    };
    let (text, reasoning): (Part, Part) = (|step| &step.text, |step| &step.reasoning);
    let is_right = match &event.body {
        EventBody::TextDelta {
            step,
            offset,
            text: piece,
        } => fits(*step, text, *offset, piece),
        EventBody::ReasoningDelta {
            step,
            offset,
            text: piece,
        } => fits(*step, reasoning, *offset, piece),
        EventBody::Snapshot {
            step,
            text: said,
            reasoning: thought,
            ..
        } => fits(*step, text, 0, said) && fits(*step, reasoning, 0, thought),
        _ => true,
    };
    match is_right {
        true => Ok(()),
        false => Breach::new(at_ms, format!("a piece of {script:?}"), event.to_json()),
    }
}
