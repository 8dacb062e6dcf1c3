//! What goes wrong by chance: drawn by the scenario's rates in a run of a seed,
//! taken from a list in a run of a recipe. Either way it is kept what happened,
//! so that a run that failed can be played again, and made smaller.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::clock::Us;
use crate::rng::Rng;
use crate::scenario::{Fault, Faults, SECOND};

/// One thing that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    rename_all = "kebab-case",
    rename_all_fields = "camelCase",
    deny_unknown_fields
)]
pub(crate) enum Mishap {
    /// A verb of the store.
    Store {
        /// When it was asked.
        at: Us,
        /// By whom.
        replica: usize,
        /// [`dispatch_core::store::Verb::name`].
        verb: String,
        /// Among the verbs of this name asked by this replica at this moment.
        nth: u32,
        /// What became of it.
        fate: Fate,
    },
    /// A verb that a layer below sends once more.
    Echo {
        /// When it was asked.
        at: Us,
        /// By whom.
        replica: usize,
        /// [`dispatch_core::store::Verb::name`].
        verb: String,
        /// As of [`Mishap::Store`].
        nth: u32,
        /// How much later it comes once more.
        after: Us,
    },
    /// A request to a provider.
    Answer {
        /// The turn's message.
        token: u32,
        /// The step asked for.
        step: u32,
        /// How often it was asked for, this time included.
        attempt: u64,
        /// How it was answered.
        fault: Fault,
    },
    /// A command.
    Tool {
        /// The command.
        command: String,
        /// How it went.
        trouble: ToolTrouble,
    },
}

/// What becomes of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fate {
    Fine,
    /// It lands; the reply says that nobody knows.
    UnknownLanded,
    /// It does not land; the reply says that nobody knows.
    UnknownLost,
    /// It does not land, and the reply says so.
    Failed,
    /// It lands; the reply comes after the core has given up.
    LateReply,
    /// It lands after the core has given up.
    LateLanding,
    /// It is on its way when the network breaks, and lands when that is mended.
    Held,
    /// It does not land, and no reply comes.
    Lost,
    /// Its reply comes twice.
    Twice,
    /// It was sent once more by a layer below: it lands, and nobody listens.
    Echo,
}

/// What is wrong with a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ToolTrouble {
    /// It runs on past its deadline.
    pub(crate) hangs: bool,
    /// Nobody is told of its end.
    pub(crate) end_is_lost: bool,
    /// It exits with an error.
    pub(crate) fails: bool,
}

/// See the module's page.
#[derive(Debug)]
pub(crate) struct Luck {
    source: Source,
    happened: Vec<Mishap>,
    /// Verbs asked at `at`, by replica and name.
    asked: BTreeMap<(usize, &'static str), u32>,
    at: Us,
}

#[derive(Debug)]
enum Source {
    Drawn(Box<Faults>),
    Listed(Vec<Option<Mishap>>),
}

/// A listed mishap of the store still befalls a verb that comes so much later
/// than the one that it was meant for.
const LATE: Us = 30 * SECOND;

impl Luck {
    /// By chance.
    pub(crate) fn drawn(faults: &Faults) -> Luck {
        Luck::of(Source::Drawn(Box::new(faults.clone())))
    }

    /// As written.
    pub(crate) fn listed(mishaps: Vec<Mishap>) -> Luck {
        Luck::of(Source::Listed(mishaps.into_iter().map(Some).collect()))
    }

    fn of(source: Source) -> Luck {
        Luck {
            source,
            happened: Vec::new(),
            asked: BTreeMap::new(),
            at: 0,
        }
    }

    /// What went wrong so far.
    pub(crate) fn into_happened(self) -> Vec<Mishap> {
        self.happened
    }

    /// What is listed and has befallen nothing.
    pub(crate) fn left(&self) -> Vec<&Mishap> {
        match &self.source {
            Source::Drawn(_) => Vec::new(),
            Source::Listed(list) => list.iter().flatten().collect(),
        }
    }

