//! What must hold of what was seen.

use std::time::Duration;

use super::user::{LIMITS, PING_EVERY, PING_LIMIT};
use super::{Fact, Plan, Trouble};

/// An oracle, the moment, what should have been and what was.
type Found = (&'static str, u64, String, String);

/// A tick or two, and an orderly goodbye.
const SLACK_MS: u64 = 1_200;

pub(super) fn judge(plan: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let oracles = [in_time, one_end, commands, nothing_left, contained];
    oracles.iter().find_map(|oracle| oracle(plan, facts))
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn found(
    oracle: &'static str,
    at_ms: u64,
    expected: impl Into<String>,
    seen: impl std::fmt::Debug,
) -> Option<Found> {
    Some((oracle, at_ms, expected.into(), format!("{seen:?}")))
}

/// When what was asked at one fact was answered by another.
fn spans(
    facts: &[(u64, Fact)],
    is_begin: impl Fn(&Fact) -> bool,
    is_end: impl Fn(&Fact) -> bool,
) -> Vec<(u64, Option<&(u64, Fact)>)> {
    let begun = facts
        .iter()
        .enumerate()
        .filter(|(_, (_, fact))| is_begin(fact));
    begun
        .map(|(n, (at_ms, _))| {
            let end = facts[n..].iter().find(|(_, fact)| is_end(fact));
            (*at_ms, end)
        })
        .collect()
}

/// S4: every wish for a link and every question ends within its deadline.
fn in_time(_: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let connecting = spans(
        facts,
        |fact| *fact == Fact::Asked,
        |fact| matches!(fact, Fact::Connected(_)),
    );
    let asking = spans(
        facts,
        |fact| *fact == Fact::PingBegun,
        |fact| matches!(fact, Fact::PingEnded(_)),
    );
    let limits = [
        (connecting, ms(LIMITS.connect + LIMITS.handshake)),
        (asking, ms(PING_LIMIT)),
    ];
    for (spans, limit_ms) in limits {
        for (from_ms, end) in spans {
            match end {
                Some((at_ms, _)) if *at_ms <= from_ms + limit_ms + SLACK_MS => {}
                // The user has done with the link while it was asked.
                None if limit_ms == ms(PING_LIMIT) => {}
                end => {
                    let expected = format!("an answer within {limit_ms} ms");
                    return found("link-ends", from_ms, expected, end);
                }
            }
        }
    }
    None
}

/// S4: a link tells its end once, and only a link that was there has one.
fn one_end(_: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let count = |is: &dyn Fn(&Fact) -> bool| facts.iter().filter(|(_, fact)| is(fact)).count();
    let linked = count(&|fact| matches!(fact, Fact::Connected(Ok(()))));
    let closed = count(&|fact| matches!(fact, Fact::Closed(_)));
    let at_ms = facts.last().map_or(0, |(at_ms, _)| *at_ms);
    match linked == closed {
        true => None,
        false => found("one-end", at_ms, "one end for each link", (linked, closed)),
    }
}

/// S5: a command gives its whole output and exit code, or ends soon after its
/// link can have been found dead.
fn commands(plan: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let dead_after_ms = ms(PING_EVERY + PING_LIMIT) + SLACK_MS;
    for (from_ms, fact) in facts {
        let Fact::ExecBegun(n) = fact else { continue };
        let is_mine = |fact: &Fact| matches!(fact, Fact::ExecEnded(of, _) if of == n);
        let end = facts.iter().find(|(_, fact)| is_mine(fact));
        let Some((at_ms, Fact::ExecEnded(_, ran))) = end else {
            return found("command-ends", *from_ms, "an end of the command", fact);
        };
        if *at_ms > from_ms + dead_after_ms {
            return found(
                "command-ends",
                *at_ms,
                format!("an end by {dead_after_ms} ms"),
                fact,
            );
        }
        let command = format!("command {n}");
        let whole = format!("{command} exit Some({})", command.len());
        match ran {
            Ok(told) if *told == whole => {}
            Err(_) if is_troubled(plan) => {}
            ran => return found("content", *at_ms, whole, ran),
        }
    }
    None
}

/// A blip that is shorter than anybody's patience costs nothing.
fn is_troubled(plan: &Plan) -> bool {
    match plan.trouble {
        Trouble::None => false,
        Trouble::Hold(for_ms) => for_ms + SLACK_MS > ms(PING_LIMIT),
        Trouble::Wire(_) | Trouble::Rejects | Trouble::Partition(_) | Trouble::Crash(_) => true,
    }
}

/// L7: no connection, no task.
fn nothing_left(_: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let left = facts.iter().find_map(|(at_ms, fact)| match fact {
        Fact::Left(connections, tasks) => Some((*at_ms, *connections, *tasks)),
        _ => None,
    });
    match left {
        Some((_, 0, 0)) => None,
        Some((at_ms, ..)) => found("nothing-left", at_ms, "no connection and no task", left),
        None => found("nothing-left", 0, "an end of the run", facts.last()),
    }
}

/// S4: the next link works; and without trouble the first one does.
fn contained(plan: &Plan, facts: &[(u64, Fact)]) -> Option<Found> {
    let again = facts.iter().find_map(|(at_ms, fact)| match fact {
        Fact::Again(told) => Some((*at_ms, told)),
        _ => None,
    });
    match again {
        Some((_, Ok(told))) if told == "again exit Some(5)" => {}
        again => return found("link-fault-contained", 0, "the next link works", again),
    }
    let refused = facts.iter().find_map(|(at_ms, fact)| match fact {
        Fact::Connected(Err(why)) => Some((*at_ms, why)),
        _ => None,
    });
    match refused {
        Some((at_ms, why)) if !is_troubled(plan) => {
            found("link-fault-contained", at_ms, "the computer lets in", why)
        }
        _ => None,
    }
}
