//! The oracles of the network ring. They judge a run after its end, by what
//! clients read, what providers got, and what was done to both; they share
//! with the core what those of the core ring do.

mod content;
mod justified;
mod log;
mod process;
mod provider;

#[cfg(test)]
mod doctored;

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, TurnId};
use dispatch_core::time::Timestamp;

use super::fact::{Change, Fact, Role, Seen};
use super::plan::Plan;
use crate::clock::EPOCH_MS;
use crate::script::Script;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Breach {
    pub(super) at_ms: u64,
    pub(super) expected: String,
    pub(super) seen: String,
}

impl Breach {
    fn new<T>(
        at_ms: u64,
        expected: impl Into<String>,
        seen: impl Into<String>,
    ) -> Result<T, Breach> {
        Err(Breach {
            at_ms,
            expected: expected.into(),
            seen: seen.into(),
        })
    }
}

type Judge = fn(&Case<'_>) -> Result<(), Breach>;

/// In the order in which they are asked.
const ORACLES: [(&str, Judge); 15] = [
    ("no-panic", process::no_panic),
    ("core-check", process::core_check),
    ("one-terminal", log::one_terminal),
    ("sequence", log::sequence),
    ("client-view", log::client_view),
    ("accepted-once", log::accepted_once),
    ("content", content::content),
    ("valid-transcript", provider::valid_transcript),
    ("asked-once", provider::asked_once),
    ("limit", provider::limit),
    ("retry-schedule", provider::retry_schedule),
    ("tool-once", process::tool_once),
    ("justified", justified::justified),
    ("expected-answer", process::expected_answer),
    ("no-connection-left", process::no_connection_left),
];

/// What the world itself finds: panics, errors and endings that do not come.
const OF_THE_WORLD: [&str; 3] = ["converged", "shutdown", "no-failure"];

pub(super) fn names() -> Vec<&'static str> {
    let judged = ORACLES.iter().map(|(name, _)| *name);
    judged.chain(OF_THE_WORLD).collect()
}

/// The first broken promise.
pub(super) fn judge(plan: &Plan, seen: &[Seen]) -> Option<(&'static str, Breach)> {
    let case = Case::new(plan, seen);
    ORACLES
        .iter()
        .find_map(|(name, judge)| Some((*name, judge(&case).err()?)))
}

/// A run, with what several oracles want to know of it.
struct Case<'a> {
    plan: &'a Plan,
    seen: &'a [Seen],
    /// What clients were told is accepted.
    acked: Vec<(u64, u32, TurnId, &'a ConversationId)>,
    logs: BTreeMap<&'a ConversationId, &'a [AgentEvent]>,
    tokens: BTreeMap<TurnId, u32>,
    /// Which provider serves a turn's conversation.
    providers: BTreeMap<u32, usize>,
    troubles: Vec<Trouble>,
    /// When the server died or was asked to end.
    server_ends: Vec<(u64, Change)>,
}

/// Something between the server and a provider, or in the provider itself.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    provider: usize,
    from_ms: u64,
    to_ms: u64,
}

