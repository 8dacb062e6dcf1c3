//! Looking at providers' lines: view, plan, compare-and-set. One view in
//! flight a line; what happens meanwhile sets a dirty bit.

use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Dispatcher, Stage};
use crate::admission::{HEADS, plan_grants};
use crate::ids::ProviderId;
use crate::io::Effect;
use crate::kit::{Purpose, Wake};
use crate::store::{ApplyGrants, Reply, Verb};
use crate::time::Instant;
use crate::turn::Stretch;

/// This replica's interest in one provider's line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Line {
    /// A view or its grants are in flight.
    looking: bool,
    /// Something has moved since.
    dirty: bool,
}

impl Dispatcher {
    pub(super) fn look_everywhere(&mut self) {
        let lines: Vec<ProviderId> = self.lines.keys().cloned().collect();
        for provider in lines {
            self.look(&provider);
        }
    }

    pub(super) fn look(&mut self, provider: &ProviderId) {
        let Some(line) = self.lines.get_mut(provider) else {
            return;
        };
        if self.stage != Stage::Serving {
            return;
        }
        if line.looking {
            line.dirty = true;
            return;
        }
        *line = Line {
            looking: true,
            dirty: false,
        };
        self.kit.timers.disarm(&Wake::LookDue(provider.clone()));
        let verb = Verb::AdmissionView {
            provider: provider.clone(),
            live_ms: self.config.lease.lease_ms,
        };
        self.ctx().ask(Purpose::View(provider.clone()), verb);
    }

    /// A line is looked at, or will be.
    pub(super) fn is_watched(&self, provider: &ProviderId) -> bool {
        self.lines.get(provider).is_some_and(|line| line.looking)
            || self.kit.timers.is_armed(&Wake::LookDue(provider.clone()))
    }

    /// Grants that are in flight may make this replica an owner yet.
    pub(super) fn is_granting(&self) -> bool {
        self.lines.values().any(|line| line.looking)
    }

    pub(super) fn look_failed(&mut self, provider: &ProviderId) {
        self.looked(provider, self.config.ask_ms);
    }

    pub(super) fn viewed(&mut self, provider: &ProviderId, reply: Reply) {
        let Reply::View(view) = reply else {
            return self.looked(provider, self.config.ask_ms);
        };
        let plan = plan_grants(&view, &self.config.owner.node);
        if let Some(node) = plan.waits_for {
            self.kit.emit(Effect::Nudge { node });
        }
        if plan.grants.is_empty() || self.stage != Stage::Serving {
            let sooner_ms = plan
                .look_again_at
                .map_or(u64::MAX, |at| at.since_ms(view.now).max(1));
            return self.looked(provider, sooner_ms.min(self.config.ask_ms));
        }
        let full = plan.grants.len() >= HEADS;
        let verb = Verb::ApplyGrants(ApplyGrants {
            provider: provider.clone(),
            version: view.version,
            fair: plan.fair,
            owner: self.config.owner.clone(),
            grants: plan.grants,
            lease_ms: self.config.lease.lease_ms,
        });
        if let (true, Some(line)) = (full, self.lines.get_mut(provider)) {
            line.dirty = true;
        }
        self.ctx().ask(Purpose::Grants(provider.clone()), verb);
    }

    pub(super) fn granted(&mut self, provider: &ProviderId, reply: Reply, asked_at: Instant) {
        match reply {
            Reply::Granted(granted) => {
                for granted in granted {
                    let turn = granted.turn;
                    self.drop_stretch(turn);
                    let stretch = Stretch::start(&mut self.ctx(), granted, asked_at);
                    self.turns.insert(turn, stretch);
                }
                self.watch_requests();
                self.hand_over_if_too_late();
                self.looked(provider, self.config.ask_ms.min(1));
            }
            // Somebody was faster: read again, not all at the same moment.
            Reply::Conflict => {
                let pause_ms = 1 + self.kit.random_below(20);
                self.looked(provider, pause_ms);
            }
            _ => self.looked(provider, self.config.ask_ms),
        }
    }

    /// A look has ended: the next one is due, at once if something has moved.
    fn looked(&mut self, provider: &ProviderId, next_ms: u64) {
        let Some(line) = self.lines.get_mut(provider) else {
            return;
        };
        let dirty = core::mem::take(&mut line.dirty);
        line.looking = false;
        if dirty {
            self.look(provider);
        } else {
            let at = self.now.mono + next_ms;
            self.kit.timers.arm(Wake::LookDue(provider.clone()), at);
        }
    }
}
