//! One tool call on a computer: where it stands, and what its turn is told when
//! it cannot be carried out.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use serde::{Deserialize, Serialize};

use crate::ids::{ComputerId, EffectId, Epoch, TurnId};
use crate::io::{ToolAdopt, ToolEnd, ToolStart};
use crate::reconcile::OUTCOME_UNKNOWN;
use crate::time::Instant;
use crate::tools::{self, BASH};

/// See the module's page.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Job {
    pub(super) call: Call,
    /// The ownership that takes it over, or has started it.
    pub(super) epoch: Epoch,
    /// What to start; `None`: an earlier ownership has, if anybody.
    pub(super) start: Option<Box<ToolStart>>,
    /// Bytes of its output that have been shown.
    pub(super) shown_bytes: u64,
    pub(super) stage: Stage,
    /// Its start was sent, and not heard of over a link that was there.
    pub(super) is_slow: bool,
    /// When it is given up, whatever happens.
    pub(super) until: Instant,
    pub(super) kill: Kill,
    /// What waits for it.
    pub(super) asker: Asker,
}

/// What a run directory over there is called.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Call {
    pub(super) turn: TurnId,
    pub(super) call_id: String,
    /// The ownership that may have started it.
    pub(super) started: Epoch,
    pub(super) attempt: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    /// Certainly not started: it waits for a link and a channel.
    Waiting,
    /// Its start was sent, under this name.
    Starting(EffectId),
    /// It runs, and is watched under this name.
    Running(EffectId),
    /// It may run, and no link is there to see.
    Lost,
    /// It is looked for, under this name.
    Looking(EffectId),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Kill {
    No,
    Wished,
    /// Over the present link.
    Sent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Asker {
    /// A turn that waits for its end.
    Turn,
    /// A turn that waits to hear what became of it.
    Adopter,
    /// Nobody any more: it is to be killed.
    Nobody,
}

impl Job {
    pub(super) fn asked(start: Box<ToolStart>, until: Instant) -> Job {
        Job {
            call: Call {
                turn: start.turn,
                call_id: start.call_id.clone(),
                started: start.epoch,
                attempt: start.attempt,
            },
            epoch: start.epoch,
            start: Some(start),
            shown_bytes: 0,
            stage: Stage::Waiting,
            is_slow: false,
            until,
            kill: Kill::No,
            asker: Asker::Turn,
        }
    }

    pub(super) fn left(adopt: ToolAdopt, until: Instant) -> Job {
        Job {
            call: Call {
                turn: adopt.turn,
                call_id: adopt.call_id,
                started: adopt.started,
                attempt: adopt.attempt,
            },
            epoch: adopt.epoch,
            start: None,
            shown_bytes: adopt.shown_bytes,
            stage: Stage::Lost,
            is_slow: false,
            until,
            kill: Kill::No,
            asker: Asker::Adopter,
        }
    }

    pub(super) fn owed(call: Call, until: Instant) -> Job {
        Job {
            epoch: call.started,
            call,
            start: None,
            shown_bytes: 0,
            stage: Stage::Lost,
            is_slow: false,
            until,
            kill: Kill::Wished,
            asker: Asker::Nobody,
        }
    }

    /// The name under which it is spoken of over the present link.
    pub(super) fn attempt(&self) -> Option<EffectId> {
        match self.stage {
            Stage::Waiting | Stage::Lost => None,
            Stage::Starting(id) | Stage::Running(id) | Stage::Looking(id) => Some(id),
        }
    }

    /// It holds a channel of the link.
    pub(super) fn holds_channel(&self) -> bool {
        match self.stage {
            Stage::Waiting | Stage::Lost => false,
            Stage::Starting(_) | Stage::Looking(_) => true,
            Stage::Running(_) => self.kill == Kill::Sent,
        }
    }

    /// It cannot go on without a link.
    pub(super) fn wants_link(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Lost)
    }

    /// A run directory over there tells what became of it.
    pub(super) fn is_traced(&self) -> bool {
        let start = self.start.as_ref();
        start.is_none_or(|start| start.name == BASH.name)
    }

    /// It changes nothing, and is started again where nothing tells of it.
    pub(super) fn is_read_only(&self) -> bool {
        let tool = self
            .start
            .as_ref()
            .and_then(|start| tools::find(&start.name));
        tool.is_some_and(|tool| tool.read_only)
    }
}

/// The end of a call that was certainly not started.
pub(super) fn not_started(why: &str) -> ToolEnd {
    failed(alloc::format!("this tool was not started: {why}"))
}

/// The end of a call that may have been started.
pub(super) fn unknown(why: &str, output: &str) -> ToolEnd {
    failed(match output {
        "" => alloc::format!("{OUTCOME_UNKNOWN}: {why}"),
        output => alloc::format!("{OUTCOME_UNKNOWN}: {why}; so far:\n{output}"),
    })
}

/// The end of a call that was to be stopped before it had begun.
pub(super) fn stopped() -> ToolEnd {
    failed("the turn was stopped before this tool was started".to_string())
}

fn failed(output: String) -> ToolEnd {
    ToolEnd {
        ok: false,
        output,
        duration_ms: 0,
        spilled: None,
    }
}

/// How a computer is named to people and models.
pub(super) fn quoted(computer: &ComputerId) -> String {
    alloc::format!("computer `{computer}`")
}
