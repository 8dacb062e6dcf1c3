//! The oracles: each watches the facts of a run for one promise. They are
//! written from the requirements and hold their own small reference of what
//! they judge. They share with the core the types of the facts, with their
//! small predicates; `valid-transcript` uses its validator of requests, which
//! the core itself never calls; `core-check` and `bounded` are its own word.

mod abort_ends;
mod accepted_once;
mod at_home;
mod client_view;
mod command_ends;
mod contained;
mod content;
mod converged;
mod core_state;
mod fenced;
mod hindrance;
mod idle_slot;
mod justified;
mod limit;
mod links;
mod log_size;
mod no_backstop;
mod one_terminal;
mod order;
mod progress;
mod retry_schedule;
mod rows;
mod sequence;
mod slot_has_stream;
mod step_limit;
mod told;
mod tools;
mod transcript;
mod troubles;
mod usage;

#[cfg(test)]
mod doctored;

use std::rc::Rc;

use dispatch_core::webhook::EndpointRow;

use crate::fact::{Fact, Moment};
use crate::script::Script;

/// What a run's oracles must know of its configuration.
#[derive(Clone, Debug)]
pub struct Terms {
    /// What the model says, by token.
    pub scripts: Vec<Script>,
    /// A cut after content is repeated once (T11).
    pub repeats_cuts: bool,
    /// A crash ends the turns that it hits (L4).
    pub seals: bool,
    /// Takeovers without a completed step between them (L4).
    pub resume_limit: u32,
    /// What the scheduled waits of one step may add up to (T3).
    pub retry_budget_ms: u64,
    /// One step's content (T8).
    pub step_limit_bytes: usize,
    /// Steps of a turn; 0: no limit (T7).
    pub step_limit: u32,
    /// Who is told of terminal events (C7).
    pub endpoints: Vec<EndpointRow>,
    /// How many computers tools run on over links.
    pub computers: usize,
}

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breach {
    /// What should have been.
    pub expected: String,
    /// What was.
    pub seen: String,
}

impl Breach {
    fn new<T>(expected: impl Into<String>, seen: impl Into<String>) -> Result<T, Breach> {
        Err(Breach {
            expected: expected.into(),
            seen: seen.into(),
        })
    }
}

/// A watcher of one promise.
pub(crate) trait Oracle {
    /// Stable, kebab case.
    fn name(&self) -> &'static str;

    /// Judges one more fact.
    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach>;
}

/// The names of all oracles, in the order in which they are asked.
pub fn names() -> Vec<&'static str> {
    let terms = Terms {
        scripts: Vec::new(),
        repeats_cuts: false,
        seals: false,
        resume_limit: 0,
        retry_budget_ms: 0,
        step_limit_bytes: 0,
        step_limit: 0,
        endpoints: Vec::new(),
        computers: 0,
    };
    let oracles = all(&Rc::new(terms));
    oracles.iter().map(|oracle| oracle.name()).collect()
}

/// All oracles of one run.
pub(crate) fn all(terms: &Rc<Terms>) -> Vec<Box<dyn Oracle>> {
    vec![
        Box::<core_state::NoPanic>::default(),
        Box::<converged::Converged>::default(),
        Box::<one_terminal::OneTerminal>::default(),
        Box::<sequence::Sequence>::default(),
        Box::<rows::Marker>::default(),
        Box::<rows::OneOwner>::default(),
        Box::<fenced::Fenced>::default(),
        Box::<at_home::AtHome>::default(),
        Box::<abort_ends::AbortEnds>::default(),
        Box::<progress::Progress>::default(),
        Box::new(log_size::LogSize::new(terms)),
        Box::<tools::ToolsAnswered>::default(),
        Box::new(retry_schedule::RetrySchedule::new(terms)),
        Box::new(justified::Justified::new(terms)),
        Box::new(content::Content::new(terms)),
        Box::new(step_limit::StepLimit::new(terms)),
        Box::<limit::Limit>::default(),
        Box::<order::Order>::default(),
        Box::<client_view::ClientView>::default(),
        Box::<transcript::ValidTranscript>::default(),
        Box::<tools::ToolOnce>::default(),
        Box::<tools::NoOrphan>::default(),
        Box::<command_ends::CommandEnds>::default(),
        Box::<links::OneLink>::default(),
        Box::<links::LinkEnds>::default(),
        Box::<links::LinkBackoff>::default(),
        Box::<contained::LinkFaultContained>::default(),
        Box::<usage::OfSteps>::default(),
        Box::<accepted_once::AcceptedOnce>::default(),
        Box::new(told::Told::new(terms)),
        Box::<slot_has_stream::SlotHasStream>::default(),
        Box::<idle_slot::NoIdleSlot>::default(),
        Box::new(no_backstop::NoBackstop::new(terms)),
        Box::<core_state::CoreCheck>::default(),
        Box::new(core_state::Bounded::new(terms)),
    ]
}
