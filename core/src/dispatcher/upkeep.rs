//! What a replica does for the turns that it owns and for those that nobody
//! owns any more: renewals, sweeps, abort requests, checkpoints, shutdown.

use alloc::vec::Vec;

use super::{Dispatcher, Stage};
use crate::ids::TurnId;
use crate::io::Effect;
use crate::kit::{Ctx, Purpose, Wake};
use crate::store::{Fence, Reply, Verb};
use crate::time::Instant;

/// Polls in flight at once: one may be lost on the way.
const MOST_POLLS: usize = 2;

impl Dispatcher {
    pub(super) fn begin_upkeep(&mut self) {
        let lease = self.config.lease;
        self.kit
            .timers
            .arm_by(Wake::RenewDue, self.now.mono + lease.renew_ms);
        self.kit.timers.arm_by(Wake::SweepDue, self.now.mono + 1);
        // After those that wait have had a moment to go on.
        self.kit
            .timers
            .arm_by(Wake::AuditDue, self.now.mono + 1_000);
        self.look_into_outbox_soon();
    }

    fn fences(&self) -> Vec<Fence> {
        self.turns.values().map(|stretch| stretch.fence()).collect()
    }

    /// Renews what makes progress: a turn that has outwaited what it waits for
    /// is left to lapse (L3).
    pub(super) fn renew(&mut self) {
        let due = self.now.mono + self.config.lease.renew_ms;
        self.kit.timers.arm(Wake::RenewDue, due);
        let now = self.now.mono;
        let ctx = Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        };
        let turns: Vec<Fence> = self
            .turns
            .values()
            .filter(|stretch| stretch.waits_until(&ctx) >= now || crate::planted!("D16"))
            .map(|stretch| stretch.fence())
            .collect();
        if crate::planted!("D34") {
            self.trust_renewal(&turns);
        }
        let (owner, lease_ms) = (self.config.owner.clone(), self.config.lease.lease_ms);
        let serving = matches!(self.stage, Stage::Booting | Stage::Serving);
        self.ctx().ask(
            Purpose::Renew,
            Verb::Renew {
                owner,
                turns,
                lease_ms,
                serving,
            },
        );
    }

    /// The defect behind D34: a renewal that was sent counts as one that landed.
    fn trust_renewal(&mut self, turns: &[Fence]) {
        let mut ctx = Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        };
        for stretch in turns.iter().filter_map(|fence| self.turns.get(&fence.turn)) {
            stretch.lease_confirmed(&mut ctx, self.now.mono);
        }
    }

    /// A renewal that failed is tried again before it can matter (L3).
    pub(super) fn renew_soon(&mut self) {
        let pause_ms = 500 + self.kit.random_below(500);
        self.kit
            .timers
            .arm_by(Wake::RenewDue, self.now.mono + pause_ms);
    }

    pub(super) fn renewed(&mut self, asked: Verb, reply: Reply, asked_at: Instant) {
        let (Verb::Renew { turns, .. }, Reply::Renewed(renewed)) = (asked, reply) else {
            return;
        };
        for fence in turns {
            let Some(stretch) = self
                .turns
                .get(&fence.turn)
                .filter(|s| s.epoch == fence.epoch)
            else {
                continue;
            };
            if renewed.contains(&fence) {
                let mut ctx = Ctx {
                    config: &self.config,
                    now: self.now,
                    kit: &mut self.kit,
                };
                stretch.lease_confirmed(&mut ctx, asked_at);
            } else {
                self.lost(fence.turn);
            }
        }
    }

    /// The store says that a turn is not ours: drop it and say nothing.
    fn lost(&mut self, turn: TurnId) {
        if let Some(stretch) = self.turns.get(&turn) {
            let conversation = stretch.conversation.clone();
            self.kit.emit(Effect::Wake { conversation });
        }
        self.drop_stretch(turn);
        self.look_everywhere();
    }

    /// A lease was not confirmed in time: stop before anyone else may start (L2).
    pub(super) fn fence_off(&mut self, turn: TurnId) {
        let mut ctx = Ctx {
            config: &self.config,
            now: self.now,
            kit: &mut self.kit,
        };
        if let Some(stretch) = self.turns.get_mut(&turn) {
            if crate::planted!("D17") {
                return stretch.lease_confirmed(&mut ctx, self.now.mono);
            }
            stretch.fence_off(&mut ctx);
            self.kit
                .trace("lease-unconfirmed", alloc::format!("turn {turn} is let go"));
            self.drop_stretch(turn);
        }
    }

    /// A process that stood still finds everything due at once: what it may no
    /// longer do comes before what it was going to do (L2).
    pub(super) fn fence_off_lapsed(&mut self) {
        let now = self.now.mono;
        let due = |turn: &TurnId| self.kit.timers.due(&Wake::FenceDue(*turn));
        let lapsed = self.turns.keys().copied();
        let lapsed: Vec<TurnId> = lapsed
            .filter(|turn| due(turn).is_some_and(|at| at <= now))
            .collect();
        for turn in lapsed {
            self.fence_off(turn);
        }
    }

    pub(super) fn sweep(&mut self) {
        let due = self.now.mono + self.config.lease.sweep_ms;
        self.kit.timers.arm(Wake::SweepDue, due);
        if self.stage != Stage::Serving {
            return;
        }
        // After a jump of the clock our own leases may look lapsed to ourselves.
        if !self.turns.is_empty() {
            self.renew();
        }
        let policy = self.config.sweep_policy();
        self.ctx().ask(Purpose::Sweep, Verb::SweepOne { policy });
    }

    /// One marker a transaction; on to the next while there are any.
    pub(super) fn swept(&mut self, reply: Reply) {
        let Reply::Swept(Some(swept)) = reply else {
            return self.find_unattended();
        };
        self.kit.publish(swept.events);
        self.look(&swept.provider);
        self.kit.timers.arm(Wake::SweepDue, self.now.mono);
    }

    pub(super) fn watch_requests(&mut self) {
        let due = self.now.mono + self.config.requests_ms;
        self.kit.timers.arm_by(Wake::RequestsDue, due);
    }

    pub(super) fn read_requests_soon(&mut self, turn: TurnId) {
        if self.turns.contains_key(&turn) {
            self.kit.timers.arm(Wake::RequestsDue, self.now.mono);
        }
    }

    /// Another replica knows of something to be found here.
    pub(super) fn nudged(&mut self) {
        self.look_everywhere();
        if !self.turns.is_empty() {
            self.kit.timers.arm(Wake::RequestsDue, self.now.mono);
        }
    }

    pub(super) fn read_requests(&mut self) {
        let turns = self.fences();
        if turns.is_empty() {
            return;
        }
        self.watch_requests();
        // A store that stands still is not made to stand longer by more questions.
        if self.kit.asking(&Purpose::Requests) >= MOST_POLLS {
            return;
        }
        self.ctx().ask(Purpose::Requests, Verb::Requests { turns });
    }

    pub(super) fn requests_read(&mut self, reply: Reply) {
        let Reply::Requests { aborts, lost } = reply else {
            return;
        };
        // The defect behind D44: a case that was thought to be impossible.
        assert!(
            aborts.is_empty() || !crate::planted!("D44"),
            "nobody asks for an abort"
        );
        for (turn, abort) in aborts {
            self.on_turn(turn, |stretch, ctx| {
                stretch.abort(ctx, abort.by, abort.reason)
            });
        }
        for fence in lost {
            let still_that = self
                .turns
                .get(&fence.turn)
                .is_some_and(|s| s.epoch == fence.epoch);
            let busy = self.turns.get(&fence.turn).is_some_and(|s| s.is_writing());
            // A write in flight may be what let the turn go; its reply will tell.
            if still_that && !busy {
                self.lost(fence.turn);
            }
        }
    }

    pub(super) fn checkpoint(&mut self) {
        let segments: Vec<_> = self
            .turns
            .values()
            .filter_map(|stretch| stretch.unsaved())
            .collect();
        if segments.is_empty() || self.checkpointing {
            return;
        }
        self.checkpointing = true;
        let due = self.now.mono + self.config.checkpoint_ms;
        self.kit.timers.arm_by(Wake::CheckpointDue, due);
        self.ctx()
            .ask(Purpose::Checkpoint, Verb::Checkpoint { segments });
    }

    pub(super) fn checkpointed(&mut self, asked: Verb, reply: Reply) {
        self.checkpointing = false;
        if self
            .turns
            .values()
            .any(|stretch| stretch.unsaved().is_some())
        {
            let due = self.now.mono + self.config.checkpoint_ms;
            self.kit.timers.arm_by(Wake::CheckpointDue, due);
        }
        let (Verb::Checkpoint { segments }, Reply::Landed { .. }) = (asked, reply) else {
            return;
        };
        for segment in &segments {
            if let Some(stretch) = self.turns.get_mut(&segment.turn) {
                stretch.saved(segment);
            }
        }
    }

    /// Stops granting; what runs may end by itself for a while (L8).
    pub(super) fn shut_down(&mut self) {
        match self.stage {
            Stage::Booting | Stage::Serving => {
                self.stage = Stage::Draining;
                // Others need not wait for what only this node could grant.
                self.renew();
                let due = self.now.mono + self.config.drain_ms;
                self.kit.timers.arm(Wake::DrainDue, due);
            }
            Stage::Draining | Stage::Drained => {}
        }
    }

    pub(super) fn hand_over_rest(&mut self) {
        let turns: Vec<TurnId> = self.turns.keys().copied().collect();
        for turn in turns {
            self.on_turn(turn, |stretch, ctx| stretch.hand_over(ctx));
        }
        self.break_off_deliveries();
    }

    /// Grants that were in flight when the shutdown had waited long enough.
    pub(super) fn hand_over_if_too_late(&mut self) {
        if self.stage == Stage::Draining && !self.kit.timers.is_armed(&Wake::DrainDue) {
            self.hand_over_rest();
        }
    }

    pub(super) fn say_drained(&mut self) {
        let is_idle = self.turns.is_empty() && self.deliveries.len() == 0;
        if self.stage == Stage::Draining && is_idle && !self.is_granting() {
            self.stage = Stage::Drained;
            self.in_pool(|pool, ctx| pool.shut_down(ctx));
            self.kit.emit(Effect::Drained);
        }
    }
}
