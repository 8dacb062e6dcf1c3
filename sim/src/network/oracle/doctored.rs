//! Each oracle bites: true stories of runs, changed in one place.

use std::collections::BTreeSet;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, EffectId, TurnId};

use super::{judge, names};
use crate::network::fact::{Fact, Seen};
use crate::network::plan::Plan;
use crate::network::{apart, world::Run};
use crate::request::Asked;
use crate::script::Script;

/// The story of the first seed whose story has what `wanted` looks for.
fn story<T>(wanted: impl Fn(&[Seen]) -> Option<T>) -> (Plan, Vec<Seen>, T) {
    story_of(|_, seen| wanted(seen))
}

fn story_of<T>(wanted: impl Fn(&Plan, &[Seen]) -> Option<T>) -> (Plan, Vec<Seen>, T) {
    for seed in 0..200 {
        let Run { story, failed, .. } = apart(seed, false);
        let plan = Plan::of(seed);
        if failed.is_some() || judge(&plan, &story.seen).is_some() {
            continue;
        }
        if let Some(found) = wanted(&plan, &story.seen) {
            return (plan, story.seen, found);
        }
    }
    panic!("no seed has such a story");
}

fn verdict(plan: &Plan, seen: &[Seen]) -> &'static str {
    judge(plan, seen).map_or("nothing", |(name, _)| name)
}

fn at<T>(seen: &[Seen], wanted: impl Fn(&Fact) -> Option<T>) -> Option<(usize, T)> {
    let mut facts = seen.iter().enumerate();
    facts.find_map(|(n, seen)| Some((n, wanted(&seen.fact)?)))
}

fn position(seen: &[Seen], wanted: impl Fn(&Fact) -> bool) -> Option<usize> {
    seen.iter().position(|seen| wanted(&seen.fact))
}

fn log_of(seen: &mut [Seen]) -> &mut Vec<AgentEvent> {
    let logs = seen.iter_mut().filter_map(|seen| match &mut seen.fact {
        Fact::Audited { events, .. } => Some(events),
        _ => None,
    });
    logs.last().unwrap()
}

#[test]
fn a_log_without_a_terminal_event_or_with_two_is_seen() {
    let (plan, seen, ()) = story(|_| Some(()));
    let mut without = seen.clone();
    log_of(&mut without).pop();
    assert_eq!(verdict(&plan, &without), "one-terminal");
    let mut twice = seen;
    let log = log_of(&mut twice);
    let mut again = log.last().unwrap().clone();
    again.seq = again.seq.map(|seq| seq + 1);
    log.push(again);
    assert_eq!(verdict(&plan, &twice), "one-terminal");
}

#[test]
fn a_gap_in_the_numbers_is_seen() {
    let (plan, mut seen, ()) = story(|_| Some(()));
    log_of(&mut seen)[0].seq = Some(7);
    assert_eq!(verdict(&plan, &seen), "sequence");
}

#[test]
fn an_event_that_a_stream_left_out_or_repeated_is_seen() {
    let is_logged = |fact: &Fact| matches!(fact, Fact::Showed { event, .. } if event.seq.is_some());
    let is_inner = |fact: &Fact| {
        matches!(fact, Fact::Showed { event, .. }
            if event.seq.is_some() && !event.is_terminal())
    };
    let (plan, seen, n) = story(|seen| {
        let n = position(seen, is_inner)?;
        let Fact::Showed { reader, .. } = &seen[n].fact else {
            return None;
        };
        let same = |fact: &Fact| matches!(fact, Fact::Showed { reader: r, .. } if r == reader);
        position(&seen[n + 1..], |fact| same(fact) && is_logged(fact))?;
        Some(n)
    });
    let mut without = seen.clone();
    without.remove(n);
    assert_eq!(verdict(&plan, &without), "client-view");
    let mut twice = seen.clone();
    twice.insert(n, seen[n].clone());
    assert_eq!(verdict(&plan, &twice), "client-view");
}

#[test]
fn a_key_that_stands_for_two_turns_is_seen() {
    type Ack = (u32, TurnId, ConversationId);
    fn acked(fact: &Fact) -> Option<Ack> {
        match fact {
            Fact::Acked {
                token,
                turn,
                conversation,
            } => Some((*token, *turn, conversation.clone())),
            _ => None,
        }
    }
    let (plan, mut seen, (n, turn)) = story(|seen| {
        let (first, (token, _, conversation)) = at(seen, acked)?;
        let other = |fact: &Fact| {
            acked(fact).filter(|(other, _, of)| *other != token && *of == conversation)
        };
        let (n, (_, turn, _)) = at(seen, other)?;
        Some((n.max(first), turn))
    });
    let mut again = seen[n].clone();
    if let Fact::Acked {
        token, turn: own, ..
    } = &mut again.fact
    {
        *own = turn;
        *token = at(&seen, acked).unwrap().1.0;
    }
    seen.push(again);
    assert_eq!(verdict(&plan, &seen), "accepted-once");
}

#[test]
fn a_delta_that_the_script_does_not_have_is_seen() {
    let text = |fact: &Fact| match fact {
        Fact::Showed { event, .. } => matches!(event.body, EventBody::TextDelta { .. }),
        _ => false,
    };
    let (plan, mut seen, n) = story(|seen| position(seen, text));
    if let Fact::Showed { event, .. } = &mut seen[n].fact
        && let EventBody::TextDelta { text, .. } = &mut event.body
    {
        text.push('!');
    }
    assert_eq!(verdict(&plan, &seen), "content");
}

