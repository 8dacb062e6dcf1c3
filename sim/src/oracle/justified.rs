//! `justified` (T2): every retry, repetition, `error` and `aborted` has a cause
//! that was really there and that permits it; without one, `done` is required.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, TurnId};
use dispatch_core::store::TurnRow;
use dispatch_core::time::Timestamp;

use super::retry_schedule::wait_ms;
use super::{Breach, Oracle, Terms};
use crate::fact::{Cause, Fact, Life, Moment};

/// A step that refusals keep from succeeding is given up so long after its
/// budget (T7: 9 h of the documented 8 h).
const GRACE_MS: u64 = 3_600_000;

/// What was done to the open step of a turn, and what came of it.
#[derive(Debug, Default)]
struct OpenStep {
    causes: Vec<Cause>,
    retries: usize,
    restarts: usize,
    takeovers: usize,
    first_retry_at: Option<Timestamp>,
}

#[derive(Debug)]
pub(crate) struct Justified {
    terms: Rc<Terms>,
    steps: BTreeMap<TurnId, OpenStep>,
    aborted_turns: BTreeSet<TurnId>,
    aborted_conversations: BTreeSet<ConversationId>,
    /// Shutdowns and panics: each may give up a step that streams.
    shutdowns: usize,
    /// Turns over whose inputs the core has panicked.
    sealed: BTreeSet<TurnId>,
    rotten: BTreeSet<ConversationId>,
}

impl Justified {
    pub(crate) fn new(terms: &Rc<Terms>) -> Justified {
        Justified {
            terms: terms.clone(),
            steps: BTreeMap::new(),
            aborted_turns: BTreeSet::new(),
            aborted_conversations: BTreeSet::new(),
            shutdowns: 0,
            sealed: BTreeSet::new(),
            rotten: BTreeSet::new(),
        }
    }

    fn moved(&mut self, before: Option<&TurnRow>, after: &TurnRow) {
        let resumes_before = before.map_or(0, |row| row.resumes);
        if after.resumes > resumes_before {
            self.steps.entry(after.turn).or_default().takeovers += 1;
        }
    }

    fn logged(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        match &event.body {
            EventBody::StepComplete { partial: false, .. } => {
                self.steps.remove(&event.turn);
                Ok(())
            }
            EventBody::ProviderRetry { .. } => self.retried(event),
            EventBody::StepRestart { .. } => self.restarted(event),
            EventBody::Aborted { .. } => {
                let asked = self.aborted_turns.contains(&event.turn)
                    || self.aborted_conversations.contains(&event.conversation);
                if asked {
                    return Ok(());
                }
                Breach::new("done: nobody asked for an abort", event.to_json())
            }
            EventBody::Error {
                code,
                cause,
                message,
                ..
            } => self.failed(event, code, cause, message),
            _ => Ok(()),
        }
    }

    fn retried(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        let step = self.steps.entry(event.turn).or_default();
        step.retries += 1;
        step.first_retry_at.get_or_insert(event.at);
        let refusals = step
            .causes
            .iter()
            .filter(|cause| matches!(cause, Cause::Refused { .. }));
        let refusals = refusals.count();
        if step.retries <= refusals {
            return Ok(());
        }
        Breach::new(
            format!("no more retries than the {refusals} refusals of this step"),
            event.to_json(),
        )
    }

    fn restarted(&mut self, event: &AgentEvent) -> Result<(), Breach> {
        let step = self.steps.entry(event.turn).or_default();
        step.restarts += 1;
        let repeats_cuts = self.terms.repeats_cuts;
        let reasons = step.causes.iter().filter(|cause| match cause {
            Cause::Empty => true,
            Cause::Broken { is_cut, .. } => *is_cut && repeats_cuts,
            Cause::Refused { .. } | Cause::Fatal { .. } => false,
        });
        let reasons = reasons.count() + step.takeovers + self.shutdowns;
        if step.restarts <= reasons {
            return Ok(());
        }
        Breach::new(
            format!("no more repetitions than the {reasons} reasons for one"),
            event.to_json(),
        )
    }

