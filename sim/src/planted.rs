//! The defect ledger: each planted bug must be caught by the oracle whose
//! promise it breaks, within a budget of seeds, alone and in pairs.

use std::fmt;

#[cfg(planted)]
use crate::sweep::{Pace, sweep};

/// A planted bug and the oracles whose promise it breaks.
pub type Entry = (&'static str, &'static [&'static str]);

/// The bugs that the core ring answers for, and who may catch each.
pub const LEDGER: [Entry; 45] = [
    ("D01", &["no-panic"]),
    ("D02", &["limit", "slot-has-stream"]),
    ("D03", &["order"]),
    ("D05", &["order"]),
    ("D06", &["retry-schedule"]),
    ("D07", &["retry-schedule"]),
    ("D08", &["retry-schedule"]),
    ("D09", &["abort-ends"]),
    ("D10", &["limit"]),
    ("D11", &["marker"]),
    ("D12", &["one-terminal"]),
    ("D13", &["one-terminal"]),
    ("D14", &["marker"]),
    ("D16", &["progress"]),
    // An owner that goes on after its lease also goes on with its stream.
    ("D17", &["fenced", "limit"]),
    ("D18", &["fenced"]),
    ("D20", &["tools-answered", "valid-transcript"]),
    ("D21", &["tool-once"]),
    ("D24", &["client-view"]),
    // It also comes without the tokens of a whole step.
    ("D25", &["content", "usage"]),
    ("D26", &["content", "justified"]),
    ("D27", &["log-size"]),
    ("D29", &["one-owner"]),
    ("D31", &["accepted-once"]),
    ("D32", &["content"]),
    ("D33", &["fenced"]),
    // Or goes on waiting for a store that does not hear it.
    ("D34", &["fenced", "limit", "progress"]),
    ("D37", &["no-orphan"]),
    ("D38", &["limit"]),
    ("D39", &["log-size"]),
    ("D40", &["justified"]),
    // They also run beside the next owner of a turn that was handed over.
    ("D41", &["command-ends", "no-orphan"]),
    ("D42", &["no-idle-slot"]),
    ("D43", &["usage"]),
    ("D44", &["no-panic"]),
    ("D45", &["told"]),
    ("D46", &["command-ends"]),
    // A plan that overtakes is out of order before it is granted.
    ("D47", &["at-home", "order"]),
    ("D48", &["valid-transcript"]),
    ("D49", &["at-home"]),
    ("D51", &["tool-once"]),
    ("D52", &["link-ends"]),
    ("D53", &["link-backoff"]),
    ("D54", &["one-link"]),
    // The command of a call that was given up runs beside its turn.
    ("D55", &["link-fault-contained", "no-orphan"]),
];

/// Seeds within which a planted bug must be caught.
pub const BUDGET: u64 = 600;

/// Ranges of seeds that a bug is looked for in: one catch could be an accident.
pub const RANGES: u64 = 5;

/// More than the budget, so that ranges have nothing in common.
const BETWEEN_RANGES: u64 = 10_000;

/// The first seed of the range of that number.
pub fn range_start(seed: u64, range: u64) -> u64 {
    seed.saturating_add(range.saturating_mul(BETWEEN_RANGES))
}

/// The last seed of so many ranges; `None`: there is no such seed.
pub fn last_seed(seed: u64, ranges: u64) -> Option<u64> {
    let from = ranges.checked_sub(1)?.checked_mul(BETWEEN_RANGES)?;
    seed.checked_add(from)?.checked_add(BUDGET)
}

/// How the search for planted bugs went in one range of seeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// By this oracle, in this seed, after so many seeds.
    Caught(&'static str, u64, u64),
    /// By an oracle that judges something else: the right one is blind.
    Mistaken(&'static str, u64, u64),
    /// By none.
    Missed,
}

/// What was looked for, and what became of it in each range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hunt {
    /// Switched on together.
    pub ids: Vec<&'static str>,
    /// One for each range.
    pub verdicts: Vec<Verdict>,
}

impl Hunt {
    /// The right oracle has met it in every range.
    pub fn is_caught(&self) -> bool {
        let caught = |verdict: &Verdict| matches!(verdict, Verdict::Caught(..));
        self.verdicts.iter().all(caught)
    }

    /// Seeds to catch, as the median of the ranges in which it was caught.
    pub fn seeds(&self) -> Option<u64> {
        let caught = self.verdicts.iter().filter_map(|verdict| match verdict {
            Verdict::Caught(_, _, seeds) => Some(*seeds),
            Verdict::Mistaken(..) | Verdict::Missed => None,
        });
        median(caught.collect())
    }
}

impl fmt::Display for Hunt {
    /// `id  oracle  first seed  seeds to catch`, then the ranges where it failed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = self.verdicts.iter().find_map(|verdict| match verdict {
            Verdict::Caught(oracle, seed, _) => Some((*oracle, *seed)),
            Verdict::Mistaken(..) | Verdict::Missed => None,
        });
        let (oracle, seed) = first.map_or(("-", "-".to_owned()), |(o, s)| (o, s.to_string()));
        let seeds = self.seeds().map_or("-".to_owned(), |n| n.to_string());
        let ids = self.ids.join("+");
        write!(f, "{ids:<8} {oracle:<18} {seed:>10} {seeds:>6}")?;
        for verdict in &self.verdicts {
            match verdict {
                Verdict::Caught(..) => {}
                Verdict::Mistaken(oracle, seed, _) => {
                    write!(f, "  MET BY {oracle} in seed {seed}")?;
                }
                Verdict::Missed => write!(f, "  NOT CAUGHT within {BUDGET} seeds")?,
            }
        }
        Ok(())
    }
}

