//! The texture of a run: delays and choices that no list holds. Every moment
//! has its own throws, so that an event more or less shifts none at another
//! moment: what remains of a shrunk run goes on as it was.

use crate::clock::Us;
use crate::rng::{Purpose, Rng};

/// Dice by purpose.
pub(crate) struct Dice {
    seed: u64,
    /// Every throw takes the first choice, the shortest delay, the better luck.
    plain: bool,
    at: Us,
    thrown: [Option<Rng>; PURPOSES],
}

const PURPOSES: usize = 6;

impl Dice {
    pub(crate) fn new(seed: u64, plain: bool) -> Dice {
        Dice {
            seed,
            plain,
            at: 0,
            thrown: [const { None }; PURPOSES],
        }
    }

    /// Moves to a moment of the run.
    pub(crate) fn move_to(&mut self, at: Us) {
        if at != self.at {
            self.at = at;
            self.thrown = [const { None }; PURPOSES];
        }
    }

    pub(crate) fn network(&mut self) -> &mut Rng {
        self.of(0, Purpose::Network)
    }

    pub(crate) fn store(&mut self) -> &mut Rng {
        self.of(1, Purpose::Store)
    }

    pub(crate) fn clients(&mut self) -> &mut Rng {
        self.of(2, Purpose::Clients)
    }

    pub(crate) fn process(&mut self) -> &mut Rng {
        self.of(3, Purpose::Process)
    }

    pub(crate) fn luck(&mut self) -> &mut Rng {
        self.of(5, Purpose::Luck)
    }

    /// Never plain: processes must not share their seeds.
    pub(crate) fn core(&mut self) -> &mut Rng {
        let (seed, at) = (self.seed, self.at);
        self.thrown[4].get_or_insert_with(|| Rng::keyed(seed, Purpose::Core, at, 0))
    }

    /// Dice of its own for one thing among many.
    pub(crate) fn keyed(&self, purpose: Purpose, a: u64, b: u64) -> Rng {
        match self.plain {
            true => Rng::plain(),
            false => Rng::keyed(self.seed, purpose, a, b),
        }
    }

    fn of(&mut self, slot: usize, purpose: Purpose) -> &mut Rng {
        let (seed, at, plain) = (self.seed, self.at, self.plain);
        self.thrown[slot].get_or_insert_with(|| match plain {
            true => Rng::plain(),
            false => Rng::keyed(seed, purpose, at, 0),
        })
    }
}
