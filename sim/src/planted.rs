//! The defect ledger: each planted bug must be caught by the oracle whose
//! promise it breaks, within a budget of seeds.

/// The bugs that the core ring answers for, and who may catch each.
pub const LEDGER: [(&str, &[&str]); 5] = [
    ("D02", &["limit", "slot-has-stream"]),
    ("D03", &["order"]),
    ("D06", &["retry-schedule"]),
    ("D12", &["one-terminal"]),
    ("D13", &["one-terminal"]),
];

/// Seeds within which a planted bug must be caught.
pub const BUDGET: u64 = 300;

/// How the search for one planted bug went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By this oracle, after so many seeds.
    Caught(&'static str, u64),
    /// By an oracle that judges something else: the right one is blind.
    Mistaken(&'static str, u64),
    /// By none.
    Missed,
}

/// Switches one bug on, for the whole process, and looks for it.
#[cfg(planted)]
pub fn hunt(id: &str, right: &[&str]) -> Verdict {
    dispatch_core::planted::select(&[id]);
    let violation = (0..BUDGET).find_map(|seed| crate::run::run(seed).violation);
    dispatch_core::planted::select(&[]);
    match violation {
        None => Verdict::Missed,
        Some(violation) => {
            let (name, seeds) = (violation.what.name(), violation.seed + 1);
            match right.contains(&name) {
                true => Verdict::Caught(name, seeds),
                false => Verdict::Mistaken(name, seeds),
            }
        }
    }
}
