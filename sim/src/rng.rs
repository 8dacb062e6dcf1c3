//! Randomness of a run: one generator a purpose, all grown from the run's seed,
//! so that a draw added for one purpose shifts no other. Small ones, quick to
//! make: every moment of a run has its own.

use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::{Rng as _, SeedableRng};
use xxhash_rust::xxh3::xxh3_64;

/// What a stream of draws is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// What the run consists of.
    Scenario = 1,
    /// Delays of the network.
    Network = 2,
    /// Delays and faults of the store.
    Store = 3,
    /// What clients do.
    Clients = 4,
    /// What a turn's script says.
    Script = 5,
    /// How one request is answered.
    Provider = 6,
    /// How one tool call goes.
    Tool = 7,
    /// When processes die, and of what.
    Process = 8,
    /// The Dispatchers' own seeds.
    Core = 9,
    /// What goes wrong: apart from the texture, which is the same where what went
    /// wrong is not drawn but listed.
    Luck = 10,
}

/// One stream of draws.
#[derive(Clone, Debug)]
pub(crate) struct Rng(Option<Xoshiro256PlusPlus>);

impl Rng {
    /// The stream for a purpose.
    pub(crate) fn new(seed: u64, purpose: Purpose) -> Rng {
        Rng::keyed(seed, purpose, 0, 0)
    }

    /// A stream of its own for one thing among many, whatever the order in
    /// which they come up.
    pub(crate) fn keyed(seed: u64, purpose: Purpose, a: u64, b: u64) -> Rng {
        let mut bytes = [0; 32];
        for (at, word) in [seed, purpose as u64, a, b].into_iter().enumerate() {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        Rng(Some(Xoshiro256PlusPlus::seed_from_u64(xxh3_64(&bytes))))
    }

    /// A stream without chance: the lowest number, the first choice, and nothing
    /// of what only happens sometimes.
    pub(crate) fn plain() -> Rng {
        Rng(None)
    }

    /// Sixty-four random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0.as_mut().map_or(0, |rng| rng.next_u64())
    }

    /// Thirty-two random bytes.
    pub(crate) fn seed_bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        if let Some(rng) = &mut self.0 {
            rng.fill_bytes(&mut bytes);
        }
        bytes
    }

    /// A number below `bound`; 0 when there is none.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // The bias of a remainder is irrelevant at these sizes.
        self.bits() % bound.max(1)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }

    /// [`Rng::range`], with every order of magnitude as likely as the next.
    pub(crate) fn spread(&mut self, low: u64, high: u64) -> u64 {
        let (from, to) = (low.max(1).ilog2(), high.max(1).ilog2());
        let power = self.range(u64::from(from), u64::from(to));
        let within = (1 << power) + self.below(1 << power);
        within.clamp(low, high)
    }

    /// True so many times in 10,000.
    pub(crate) fn chance(&mut self, per_10k: u64) -> bool {
        self.0.is_some() && self.below(10_000) < per_10k
    }

    /// One of them. `choices` must not be empty.
    pub(crate) fn pick<'c, T>(&mut self, choices: &'c [T]) -> &'c T {
        let at = self.below(choices.len() as u64);
        &choices[usize::try_from(at).unwrap_or(0)]
    }

    /// An index below `len`.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or(0)
    }

    /// One choice by weight; `weights` must have a positive sum.
    pub(crate) fn weighted<T: Copy>(&mut self, weights: &[(T, u64)]) -> T {
        let total: u64 = weights.iter().map(|(_, weight)| weight).sum();
        let mut at = self.below(total);
        for (choice, weight) in weights {
            if at < *weight {
                return *choice;
            }
            at -= weight;
        }
        weights[weights.len() - 1].0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_different_purposes_and_keys_differ_and_repeat() {
        let draw = |purpose, a| Rng::keyed(7, purpose, a, 0).bits();
        assert_eq!(draw(Purpose::Tool, 1), draw(Purpose::Tool, 1));
        assert_ne!(draw(Purpose::Tool, 1), draw(Purpose::Tool, 2));
        assert_ne!(draw(Purpose::Tool, 1), draw(Purpose::Store, 1));
    }

    #[test]
    fn a_spread_draw_stays_in_range_and_reaches_every_magnitude() {
        let mut rng = Rng::new(1, Purpose::Store);
        let draws: Vec<u64> = (0..1_000).map(|_| rng.spread(5, 5_000)).collect();
        assert!(draws.iter().all(|n| (5..=5_000).contains(n)));
        assert!(draws.iter().any(|n| *n < 20) && draws.iter().any(|n| *n > 2_000));
    }
}
