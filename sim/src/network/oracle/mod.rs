//! What is judged of a run of the network ring.

use super::fact::Seen;
use super::plan::Plan;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) at_ms: u64,
    pub(super) expected: String,
    pub(super) seen: String,
}

pub(super) fn names() -> Vec<&'static str> {
    Vec::new()
}

pub(super) fn judge(_: &Plan, _: &[Seen]) -> Option<(&'static str, Breach)> {
    None
}