    fn failed(
        &mut self,
        event: &AgentEvent,
        code: &str,
        cause: &str,
        message: &str,
    ) -> Result<(), Breach> {
        let none = OpenStep::default();
        let step = self.steps.get(&event.turn).unwrap_or(&none);
        let permitted = match cause {
            "empty-completion" => step.causes.iter().filter(|c| **c == Cause::Empty).count() >= 2,
            "resume-limit" => step.takeovers >= self.terms.resume_limit as usize,
            "on-crash-seal" => self.terms.seals,
            // Whether its node was away `at-home` judges.
            "node-lost" => true,
            "transcript-unreadable" => self.rotten.contains(&event.conversation),
            "panic" => self.sealed.contains(&event.turn),
            _ if code == "provider-unavailable" => {
                step.spent(event.at, cause, self.terms.retry_budget_ms)
            }
            _ => step.ended_by(cause, self.terms.repeats_cuts),
        };
        if permitted {
            return Ok(());
        }
        Breach::new(
            format!(
                "done: nothing done to this step permits this error ({} retries of {:?})",
                step.retries, step.causes
            ),
            format!("{} [{message}]", event.to_json()),
        )
    }
}

impl OpenStep {
    /// The retry budget is spent: all waits (21 of the documented 8 h), or more
    /// asked for than is left of it, or an hour beyond it (T3, T4, T7).
    fn spent(&self, now: Timestamp, named: &str, budget_ms: u64) -> bool {
        let left_ms = match self.first_retry_at {
            Some(first) => budget_ms.saturating_sub(now.since_ms(first)),
            None => budget_ms,
        };
        let retries = u32::try_from(self.retries).unwrap_or(u32::MAX);
        let no_wait_left = wait_ms(retries, budget_ms).is_none();
        let waited_out = self
            .first_retry_at
            .is_some_and(|first| now.since_ms(first) > budget_ms + GRACE_MS);
        self.causes.iter().any(|cause| match cause {
            Cause::Refused {
                cause,
                retry_after_ms,
            } => {
                cause == named
                    && (no_wait_left
                        || waited_out
                        || retry_after_ms.is_some_and(|asked| asked > left_ms))
            }
            Cause::Fatal { .. } | Cause::Broken { .. } | Cause::Empty => false,
        })
    }

    fn ended_by(&self, named: &str, repeats_cuts: bool) -> bool {
        let cuts = self.causes.iter().filter(|cause| match cause {
            Cause::Broken { is_cut, .. } => *is_cut,
            Cause::Refused { .. } | Cause::Fatal { .. } | Cause::Empty => false,
        });
        let cuts = cuts.count();
        self.causes.iter().any(|injected| match injected {
            Cause::Fatal { cause } => cause == named,
            Cause::Broken { cause, is_cut } => {
                cause == named && (!is_cut || !repeats_cuts || cuts >= 2)
            }
            Cause::Refused { .. } | Cause::Empty => false,
        })
    }
}

impl Oracle for Justified {
    fn name(&self) -> &'static str {
        "justified"
    }

    fn see(&mut self, _: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Logged(event) => self.logged(event),
            Fact::Moved { before, after } => {
                self.moved(*before, after);
                Ok(())
            }
            Fact::Injected { turn, cause } => {
                let step = self.steps.entry(*turn).or_default();
                step.causes.push((*cause).clone());
                Ok(())
            }
            Fact::AbortAsked { turn, conversation } => {
                self.aborted_turns.extend(turn);
                self.aborted_conversations.extend(conversation.cloned());
                Ok(())
            }
            Fact::Rotted { conversation } => {
                self.rotten.insert((*conversation).clone());
                Ok(())
            }
            Fact::Panicked { seal, .. } => {
                self.sealed.extend(seal);
                self.shutdowns += 1;
                Ok(())
            }
            Fact::Lives {
                state: Life::Draining,
                ..
            } => {
                self.shutdowns += 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
