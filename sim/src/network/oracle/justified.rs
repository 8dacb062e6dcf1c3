//! `justified` (T2): every `error`, `aborted` and retry has a cause that was
//! really there and permits it; without one, `done` is required.

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::TurnId;

use super::{Breach, Case, run_ms};
use crate::fact::Cause;
use crate::network::fact::{Change, Fact, Role};

/// Facts are seen to the tick, events to the millisecond.
const SLACK_MS: u64 = 20;

pub(super) fn justified(case: &Case<'_>) -> Result<(), Breach> {
    for event in case.events() {
        let at_ms = run_ms(event.at);
        let is_justified = match &event.body {
            EventBody::Error { code, cause, .. } => permits_error(case, event, code, cause),
            EventBody::Aborted { .. } => was_asked_for(case, event),
            EventBody::ProviderRetry { .. } => permits_retry(case, event),
            _ => true,
        };
        if !is_justified {
            return Breach::new(
                at_ms,
                "a cause that permits this; without one, done",
                event.to_json(),
            );
        }
    }
    Ok(())
}

fn was_asked_for(case: &Case<'_>, event: &AgentEvent) -> bool {
    case.seen.iter().any(|seen| {
        seen.at_ms <= run_ms(event.at) + SLACK_MS
            && matches!(&seen.fact, Fact::Aborting { conversation } if *conversation == event.conversation)
    })
}

fn permits_retry(case: &Case<'_>, event: &AgentEvent) -> bool {
    let at_ms = run_ms(event.at);
    let since_ms = progress_before(case, event);
    let was_refused = causes(case, event.turn).any(|(injected_at_ms, cause)| {
        matches!(cause, Cause::Refused { .. })
            && (since_ms..=at_ms + SLACK_MS).contains(&(injected_at_ms + SLACK_MS))
    });
    was_refused || had_trouble(case, event)
}

/// When the turn's last retry or step was written, before this event.
fn progress_before(case: &Case<'_>, event: &AgentEvent) -> u64 {
    let before = case.events().filter(|earlier| {
        earlier.turn == event.turn
            && earlier.seq < event.seq
            && matches!(
                earlier.body,
                EventBody::ProviderRetry { .. } | EventBody::StepComplete { .. }
            )
    });
    before.map(|earlier| run_ms(earlier.at)).max().unwrap_or(0)
}

fn permits_error(case: &Case<'_>, event: &AgentEvent, code: &str, named: &str) -> bool {
    let injected: Vec<&Cause> = causes(case, event.turn).map(|(_, cause)| cause).collect();
    match code {
        "empty-completion" => {
            let empty = injected.iter().filter(|c| matches!(c, Cause::Empty));
            return empty.count() >= 2;
        }
        "replica-lost" => return deaths(case, event) > 3,
        _ => {}
    }
    let of_a_cut = ["stream-cut", "terminator-missing", "idle-timeout"];
    let cuts = injected
        .iter()
        .filter(|c| matches!(c, Cause::Broken { is_cut: true, .. }));
    let repeated = cuts.count() >= 2 || !case.plan.repeats_cuts;
    let was_done = injected.iter().any(|cause| match cause {
        Cause::Fatal { cause } => cause == named,
        Cause::Broken { cause, is_cut } => cause == named && (!is_cut || repeated),
        Cause::Refused { .. } | Cause::Empty => false,
    });
    was_done || of_a_cut.contains(&named) && had_trouble(case, event)
}

/// What was done to the turn's requests, and when.
fn causes<'c>(case: &'c Case<'_>, turn: TurnId) -> impl Iterator<Item = (u64, &'c Cause)> {
    let token = case.tokens.get(&turn).copied();
    case.seen.iter().filter_map(move |seen| match &seen.fact {
        Fact::Injected { asked, cause } if Some(asked.token) == token => Some((seen.at_ms, cause)),
        _ => None,
    })
}

fn had_trouble(case: &Case<'_>, event: &AgentEvent) -> bool {
    let token = case.tokens.get(&event.turn);
    let provider = token.and_then(|token| case.providers.get(token));
    provider.is_some_and(|provider| case.had_trouble(*provider, run_ms(event.at) + SLACK_MS))
}

fn deaths(case: &Case<'_>, event: &AgentEvent) -> usize {
    let began_ms = case
        .events()
        .filter(|first| first.turn == event.turn)
        .map(|first| run_ms(first.at))
        .min();
    let lived = began_ms.unwrap_or(0)..=run_ms(event.at) + SLACK_MS;
    let ends = case.server_ends.iter();
    ends.filter(|(at_ms, change)| {
        lived.contains(at_ms)
            && matches!(
                change,
                Change::Crash(Role::Server) | Change::Bounce(Role::Server)
            )
    })
    .count()
}
