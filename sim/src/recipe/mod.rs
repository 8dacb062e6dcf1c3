//! A run as a list of what happens in it: what clients do, what befalls the
//! processes, what goes wrong. It outlives a change of how seeds draw, can be
//! made smaller, and is what is committed of a run that once failed.

mod check;
mod shown;

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::luck::Mishap;
use crate::scenario::{Chaos, Scenario};
use crate::world::Plan;

/// The version of the file's format. The first listed every message up to the
/// last one that is sent; the second leaves out those that nobody sends.
pub const FORMAT: u32 = 2;
/// The oldest format that is still read.
const OLDEST: u32 = 1;

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
    #[error("{path} cannot be read: {cause}; name the file that a failing sweep or `shrink` wrote")]
    Io {
        /// The file.
        path: String,
        /// What the system said.
        cause: std::io::Error,
    },
    /// It is of another version.
    #[error(
        "{path} is a recipe of format {found}; this build reads formats {OLDEST} to {FORMAT}: use the build that wrote it"
    )]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: u64,
    },
    /// It is something else.
    #[error("{path} is no recipe: {cause}; `dispatch-sim shrink` writes one")]
    Json {
        /// The file.
        path: String,
        /// Where and why.
        cause: serde_json::Error,
    },
    /// It refers to what it does not have, or asks for what no run can be.
    #[error("{path} cannot be played: {why}")]
    Unplayable {
        /// The file.
        path: String,
        /// Which field, and what is wrong with it.
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

    /// The seed of the run that it was made from: of its texture and of its
    /// Dispatchers.
    pub fn seed(&self) -> u64 {
        self.seed
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
        let text = std::fs::read_to_string(path).map_err(|cause| BadRecipe::Io {
            path: shown(),
            cause,
        })?;
        let json = |cause| BadRecipe::Json {
            path: shown(),
            cause,
        };
        let value: serde_json::Value = serde_json::from_str(&text).map_err(json)?;
        let is_read = |format: u64| (u64::from(OLDEST)..=u64::from(FORMAT)).contains(&format);
        if let Some(found) = value["version"].as_u64().filter(|found| !is_read(*found)) {
            let path = shown();
            return Err(BadRecipe::Version { path, found });
        }
        let mut recipe: Recipe = serde_json::from_value(value).map_err(json)?;
        recipe.version = FORMAT;
        match recipe.check() {
            Err(why) => Err(BadRecipe::Unplayable { path: shown(), why }),
            Ok(()) => Ok(recipe),
        }
    }

    /// The file's text.
    pub fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }
}

impl Chaos {
    /// Whom it befalls; `None`: no replica.
    pub(crate) fn replica_mut(&mut self) -> Option<&mut usize> {
        match self {
            Chaos::Kill { replica, .. }
            | Chaos::Shutdown { replica, .. }
            | Chaos::Pause { replica, .. }
            | Chaos::Partition { replica, .. }
            | Chaos::Panic { replica, .. }
            | Chaos::Wedge { replica, .. }
            | Chaos::WallJump { replica, .. } => Some(replica),
            Chaos::Storm { .. } | Chaos::Rot { .. } | Chaos::Computer { .. } => None,
        }
    }

    /// [`Chaos::replica_mut`], to look at.
    pub(crate) fn replica(&self) -> Option<usize> {
        self.clone().replica_mut().copied()
    }
}
