//! How the small world names things.

use alloc::string::String;

use crate::computer::{SshFault, SshFaultKind};
use crate::ids::{ComputerId, EffectId, Epoch, TurnId};
use crate::io::{Effect, ToolEnd, ToolStart};

/// What a run directory is called.
pub(super) type Dir = (TurnId, String, Epoch, u32);

pub(super) fn computer(name: &str) -> ComputerId {
    name.try_into().unwrap()
}

pub(super) fn fault(kind: SshFaultKind) -> SshFault {
    SshFault {
        kind,
        message: "it broke".into(),
    }
}

pub(super) fn end(output: &str) -> ToolEnd {
    ToolEnd {
        ok: true,
        output: output.into(),
        duration_ms: 1,
        spilled: None,
    }
}

pub(super) fn dir_of(start: &ToolStart) -> Dir {
    (
        start.turn,
        start.call_id.clone(),
        start.epoch,
        start.attempt,
    )
}

pub(super) fn is_unanswered(effect: &Effect, of: EffectId) -> bool {
    matches!(effect, Effect::StartTool { id, .. } | Effect::AdoptTool { id, .. } if *id == of)
}

pub(super) fn is_about(effect: &Effect, of: EffectId) -> bool {
    match effect {
        Effect::ConnectComputer { id, .. }
        | Effect::PingComputer { id }
        | Effect::StartTool { id, .. }
        | Effect::AdoptTool { id, .. }
        | Effect::KillTool { id } => *id == of,
        Effect::FindUnattended { link, .. } => *link == Some(of),
        _ => false,
    }
}
