//! How the link to a computer stands.

use serde::{Deserialize, Serialize};

use crate::computer::LinkState;
use crate::ids::EffectId;
use crate::time::{Instant, Timestamp};

/// At most one connection a computer: it is in here, or there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Link {
    Closed,
    Connecting {
        id: EffectId,
        due: Instant,
    },
    Open(Open),
    /// After a failure.
    Waiting(Pause),
    /// After too many.
    Quarantined(Pause),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Open {
    pub(super) id: EffectId,
    /// When something was last run over it.
    pub(super) used_at: Instant,
    /// The next question whether it is alive.
    pub(super) ping_due: Instant,
    /// When it has to have answered the last one.
    pub(super) alive_due: Option<Instant>,
    /// The next look for commands that nobody watches.
    pub(super) look_due: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pause {
    pub(super) until: Instant,
    /// The same for people, as it was when the pause began.
    pub(super) wall: Timestamp,
}

impl Link {
    /// Of a connection that the driver has, or is making.
    pub(super) fn id(&self) -> Option<EffectId> {
        match self {
            Link::Connecting { id, .. } => Some(*id),
            Link::Open(open) => Some(open.id),
            Link::Closed | Link::Waiting(_) | Link::Quarantined(_) => None,
        }
    }

    pub(super) fn state(&self) -> LinkState {
        match self {
            Link::Closed => LinkState::Closed,
            Link::Connecting { .. } => LinkState::Connecting,
            Link::Open(_) => LinkState::Open,
            Link::Waiting(pause) => LinkState::Waiting { until: pause.wall },
            Link::Quarantined(pause) => LinkState::Quarantined { until: pause.wall },
        }
    }

    /// For the log.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Link::Closed => "closed",
            Link::Connecting { .. } => "connecting",
            Link::Open(_) => "open",
            Link::Waiting(_) => "waiting",
            Link::Quarantined(_) => "quarantined",
        }
    }

    /// When something has to be done about it; `idle_ms` where nothing uses it.
    pub(super) fn due(&self, idle_ms: Option<u64>) -> Option<Instant> {
        match self {
            Link::Closed => None,
            Link::Connecting { due, .. } => Some(*due),
            Link::Waiting(pause) | Link::Quarantined(pause) => Some(pause.until),
            Link::Open(open) => {
                let idle = idle_ms.map(|idle_ms| open.used_at + idle_ms);
                let dues = [
                    Some(open.ping_due),
                    open.alive_due,
                    Some(open.look_due),
                    idle,
                ];
                dues.into_iter().flatten().min()
            }
        }
    }
}
