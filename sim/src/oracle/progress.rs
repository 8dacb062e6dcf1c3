//! `progress` (L3, D16): leases are renewed by progress. An ownership under
//! which nothing runs and nothing has happened for longer than any verb may
//! take is not extended: whatever was to wake the turn has not, and another
//! owner must get it.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::ids::TurnId;
use dispatch_core::store::{TurnRow, TurnState};

use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Moment};

/// Twice a verb's deadline (60 s), the slowest landing of the last renewal
/// (45 s), and room.
const VERBS_US: Us = 130_000_000;
/// A tool's deadline (10 min), the time to kill it (twice 20 s), then its verb.
const TOOL_US: Us = 640_000_000 + VERBS_US;
/// On another computer a call may wait for as long without ever being started,
/// and a minute for a link before (S4).
const FAR_TOOL_US: Us = 60_000_000 + TOOL_US;

#[derive(Debug, Default)]
struct Ownership {
    idle_since: Us,
    /// Tools were started or adopted: their ends may be lost on the way.
    tool_at: Option<Us>,
    streams: BTreeSet<u32>,
}

#[derive(Debug, Default)]
pub(crate) struct Progress {
    owned: BTreeMap<TurnId, Ownership>,
    streams: BTreeMap<u32, TurnId>,
}

impl Progress {
    fn moved(&mut self, at: Us, before: Option<&TurnRow>, after: &TurnRow) -> Result<(), Breach> {
        if !after.state.is_owned() {
            self.owned.remove(&after.turn);
            return Ok(());
        }
        let is_same = before.is_some_and(|row| row.epoch == after.epoch);
        let renewed = TurnRow {
            lease_until: after.lease_until,
            ..before.unwrap_or(after).clone()
        };
        let ownership = self.owned.entry(after.turn).or_default();
        if !is_same || renewed != *after {
            if !is_same {
                *ownership = Ownership::default();
            }
            ownership.idle_since = at;
            return Ok(());
        }
        let mut allowed = ownership.idle_since + VERBS_US;
        if after.computer.is_some() && after.state == TurnState::Tools {
            allowed = allowed.max(ownership.idle_since + FAR_TOOL_US);
        }
        if let Some(tool_at) = ownership.tool_at {
            allowed = allowed.max(tool_at + TOOL_US);
        }
        if !ownership.streams.is_empty() || at <= allowed {
            return Ok(());
        }
        Breach::new(
            format!("turn {} is not renewed: nothing of it runs", after.turn),
            format!(
                "renewed {} s after anything happened",
                (at - ownership.idle_since) / 1_000_000
            ),
        )
    }

    fn active(&mut self, at: Us, turn: TurnId, act: impl FnOnce(&mut Ownership)) {
        if let Some(ownership) = self.owned.get_mut(&turn) {
            ownership.idle_since = at;
            act(ownership);
        }
    }
}

impl Oracle for Progress {
    fn name(&self) -> &'static str {
        "progress"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        let at = moment.at;
        match fact {
            Fact::Moved { before, after } => return self.moved(at, *before, after),
            Fact::Opened { turn, stream, .. } => {
                self.streams.insert(*stream, *turn);
                self.active(at, *turn, |owned| {
                    owned.streams.insert(*stream);
                });
            }
            Fact::Closed { stream } | Fact::Gone { stream } => {
                if let Some(turn) = self.streams.remove(stream) {
                    self.active(at, turn, |owned| {
                        owned.streams.remove(stream);
                    });
                }
            }
            // An owner that stood still while it was granted a turn asks for it once
            // more when it goes on, and begins then.
            Fact::Planned { plan, .. } => {
                for grant in &plan.grants {
                    self.active(at, grant.turn, |_| {});
                }
            }
            Fact::ToolStarted { turn, .. } | Fact::ToolAdopted { turn, .. } => {
                self.active(at, *turn, |owned| owned.tool_at = Some(at));
            }
            Fact::ToolGone { turn, .. } => self.active(at, *turn, |_| {}),
            _ => {}
        }
        Ok(())
    }
}
