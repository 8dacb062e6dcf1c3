//! `retry-schedule` (T3, T4): the waits are 5 s, 10 s, 30 s, 60 s, 5, 10, 15
//! and 30 min, then 30 min again up to the twenty-first; a Retry-After only
//! lengthens one; a completed step starts anew; nothing is retried after
//! content, nor before it is due.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle, Terms};
use crate::fact::{Cause, Fact, Moment};

const FIRST_WAITS_S: [u64; 8] = [5, 10, 30, 60, 5 * 60, 10 * 60, 15 * 60, 30 * 60];

/// The wait number `attempt`, in milliseconds; `None` past the last one: all
/// waits up to it add up to no more than the budget, which leaves twenty-one
/// of the documented 8 h.
pub(super) fn wait_ms(attempt: u32, budget_ms: u64) -> Option<u64> {
    let wait_s = |attempt: u32| match attempt {
        0..8 => FIRST_WAITS_S[attempt as usize],
        8.. => 30 * 60,
    };
    let sum_s: u64 = (0..=attempt.min(1_000)).map(wait_s).sum();
    (sum_s * 1_000 <= budget_ms).then(|| wait_s(attempt) * 1_000)
}

#[derive(Debug, Default)]
struct StepState {
    next_attempt: u32,
    due_at: Option<Timestamp>,
    /// Retry-Afters of the refusals since the last wait was scheduled.
    asked_ms: Vec<Option<u64>>,
    /// The provider had sent content, visible or a tool call, when it failed.
    failed_after_content: bool,
}

#[derive(Debug)]
pub(crate) struct RetrySchedule {
    terms: Rc<Terms>,
    steps: BTreeMap<TurnId, StepState>,
    /// Ownerships under which content was shown of the open step.
    shown: BTreeSet<(TurnId, Epoch)>,
}

impl RetrySchedule {
    pub(crate) fn new(terms: &Rc<Terms>) -> RetrySchedule {
        RetrySchedule {
            terms: terms.clone(),
            steps: BTreeMap::new(),
            shown: BTreeSet::new(),
        }
    }

    fn retried(
        &mut self,
        event: &AgentEvent,
        attempt: u32,
        delay_ms: u64,
        due_at: Timestamp,
    ) -> Result<(), Breach> {
        if self.shown.contains(&(event.turn, event.epoch)) {
            return Breach::new("no retry after content was shown", event.to_json());
        }
        let step = self.steps.entry(event.turn).or_default();
        if step.failed_after_content && step.asked_ms.is_empty() {
            return Breach::new("no retry after content was received", event.to_json());
        }
        let Some(scheduled_ms) = wait_ms(step.next_attempt, self.terms.retry_budget_ms) else {
            let most = step.next_attempt;
            return Breach::new(format!("no more than {most} retries"), event.to_json());
        };
        let asked = std::mem::take(&mut step.asked_ms);
        let lengthened = |asked: &Option<u64>| scheduled_ms.max(asked.unwrap_or(0));
        let delays: Vec<u64> = match asked.as_slice() {
            [] => vec![scheduled_ms],
            several => several.iter().map(lengthened).collect(),
        };
        if attempt != step.next_attempt || !delays.contains(&delay_ms) {
            return Breach::new(
                format!("attempt {} after {delays:?} ms", step.next_attempt),
                event.to_json(),
            );
        }
        if due_at != event.at + delay_ms {
            return Breach::new("dueAt = at + delayMs", event.to_json());
        }
        step.next_attempt += 1;
        step.due_at = Some(due_at);
        Ok(())
    }
}

impl Oracle for RetrySchedule {
    fn name(&self) -> &'static str {
        "retry-schedule"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Published { event, .. } => {
                if let EventBody::TextDelta { .. } | EventBody::ReasoningDelta { .. } = event.body {
                    self.shown.insert((event.turn, event.epoch));
                }
                Ok(())
            }
            Fact::Injected {
                turn,
                cause: Cause::Refused { retry_after_ms, .. },
            } => {
                let step = self.steps.entry(*turn).or_default();
                step.asked_ms.push(*retry_after_ms);
                Ok(())
            }
            Fact::Injected {
                turn,
                cause: Cause::Broken { .. },
            } => {
                let step = self.steps.entry(*turn).or_default();
                step.failed_after_content = true;
                Ok(())
            }
            Fact::Requested(request) => match self.steps.get(&request.turn) {
                Some(step) if step.due_at.is_some_and(|due| due > moment.store_now) => Breach::new(
                    format!("no request before {:?}", step.due_at),
                    format!("turn {} at {:?}", request.turn, moment.store_now),
                ),
                Some(_) | None => Ok(()),
            },
            Fact::Logged(event) => match &event.body {
                EventBody::ProviderRetry {
                    attempt,
                    delay_ms,
                    due_at,
                    ..
                } => self.retried(event, *attempt, *delay_ms, *due_at),
                EventBody::StepComplete { .. } => {
                    self.steps.remove(&event.turn);
                    Ok(())
                }
                EventBody::StepRestart { .. } => {
                    self.shown.remove(&(event.turn, event.epoch));
                    if let Some(step) = self.steps.get_mut(&event.turn) {
                        step.failed_after_content = false;
                    }
                    Ok(())
                }
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}
