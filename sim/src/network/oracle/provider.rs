//! What providers got: valid, asked for, within the limit, and in time.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::EventBody;
use dispatch_core::ids::{EffectId, Epoch, TurnId};

use super::{Breach, Case, run_ms};
use crate::fact::Cause;
use crate::network::fact::{Change, Fact, Role};
use crate::request::Asked;

/// A4, the default.
const COOLDOWN_MS: u64 = 200;
/// Facts are seen to the tick.
const TICK_MS: u64 = 10;

/// `valid-transcript` (T12): no request that a strict vendor would refuse.
pub(super) fn valid_transcript(case: &Case<'_>) -> Result<(), Breach> {
    for seen in case.seen {
        if let Fact::Requested {
            asked,
            verdict: Err(why),
            ..
        } = &seen.fact
        {
            let wanted = format!("a valid transcript for {asked:?}");
            return Breach::new(seen.at_ms, wanted, why);
        }
    }
    Ok(())
}

/// `asked-once`: what reaches a provider was asked for by the core, each
/// request once. The HTTP client repeats nothing by itself.
pub(super) fn asked_once(case: &Case<'_>) -> Result<(), Breach> {
    let mut owed: BTreeMap<Asked, u32> = BTreeMap::new();
    for seen in case.seen {
        match &seen.fact {
            Fact::Opened { asked, .. } => *owed.entry(*asked).or_default() += 1,
            Fact::Requested {
                asked,
                verdict: Ok(()),
                ..
            } => {
                let owed = owed.entry(*asked).or_default();
                let Some(left) = owed.checked_sub(1) else {
                    return Breach::new(
                        seen.at_ms,
                        "a request for each stream that the core opens",
                        format!("one more for {asked:?}"),
                    );
                };
                *owed = left;
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Clone, Copy)]
struct Stream {
    provider: usize,
    token: u32,
    closed_at_ms: Option<u64>,
}

/// `limit` (A1, A4): streams in flight, and those that ended less than the
/// cooldown ago, never exceed the limit; nor do the requests that a provider
/// counts, those aside that their server has given up.
pub(super) fn limit(case: &Case<'_>) -> Result<(), Breach> {
    let mut streams: BTreeMap<EffectId, Stream> = BTreeMap::new();
    let mut counted: BTreeMap<u32, (usize, u32)> = BTreeMap::new();
    for seen in case.seen {
        match &seen.fact {
            // Another life: the one before holds nothing any more.
            Fact::Booted { .. } | Fact::Changed(Change::Crash(Role::Server)) => streams.clear(),
            Fact::Opened {
                id,
                provider,
                asked,
                mono_ms,
                ..
            } => {
                streams.retain(|_, stream| {
                    stream
                        .closed_at_ms
                        .is_none_or(|at| mono_ms.saturating_sub(at) < COOLDOWN_MS)
                });
                let opened = Stream {
                    provider: *provider,
                    token: asked.token,
                    closed_at_ms: None,
                };
                streams.insert(*id, opened);
                let own = streams.values().filter(|s| s.provider == *provider);
                let turns: BTreeSet<u32> = own.map(|s| s.token).collect();
                within(
                    case,
                    seen.at_ms,
                    *provider,
                    &turns,
                    "streams open or cooling",
                )?;
            }
            Fact::Closed { id, mono_ms, .. } => {
                if let Some(stream) = streams.get_mut(id) {
                    stream.closed_at_ms = Some(*mono_ms);
                }
            }
            Fact::Requested {
                stream,
                provider,
                asked,
                ..
            } => {
                counted.insert(*stream, (*provider, asked.token));
                let turns = counted
                    .values()
                    .filter(|(of, token)| of == provider && is_open(&streams, *of, *token))
                    .map(|(_, token)| *token)
                    .collect();
                within(case, seen.at_ms, *provider, &turns, "requests in flight")?;
            }
            Fact::Gone { stream } => {
                counted.remove(stream);
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_open(streams: &BTreeMap<EffectId, Stream>, provider: usize, token: u32) -> bool {
    streams.values().any(|stream| {
        (stream.provider, stream.token, stream.closed_at_ms) == (provider, token, None)
    })
}

fn within(
    case: &Case<'_>,
    at_ms: u64,
    provider: usize,
    turns: &BTreeSet<u32>,
    what: &str,
) -> Result<(), Breach> {
    let limit = case.plan.providers[provider].limit;
    if turns.len() <= limit as usize {
        return Ok(());
    }
    Breach::new(
        at_ms,
        format!("at most {limit} {what} at p{provider}"),
        format!("{}: of turns {turns:?}", turns.len()),
    )
}

/// T3.
const FIRST_WAITS_S: [u64; 8] = [5, 10, 30, 60, 5 * 60, 10 * 60, 15 * 60, 30 * 60];

fn wait_ms(attempt: usize) -> u64 {
    FIRST_WAITS_S[attempt.min(FIRST_WAITS_S.len() - 1)] * 1_000
}

/// `retry-schedule` (T3, T4): a refused request comes again when the schedule
/// says, a Retry-After at the earliest when it says; each wait is announced as
/// it is kept; nothing is retried after content.
pub(super) fn retry_schedule(case: &Case<'_>) -> Result<(), Breach> {
    announced(case)?;
    kept(case)?;
    not_after_content(case)
}

fn announced(case: &Case<'_>) -> Result<(), Breach> {
    let mut attempts: BTreeMap<TurnId, usize> = BTreeMap::new();
    for event in case.events() {
        match &event.body {
            EventBody::ProviderRetry {
                attempt,
                delay_ms,
                due_at,
                ..
            } => {
                let next = attempts.entry(event.turn).or_default();
                let is_right = *attempt as usize == *next
                    && *delay_ms >= wait_ms(*next)
                    && *due_at == event.at + *delay_ms;
                if !is_right {
                    let wanted = format!("attempt {next} after {} ms or more", wait_ms(*next));
                    return Breach::new(run_ms(event.at), wanted, event.to_json());
                }
                *next += 1;
            }
            EventBody::StepComplete { partial: false, .. } => {
                attempts.remove(&event.turn);
            }
            _ => {}
        }
    }
    Ok(())
}

#[derive(Default)]
struct Waiting {
    refusals: usize,
    /// The last refusal, and what it asked for.
    refused: Option<(u64, u64)>,
    asked_ms: u64,
}

fn kept(case: &Case<'_>) -> Result<(), Breach> {
    let mut waiting: BTreeMap<Asked, Waiting> = BTreeMap::new();
    for seen in case.seen {
        match &seen.fact {
            Fact::Injected {
                asked,
                cause: Cause::Refused { retry_after_ms, .. },
            } => {
                waiting.entry(*asked).or_default().asked_ms = retry_after_ms.unwrap_or(0);
            }
            Fact::Refused { asked, .. } => {
                let waiting = waiting.entry(*asked).or_default();
                waiting.refused = Some((seen.at_ms, waiting.asked_ms));
            }
            Fact::Requested { asked, .. } => {
                let waiting = waiting.entry(*asked).or_default();
                let Some((refused_at_ms, asked_ms)) = waiting.refused.take() else {
                    continue;
                };
                // A server that has died meanwhile may not have heard of it.
                if case.server_ended(refused_at_ms, seen.at_ms) {
                    continue;
                }
                let scheduled_ms = wait_ms(waiting.refusals);
                let heard = !case.had_trouble(provider_of(case, asked), refused_at_ms);
                let least_ms = match heard {
                    true => scheduled_ms.max(asked_ms),
                    false => scheduled_ms,
                };
                waiting.refusals += 1;
                let waited_ms = seen.at_ms - refused_at_ms;
                if waited_ms + TICK_MS < least_ms {
                    return Breach::new(
                        seen.at_ms,
                        format!("{asked:?} again {least_ms} ms after its refusal"),
                        format!("after {waited_ms} ms"),
                    );
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn provider_of(case: &Case<'_>, asked: &Asked) -> usize {
    case.providers.get(&asked.token).copied().unwrap_or(0)
}

fn not_after_content(case: &Case<'_>) -> Result<(), Breach> {
    let mut shown: BTreeSet<(TurnId, Epoch, u32)> = BTreeSet::new();
    for (_, _, event) in case.shown() {
        if let EventBody::TextDelta { step, .. } | EventBody::ReasoningDelta { step, .. } =
            &event.body
        {
            shown.insert((event.turn, event.epoch, *step));
        }
    }
    let mut steps: BTreeMap<TurnId, u32> = BTreeMap::new();
    for event in case.events() {
        match &event.body {
            EventBody::ProviderRetry { .. } => {
                let step = steps.get(&event.turn).copied().unwrap_or(0);
                if shown.contains(&(event.turn, event.epoch, step)) {
                    let wanted = "no retry after content was shown";
                    return Breach::new(run_ms(event.at), wanted, event.to_json());
                }
            }
            // What was shown of it is taken back, and it may fail anew.
            EventBody::StepRestart { step, .. } => {
                shown.remove(&(event.turn, event.epoch, *step));
            }
            EventBody::StepComplete { step, .. } => {
                steps.insert(event.turn, step + 1);
            }
            _ => {}
        }
    }
    Ok(())
}
