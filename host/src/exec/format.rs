//! The files of a run directory, as they stand on disk. Every one carries its
//! version: a server meets the runs of other builds.

use std::path::PathBuf;

use dispatch_core::ids::{Epoch, TurnId};
use serde::{Deserialize, Serialize};

use super::proc::ProcessName;

/// The version of every file of a run directory.
pub(super) const VERSION: u32 = 1;

/// What was asked of a run; `meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) version: u32,
    pub(super) turn: TurnName,
    pub(super) call: String,
    pub(super) epoch: Epoch,
    pub(super) command: String,
    pub(super) cwd: PathBuf,
    pub(super) deadline_ms: u64,
    pub(super) output_limit_bytes: u64,
    /// Wall time at which it was asked, in milliseconds since the Unix epoch.
    pub(super) started_ms: u64,
    /// Finds the run's processes; see `proc::MARK`.
    pub(super) mark: String,
}

/// A turn's id as people read it: the core's own form is a 128-bit number,
/// which JSON readers round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TurnName(pub(super) TurnId);

/// Who runs; `pid`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pids {
    pub(super) version: u32,
    pub(super) boot_id: String,
    pub(super) supervisor: ProcessName,
    /// `None` until the command is started.
    pub(super) command: Option<ProcessName>,
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Reason {
    /// The command ended by itself.
    Exited,
    /// It was still running at its deadline.
    Deadline,
    /// It was asked to stop.
    Killed,
    /// It never ran.
    SpawnFailed,
    /// Its supervisor died; whoever found out killed what was left.
    SupervisorLost,
}

/// How a run ended; `exit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Exit {
    pub(super) version: u32,
    pub(super) reason: Reason,
    /// The command's exit code, if it has one.
    pub(super) code: Option<i32>,
    /// The signal that ended the command.
    pub(super) signal: Option<i32>,
    /// What went wrong, where something did.
    pub(super) message: Option<String>,
    /// Bytes in `output`.
    pub(super) output_bytes: u64,
    /// Bytes that the command wrote beyond the limit.
    pub(super) dropped_bytes: u64,
    /// Processes that even SIGKILL did not end in time.
    pub(super) survivors: u32,
    pub(super) started_ms: u64,
    pub(super) ended_ms: u64,
}

impl Pids {
    pub(super) fn new(boot_id: String, supervisor: ProcessName) -> Pids {
        Pids {
            version: VERSION,
            boot_id,
            supervisor,
            command: None,
        }
    }
}

impl Exit {
    pub(super) fn new(reason: Reason, started_ms: u64) -> Exit {
        Exit {
            version: VERSION,
            reason,
            code: None,
            signal: None,
            message: None,
            output_bytes: 0,
            dropped_bytes: 0,
            survivors: 0,
            started_ms,
            ended_ms: now_ms(),
        }
    }
}

/// Milliseconds since the Unix epoch, for people.
pub(super) fn now_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}

impl Serialize for TurnName {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for TurnName {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<TurnName, D::Error> {
        let text = String::deserialize(from)?;
        TurnId::try_from(text.as_str())
            .map(TurnName)
            .map_err(serde::de::Error::custom)
    }
}
