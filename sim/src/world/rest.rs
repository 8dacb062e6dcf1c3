//! Whether everything has come to rest.

use dispatch_core::ids::TurnId;
use dispatch_core::store::TurnState;
use dispatch_core::webhook::DeliveryState;

use super::{Event, World};
use crate::clock::Us;
use crate::fact::{Fact, Leftovers};
use crate::line::first_idle;
use crate::scenario::{HOUR, SECOND};

const LOOK_EVERY: Us = 20 * SECOND;
/// After everything is at rest it must stay so for this long: more than a
/// lease, a renewal and a sweep.
const QUIET: Us = 100 * SECOND;
/// The longest Retry-After that is obeyed, the longest wait of the schedule,
/// the longest command, and time for the line to drain.
const CALM_LASTS: Us = 3 * HOUR;
/// Thirty tries of a delivery to an endpoint that never takes it (C7).
const CALM_LASTS_FOR_THE_DEAD: Us = 24 * HOUR;

impl World<'_> {
    pub(super) fn look(&mut self) {
        let streaming: Vec<(TurnId, bool)> = self
            .mirror
            .open
            .values()
            .filter(|row| row.state == TurnState::Streaming)
            .map(|row| (row.turn, self.streams.serves(row.turn)))
            .collect();
        let idle = first_idle(&self.model, self.mirror.open.values());
        self.tell(&Fact::Slots {
            streaming: &streaming,
            idle: &idle,
        });
        if self.calm {
            self.look_for_rest();
        }
        self.queue_in(LOOK_EVERY, Event::Look);
    }

    fn look_for_rest(&mut self) {
        let leftovers = self.leftovers();
        let rests = leftovers.is_clean() && self.clients.are_done();
        if !rests {
            self.resting_since = None;
            let lasts = match self.scenario.webhooks.iter().any(|hook| hook.is_dead) {
                true => CALM_LASTS_FOR_THE_DEAD,
                false => CALM_LASTS,
            };
            if self.at > self.scenario.calm_at + lasts {
                self.finish(leftovers);
            }
            return;
        }
        let since = *self.resting_since.get_or_insert(self.at);
        if self.at - since >= QUIET {
            self.weigh();
            self.finish(leftovers);
        }
    }

    /// Ends a run that does not end by itself.
    pub(super) fn give_up_waiting(&mut self) {
        let mut leftovers = self.leftovers();
        leftovers.is_given_up = true;
        self.finish(leftovers);
    }

    fn finish(&mut self, mut leftovers: Leftovers) {
        leftovers.clients_are_busy = !self.clients.are_done();
        let cursors = self.cursors();
        self.tell(&Fact::Finished {
            leftovers: &leftovers,
            cursors: &cursors,
        });
        self.over = true;
    }

    fn leftovers(&self) -> Leftovers {
        let model = &self.model;
        let open = model
            .turns
            .values()
            .filter(|row| row.state != TurnState::Ended);
        let owned = model.conversations.values().filter(|c| c.turn.is_some());
        let pending = model.outbox.values();
        let pending = pending.filter(|row| row.state == DeliveryState::Pending);
        Leftovers {
            open_turns: open.map(|row| row.turn).collect(),
            markers: model.markers.len(),
            owned: owned.map(|conversation| conversation.id.clone()).collect(),
            requests: self.streams.in_flight(),
            tools: self.runs.running(),
            unanswered: self.clients.unanswered(),
            segments: model.segments.len(),
            deliveries: pending.count(),
            ..Leftovers::default()
        }
    }
}
