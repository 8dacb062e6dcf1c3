//! Turns: as their rows have them where the world tells, else as what replicas
//! ask of the store and hear from it implies.

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, ProviderId, TurnId};
use dispatch_core::store::{Reply, TurnRow, TurnState, Verb};
use dispatch_core::time::Timestamp;

use super::Builder;
use super::builder::Place;
use super::model::Field;
use crate::clock::Us;

/// What a verb does to its turn once it has landed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing that shows.
    Stay,
    /// A step is complete, and so many are.
    Complete(TurnId, u32),
    /// Its tools run.
    Tools(TurnId),
    /// Back in line.
    Park(TurnId),
    /// Back in line, for this refusal, until this long from then, in milliseconds.
    Retry(TurnId, u32, u64),
    /// This provider's line is told.
    Look(u32),
    /// This provider's limit is set.
    Limit(u32, u32),
}

impl Step {
    pub(super) fn of(verb: &Verb) -> Step {
        match verb {
            Verb::CommitStep { fence, step } => Step::Complete(fence.turn, step.step + 1),
            Verb::ToolsStarted { fence, .. } | Verb::ToolsFinished { fence, .. } => {
                Step::Tools(fence.turn)
            }
            Verb::Park { fence, .. } => Step::Park(fence.turn),
            Verb::ScheduleRetry { fence, retry } => {
                Step::Retry(fence.turn, retry.attempt, retry.delay_ms)
            }
            Verb::Boot(_)
            | Verb::Accept(_)
            | Verb::AdmissionView { .. }
            | Verb::ApplyGrants(_)
            | Verb::Load { .. }
            | Verb::Checkpoint { .. }
            | Verb::RestartStep { .. }
            | Verb::RequestAbort(_)
            | Verb::Elect(_)
            | Verb::Renew { .. }
            | Verb::Requests { .. }
            | Verb::SweepOne { .. }
            | Verb::Audit
            | Verb::Ended { .. }
            | Verb::PutWorkspace { .. }
            | Verb::Star { .. }
            | Verb::SetLimit { .. }
            | Verb::TakeDeliveries(_)
            | Verb::SettleDelivery { .. } => Step::Stay,
        }
    }
}

/// The turn that a verb is about, if it is about one.
pub(super) fn turn_of(verb: &Verb) -> Option<TurnId> {
    match verb {
        Verb::Accept(accept) => Some(accept.turn),
        Verb::ApplyGrants(plan) => match plan.grants.as_slice() {
            [grant] => Some(grant.turn),
            _ => None,
        },
        Verb::Load { turn, .. } => Some(*turn),
        Verb::CommitStep { fence, .. }
        | Verb::RestartStep { fence, .. }
        | Verb::ToolsStarted { fence, .. }
        | Verb::ToolsFinished { fence, .. }
        | Verb::Park { fence, .. }
        | Verb::ScheduleRetry { fence, .. } => Some(fence.turn),
        Verb::RequestAbort(request) => request.turn,
        Verb::Elect(election) => Some(election.fence.turn),
        Verb::SettleDelivery { turn, .. } => Some(*turn),
        Verb::Boot(_)
        | Verb::AdmissionView { .. }
        | Verb::Checkpoint { .. }
        | Verb::Renew { .. }
        | Verb::Requests { .. }
        | Verb::SweepOne { .. }
        | Verb::Audit
        | Verb::Ended { .. }
        | Verb::PutWorkspace { .. }
        | Verb::Star { .. }
        | Verb::SetLimit { .. }
        | Verb::TakeDeliveries(_) => None,
    }
}

pub(super) fn state_name(state: TurnState) -> &'static str {
    match state {
        TurnState::Blocked => "blocked",
        TurnState::Parked => "parked",
        TurnState::Streaming => "streaming",
        TurnState::Tools => "tools",
        TurnState::Ended => "ended",
    }
}

