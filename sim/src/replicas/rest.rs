//! Whether everything has come to rest.

use std::time::Duration;

use dispatch_core::ids::TurnId;
use dispatch_core::store::TurnState;
use madsim::time::sleep;

use super::ring::Ring;
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

impl Ring {
    pub(super) async fn look_around(&self) {
        let mut resting_since = None;
        while !self.is_over() {
            self.look_at_slots();
            if self.is_calm() {
                let leftovers = self.leftovers();
                let rests = leftovers.is_clean() && self.clients_are_done();
                resting_since = rests.then(|| resting_since.unwrap_or(self.at()));
                if resting_since.is_some_and(|since| self.at() - since >= QUIET) {
                    self.weigh_all();
                    sleep(Duration::from_millis(5)).await;
                    self.finish(leftovers);
                } else if self.at() > self.plan.scenario.calm_at + CALM_LASTS {
                    self.finish(leftovers);
                }
            }
            sleep(Duration::from_micros(LOOK_EVERY)).await;
        }
    }

    fn look_at_slots(&self) {
        let disk = self.disk.borrow();
        let streams = self.streams.borrow();
        let rows = disk.open.values();
        let streaming: Vec<(TurnId, bool)> = rows
            .filter(|row| row.state == TurnState::Streaming)
            .map(|row| (row.turn, streams.serves(row.turn)))
            .collect();
        let idle = first_idle(&disk.model, disk.open.values());
        self.tell(&Fact::Slots {
            streaming: &streaming,
            idle: &idle,
        });
    }

    /// Ends a run that does not end by itself.
    pub(super) fn give_up_waiting(&self) {
        let leftovers = Leftovers {
            is_given_up: true,
            ..Leftovers::default()
        };
        self.finish(leftovers);
    }

    fn finish(&self, mut leftovers: Leftovers) {
        leftovers.clients_are_busy = !self.clients_are_done();
        let disk = self.disk.borrow();
        let cursors: Vec<(u64, u64)> = self
            .clients
            .borrow()
            .cursors
            .iter()
            .map(|(conversation, cursor)| (*cursor, disk.last_seq(conversation)))
            .collect();
        self.tell(&Fact::Finished {
            leftovers: &leftovers,
            cursors: &cursors,
        });
        self.stop();
    }

    fn clients_are_done(&self) -> bool {
        self.clients.borrow().are_done(&self.plan.scenario)
    }

    fn leftovers(&self) -> Leftovers {
        let disk = self.disk.borrow();
        let model = &disk.model;
        let open = model.turns.values();
        let open = open.filter(|row| row.state != TurnState::Ended);
        let owned = model.conversations.values().filter(|c| c.turn.is_some());
        Leftovers {
            open_turns: open.map(|row| row.turn).collect(),
            markers: model.markers.len(),
            owned: owned.map(|conversation| conversation.id.clone()).collect(),
            requests: self.streams.borrow().in_flight(),
            tools: self.runs.borrow().running(),
            unanswered: self.clients.borrow().unanswered(),
            segments: model.segments.len(),
            ..Leftovers::default()
        }
    }
}