    /// Of a verb that is asked now. `rng` is for a drawn one; `is_cut_off`: its
    /// replica does not reach the store; `is_calm`: nothing fails any more.
    pub(crate) fn fate(&mut self, rng: &mut Rng, ask: Ask, is_cut_off: bool) -> Fate {
        if self.at != ask.at {
            self.at = ask.at;
            self.asked.clear();
        }
        let nth = self.asked.entry((ask.replica, ask.verb)).or_default();
        *nth += 1;
        let nth = *nth;
        let fate = match &mut self.source {
            Source::Drawn(_) | Source::Listed(_) if is_cut_off => {
                *rng.pick(&[Fate::Failed, Fate::Lost, Fate::UnknownLost, Fate::Held])
            }
            Source::Drawn(faults) => match ask.is_calm {
                true => Fate::Fine,
                false => faults.fate(rng),
            },
            Source::Listed(list) => take(list, |mishap| match mishap {
                Mishap::Store {
                    at,
                    replica,
                    verb,
                    nth: listed,
                    fate,
                } => ask
                    .is_meant((*at, *listed), nth)
                    .then_some(*fate)
                    .filter(|_| *replica == ask.replica && verb == ask.verb),
                Mishap::Echo { .. } | Mishap::Answer { .. } | Mishap::Tool { .. } => None,
            })
            .unwrap_or(Fate::Fine),
        };
        // What a partition does to a verb follows from the partition.
        if fate != Fate::Fine && !is_cut_off {
            self.happened.push(Mishap::Store {
                at: ask.at,
                replica: ask.replica,
                verb: ask.verb.to_owned(),
                nth,
                fate,
            });
        }
        fate
    }

    /// How much later a verb that has just met its fate comes once more.
    pub(crate) fn echo(&mut self, rng: &mut Rng, ask: Ask) -> Option<Us> {
        let nth = self.asked.get(&(ask.replica, ask.verb)).copied();
        let nth = nth.filter(|_| self.at == ask.at).unwrap_or_default();
        let after = match &mut self.source {
            Source::Drawn(faults) => {
                let echoes = faults.store_echo > 0 && !ask.is_calm && rng.chance(faults.store_echo);
                echoes.then(|| rng.spread(SECOND / 10, 90 * SECOND))
            }
            Source::Listed(list) => take(list, |mishap| match mishap {
                Mishap::Echo {
                    at,
                    replica,
                    verb,
                    nth: listed,
                    after,
                } => ask
                    .is_meant((*at, *listed), nth)
                    .then_some(*after)
                    .filter(|_| *replica == ask.replica && verb == ask.verb),
                Mishap::Store { .. } | Mishap::Answer { .. } | Mishap::Tool { .. } => None,
            }),
        };
        if let Some(after) = after {
            self.happened.push(Mishap::Echo {
                at: ask.at,
                replica: ask.replica,
                verb: ask.verb.to_owned(),
                nth,
                after,
            });
        }
        after
    }

    /// Of a request that has reached its provider.
    pub(crate) fn fault(
        &mut self,
        rng: &mut Rng,
        of: (u32, u32, u64),
        is_calm: bool,
    ) -> Option<Fault> {
        let fault = match &mut self.source {
            Source::Drawn(faults) => {
                let fails = rng.chance(faults.provider) && !is_calm;
                fails.then(|| rng.weighted(&faults.provider_kinds))
            }
            Source::Listed(list) => take(list, |mishap| match mishap {
                Mishap::Answer {
                    token,
                    step,
                    attempt,
                    fault,
                } => ((*token, *step, *attempt) == of).then_some(*fault),
                Mishap::Store { .. } | Mishap::Echo { .. } | Mishap::Tool { .. } => None,
            }),
        };
        if let Some(fault) = fault {
            let (token, step, attempt) = of;
            self.happened.push(Mishap::Answer {
                token,
                step,
                attempt,
                fault,
            });
        }
        fault
    }