impl Builder {
    /// A turn's row is so now.
    pub(super) fn row(&mut self, at: Us, row: &TurnRow) {
        self.meet(row.turn, &row.conversation, &row.provider);
        let lane = self.turn_lane(row.turn);
        self.set(lane, Field::State, state_name(row.state));
        self.set(lane, Field::Step, row.step.to_string());
        self.set(lane, Field::Attempt, row.retry.attempt.to_string());
        self.set(lane, Field::Epoch, row.epoch.0.to_string());
        self.set(lane, Field::Resumes, row.resumes.to_string());
        let owner = row.owner.as_ref().map_or("", |owner| &*owner.node);
        self.set(lane, Field::Owner, owner.to_owned());
        let abort = row.abort.as_ref().map(|abort| format!("by {}", abort.by));
        self.set(lane, Field::Abort, abort.unwrap_or_default());
        let due = match row.state {
            TurnState::Parked => Some(self.moment(row.due_at)),
            TurnState::Blocked | TurnState::Streaming | TurnState::Tools | TurnState::Ended => None,
        };
        self.set_due(at, row.turn, due);
    }

    /// A turn is known from now on, and what it belongs to.
    pub(super) fn meet(
        &mut self,
        turn: TurnId,
        conversation: &ConversationId,
        provider: &ProviderId,
    ) -> u32 {
        let lane = self.turn_lane(turn);
        let about = &mut self.lanes[lane as usize].about;
        if about.is_empty() {
            *about = conversation.to_string();
        }
        self.set(lane, Field::Provider, provider.to_string());
        lane
    }

    /// A turn stays parked until then; a moment that has passed is none.
    fn set_due(&mut self, at: Us, turn: TurnId, due: Option<Us>) {
        let lane = self.turn_lane(turn);
        match due.filter(|due| *due > at) {
            Some(due) => {
                self.due.insert(turn, due);
                self.set(lane, Field::Due, due.to_string());
            }
            None => {
                self.due.remove(&turn);
                self.set(lane, Field::Due, "");
            }
        }
    }

    /// Store time as a moment of the picture.
    pub(super) fn moment(&self, at: Timestamp) -> Us {
        at.0.saturating_sub(self.epoch_ms).saturating_mul(1_000)
    }

    /// A logged event that ends a turn says how.
    pub(super) fn logged(&mut self, event: &AgentEvent) {
        if event.is_terminal() {
            let lane = self.turn_lane(event.turn);
            let terminal = match &event.body {
                EventBody::Error { code, .. } => format!("error: {code}"),
                other => other.kind().to_owned(),
            };
            self.set(lane, Field::Terminal, terminal);
        }
    }

    /// Concludes from an answer what rows are like now. The last event is the answer's.
    pub(super) fn conclude(&mut self, at: Us, place: &Place, step: Step, reply: &Reply) {
        match reply {
            Reply::Accepted(receipt, events) => {
                let lane = self.meet(receipt.turn, &receipt.conversation, &receipt.provider);
                if !receipt.replayed && self.value(lane, Field::State).is_empty() {
                    let open = self.talks.entry(receipt.conversation.clone()).or_default();
                    let is_first = open.is_empty();
                    open.insert(receipt.turn);
                    let state = if is_first { "parked" } else { "blocked" };
                    self.set(lane, Field::State, state);
                    self.set(lane, Field::Step, "0");
                }
                self.conclude_events(at, events);
            }
            Reply::Granted(turns) => {
                for granted in turns {
                    let lane = self.turn_lane(granted.turn);
                    let open = self.talks.entry(granted.conversation.clone()).or_default();
                    open.insert(granted.turn);
                    self.set(lane, Field::State, "streaming");
                    self.set(lane, Field::Owner, place.node.clone());
                    self.set(lane, Field::Epoch, granted.epoch.0.to_string());
                    self.set_due(at, granted.turn, None);
                }
            }
            Reply::Loaded(loaded) => self.row(at, &loaded.turn),
            Reply::Landed { events } => {
                self.conclude_step(at, step, events);
                self.conclude_events(at, events);
            }
            Reply::AbortRequested { turn, .. } => {
                let lane = self.turn_lane(*turn);
                self.set(lane, Field::Abort, "requested");
            }
            Reply::Ended { terminal, events } => {
                self.conclude_events(at, events);
                self.conclude_end(at, terminal);
            }
            Reply::Swept(Some(swept)) => {
                self.conclude_park(at, swept.turn, None);
                self.conclude_events(at, &swept.events);
            }
            Reply::Booted { events, .. } => {
                let of_before = |turn: &(u32, Field), owner: &String| {
                    turn.1 == Field::Owner && *owner == place.node
                };
                let taken: Vec<u32> = self
                    .state
                    .iter()
                    .filter(|(key, owner)| of_before(key, owner))
                    .map(|((lane, _), _)| *lane)
                    .collect();
                for lane in taken {
                    self.set(lane, Field::State, "parked");
                    self.set(lane, Field::Owner, "");
                }
                self.conclude_events(at, events);
            }
            Reply::Rejected(_)
            | Reply::View(_)
            | Reply::Conflict
            | Reply::Fenced
            | Reply::NotFound
            | Reply::Renewed(_)
            | Reply::Requests { .. }
            | Reply::Swept(None)
            | Reply::AreEnded(_)
            | Reply::Audited { .. }
            | Reply::Deliveries { .. }
            | Reply::Settled { .. }
            | Reply::Workspace(_) => {}
        }
    }

