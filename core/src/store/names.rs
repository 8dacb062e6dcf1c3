//! What verbs are called, and which of them only read.

use super::verb::Verb;

macro_rules! names {
    ($($verb:ident = $name:literal,)*) => {
        impl Verb {
            /// Every name that [`Verb::name`] answers.
            pub const NAMES: [&'static str; [$($name),*].len()] = [$($name),*];

            /// The verb's name, for logs and metrics.
            pub fn name(&self) -> &'static str {
                match self { $(Verb::$verb { .. } => $name),* }
            }
        }
    };
}

names! {
    Boot = "boot",
    Accept = "accept",
    AdmissionView = "admission-view",
    ApplyGrants = "apply-grants",
    Load = "load",
    Checkpoint = "checkpoint",
    CommitStep = "commit-step",
    RestartStep = "restart-step",
    ToolsStarted = "tools-started",
    ToolsFinished = "tools-finished",
    Park = "park",
    ScheduleRetry = "schedule-retry",
    RequestAbort = "request-abort",
    Elect = "elect",
    Renew = "renew",
    Requests = "requests",
    SweepOne = "sweep-one",
    Audit = "audit",
    Ended = "ended",
    PutWorkspace = "put-workspace",
    Star = "star",
    SetLimit = "set-limit",
    TakeDeliveries = "take-deliveries",
    SettleDelivery = "settle-delivery",
}

impl Verb {
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
