//! What a verb locks by reading it (`notes/0011`).

use dispatch_core::store::Verb;

/// What reading takes for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Locks {
    /// Conversations and turns.
    pub(super) turns: bool,
    pub(super) providers: bool,
    /// Against a change, or to change it.
    pub(super) workspaces: Option<ForWorkspace>,
    /// Not locks but one moment for all that is read, and a repetition where
    /// somebody has changed since what is to be written.
    pub(super) one_moment: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ForWorkspace {
    Keep,
    Change,
}

impl Locks {
    pub(super) const NONE: Locks = Locks {
        turns: false,
        providers: false,
        workspaces: None,
        one_moment: false,
    };

    pub(super) fn of(verb: &Verb) -> Locks {
        if verb.is_read() {
            return Locks::NONE;
        }
        Locks {
            turns: true,
            providers: matches!(
                verb,
                Verb::Boot(_) | Verb::ApplyGrants(_) | Verb::Star { .. } | Verb::SetLimit { .. }
            ),
            workspaces: match verb {
                Verb::Star { .. } | Verb::PutWorkspace { .. } => Some(ForWorkspace::Change),
                Verb::Accept(_) => Some(ForWorkspace::Keep),
                _ => None,
            },
            // It looks at many rows and writes few.
            one_moment: matches!(verb, Verb::TakeDeliveries(_)),
        }
    }
}
