//! What a process must not do: panic, break its invariants, repeat a command,
//! answer oddly, or leave connections behind.

use std::collections::BTreeSet;

use super::{Breach, Case};
use crate::network::fact::Fact;

/// `no-panic` (L7): the core never panics. A panicking task ends the run.
pub(super) fn no_panic(case: &Case<'_>) -> Result<(), Breach> {
    none(case, "no panic in the core", |fact| match fact {
        Fact::Panicked { what } => Some(what.clone()),
        _ => None,
    })
}

/// `core-check`: the core's own invariants, after every input.
pub(super) fn core_check(case: &Case<'_>) -> Result<(), Breach> {
    none(case, "the core's invariants hold", |fact| match fact {
        Fact::Broken { what } => Some(what.clone()),
        _ => None,
    })
}

/// `tool-once` (T12, L10): no tool call of a script is ever run twice.
pub(super) fn tool_once(case: &Case<'_>) -> Result<(), Breach> {
    let mut commands = BTreeSet::new();
    none(case, "each command once", |fact| match fact {
        Fact::Ran { command, .. } => {
            (!commands.insert(command.clone())).then(|| format!("{command} again"))
        }
        _ => None,
    })
}

/// `expected-answer`: no client is answered what its request does not deserve.
pub(super) fn expected_answer(case: &Case<'_>) -> Result<(), Breach> {
    none(
        case,
        "an answer that the request deserves",
        |fact| match fact {
            Fact::Odd { asked, answer } => Some(format!("{asked}: {answer}")),
            _ => None,
        },
    )
}

/// `no-connection-left` (L8): after its graceful end the server holds none.
pub(super) fn no_connection_left(case: &Case<'_>) -> Result<(), Breach> {
    none(case, "no connection after the end", |fact| match fact {
        Fact::Left { connections } if *connections > 0 => Some(format!("{connections} open")),
        _ => None,
    })
}

fn none(
    case: &Case<'_>,
    expected: &str,
    mut what: impl FnMut(&Fact) -> Option<String>,
) -> Result<(), Breach> {
    let mut found = case.seen.iter().filter_map(|seen| {
        let what = what(&seen.fact)?;
        Some((seen.at_ms, what))
    });
    match found.next() {
        Some((at_ms, what)) => Breach::new(at_ms, expected, what),
        None => Ok(()),
    }
}
