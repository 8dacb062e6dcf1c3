//! A run as a list of what happens in it: what clients do, what befalls the
//! processes, what goes wrong. It outlives a change of how seeds draw, can be
//! made smaller, and is what is committed of a run that once failed.

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::clock::Us;
use crate::luck::Mishap;
use crate::record::shown_time;
use crate::scenario::{Act, Chaos, Scenario};
use crate::script::Script;
use crate::world::Plan;

/// The version of the file's format.
pub const FORMAT: u32 = 1;

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Recipe {
    pub(crate) version: u32,
    /// For people: what it shows.
    pub about: String,
    /// The oracle that judged it broken.
    pub oracle: String,
    /// The planted bugs that it needs to fail; none: it failed by itself, once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub planted: Vec<String>,
    /// Of the texture and of the Dispatchers.
    pub(crate) seed: u64,
    /// Without texture: every delay is the shortest.
    pub(crate) plain: bool,
    pub(crate) scenario: Scenario,
    pub(crate) mishaps: Vec<Mishap>,
}

/// Why a file is not a recipe.
#[derive(Debug, thiserror::Error)]
pub enum BadRecipe {
    /// The file cannot be read.
    #[error("{path} cannot be read: {source}")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is of another version.
    #[error(
        "{path} is a recipe of format {found}; this build reads format {FORMAT}: use the build that wrote it"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
    /// It is something else.
    #[error("{path} is no recipe: {source}; `dispatch-sim shrink` writes one")]
    Json {
        /// The file.
        path: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It refers to what it does not have.
    #[error("{path} cannot be played: {why}")]
    Dangling {
        /// The file.
        path: String,
        /// What is missing.
        why: String,
    },
}

impl Recipe {
    pub(crate) fn new(plan: Plan, mishaps: Vec<Mishap>, oracle: &str) -> Recipe {
        Recipe {
            version: FORMAT,
            about: String::new(),
            oracle: oracle.to_owned(),
            planted: Vec::new(),
            seed: plan.seed,
            plain: plan.plain,
            scenario: plan.scenario,
            mishaps,
        }
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan {
            seed: self.seed,
            plain: self.plain,
            scenario: self.scenario.clone(),
            mishaps: Some(self.mishaps.clone()),
        }
    }

    /// The planted bugs, as they are switched on.
    pub fn planted_ids(&self) -> Vec<&str> {
        self.planted.iter().map(String::as_str).collect()
    }

    /// How many things happen in it.
    pub fn events(&self) -> usize {
        self.scenario.acts.len() + self.scenario.chaos.len() + self.mishaps.len()
    }

    /// Reads a recipe's file.
    ///
    /// # Errors
    /// [`BadRecipe`]: the file is missing, or is no recipe of this format.
    pub fn read(path: &Path) -> Result<Recipe, BadRecipe> {
        let shown = || path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|source| BadRecipe::Io {
            path: shown(),
            source,
        })?;
        let json = |source| BadRecipe::Json {
            path: shown(),
            source,
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
        match value["version"].as_u64() {
            Some(found) if found != u64::from(FORMAT) => {
                return Err(BadRecipe::Version {
                    path: shown(),
                    found,
                });
            }
            Some(_) | None => {}
        }
        let recipe: Recipe = serde_json::from_value(value).map_err(json)?;
        match recipe.dangling() {
            Some(why) => Err(BadRecipe::Dangling { path: shown(), why }),
            None => Ok(recipe),
        }
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// A reference that leads nowhere.
    pub(crate) fn dangling(&self) -> Option<String> {
        let scenario = &self.scenario;
        let (messages, replicas) = (scenario.messages.len(), scenario.replicas);
        if replicas == 0 || replicas > MOST_REPLICAS {
            return Some(format!(
                "{replicas} replicas; 1 to {MOST_REPLICAS} can be played"
            ));
        }
        if scenario.limits.is_empty() || scenario.limits.len() > MOST_PROVIDERS {
            return Some(format!("1 to {MOST_PROVIDERS} limits can be played"));
        }
        for (_, act) in &scenario.acts {
            let is_known = match act {
                Act::Submit { token } | Act::SubmitAgain { token } | Act::Abort { token, .. } => {
                    (*token as usize) < messages
                }
                Act::Limit { provider, .. } => *provider < scenario.limits.len(),
                Act::Star { .. } => true,
            };
            if !is_known {
                return Some(format!("{act:?} is about something that is not there"));
            }
        }
        let lost = |n: &usize| *n >= scenario.conversations.len();
        if scenario.messages.iter().any(|m| lost(&m.conversation)) {
            return Some("a message is for a conversation that is not there".to_owned());
        }
        let talks = &scenario.conversations;
        if talks
            .iter()
            .any(|talk| talk.provider >= scenario.limits.len())
        {
            return Some("a conversation is for a provider that is not there".to_owned());
        }
        if scenario.messages.iter().any(|m| m.script.steps.is_empty()) {
            return Some("a message has a script without steps".to_owned());
        }
        let hit = scenario
            .chaos
            .iter()
            .filter_map(|(_, chaos)| chaos.replica());
        hit.max()
            .filter(|replica| *replica >= replicas)
            .map(|replica| format!("replica {replica} is hit and is not there"))
    }
}

const MOST_REPLICAS: usize = 9;
const MOST_PROVIDERS: usize = 2;

impl Chaos {
    /// Whom it befalls; `None`: the provider.
    pub(crate) fn replica_mut(&mut self) -> Option<&mut usize> {
        match self {
            Chaos::Kill { replica, .. }
            | Chaos::Shutdown { replica, .. }
            | Chaos::Pause { replica, .. }
            | Chaos::Partition { replica, .. }
            | Chaos::Panic { replica, .. }
            | Chaos::Wedge { replica, .. }
            | Chaos::WallJump { replica, .. } => Some(replica),
            Chaos::Storm { .. } => None,
        }
    }

    /// [`Chaos::replica_mut`], to look at.
    pub(crate) fn replica(&self) -> Option<usize> {
        self.clone().replica_mut().copied()
    }
}

/// The list, as people read it.
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
        for mishap in &self.mishaps {
            if let Mishap::Store {
                at,
                replica,
                verb,
                fate,
                ..
            } = mishap
            {
                lines.push((*at, format!("r{replica}'s `{verb}` at the store: {fate:?}")));
            }
            if let Mishap::Echo {
                at,
                replica,
                verb,
                after,
                ..
            } = mishap
            {
                let later = shown_time(*after);
                lines.push((
                    *at,
                    format!("r{replica}'s `{verb}` lands once more {later} later"),
                ));
            }
        }
        lines.sort();
        for (at, line) in lines {
            writeln!(f, "{}  {line}", shown_time(at))?;
        }
        for mishap in &self.mishaps {
            match mishap {
                Mishap::Store { .. } | Mishap::Echo { .. } => {}
                Mishap::Answer {
                    token,
                    step,
                    attempt,
                    fault,
                } => writeln!(
                    f,
                    "whenever       request {attempt} for step {step} of message {token}: {fault:?}"
                )?,
                Mishap::Tool { command, trouble } => {
                    writeln!(f, "whenever       command `{command}`: {trouble:?}")?;
                }
            }
        }
        Ok(())
    }
}

impl Recipe {
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