#[test]
fn requests_that_are_invalid_too_many_or_nobodys_are_seen() {
    let requested = |fact: &Fact| matches!(fact, Fact::Requested { .. });
    let (plan, seen, n) = story(|seen| position(seen, requested));
    let mut invalid = seen.clone();
    if let Fact::Requested { verdict, .. } = &mut invalid[n].fact {
        *verdict = Err("two system messages".to_owned());
    }
    assert_eq!(verdict(&plan, &invalid), "valid-transcript");
    let mut repeated = seen.clone();
    repeated.push(seen[n].clone());
    assert_eq!(verdict(&plan, &repeated), "asked-once");
    let opened = position(&seen, |fact| matches!(fact, Fact::Opened { .. })).unwrap();
    let mut beyond = seen;
    for token in 900..904 {
        let mut more = beyond[opened].clone();
        if let Fact::Opened { id, asked, .. } = &mut more.fact {
            *id = EffectId {
                n: u64::from(token),
                ..*id
            };
            *asked = Asked { token, step: 0 };
        }
        beyond.insert(opened + 1, more);
    }
    assert_eq!(verdict(&plan, &beyond), "limit");
}

#[test]
fn a_retry_that_comes_too_early_is_seen() {
    let (plan, mut seen, (refused, again)) = story(|seen| {
        let (refused, asked) = at(seen, |fact| match fact {
            Fact::Refused { asked, status: 429 } => Some(*asked),
            _ => None,
        })?;
        let again = |fact: &Fact| matches!(fact, Fact::Requested { asked: a, .. } if *a == asked);
        let n = position(&seen[refused..], again)? + refused;
        let ended = |fact: &Fact| matches!(fact, Fact::Booted { .. });
        position(&seen[refused..n], ended)
            .is_none()
            .then_some((refused, n))
    });
    seen[again].at_ms = seen[refused].at_ms + 4_000;
    assert_eq!(verdict(&plan, &seen), "retry-schedule");
}

#[test]
fn a_retry_after_content_was_shown_is_seen() {
    let (plan, mut seen, (n, event, text)) = story_of(|plan, seen| {
        let (n, event) = at(seen, |fact| match fact {
            Fact::Showed { event, .. } => match event.body {
                EventBody::ProviderRetry { .. } => Some(event.clone()),
                _ => None,
            },
            _ => None,
        })?;
        let (_, token) = at(seen, |fact| match fact {
            Fact::Acked { token, turn, .. } if *turn == event.turn => Some(*token),
            _ => None,
        })?;
        let first_step = |fact: &Fact| {
            matches!(fact, Fact::Showed { event: e, .. }
                if e.turn == event.turn && matches!(e.body, EventBody::StepComplete { .. }))
        };
        let is_first = position(&seen[..n], first_step).is_none();
        let script = Script::of(plan.seed, token);
        let text = script.steps[0].text.clone();
        (is_first && !text.is_empty()).then_some((n, event, text))
    });
    let mut delta = seen[n].clone();
    if let Fact::Showed { event: shown, .. } = &mut delta.fact {
        **shown = AgentEvent {
            seq: None,
            body: EventBody::TextDelta {
                step: 0,
                offset: 0,
                text,
            },
            ..*event
        };
    }
    seen.insert(n, delta);
    assert_eq!(verdict(&plan, &seen), "retry-schedule");
}

#[test]
fn a_command_that_runs_twice_is_seen() {
    let ran = |fact: &Fact| matches!(fact, Fact::Ran { .. });
    let (plan, mut seen, n) = story(|seen| position(seen, ran));
    seen.push(seen[n].clone());
    assert_eq!(verdict(&plan, &seen), "tool-once");
}

#[test]
fn errors_aborts_and_retries_without_a_cause_are_seen() {
    let has = |kind: &'static str| {
        move |seen: &[Seen]| {
            let logged = |fact: &Fact| {
                matches!(fact, Fact::Audited { events, .. }
                    if events.iter().any(|event| event.kind() == kind))
            };
            position(seen, logged).map(|_| ())
        }
    };
    for kind in ["error", "aborted", "provider-retry"] {
        let (mut plan, mut seen, ()) = story(has(kind));
        for provider in &mut plan.providers {
            provider.mutes.clear();
        }
        seen.retain(|seen| {
            !matches!(
                seen.fact,
                Fact::Injected { .. } | Fact::Aborting { .. } | Fact::Changed(_)
            )
        });
        assert_eq!(verdict(&plan, &seen), "justified", "{kind}");
    }
}

#[test]
fn whatever_a_process_must_not_do_is_seen() {
    let (plan, seen, ()) = story(|_| Some(()));
    let what = || "it".to_owned();
    for (fact, oracle) in [
        (Fact::Panicked { what: what() }, "no-panic"),
        (Fact::Broken { what: what() }, "core-check"),
        (
            Fact::Odd {
                asked: what(),
                answer: what(),
            },
            "expected-answer",
        ),
        (Fact::Left { connections: 1 }, "no-connection-left"),
    ] {
        let mut doctored = seen.clone();
        doctored.push(Seen { at_ms: 1, fact });
        assert_eq!(verdict(&plan, &doctored), oracle);
    }
}

#[test]
fn every_oracle_has_a_doctored_story() {
    let text = include_str!("doctored.rs");
    let of_the_world: BTreeSet<_> = super::OF_THE_WORLD.into_iter().collect();
    for name in names() {
        assert!(
            of_the_world.contains(name) || text.contains(&format!("\"{name}\"")),
            "{name} is doctored nowhere"
        );
    }
}
