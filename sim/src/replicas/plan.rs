//! What befalls nodes and links in a run, drawn from its seed. Swarm style, as
//! the core ring's scenarios are: most seeds leave most kinds of trouble out.

use std::ops::Range;
use std::time::Duration;

use crate::clock::Us;
use crate::rng::{Purpose, Rng};
use crate::scenario::{Chaos, MINUTE, Profile, SECOND, Scenario, StormKind};

/// Three, so that a link can be clogged or a replica stopped while two others
/// race for what it owned.
pub(super) const REPLICAS: usize = 3;

/// The plan of one run.
pub(super) struct Plan {
    /// Clients, scripts and the provider's answers.
    pub(super) scenario: Scenario,
    pub(super) troubles: Vec<(Us, Trouble)>,
    /// During these every request is refused.
    pub(super) storms: Vec<(Range<Us>, StormKind)>,
    /// Of all messages during the storm.
    pub(super) loss: f64,
    pub(super) latency: Range<Duration>,
}

/// Something that befalls a node or a link.
#[derive(Clone, Debug)]
pub(super) enum Trouble {
    /// `kill -9`, at once or at a replica's so many more effects.
    Kill {
        who: Who,
        after_effects: Option<u32>,
        down: Us,
    },
    /// SIGSTOP, SIGCONT.
    Pause { who: Who, during: Us },
    /// Nothing gets through in these directions.
    Clog { links: Vec<(Who, Who)>, during: Us },
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Who {
    Replica(usize),
    Store,
    Provider,
    Client,
}

/// A run of the core ring may last for simulated hours; messages that really
/// travel cost more.
const LONGEST_STORM: Us = 40 * MINUTE;

impl Plan {
    pub(super) fn of(seed: u64) -> Plan {
        let mut scenario = short_scenario(seed);
        let rng = &mut Rng::keyed(seed, Purpose::Process, 1, 0);
        let storms = scenario.chaos.drain(..).filter_map(|(at, chaos)| {
            let Chaos::Storm { during, kind } = chaos else {
                return None;
            };
            Some((at..(at + during).min(scenario.calm_at), kind))
        });
        let storms = storms.collect();
        scenario.replicas = REPLICAS;
        let slowest_ms = rng.weighted(&[(10, 5), (60, 3), (400, 1)]);
        Plan {
            troubles: troubles(rng, scenario.calm_at),
            storms,
            loss: rng.weighted(&[(0.0, 5), (0.002, 3), (0.02, 2)]),
            latency: Duration::from_millis(1)..Duration::from_millis(slowest_ms),
            scenario,
        }
    }
}

/// The first one of the seed's own family that is short enough.
fn short_scenario(seed: u64) -> Scenario {
    let mut member = seed;
    loop {
        let scenario = Scenario::of(member, Profile::Swarm);
        if scenario.calm_at <= LONGEST_STORM {
            return scenario;
        }
        member = member.wrapping_add(1 << 32);
    }
}

fn troubles(rng: &mut Rng, end: Us) -> Vec<(Us, Trouble)> {
    let mut all = Vec::new();
    let mut befall = |rng: &mut Rng, chance, mean: Us, what: &dyn Fn(&mut Rng) -> Trouble| {
        let mut at = rng.range(0, 2 * mean);
        let happens = rng.chance(chance);
        while happens && at < end {
            all.push((at, what(rng)));
            at += rng.range(mean / 4, 2 * mean);
        }
    };
    for replica in 0..REPLICAS {
        let who = Who::Replica(replica);
        befall(rng, 5_000, 4 * MINUTE, &|rng| kill(rng, who, 90 * SECOND));
        befall(rng, 4_000, 5 * MINUTE, &|rng| Trouble::Pause {
            who,
            during: rng.spread(SECOND, 4 * MINUTE),
        });
        befall(rng, 3_500, 5 * MINUTE, &|rng| clog(rng, who, Who::Store));
        befall(rng, 3_000, 6 * MINUTE, &|rng| clog(rng, who, Who::Provider));
        befall(rng, 2_500, 6 * MINUTE, &|rng| clog(rng, who, Who::Client));
    }
    befall(rng, 4_000, 6 * MINUTE, &|rng| {
        kill(rng, Who::Store, 40 * SECOND)
    });
    befall(rng, 2_500, 8 * MINUTE, &|rng| Trouble::Pause {
        who: Who::Store,
        during: rng.spread(SECOND, 90 * SECOND),
    });
    befall(rng, 3_000, 8 * MINUTE, &|rng| {
        kill(rng, Who::Provider, 20 * SECOND)
    });
    all
}

fn kill(rng: &mut Rng, who: Who, longest: Us) -> Trouble {
    let at_effect = matches!(who, Who::Replica(_)) && rng.chance(6_000);
    Trouble::Kill {
        who,
        after_effects: at_effect.then(|| u32::try_from(rng.below(12)).unwrap_or(0)),
        down: rng.spread(SECOND / 2, longest),
    }
}

fn clog(rng: &mut Rng, a: Who, b: Who) -> Trouble {
    let links = match rng.below(4) {
        0 => vec![(a, b)],
        1 => vec![(b, a)],
        _ => vec![(a, b), (b, a)],
    };
    Trouble::Clog {
        links,
        during: rng.spread(2 * SECOND, 4 * MINUTE),
    }
}
