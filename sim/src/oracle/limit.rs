//! `limit` (A1, A4): slots in use, those left less than the cooldown ago
//! included, never exceed the limit by a grant, and no other slot counts, so
//! that none leaks (D02); nor do the requests that a
//! provider itself counts, those of paused and dead processes aside. A turn has
//! one slot, and so one request that nobody has closed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use dispatch_core::admission::AdmissionView;
use dispatch_core::ids::{ProviderId, TurnId};
use dispatch_core::store::{TurnRow, TurnState};
use dispatch_core::time::Timestamp;

use super::{Breach, Oracle};
use crate::fact::{Fact, Life, Moment, Request};

/// A lease: by then an owner that hears nothing has stopped by itself.
const HEARS_WITHIN_MS: u64 = 60_000;

#[derive(Debug, Default)]
struct Slots {
    streaming: BTreeSet<TurnId>,
    left_at: VecDeque<Timestamp>,
}

#[derive(Debug, Default)]
pub(crate) struct Limit {
    slots: BTreeMap<ProviderId, Slots>,
    /// Each turn's last grant: its rank among all grants and the limit then.
    grants: BTreeMap<TurnId, (u64, u32)>,
    granted: u64,
    requests: BTreeMap<u32, Request>,
    /// Closed by their owners, as their providers do not know yet.
    closed: BTreeSet<u32>,
    /// Their turns were taken from owners that stood still: the slot was free
    /// before the owner could hear of it and close.
    taken: BTreeSet<u32>,
    lives: BTreeMap<usize, (u32, Life)>,
    /// An abort that its owner did not answer to may have been carried out by
    /// another: the owner hears of it later.
    ended: BTreeMap<TurnId, Timestamp>,
    /// The turn that its owner has just written to.
    written: Option<TurnId>,
}

impl Limit {
    fn moved(&mut self, moment: &Moment, before: Option<&TurnRow>, after: &TurnRow) {
        let slots = self.slots.entry(after.provider.clone()).or_default();
        let streamed = before.is_some_and(|row| row.state == TurnState::Streaming);
        match (streamed, after.state == TurnState::Streaming) {
            (false, true) => {
                slots.streaming.insert(after.turn);
            }
            (true, false) => {
                slots.streaming.remove(&after.turn);
                slots.left_at.push_back(moment.store_now);
            }
            (true, true) | (false, false) => {}
        }
        let by_owner = self.written == Some(after.turn);
        if before.is_some_and(|row| row.owner.is_some() && row.owner != after.owner) && !by_owner {
            let requests = self.requests.values();
            let of_turn = requests.filter(|request| request.turn == after.turn);
            self.taken.extend(of_turn.map(|request| request.stream));
        }
        if after.state == TurnState::Ended && !by_owner {
            self.ended.insert(after.turn, moment.store_now);
        }
    }

    fn granted(
        &mut self,
        moment: &Moment,
        provider: &ProviderId,
        limit: u32,
        cooldown_ms: u64,
        turns: impl Iterator<Item = TurnId>,
    ) -> Result<(), Breach> {
        let slots = self.slots.entry(provider.clone()).or_default();
        while slots
            .left_at
            .front()
            .is_some_and(|left| *left + cooldown_ms <= moment.store_now)
        {
            slots.left_at.pop_front();
        }
        for turn in turns {
            self.granted += 1;
            self.grants.insert(turn, (self.granted, limit));
        }
        let (used, cooling) = (slots.streaming.len(), slots.left_at.len());
        if used + cooling <= limit as usize {
            return Ok(());
        }
        Breach::new(
            format!("a grant leaves at most {limit} slots of {provider} in use"),
            format!("{used} streaming and {cooling} left less than {cooldown_ms} ms ago"),
        )
    }

    /// What a view says is cooling must have been left that short a time ago.
    fn viewed(
        &self,
        moment: &Moment,
        provider: &ProviderId,
        view: &AdmissionView,
    ) -> Result<(), Breach> {
        let left = self.slots.get(provider).map(|slots| &slots.left_at);
        let cooling = left
            .into_iter()
            .flatten()
            .filter(|left| **left + view.cooldown_ms > moment.store_now)
            .count();
        if view.cooling.len() == cooling {
            return Ok(());
        }
        Breach::new(
            format!("{cooling} slots of {provider} left less than the cooldown ago"),
            format!("{:?} at {}", view.cooling, moment.store_now.0),
        )
    }

    /// Its process runs.
    fn runs(&self, request: &Request) -> bool {
        let lives = self.lives.get(&request.replica);
        lives.is_some_and(|(life, state)| {
            *life == request.life && matches!(state, Life::Up | Life::Draining)
        })
    }

    fn counts(&self, moment: &Moment, request: &Request) -> bool {
        let just_ended = self
            .ended
            .get(&request.turn)
            .is_some_and(|at| moment.store_now.since_ms(*at) < HEARS_WITHIN_MS);
        let closed = self.closed.contains(&request.stream);
        let is_zombies = closed && self.taken.contains(&request.stream);
        // A step is repeated in the slot that its turn holds already.
        let followed = closed
            && self
                .requests
                .values()
                .any(|later| later.turn == request.turn && later.stream > request.stream);
        self.runs(request) && !just_ended && !followed && !is_zombies
    }

    fn requested(&mut self, moment: &Moment, request: &Request) -> Result<(), Breach> {
        self.requests.insert(request.stream, request.clone());
        let open = self.requests.values().filter(|open| {
            open.turn == request.turn && !self.closed.contains(&open.stream) && self.runs(open)
        });
        let open: Vec<u32> = open.map(|open| open.stream).collect();
        if open.len() > 1 {
            return Breach::new(
                format!(
                    "one request of turn {} that nobody has closed",
                    request.turn
                ),
                format!("{open:?}"),
            );
        }
        let counted: Vec<&Request> = self
            .requests
            .values()
            .filter(|open| open.provider == request.provider && self.counts(moment, open))
            .collect();
        let latest = counted
            .iter()
            .filter_map(|open| self.grants.get(&open.turn))
            .max();
        let allowed = latest.map_or(0, |(_, limit)| *limit);
        if counted.len() <= allowed as usize {
            return Ok(());
        }
        Breach::new(
            format!(
                "at most {allowed} requests in flight at {}",
                request.provider
            ),
            format!("{}: {counted:?}", counted.len()),
        )
    }
}

impl Oracle for Limit {
    fn name(&self) -> &'static str {
        "limit"
    }

    fn see(&mut self, moment: &Moment, fact: &Fact<'_>) -> Result<(), Breach> {
        match fact {
            Fact::Written { turn, .. } => {
                self.written = Some(*turn);
                Ok(())
            }
            Fact::Moved { before, after } => {
                self.moved(moment, *before, after);
                Ok(())
            }
            Fact::Rows { .. } => {
                self.written = None;
                Ok(())
            }
            Fact::ViewRead { provider, view, .. } => self.viewed(moment, provider, view),
            Fact::Granted {
                provider,
                limit,
                cooldown_ms,
                turns,
            } => self.granted(
                moment,
                provider,
                *limit,
                *cooldown_ms,
                turns.iter().map(|granted| granted.turn),
            ),
            Fact::Lives {
                replica,
                life,
                state,
                ..
            } => {
                self.lives.insert(*replica, (*life, *state));
                Ok(())
            }
            Fact::Requested(request) => self.requested(moment, request),
            Fact::Closed { stream } => {
                self.closed.insert(*stream);
                Ok(())
            }
            Fact::Gone { stream } => {
                self.taken.remove(stream);
                self.requests.remove(stream);
                self.closed.remove(stream);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}
