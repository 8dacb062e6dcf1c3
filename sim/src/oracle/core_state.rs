//! `no-panic`: nothing panics that was not made to. `core-check`: the
//! Dispatcher's own invariants hold. `bounded`: a Dispatcher
//! at rest weighs what a new one does, so nothing of past turns is kept.

use super::{Breach, Oracle};
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

#[derive(Debug, Default)]
pub(crate) struct Bounded;

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
            } if *bytes > fresh_bytes + SLACK_BYTES => Breach::new(
                format!("a Dispatcher at rest of about {fresh_bytes} bytes"),
                format!("replica {replica} holds {bytes}"),
            ),
            _ => Ok(()),
        }
    }
}
