//! `one-link` (S4): a replica has at most one link to a computer, open or on its
//! way. `link-ends` (S4, T10): a link that is wished for is there soon, or is
//! given up. `link-backoff` (S4): a computer that does not let in is not asked
//! again and again.

use std::collections::{BTreeMap, VecDeque};

use dispatch_core::ids::{ComputerId, EffectId};

use super::hindrance::Hindrance;
use super::{Breach, Oracle};
use crate::clock::Us;
use crate::fact::{Fact, Life, Moment};

/// Links of replicas that have a process.
#[derive(Debug)]
pub(super) struct Links<T> {
    pub(super) all: BTreeMap<(usize, EffectId), T>,
}

impl<T> Default for Links<T> {
    fn default() -> Links<T> {
        let all = BTreeMap::new();
        Links { all }
    }
}

impl<T> Links<T> {
    /// Forgets those that are no more.
    pub(super) fn see(&mut self, fact: &Fact<'_>) {
        match fact {
            Fact::LinkGone { replica, link } => {
                self.all.remove(&(*replica, *link));
            }
            Fact::Lives {
                replica,
                state: Life::Down,
                ..
            }
            | Fact::Panicked { replica, .. } => self.all.retain(|(of, _), _| of != replica),
            _ => {}
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct OneLink {
    links: Links<ComputerId>,
}

impl Oracle for OneLink {
    fn name(&self) -> &'static str {
        "one-link"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.links.see(fact);
        let Fact::LinkWished {
            replica,
            computer,
            link,
        } = fact
        else {
            return Ok(());
        };
        let key = (*replica, *link);
        let is_other = |(of, to): (&(usize, EffectId), &ComputerId)| {
            of.0 == *replica && *of != key && to == *computer
        };
        if self.links.all.iter().any(is_other) {
            return Breach::new(
                format!("replica {replica} has one link to {computer}"),
                "it wishes for another one".to_owned(),
            );
        }
        self.links.all.insert(key, (*computer).clone());
        Ok(())
    }
}

/// The deadlines for a connection and a handshake, the core's own grace, and
/// the time between two looks.
const SOON_US: Us = 40_000_000;

#[derive(Debug, Default)]
pub(crate) struct LinkEnds {
    wished: Links<Us>,
    hindrance: Hindrance,
}

impl Oracle for LinkEnds {
    fn name(&self) -> &'static str {
        "link-ends"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        self.wished.see(fact);
        self.hindrance.see(moment, fact);
        match fact {
            Fact::LinkWished { replica, link, .. } => {
                self.wished.all.insert((*replica, *link), moment.at);
            }
            Fact::LinkUp { replica, link } => {
                self.wished.all.remove(&(*replica, *link));
            }
            Fact::Slots { .. } => {
                for ((replica, _), since) in &self.wished.all {
                    let clear = self.hindrance.clear_since(*since);
                    if clear.is_some_and(|since| moment.at > since + SOON_US) {
                        return Breach::new(
                            format!("replica {replica} has its link or gives it up"),
                            format!("it waits for {} s", (moment.at - since) / 1_000_000),
                        );
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// So many wishes within so long: five that failed cost a quarantine of that
/// length, of which a clock that runs otherwise may see a little less.
const MOST_WISHES: usize = 5;
const WINDOW_US: Us = 299_000_000;

#[derive(Debug, Default)]
pub(crate) struct LinkBackoff {
    wishes: BTreeMap<(usize, ComputerId), VecDeque<Us>>,
}

impl Oracle for LinkBackoff {
    fn name(&self) -> &'static str {
        "link-backoff"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Lives {
                replica,
                state: Life::Down,
                ..
            }
            | Fact::Panicked { replica, .. } => self.wishes.retain(|(of, _), _| of != replica),
            // It cuts a pause short.
            Fact::ComputerTested { computer } => {
                self.wishes.retain(|(_, to), _| to != *computer);
            }
            Fact::LinkWished {
                replica, computer, ..
            } => {
                let wishes = self.wishes.entry((*replica, (*computer).clone()));
                let wishes = wishes.or_default();
                wishes.push_back(moment.at);
                wishes.retain(|at| moment.at - at < WINDOW_US);
                if wishes.len() > MOST_WISHES {
                    return Breach::new(
                        format!("replica {replica} leaves {computer} alone after five failures"),
                        format!("{} links were wished for in five minutes", wishes.len()),
                    );
                }
            }
            _ => {}
        }
        Ok(())
    }
}
