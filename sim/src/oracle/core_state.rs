//! `no-panic`: nothing panics that was not made to. `core-check`: the
//! Dispatcher's own invariants hold. `bounded`: a Dispatcher
//! at rest weighs what a new one does, so nothing of past turns is kept.

use std::rc::Rc;

use super::{Breach, Oracle, Terms};
use crate::fact::{Fact, Moment};

#[derive(Debug, Default)]
pub(crate) struct NoPanic;

impl Oracle for NoPanic {
    fn name(&self) -> &'static str {
        "no-panic"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Burst { message } => Breach::new("nothing panics", *message),
            _ => Ok(()),
        }
    }
}

#[derive(Debug, Default)]
pub(crate) struct CoreCheck;

impl Oracle for CoreCheck {
    fn name(&self) -> &'static str {
        "core-check"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Checked {
                replica,
                result: Err(broken),
            } => Breach::new(
                "the core's invariants hold",
                format!("replica {replica}: {broken}"),
            ),
            _ => Ok(()),
        }
    }
}

/// Room for a timer or two, a random state and longer numbers.
const SLACK_BYTES: usize = 512;
/// For how a computer's link stands, and what went wrong with it last.
const COMPUTER_BYTES: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Bounded {
    slack_bytes: usize,
}

impl Bounded {
    pub(crate) fn new(terms: &Rc<Terms>) -> Bounded {
        let slack_bytes = SLACK_BYTES + COMPUTER_BYTES * terms.computers;
        Bounded { slack_bytes }
    }
}

impl Oracle for Bounded {
    fn name(&self) -> &'static str {
        "bounded"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Weighed {
                replica,
                bytes,
                fresh_bytes,
            } if *bytes > fresh_bytes + self.slack_bytes => Breach::new(
                format!("a Dispatcher at rest of about {fresh_bytes} bytes"),
                format!("replica {replica} holds {bytes}"),
            ),
            _ => Ok(()),
        }
    }
}
