//! Who may act for a turn, and what becomes of it when nobody does (L1-L4).

use alloc::string::{String, ToString};
use serde::{Deserialize, Serialize};

use crate::store::{Terminal, TurnRow};

/// What a crash costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnCrash {
    /// Nothing: the turn goes on from its last completed step.
    Resume,
    /// The turn, which ends `error(replica-lost)`.
    Seal,
}

/// How a lapsed turn is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepPolicy {
    /// The configuration's `on_crash`.
    pub on_crash: OnCrash,
    /// Resumes without a completed step between them before the turn is given up.
    pub resume_limit: u32,
    /// Whether this counts as a resume: not after a hand-over, nor for the
    /// bystanders of a panic.
    pub counts: bool,
    /// How long the node that a turn is bound to may be away before the turn is
    /// given up.
    pub node_patience_ms: u64,
}

/// The verdict on one lapsed turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SweepAction {
    /// Back in line under its old key.
    ParkAgain,
    /// Its terminal event.
    End(Terminal),
}

/// Decides about a turn whose owner is gone. Reads typed columns only: an
/// unreadable payload cannot keep a turn from ending.
pub fn decide(turn: &TurnRow, policy: &SweepPolicy) -> SweepAction {
    if let Some(abort) = &turn.abort {
        return SweepAction::End(Terminal::Aborted {
            by: abort.by.clone(),
            reason: abort.reason.clone(),
        });
    }
    let lost = |message: String, cause: &str| {
        SweepAction::End(Terminal::Error {
            code: "replica-lost".to_string(),
            message,
            cause: cause.to_string(),
            retryable: true,
        })
    };
    match policy.on_crash {
        OnCrash::Seal => lost(
            "the server died while it ran this turn, and is configured to end such turns; send the message again"
                .to_string(),
            "on-crash-seal",
        ),
        OnCrash::Resume if policy.counts && turn.resumes >= policy.resume_limit => lost(
            alloc::format!(
                "the server died {} times while it ran the same step; look at its log before sending the message again",
                turn.resumes.saturating_add(1)
            ),
            "resume-limit",
        ),
        OnCrash::Resume => SweepAction::ParkAgain,
    }
}

/// The end of a turn whose node has not come back (L9).
pub fn node_lost(node: &str, policy: &SweepPolicy) -> Terminal {
    let minutes = policy.node_patience_ms / 60_000;
    Terminal::Error {
        code: "node-lost".to_string(),
        message: alloc::format!(
            "the tools of this turn ran on node `{node}`, which has been away for {minutes} minutes; send the message again, or bring the node back first if its files are needed"
        ),
        cause: "node-lost".to_string(),
        retryable: true,
    }
}

/// How long leases last and how their holders behave (L3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTerms {
    /// From a renewal to its end.
    pub lease_ms: u64,
    /// Between renewals.
    pub renew_ms: u64,
    /// Between sweeps.
    pub sweep_ms: u64,
    /// So long before the end of an unconfirmed lease its holder stops.
    pub fence_margin_ms: u64,
}

impl Default for LeaseTerms {
    fn default() -> Self {
        LeaseTerms {
            lease_ms: 60_000,
            renew_ms: 20_000,
            sweep_ms: 15_000,
            fence_margin_ms: 5_000,
        }
    }
}
