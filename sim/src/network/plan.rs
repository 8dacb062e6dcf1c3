//! What a run consists of, all of it drawn from the seed: who there is, what
//! they want, and what goes wrong when. Each kind of fault is there or not by
//! a coin of its own (swarm), so that some runs see one kind alone.

use crate::rng::{Purpose, Rng};
use crate::scenario::Fault;

use super::fact::{Change, Role};

/// A run's whole design.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    /// A message's way takes from the first to the second, in milliseconds.
    pub(super) latency_ms: (u64, u64),
    pub(super) providers: Vec<ProviderPlan>,
    /// Conversations, by client.
    pub(super) clients: Vec<Vec<ConversationPlan>>,
    /// In order of time.
    pub(super) changes: Vec<(u64, Change)>,
    /// From here on nothing goes wrong any more.
    pub(super) calm_at_ms: u64,
    /// T11.
    pub(super) repeats_cuts: bool,
    /// Answers of the store come so late at most.
    pub(super) store_lag_ms: u64,
}

#[derive(Clone, Debug)]
pub(super) struct ProviderPlan {
    /// Streams in flight (A1).
    pub(super) limit: u32,
    /// Requests that go wrong, in 10,000.
    pub(super) faults: u64,
    pub(super) fault_kinds: Vec<(Fault, u64)>,
    pub(super) storms: Vec<Storm>,
    /// While one lasts, connections are accepted and nothing is said.
    pub(super) mutes: Vec<Span>,
}

/// From `from_ms`, before `to_ms`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
}

impl Span {
    pub(super) fn holds(self, at_ms: u64) -> bool {
        (self.from_ms..self.to_ms).contains(&at_ms)
    }
}

/// Every request is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storm {
    pub(super) span: Span,
    pub(super) status: u16,
    pub(super) retry_after_s: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) struct ConversationPlan {
    pub(super) id: String,
    pub(super) provider: usize,
    /// Messages are sent without waiting for the answers before (T6).
    pub(super) is_pipelined: bool,
    /// Somebody else follows the conversation as a whole.
    pub(super) is_watched: bool,
    pub(super) turns: Vec<TurnPlan>,
}

#[derive(Clone, Debug)]
pub(super) struct TurnPlan {
    /// Names the script.
    pub(super) token: u32,
    pub(super) after_ms: u64,
    pub(super) detach: bool,
    pub(super) sse: bool,
    pub(super) abort_after_ms: Option<u64>,
    /// The client drops its connection after so many frames, now and then.
    pub(super) vanishes: u64,
    /// The same request is sent once more after it was answered (C6).
    pub(super) resubmits: bool,
}

const SECOND: u64 = 1_000;

/// What may go wrong in a run.
struct Swarm {
    storms: bool,
    mutes: bool,
    bad_answers: bool,
    holds: bool,
    partitions: bool,
    losses: bool,
    server_dies: bool,
    server_restarts: bool,
    provider_dies: bool,
    vanishing: bool,
    aborts: bool,
}

impl Swarm {
    fn of(rng: &mut Rng) -> Swarm {
        let mut coin = |per_10k| rng.chance(per_10k);
        Swarm {
            storms: coin(5_000),
            mutes: coin(3_000),
            bad_answers: coin(5_000),
            holds: coin(4_000),
            partitions: coin(3_000),
            losses: coin(2_000),
            server_dies: coin(5_000),
            server_restarts: coin(2_000),
            provider_dies: coin(2_500),
            vanishing: coin(5_000),
            aborts: coin(3_000),
        }
    }
}

impl Plan {
    pub(super) fn of(seed: u64) -> Plan {
        let mut rng = Rng::new(seed, Purpose::Scenario);
        let swarm = Swarm::of(&mut rng);
        let calm_at_ms = rng.range(20 * SECOND, 80 * SECOND);
        let providers: Vec<_> = (0..rng.range(1, 2))
            .map(|_| ProviderPlan::of(&mut rng, &swarm, calm_at_ms))
            .collect();
        let mut tokens = 0..;
        let clients: Vec<Vec<_>> = (0..rng.range(1, 3))
            .map(|client| {
                let conversations = 0..rng.range(1, 3);
                conversations
                    .map(|n| {
                        let id = format!("c{client}-{n}");
                        let provider = rng.index(providers.len());
                        ConversationPlan::of(&mut rng, &swarm, &mut tokens, id, provider)
                    })
                    .collect()
            })
            .collect();
        let changes = changes(&mut rng, &swarm, providers.len(), clients.len(), calm_at_ms);
        Plan {
            seed,
            latency_ms: *rng.pick(&[(0, 0), (1, 10), (1, 50), (5, 150)]),
            providers,
            clients,
            changes,
            calm_at_ms,
            repeats_cuts: rng.chance(4_000),
            store_lag_ms: *rng.pick(&[0, 0, 20, 200]),
        }
    }
}

