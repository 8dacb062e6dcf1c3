//! What verbs are called, and which of them only read.

use super::verb::Verb;

impl Verb {
    /// Every name that [`Verb::name`] answers, in its order.
    pub const NAMES: [&'static str; 24] = [
        "boot",
        "accept",
        "admission-view",
        "apply-grants",
        "load",
        "checkpoint",
        "commit-step",
        "restart-step",
        "tools-started",
        "tools-finished",
        "park",
        "schedule-retry",
        "request-abort",
        "elect",
        "renew",
        "requests",
        "sweep-one",
        "audit",
        "ended",
        "put-workspace",
        "star",
        "set-limit",
        "take-deliveries",
        "settle-delivery",
    ];

    /// The verb's name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Verb::Boot(_) => "boot",
            Verb::Accept(_) => "accept",
            Verb::AdmissionView { .. } => "admission-view",
            Verb::ApplyGrants(_) => "apply-grants",
            Verb::Load { .. } => "load",
            Verb::Checkpoint { .. } => "checkpoint",
            Verb::CommitStep { .. } => "commit-step",
            Verb::RestartStep { .. } => "restart-step",
            Verb::ToolsStarted { .. } => "tools-started",
            Verb::ToolsFinished { .. } => "tools-finished",
            Verb::Park { .. } => "park",
            Verb::ScheduleRetry { .. } => "schedule-retry",
            Verb::RequestAbort(_) => "request-abort",
            Verb::Elect(_) => "elect",
            Verb::Renew { .. } => "renew",
            Verb::Requests { .. } => "requests",
            Verb::SweepOne { .. } => "sweep-one",
            Verb::Audit => "audit",
            Verb::Ended { .. } => "ended",
            Verb::PutWorkspace { .. } => "put-workspace",
            Verb::Star { .. } => "star",
            Verb::SetLimit { .. } => "set-limit",
            Verb::TakeDeliveries(_) => "take-deliveries",
            Verb::SettleDelivery { .. } => "settle-delivery",
        }
    }

    /// Whether it only reads.
    pub fn is_read(&self) -> bool {
        matches!(
            self,
            Verb::AdmissionView { .. }
                | Verb::Load { .. }
                | Verb::Requests { .. }
                | Verb::Ended { .. }
        )
    }
}
