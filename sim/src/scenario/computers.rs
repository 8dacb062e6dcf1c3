//! Computers that tools run on over links, and what goes wrong with them.

use serde::{Deserialize, Serialize};

use super::{Act, Chaos, HOUR, MINUTE, SECOND, Scenario};
use crate::clock::Us;
use crate::rng::Rng;

/// What is wrong with a computer, or with the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Trouble {
    /// Every link is reset at this moment; new ones can be had.
    Cut,
    /// Nobody listens, and every link is reset.
    Refuses,
    /// The same, and every command there has died.
    Reboots,
    /// Its sshd stands still: what is asked of it happens when it goes on.
    Silent,
    /// Packets vanish: what is asked of it is lost, or comes late.
    Vanishes,
    /// It lets nobody in any more; links that are open stay so.
    Rejects,
    /// It has another host key than the one that was pinned.
    OtherKey,
    /// It lets in, and has no SFTP.
    NoFiles,
    /// Links break soon after they have been opened.
    Flaps,
    /// A handshake never ends, and whoever keeps its deadline fails to.
    Hangs,
    /// Its disks do not answer: starts hang, and may come late.
    Stalls,
    /// The code that speaks with it panics.
    Breaks,
}

impl Trouble {
    const ALL: [Trouble; 12] = [
        Trouble::Cut,
        Trouble::Refuses,
        Trouble::Reboots,
        Trouble::Silent,
        Trouble::Vanishes,
        Trouble::Rejects,
        Trouble::OtherKey,
        Trouble::NoFiles,
        Trouble::Flaps,
        Trouble::Hangs,
        Trouble::Stalls,
        Trouble::Breaks,
    ];

    fn lasts(self, rng: &mut Rng) -> Us {
        match self {
            Trouble::Cut => 0,
            Trouble::Flaps | Trouble::Hangs | Trouble::Stalls | Trouble::Breaks => {
                rng.spread(MINUTE, 15 * MINUTE)
            }
            Trouble::Refuses
            | Trouble::Reboots
            | Trouble::Silent
            | Trouble::Vanishes
            | Trouble::Rejects
            | Trouble::OtherKey
            | Trouble::NoFiles => rng.spread(SECOND, 12 * MINUTE),
        }
    }
}

impl Scenario {
    pub(super) fn plan_computers(&mut self, rng: &mut Rng) {
        if !rng.chance(3_000) {
            return;
        }
        self.computers = usize::try_from(rng.range(1, 4)).unwrap_or(1);
        for talk in &mut self.conversations {
            talk.computer = rng.chance(7_000).then(|| rng.index(self.computers));
        }
        let kinds: Vec<Trouble> = Trouble::ALL
            .into_iter()
            .filter(|_| rng.chance(4_000))
            .collect();
        let end = self.calm_at.min(2 * HOUR);
        for computer in 0..self.computers {
            if kinds.is_empty() || rng.chance(2_500) {
                continue;
            }
            let every = *rng.pick(&[MINUTE, 4 * MINUTE, 12 * MINUTE]);
            let mut at = rng.range(0, 2 * every);
            while at < end {
                let trouble = *rng.pick(&kinds);
                let during = trouble.lasts(rng);
                let chaos = Chaos::Computer {
                    computer,
                    trouble,
                    during,
                };
                self.chaos.push((at, chaos));
                at += during + rng.range(every / 8, 2 * every);
            }
        }
        if rng.chance(3_000) {
            for _ in 0..rng.range(1, 12) {
                let computer = rng.index(self.computers);
                self.acts.push((rng.range(0, end), Act::Test { computer }));
            }
        }
    }
}