    fn conclude_step(&mut self, at: Us, step: Step, events: &[AgentEvent]) {
        match step {
            Step::Stay => {}
            Step::Complete(turn, step) => {
                let lane = self.turn_lane(turn);
                self.set(lane, Field::State, "tools");
                self.set(lane, Field::Step, step.to_string());
                self.set(lane, Field::Attempt, "0");
                self.set(lane, Field::Resumes, "0");
            }
            Step::Tools(turn) => {
                let lane = self.turn_lane(turn);
                self.set(lane, Field::State, "tools");
            }
            Step::Park(turn) => self.conclude_park(at, turn, None),
            Step::Look(_) | Step::Limit(..) => {}
            Step::Retry(turn, attempt, delay_ms) => {
                let told = events.iter().find_map(|event| match &event.body {
                    EventBody::ProviderRetry { due_at, .. } => Some(self.moment(*due_at)),
                    _ => None,
                });
                let lane = self.turn_lane(turn);
                self.set(lane, Field::Attempt, (attempt + 1).to_string());
                let due = told.unwrap_or(at.saturating_add(delay_ms.saturating_mul(1_000)));
                self.conclude_park(at, turn, Some(due));
            }
        }
    }

    fn conclude_park(&mut self, at: Us, turn: TurnId, due: Option<Us>) {
        let lane = self.turn_lane(turn);
        self.set(lane, Field::State, "parked");
        self.set(lane, Field::Owner, "");
        self.set_due(at, turn, due);
    }

    fn conclude_events(&mut self, at: Us, events: &[AgentEvent]) {
        for event in events {
            if let EventBody::StepComplete { step, .. } = &event.body {
                let lane = self.turn_lane(event.turn);
                self.set(lane, Field::Step, (step + 1).to_string());
                self.set(lane, Field::Attempt, "0");
                self.set(lane, Field::Resumes, "0");
            }
            if event.is_terminal() {
                self.conclude_end(at, event);
            }
        }
    }

    /// A turn has ended, so that the conversation's next one is in line.
    fn conclude_end(&mut self, at: Us, terminal: &AgentEvent) {
        let lane = self.turn_lane(terminal.turn);
        self.set(lane, Field::State, "ended");
        self.set(lane, Field::Owner, "");
        self.set_due(at, terminal.turn, None);
        self.logged(terminal);
        let Some(open) = self.talks.get_mut(&terminal.conversation) else {
            return;
        };
        open.remove(&terminal.turn);
        let next = open.first().copied();
        if open.is_empty() {
            self.talks.remove(&terminal.conversation);
        }
        if let Some(next) = next {
            let lane = self.turn_lane(next);
            if self.value(lane, Field::State) == "blocked" {
                self.set(lane, Field::State, "parked");
            }
        }
    }
}
