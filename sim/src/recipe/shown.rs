//! The list, as people read it.

use std::fmt;

use super::Recipe;
use crate::clock::Us;
use crate::luck::Mishap;
use crate::record::shown_time;
use crate::scenario::Act;
use crate::script::Script;

impl fmt::Display for Recipe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scenario = &self.scenario;
        writeln!(
            f,
            "{} replica(s), limits {:?}, calm from {}{}{}{}",
            scenario.replicas,
            scenario.limits,
            shown_time(scenario.calm_at),
            if scenario.seals {
                ", on_crash = seal"
            } else {
                ""
            },
            if scenario.repeats_cuts {
                ", on_cut = restart"
            } else {
                ""
            },
            if self.plain { ", shortest delays" } else { "" },
        )?;
        let mut lines: Vec<(Us, String)> = Vec::new();
        for (at, act) in &scenario.acts {
            lines.push((*at, self.shown_act(act)));
        }
        for (at, chaos) in &scenario.chaos {
            lines.push((*at, format!("{chaos:?}")));
        }
        let timed = |mishap: &&Mishap| mishap.at().is_some();
        for mishap in self.mishaps.iter().filter(timed) {
            lines.push((mishap.at().unwrap_or_default(), mishap.to_string()));
        }
        lines.sort();
        for (at, line) in lines {
            writeln!(f, "{}  {line}", shown_time(at))?;
        }
        for mishap in self.mishaps.iter().filter(|mishap| !timed(mishap)) {
            writeln!(f, "whenever       {mishap}")?;
        }
        Ok(())
    }
}

impl Mishap {
    /// When it comes; `None`: whenever what it befalls comes.
    fn at(&self) -> Option<Us> {
        match self {
            Mishap::Store { at, .. } | Mishap::Echo { at, .. } => Some(*at),
            Mishap::Answer { .. } | Mishap::Tool { .. } => None,
        }
    }
}

impl fmt::Display for Mishap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Mishap::Store {
                replica,
                verb,
                fate,
                ..
            } => write!(f, "r{replica}'s `{verb}` at the store: {fate:?}"),
            Mishap::Echo {
                replica,
                verb,
                after,
                ..
            } => {
                let later = shown_time(*after);
                write!(f, "r{replica}'s `{verb}` lands once more {later} later")
            }
            Mishap::Answer {
                token,
                step,
                attempt,
                fault,
            } => write!(
                f,
                "request {attempt} for step {step} of message {token}: {fault:?}"
            ),
            Mishap::Tool { command, trouble } => write!(f, "command `{command}`: {trouble:?}"),
        }
    }
}

impl Recipe {
    /// What the list has after the calm began, where nothing fails any more, or
    /// after the run's end.
    pub(crate) fn too_late(&self, ended_at: Us) -> Vec<String> {
        let scenario = &self.scenario;
        let acts = (scenario.acts.iter())
            .filter(|(at, _)| *at > ended_at)
            .map(|(at, act)| (at, self.shown_act(act)));
        let chaos = (scenario.chaos.iter())
            .filter(|(at, _)| *at > ended_at || *at >= scenario.calm_at)
            .map(|(at, chaos)| (at, format!("{chaos:?}")));
        acts.chain(chaos)
            .map(|(at, what)| format!("{}  {what}", shown_time(*at)))
            .collect()
    }

    fn shown_act(&self, act: &Act) -> String {
        let Act::Submit { token } = act else {
            return format!("{act:?}");
        };
        let message = &self.scenario.messages[*token as usize];
        let talk = &self.scenario.conversations[message.conversation];
        format!(
            "Submit message {token} to {} in workspace {}{}{}: {}",
            talk.id
                .as_ref()
                .map_or("a new conversation", |id| id.as_str()),
            talk.workspace,
            if message.keyed { ", with a key" } else { "" },
            if message.keyed && message.doubled {
                ", twice"
            } else {
                ""
            },
            shown_script(&message.script),
        )
    }
}

fn shown_script(script: &Script) -> String {
    let steps = script.steps.iter().map(|step| {
        let calls: Vec<&str> = step.calls.iter().map(|c| c.command.as_str()).collect();
        match calls.is_empty() {
            true => format!("{:?}", step.text),
            false => format!("calls {calls:?}"),
        }
    });
    steps.collect::<Vec<_>>().join(", then ")
}