/// The head of the table whose rows are [`Hunt`]s.
pub fn table_head() -> String {
    format!(
        "{:<8} {:<18} {:>10} {:>6}",
        "id", "oracle", "first seed", "seeds"
    )
}

/// The middle one; of an even number the lower of the two.
pub fn median(mut numbers: Vec<u64>) -> Option<u64> {
    numbers.sort_unstable();
    let middle = numbers.len().checked_sub(1)? / 2;
    numbers.get(middle).copied()
}

/// So many pairs of different bugs, drawn by a seed.
pub fn pairs(count: usize, seed: u64) -> Vec<[Entry; 2]> {
    let mut rng = crate::rng::Rng::new(seed, crate::rng::Purpose::Scenario);
    (0..count)
        .map(|_| {
            let one = rng.index(LEDGER.len());
            let other = (one + 1 + rng.index(LEDGER.len() - 1)) % LEDGER.len();
            [LEDGER[one], LEDGER[other]]
        })
        .collect()
}

/// Switches these bugs on, for the whole process, and looks for them in the
/// given ranges of seeds, each from its first one on. One hunt at a time.
#[cfg(planted)]
pub fn hunt(bugs: &[Entry], starts: impl Iterator<Item = u64>) -> Hunt {
    let ids: Vec<&'static str> = bugs.iter().map(|(id, _)| *id).collect();
    dispatch_core::planted::select(&ids);
    let verdicts = starts.map(|from| search(bugs, from)).collect();
    dispatch_core::planted::select(&[]);
    Hunt { ids, verdicts }
}

#[cfg(planted)]
fn search(bugs: &[Entry], from: u64) -> Verdict {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let seeds = from..from.saturating_add(BUDGET);
    let swept = sweep(
        seeds,
        Pace {
            threads,
            ..Pace::default()
        },
        crate::run::run,
        |_, _| {},
    );
    let Some(violation) = swept.violation else {
        return Verdict::Missed;
    };
    let (name, seed) = (violation.what.name(), violation.seed);
    let seeds = seed - from + 1;
    match bugs.iter().any(|(_, right)| right.contains(&name)) {
        true => Verdict::Caught(name, seed, seeds),
        false => Verdict::Mistaken(name, seed, seeds),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v5_the_ledger_names_oracles_that_exist_and_bugs_that_the_core_holds() {
        let oracles = crate::oracle::names();
        for (id, right) in LEDGER {
            assert!(dispatch_core::planted::LEDGER.contains(&id), "{id}");
            assert!(right.iter().all(|name| oracles.contains(name)), "{id}");
        }
        assert_eq!(LEDGER.len(), dispatch_core::planted::LEDGER.len());
    }

    #[test]
    fn pairs_repeat_and_are_of_two_different_bugs() {
        let drawn = pairs(200, 3);
        assert_eq!(drawn, pairs(200, 3));
        assert!(drawn.iter().all(|[one, other]| one.0 != other.0));
        assert_ne!(drawn, pairs(200, 4));
    }

    #[test]
    fn ranges_end_where_there_are_no_more_seeds() {
        assert_eq!(last_seed(7, 1), Some(7 + BUDGET));
        assert_eq!(last_seed(u64::MAX, 1), None);
        assert_eq!(last_seed(u64::MAX - 5_000, 2), None);
        assert_eq!(last_seed(0, 0), None);
    }

    #[test]
    fn a_hunt_counts_the_median_and_fails_by_one_range_alone() {
        let caught = |seeds| Verdict::Caught("limit", 40, seeds);
        let mut hunt = Hunt {
            ids: vec!["D02"],
            verdicts: vec![caught(9), caught(1), caught(4)],
        };
        assert!(hunt.is_caught());
        assert_eq!(hunt.seeds(), Some(4));
        hunt.verdicts.push(Verdict::Missed);
        assert!(!hunt.is_caught());
        assert!(hunt.to_string().contains("NOT CAUGHT"), "{hunt}");
    }
}
