//! What a driver has under way, by the effect that it carries out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use dispatch_core::ids::{EffectId, TurnId};
use dispatch_core::io::{Found, Input};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::Census;
use crate::computers::Link;
use crate::exec::ToolHandle;

/// What is under way, by effect: whose turn it is, and how to stop it.
#[derive(Default)]
pub(super) struct Flights(BTreeMap<EffectId, Flight>);

struct Flight {
    turn: Option<TurnId>,
    /// It goes over this link, and ends with it.
    over: Option<EffectId>,
    work: Work,
}

pub(super) enum Work {
    /// Runs to its end by itself.
    Plain,
    Stream {
        task: AbortHandle,
        /// The rest of the body is read for the connection's sake only.
        finish: CancellationToken,
    },
    Tool(ToolHandle),
    Delivery(AbortHandle),
    Link(Arc<dyn Link>),
}

impl Flights {
    pub(super) fn add(&mut self, id: EffectId, turn: Option<TurnId>, work: Work) {
        let over = None;
        self.0.insert(id, Flight { turn, over, work });
    }

    pub(super) fn add_over(&mut self, link: EffectId, id: EffectId, turn: TurnId, work: Work) {
        let (turn, over) = (Some(turn), Some(link));
        self.0.insert(id, Flight { turn, over, work });
    }

    pub(super) fn link(&self, id: EffectId) -> Option<&Arc<dyn Link>> {
        match &self.0.get(&id)?.work {
            Work::Link(link) => Some(link),
            Work::Plain | Work::Stream { .. } | Work::Tool(_) | Work::Delivery(_) => None,
        }
    }

    /// Nothing more comes of a link, nor of what goes over it.
    pub(super) fn unlink(&mut self, link: EffectId) {
        if let Some(flight) = self.0.remove(&link) {
            flight.work.stop();
        }
        self.0.retain(|_, flight| flight.over != Some(link));
    }

    /// The turn that an input is about; `None` for those that concern nobody or many.
    pub(super) fn turn_of(&self, input: &Input) -> Option<TurnId> {
        self.0.get(&effect_of(input)?)?.turn
    }

    /// Forgets an effect with the last input about it.
    pub(super) fn over(&mut self, input: &Input) {
        if let Input::ComputerDown { id, .. } = input {
            return self.unlink(*id);
        }
        let is_last = match input {
            Input::Stored { .. }
            | Input::ProviderEnd { .. }
            | Input::ProviderFailed { .. }
            | Input::ToolDone { .. }
            | Input::Unattended { .. }
            | Input::DeliveryDone { .. }
            | Input::ToolLost { .. }
            | Input::EffectPanicked { .. } => true,
            Input::Adopted { found, .. } => *found != Found::Running,
            Input::Tick
            | Input::Command { .. }
            | Input::ProviderHead { .. }
            | Input::ProviderBytes { .. }
            | Input::ToolOutput { .. }
            | Input::ComputerUp { .. }
            | Input::ComputerDown { .. }
            | Input::ComputerAlive { .. }
            | Input::Nudged
            | Input::Shutdown => false,
        };
        if is_last && let Some(id) = effect_of(input) {
            self.0.remove(&id);
        }
    }

    /// Turns that something is under way for.
    pub(super) fn turns(&self) -> usize {
        let turns: BTreeSet<_> = self.0.values().filter_map(|flight| flight.turn).collect();
        turns.len()
    }

    pub(super) fn census(&self) -> Census {
        let mut census = Census {
            turns: self.turns(),
            ..Census::default()
        };
        for flight in self.0.values() {
            match flight.work {
                Work::Plain => {}
                Work::Stream { .. } => census.streams += 1,
                Work::Tool(_) => census.tools += 1,
                Work::Delivery(_) => census.deliveries += 1,
                Work::Link(_) => census.links += 1,
            }
        }
        census
    }

    /// Drops every stream and leaves commands to their supervisors: the next
    /// life adopts them.
    pub(super) fn leave(&mut self) {
        for flight in std::mem::take(&mut self.0).into_values() {
            flight.work.leave();
        }
    }

    pub(super) fn let_go(&mut self, id: EffectId) {
        if let Some(flight) = self.0.remove(&id) {
            flight.work.leave();
        }
    }

    pub(super) fn close(&mut self, id: EffectId, finished: bool) {
        match self.0.remove(&id).map(|flight| flight.work) {
            Some(Work::Stream { finish, .. }) if finished => finish.cancel(),
            Some(work) => work.stop(),
            None => {}
        }
    }

    pub(super) fn stop(&self, id: EffectId) {
        if let Some(flight) = self.0.get(&id) {
            flight.work.stop();
        }
    }
}

impl Work {
    fn leave(&self) {
        match self {
            Work::Plain => {}
            Work::Stream { task, .. } | Work::Delivery(task) => task.abort(),
            Work::Tool(tool) => tool.leave(),
            Work::Link(link) => link.close(),
        }
    }

    fn stop(&self) {
        match self {
            Work::Plain => {}
            Work::Stream { task, .. } | Work::Delivery(task) => task.abort(),
            Work::Tool(tool) => tool.kill(),
            Work::Link(link) => link.close(),
        }
    }
}

fn effect_of(input: &Input) -> Option<EffectId> {
    match input {
        Input::Tick | Input::Command { .. } | Input::Nudged | Input::Shutdown => None,
        Input::Stored { id, .. }
        | Input::ProviderHead { id, .. }
        | Input::ProviderBytes { id, .. }
        | Input::ProviderEnd { id }
        | Input::ProviderFailed { id, .. }
        | Input::ToolOutput { id, .. }
        | Input::ToolDone { id, .. }
        | Input::Adopted { id, .. }
        | Input::ComputerUp { id }
        | Input::ComputerDown { id, .. }
        | Input::ComputerAlive { id }
        | Input::Unattended { id, .. }
        | Input::DeliveryDone { id, .. }
        | Input::ToolLost { id, .. }
        | Input::EffectPanicked { id, .. } => Some(*id),
    }
}
