//! Where facts are heard: by every oracle, and by the watcher of rare things.

use std::rc::Rc;

use crate::fact::{Fact, Moment};
use crate::oracle::{Breach, Oracle, Terms, all};
use crate::run::{Violation, What};
use crate::sometimes::Sometimes;

/// See the module's page.
pub(crate) struct Court {
    seed: u64,
    oracles: Vec<Box<dyn Oracle>>,
    pub(crate) violation: Option<Violation>,
    pub(crate) sometimes: Sometimes,
}

impl Court {
    pub(super) fn new(seed: u64, terms: &Rc<Terms>, replicas: usize) -> Court {
        Court {
            seed,
            oracles: all(terms),
            violation: None,
            sometimes: Sometimes::new(replicas),
        }
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Hears one more fact; after the first broken promise nothing counts.
    pub(super) fn hear(&mut self, moment: &Moment, fact: &Fact<'_>) {
        if self.violation.is_some() {
            return;
        }
        self.sometimes.see(fact);
        for oracle in &mut self.oracles {
            if let Err(Breach { expected, seen }) = oracle.see(moment, fact) {
                self.violation = Some(Violation {
                    seed: self.seed,
                    at_us: moment.at,
                    what: What::Oracle(oracle.name()),
                    expected,
                    seen,
                });
                return;
            }
        }
    }
}