    /// Of a command that starts.
    pub(crate) fn tool(&mut self, rng: &mut Rng, command: &str, is_calm: bool) -> ToolTrouble {
        let trouble = match &mut self.source {
            Source::Drawn(faults) => ToolTrouble {
                hangs: rng.chance(faults.tool_hang),
                end_is_lost: rng.chance(faults.tool_end_lost) && !is_calm,
                fails: rng.chance(faults.tool_fails),
            },
            Source::Listed(list) => take(list, |mishap| match mishap {
                Mishap::Tool {
                    command: listed,
                    trouble,
                } => (listed == command).then_some(*trouble),
                Mishap::Store { .. } | Mishap::Echo { .. } | Mishap::Answer { .. } => None,
            })
            .unwrap_or_default(),
        };
        if trouble != ToolTrouble::default() {
            let command = command.to_owned();
            self.happened.push(Mishap::Tool { command, trouble });
        }
        trouble
    }
}

/// A verb as it is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) at: Us,
    pub(crate) replica: usize,
    pub(crate) verb: &'static str,
    pub(crate) is_calm: bool,
}

impl Ask {
    /// Whether it is what is listed of a moment and a place in its row, or one
    /// that came a little later.
    fn is_meant(&self, (at, listed): (Us, u32), nth: u32) -> bool {
        (at == self.at && listed == nth) || (at < self.at && self.at <= at + LATE)
    }
}

/// Takes the first of the list for which there is an answer.
fn take<T>(list: &mut [Option<Mishap>], answer: impl Fn(&Mishap) -> Option<T>) -> Option<T> {
    list.iter_mut().find_map(|place| {
        let found = answer(place.as_ref()?)?;
        *place = None;
        Some(found)
    })
}

impl Faults {
    fn fate(&self, rng: &mut Rng) -> Fate {
        if rng.chance(self.store_unknown) {
            return *rng.pick(&[Fate::UnknownLanded, Fate::UnknownLost]);
        }
        if rng.chance(self.store_failed) {
            return Fate::Failed;
        }
        if rng.chance(self.store_stall) {
            return *rng.pick(&[Fate::LateReply, Fate::LateLanding, Fate::Lost]);
        }
        match rng.chance(self.store_twice) {
            true => Fate::Twice,
            false => Fate::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Purpose;

    fn ask(at: Us) -> Ask {
        Ask {
            at,
            replica: 1,
            verb: "elect",
            is_calm: false,
        }
    }

    #[test]
    fn a_listed_mishap_befalls_its_verb_or_the_next_one_of_its_name_once() {
        let mishap = |at, nth| Mishap::Store {
            at,
            replica: 1,
            verb: "elect".to_owned(),
            nth,
            fate: Fate::Lost,
        };
        let rng = &mut Rng::plain();
        let mut luck = Luck::listed(vec![mishap(5, 2), mishap(7, 1)]);
        assert_eq!(luck.fate(rng, ask(5), false), Fate::Fine);
        assert_eq!(luck.fate(rng, ask(5), false), Fate::Lost);
        assert_eq!(luck.fate(rng, ask(6), false), Fate::Fine);
        assert_eq!(luck.fate(rng, ask(9), false), Fate::Lost);
        assert_eq!(luck.fate(rng, ask(9), false), Fate::Fine);
        let happened = luck.into_happened();
        assert_eq!(happened, vec![mishap(5, 2), mishap(9, 1)]);
    }

    #[test]
    fn what_was_drawn_can_be_listed_and_then_happens_again() {
        let faults = Faults {
            provider: 5_000,
            provider_kinds: vec![(Fault::Hang, 1), (Fault::Empty, 1)],
            store_unknown: 0,
            store_failed: 0,
            store_stall: 0,
            store_twice: 0,
            store_echo: 0,
            tool_hang: 5_000,
            tool_end_lost: 5_000,
            tool_fails: 5_000,
            store_slowest: 0,
        };
        let play = |mut luck: Luck| {
            let rng = &mut Rng::new(3, Purpose::Provider);
            let faults: Vec<_> = (0..20).map(|n| luck.fault(rng, (n, 0, 1), false)).collect();
            let tools: Vec<_> = (0..20)
                .map(|n| luck.tool(rng, &n.to_string(), false))
                .collect();
            ((faults, tools), luck.into_happened())
        };
        let (drawn, happened) = play(Luck::drawn(&faults));
        assert!(happened.len() > 10);
        let (listed, again) = play(Luck::listed(happened.clone()));
        assert_eq!(drawn, listed);
        assert_eq!(happened, again);
    }
}