impl ProviderPlan {
    fn of(rng: &mut Rng, swarm: &Swarm, calm_at_ms: u64) -> ProviderPlan {
        let spans = |rng: &mut Rng, is_on: bool, longest_ms: u64| -> Vec<Span> {
            let count = if is_on { rng.range(1, 2) } else { 0 };
            let span = |_| {
                let from_ms = rng.below(calm_at_ms);
                let to_ms = from_ms + rng.spread(500, longest_ms);
                Span {
                    from_ms,
                    to_ms: to_ms.min(calm_at_ms),
                }
            };
            (0..count).map(span).collect()
        };
        let storms = spans(rng, swarm.storms, 60 * SECOND).into_iter();
        let storms = storms
            .map(|span| Storm {
                span,
                status: *rng.pick(&[429, 429, 429, 500, 503, 529]),
                retry_after_s: rng.chance(5_000).then(|| rng.range(1, 40)),
            })
            .collect();
        let mutes = spans(rng, swarm.mutes, 30 * SECOND);
        let mut fault_kinds = KINDS.to_vec();
        fault_kinds.retain(|_| rng.chance(6_000));
        let faults = match swarm.bad_answers && !fault_kinds.is_empty() {
            true => rng.spread(200, 5_000),
            false => 0,
        };
        ProviderPlan {
            limit: u32::try_from(rng.range(1, 4)).unwrap_or(1),
            faults,
            fault_kinds,
            storms,
            mutes,
        }
    }
}

/// Those that an application can do to its own connection; what happens to
/// links is in the plan's changes.
const KINDS: [(Fault, u64); 16] = [
    (Fault::RateLimited, 10),
    (Fault::Unavailable, 8),
    (Fault::Unauthorized, 1),
    (Fault::Quota, 1),
    (Fault::Hang, 4),
    (Fault::CutBefore, 6),
    (Fault::CutAfter, 6),
    (Fault::EndAfter, 3),
    (Fault::StallBefore, 3),
    (Fault::StallAfter, 3),
    (Fault::OverloadedBefore, 4),
    (Fault::OverloadedAfter, 2),
    (Fault::MalformedBefore, 2),
    (Fault::MalformedAfter, 2),
    (Fault::Empty, 4),
    (Fault::NoTerminator, 3),
];

impl ConversationPlan {
    fn of(
        rng: &mut Rng,
        swarm: &Swarm,
        tokens: &mut impl Iterator<Item = u32>,
        id: String,
        provider: usize,
    ) -> ConversationPlan {
        let count = usize::try_from(rng.range(1, 3)).unwrap_or(1);
        let turn = |token| TurnPlan {
            token,
            after_ms: rng.spread(10, 20 * SECOND),
            detach: rng.chance(3_000),
            sse: rng.chance(5_000),
            abort_after_ms: (swarm.aborts && rng.chance(3_000))
                .then(|| rng.spread(50, 30 * SECOND)),
            vanishes: if swarm.vanishing { rng.below(2_000) } else { 0 },
            resubmits: rng.chance(2_000),
        };
        let turns = tokens.take(count).map(turn).collect();
        ConversationPlan {
            id,
            provider,
            is_pipelined: rng.chance(3_000),
            is_watched: rng.chance(3_000),
            turns,
        }
    }
}

fn changes(
    rng: &mut Rng,
    swarm: &Swarm,
    providers: usize,
    clients: usize,
    calm_at_ms: u64,
) -> Vec<(u64, Change)> {
    let mut changes = Vec::new();
    let peers = (0..providers)
        .map(Role::Provider)
        .chain((0..clients).map(Role::Client));
    for peer in peers {
        link_changes(rng, swarm, peer, calm_at_ms, &mut changes);
    }
    if swarm.server_dies || swarm.server_restarts {
        let mut at = rng.range(SECOND, calm_at_ms);
        let longest_life_ms = *rng.pick(&[3 * SECOND, 60 * SECOND, 60 * SECOND]);
        while at < calm_at_ms {
            let dies = !swarm.server_restarts || swarm.server_dies && rng.chance(5_000);
            let end = match dies {
                true => Change::Crash(Role::Server),
                false => Change::ShutDown,
            };
            let up_at = at + rng.spread(50, 15 * SECOND);
            changes.push((at, end));
            changes.push((up_at.min(calm_at_ms), Change::Bounce(Role::Server)));
            at = up_at + rng.spread(300, longest_life_ms);
        }
    }
    for provider in 0..providers {
        if swarm.provider_dies && rng.chance(6_000) {
            let at = rng.below(calm_at_ms);
            let up_at = at + rng.spread(50, 20 * SECOND);
            changes.push((at, Change::Crash(Role::Provider(provider))));
            let up = Change::Bounce(Role::Provider(provider));
            changes.push((up_at.min(calm_at_ms), up));
        }
    }
    changes.push((calm_at_ms, Change::Calm));
    changes.sort_by_key(|(at, _)| *at);
    changes
}

/// One after the other, because turmoil cannot hold and cut a link at once.
fn link_changes(
    rng: &mut Rng,
    swarm: &Swarm,
    peer: Role,
    calm_at_ms: u64,
    changes: &mut Vec<(u64, Change)>,
) {
    let mut kinds = Vec::new();
    for (is_on, kind) in [
        (swarm.holds, Change::Hold as fn(Role) -> Change),
        (swarm.partitions, Change::Partition),
        (swarm.losses, Change::Lossy),
    ] {
        if is_on {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() || rng.chance(4_000) {
        return;
    }
    let mut at = rng.spread(100, calm_at_ms);
    while at < calm_at_ms {
        let change = rng.pick(&kinds)(peer);
        let end = match change {
            Change::Hold(_) => Change::Release(peer),
            _ => Change::Repair(peer),
        };
        let until = (at + rng.spread(100, 30 * SECOND)).min(calm_at_ms);
        changes.push((at, change));
        changes.push((until, end));
        at = until + rng.spread(SECOND, 60 * SECOND);
    }
}
