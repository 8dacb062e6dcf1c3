//! Effects with much in them.

use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::io::{Effect, ToolAdopt, ToolStart};
use dispatch_core::time::Instant;

use super::id;

pub(super) fn tool(n: u64) -> Effect {
    Effect::StartTool {
        id: id(0, n),
        start: Box::new(ToolStart {
            turn: TurnId(1),
            epoch: Epoch(1),
            call_id: "c".into(),
            name: "bash".into(),
            input: "{}".into(),
            computer: None,
            cwd: None,
            link: None,
            attempt: 0,
            deadline_ms: 1_000,
            not_after: Instant(u64::MAX),
        }),
    }
}

pub(super) fn adopt(n: u64) -> Effect {
    Effect::AdoptTool {
        id: id(0, n),
        adopt: Box::new(ToolAdopt {
            turn: TurnId(1),
            epoch: Epoch(1),
            call_id: "c".into(),
            computer: None,
            link: None,
            started: Epoch(1),
            attempt: 0,
            shown_bytes: 0,
            not_after: Instant(u64::MAX),
        }),
    }
}