impl<'a> Case<'a> {
    fn new(plan: &'a Plan, seen: &'a [Seen]) -> Case<'a> {
        let mut case = Case {
            plan,
            seen,
            acked: Vec::new(),
            logs: BTreeMap::new(),
            tokens: BTreeMap::new(),
            providers: BTreeMap::new(),
            troubles: Vec::new(),
            server_ends: Vec::new(),
        };
        for conversation in plan.clients.iter().flatten() {
            for turn in &conversation.turns {
                case.providers.insert(turn.token, conversation.provider);
            }
        }
        for seen in seen {
            case.look(seen);
        }
        for (provider, own) in plan.providers.iter().enumerate() {
            case.troubles.extend(own.mutes.iter().map(|mute| Trouble {
                provider,
                from_ms: mute.from_ms,
                to_ms: mute.to_ms,
            }));
        }
        case
    }

    fn look(&mut self, seen: &'a Seen) {
        match &seen.fact {
            Fact::Acked {
                token,
                turn,
                conversation,
            } => {
                self.acked.push((seen.at_ms, *token, *turn, conversation));
                self.tokens.insert(*turn, *token);
            }
            Fact::Audited {
                conversation,
                events,
            } => {
                self.logs.insert(conversation, events);
                self.tokens.extend(events.iter().filter_map(|event| {
                    let EventBody::TurnStart { message, .. } = &event.body else {
                        return None;
                    };
                    Some((event.turn, Script::token_in(message)?))
                }));
            }
            Fact::Changed(change) => self.changed(seen.at_ms, *change),
            _ => {}
        }
    }

    fn changed(&mut self, at_ms: u64, change: Change) {
        match change {
            Change::Hold(Role::Provider(provider))
            | Change::Partition(Role::Provider(provider))
            | Change::Lossy(Role::Provider(provider))
            | Change::Crash(Role::Provider(provider)) => self.troubles.push(Trouble {
                provider,
                from_ms: at_ms,
                to_ms: u64::MAX,
            }),
            Change::Release(Role::Provider(provider))
            | Change::Repair(Role::Provider(provider))
            | Change::Bounce(Role::Provider(provider)) => {
                // Several at once are one: all end with the last of them.
                for trouble in &mut self.troubles {
                    if trouble.provider == provider && trouble.to_ms >= at_ms {
                        trouble.to_ms = self.plan.calm_at_ms.max(at_ms);
                    }
                }
            }
            Change::Crash(Role::Server) | Change::ShutDown | Change::Bounce(Role::Server) => {
                self.server_ends.push((at_ms, change));
            }
            Change::Hold(_)
            | Change::Partition(_)
            | Change::Lossy(_)
            | Change::Crash(_)
            | Change::Release(_)
            | Change::Repair(_)
            | Change::Bounce(_)
            | Change::Calm => {}
        }
    }

    /// Whether a request to this provider that failed at this time may have
    /// failed of something around it. A connection that has lost a message
    /// stays dead long after, and is found out by a deadline.
    fn had_trouble(&self, provider: usize, at_ms: u64) -> bool {
        self.troubles.iter().any(|trouble| {
            trouble.provider == provider
                && trouble.from_ms <= at_ms
                && at_ms <= trouble.to_ms.saturating_add(AFTERMATH_MS)
        })
    }

    /// Whether the server ended, one way or the other, in between.
    fn server_ended(&self, from_ms: u64, to_ms: u64) -> bool {
        let mut ends = self.server_ends.iter();
        ends.any(|(at_ms, _)| (from_ms..=to_ms).contains(at_ms))
    }

    fn events(&self) -> impl Iterator<Item = &'a AgentEvent> {
        self.logs.values().flat_map(|log| log.iter())
    }

    fn script(&self, turn: TurnId) -> Option<Script> {
        let token = self.tokens.get(&turn)?;
        Some(Script::of(self.plan.seed, *token))
    }

    fn shown(&self) -> impl Iterator<Item = (u64, u32, &'a AgentEvent)> {
        self.seen.iter().filter_map(|seen| match &seen.fact {
            Fact::Showed { reader, event } => Some((seen.at_ms, *reader, &**event)),
            _ => None,
        })
    }

    fn accepted(&self) -> BTreeSet<(TurnId, &'a ConversationId)> {
        let turns = self.acked.iter();
        turns
            .map(|(_, _, turn, conversation)| (*turn, *conversation))
            .collect()
    }
}

/// An idle connection's time in the pool, and the deadline for a first byte.
const AFTERMATH_MS: u64 = 50_000;

/// A moment of the server's wall clock in the run's milliseconds.
fn run_ms(at: Timestamp) -> u64 {
    at.0.saturating_sub(EPOCH_MS)
}
