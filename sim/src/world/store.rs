//! The store: the Model behind a network that delays, loses and repeats.

use dispatch_core::ids::{EffectId, ProviderId, TurnId};
use dispatch_core::io::Input;
use dispatch_core::store::{Fence, Outcome, Reply, StoreFault, TurnRow, TurnState, Verb};

use super::{Event, World};
use crate::clock::Us;
use crate::fact::{Fact, Life, Waiting};
use crate::luck::{Ask, Fate};
use crate::scenario::SECOND;
use crate::sometimes::Point;
use crate::timeline::Note;

/// Notifications are gathered for so long.
const NOTICE_EVERY: Us = 30_000;

/// A verb on its way.
pub(crate) struct AtStore {
    replica: usize,
    life: u32,
    id: EffectId,
    verb: Verb,
    fate: Fate,
}

impl World<'_> {
    pub(super) fn ask_store(&mut self, replica: usize, id: EffectId, verb: Verb) {
        let place = &mut self.replicas[replica];
        let life = place.life;
        if let (Verb::AdmissionView { provider, .. }, Some(process)) = (&verb, &mut place.process) {
            process.views.insert(id, provider.clone());
        }
        if let (Some(fence), Some(process)) = (fence_of(&verb), &mut place.process) {
            process.writes.insert(id, fence.turn);
        }
        if let Verb::ApplyGrants(plan) = &verb {
            self.tell(&Fact::Planned { replica, plan });
        }
        let is_wedged = self.replicas[replica].wedged_until > self.at;
        let fate = match is_wedged && fence_of(&verb).is_some() {
            true => Fate::Lost,
            false => self.fate(replica, &verb),
        };
        // A renewal that is held would extend a lease that was let go long ago,
        // as it must where the clock has jumped.
        let fate = match (fate, fence_of(&verb)) {
            (Fate::Held, None) => Fate::Lost,
            (fate, _) => fate,
        };
        if !matches!(fate, Fate::Fine | Fate::Twice) {
            self.tell(&Fact::Trouble { replica });
            self.recorder
                .line(self.at, || format!("store {}: {fate:?}", id.n));
            self.recorder
                .watched(|watch| watch.note(self.at, &Note::Fate(replica, id, &fate)));
        }
        let after = match fate {
            Fate::LateLanding if fence_of(&verb).is_some() => {
                self.dice.store().range(25 * SECOND, 120 * SECOND)
            }
            Fate::LateLanding => self.dice.store().range(25 * SECOND, 45 * SECOND),
            Fate::Held => {
                let left = self.replicas[replica].cut_off_until.saturating_sub(self.at);
                left + self.dice.store().spread(1_000, 30 * SECOND)
            }
            _ => self.store_delay(),
        };
        self.echo(replica, id, &verb, is_wedged);
        let verb = Box::new(AtStore {
            replica,
            life,
            id,
            verb,
            fate,
        });
        self.queue_in(after, Event::Store(verb));
    }

    /// Lets an owner's write land once more, when nobody thinks of it any more.
    fn echo(&mut self, replica: usize, id: EffectId, verb: &Verb, is_wedged: bool) {
        if is_wedged || fence_of(verb).is_none() {
            return;
        }
        let ask = self.ask(replica, verb);
        if let Some(after) = self.luck.echo(self.dice.luck(), ask) {
            let echo = Box::new(AtStore {
                replica,
                life: self.replicas[replica].life,
                id,
                verb: verb.clone(),
                fate: Fate::Echo,
            });
            self.queue_in(after, Event::Store(echo));
        }
    }

    /// What a notification through the database does: it comes a little later,
    /// or not at all.
    pub(super) fn nudge(&mut self, node: &str) {
        let number = node.strip_prefix("node-").and_then(|n| n.parse().ok());
        let Some(replica) = number.filter(|n: &usize| *n < self.replicas.len()) else {
            return;
        };
        let is_lost = self.dice.store().chance(3_000);
        let after = NOTICE_EVERY + self.store_delay();
        if !is_lost && self.replicas[replica].cut_off_until <= self.at {
            let life = self.replicas[replica].life;
            self.send(after, replica, life, Input::Nudged);
        }
    }

    fn store_delay(&mut self) -> Us {
        let slowest = self.scenario.faults.store_slowest;
        self.dice.store().spread(200, slowest)
    }

    fn ask(&self, replica: usize, verb: &Verb) -> Ask {
        Ask {
            at: self.at,
            replica,
            verb: verb.name(),
            is_calm: self.calm,
        }
    }

    fn fate(&mut self, replica: usize, verb: &Verb) -> Fate {
        let ask = self.ask(replica, verb);
        let is_cut_off = self.replicas[replica].cut_off_until > self.at;
        self.luck.fate(self.dice.luck(), ask, is_cut_off)
    }

    pub(super) fn at_store(&mut self, asked: AtStore) {
        let has_died = self.replicas[asked.replica].life != asked.life
            || self.replicas[asked.replica].process.is_none();
        // A dead process's connection may hold on to it until the next life is up.
        if has_died && matches!(asked.verb, Verb::Boot(_)) && self.dice.store().chance(7_000) {
            let after = self.dice.store().range(SECOND, 60 * SECOND);
            return self.queue_in(after, Event::Store(Box::new(asked)));
        }
        let AtStore {
            replica,
            life,
            id,
            verb,
            fate,
        } = asked;
        if has_died && self.dice.store().chance(5_000) {
            return;
        }
        self.court.sometimes.befell(&verb, fate);
        self.recorder
            .watched(|watch| watch.note(self.at, &Note::Landing(replica, life, id)));
        let outcome: Outcome = match fate {
            Fate::Fine | Fate::Twice | Fate::LateReply | Fate::LateLanding | Fate::Held => {
                Ok(self.land(&verb))
            }
            Fate::UnknownLanded => {
                self.land(&verb);
                Err(StoreFault::Unknown)
            }
            Fate::UnknownLost => Err(StoreFault::Unknown),
            Fate::Failed => Err(StoreFault::Failed("the connection was refused".to_owned())),
            Fate::Echo => {
                self.land(&verb);
                return;
            }
            Fate::Lost => return,
        };
        let after = match fate {
            Fate::LateReply => self.dice.store().range(25 * SECOND, 45 * SECOND),
            _ => self.store_delay(),
        };
        if fate == Fate::Twice {
            let outcome = outcome.clone();
            self.send(after / 2, replica, life, Input::Stored { id, outcome });
        }
        self.send(after, replica, life, Input::Stored { id, outcome });
    }

    fn land(&mut self, verb: &Verb) -> Reply {
        let reply = self.model.apply(verb);
        self.court.sometimes.replied(verb, &reply);
        self.note_rare(verb, &reply);
        self.tell_writer(verb);
        self.tell_given_up(&reply);
        if let (Verb::Boot(boot), Reply::Booted { .. }) = (verb, &reply) {
            self.tell(&Fact::Registered {
                node: &boot.owner.node,
                life: boot.life,
            });
        }
        match (verb, &reply) {
            (Verb::AdmissionView { provider, .. }, Reply::View(view)) => {
                let (line, streaming) = self.line(provider);
                self.tell(&Fact::ViewRead {
                    provider,
                    view,
                    line: &line,
                    streaming,
                });
            }
            (Verb::Checkpoint { .. }, _) => self.tell_log(),
            (_, Reply::Swept(None) | Reply::Fenced | Reply::Conflict | Reply::NotFound) => {}
            (Verb::TakeDeliveries(_) | Verb::SettleDelivery { .. }, _) => {}
            (Verb::ApplyGrants(plan), Reply::Granted(turns)) => {
                // Asked again after it had landed, it grants nothing anew.
                if self.tell_moves() {
                    self.tell_grants(&plan.provider, turns);
                }
            }
            (verb, Reply::Accepted(receipt, _)) => {
                debug_assert!(matches!(verb, Verb::Accept(_)));
                self.tell_acceptance(receipt.turn);
                self.tell_moves();
                self.tell_log();
            }
            (verb, _) if verb.is_read() => {}
            (_, _) => {
                self.tell_moves();
                self.tell_log();
            }
        }
        reply
    }

    /// What only the rows tell.
    fn note_rare(&mut self, verb: &Verb, reply: &Reply) {
        match (verb, reply) {
            (Verb::SetLimit { provider, limit }, _) if self.line(provider).1 > *limit => {
                self.court.sometimes.hit(Point::LimitBelowInFlight);
            }
            (Verb::SweepOne { .. }, Reply::Swept(Some(swept))) => {
                let owner = self
                    .mirror
                    .open
                    .get(&swept.turn)
                    .and_then(|row| row.owner.as_ref());
                let is_stopped = owner.is_some_and(|owner| {
                    let mut places = self.replicas.iter();
                    places.any(|place| place.state == Life::Paused && place.runs(owner))
                });
                if is_stopped {
                    self.court.sometimes.hit(Point::SweepTookFromPaused);
                }
            }
            (Verb::ApplyGrants(plan), Reply::Granted(turns)) if !turns.is_empty() => {
                self.note_overtaking(&plan.provider, turns);
            }
            (_, _) => {}
        }
    }

    /// The mirror is still as it was before the grants.
    fn note_overtaking(&mut self, provider: &ProviderId, turns: &[dispatch_core::store::Granted]) {
        let (line, _) = self.line(provider);
        let is_granted =
            |waiting: &Waiting| turns.iter().any(|granted| granted.turn == waiting.turn);
        let (granted, left): (Vec<Waiting>, Vec<Waiting>) = line.into_iter().partition(is_granted);
        let overtakes =
            |a: &Waiting, b: &Waiting| a.starred && !b.starred && a.accepted_at > b.accepted_at;
        let met = |met: &dyn Fn(&Waiting, &Waiting) -> bool| {
            granted.iter().any(|a| left.iter().any(|b| met(a, b)))
        };
        if met(&overtakes) {
            self.court.sometimes.hit(Point::StarOvertook);
        }
        if met(&|a, b| !a.starred && b.starred) {
            self.court.sometimes.hit(Point::UnstarredFirst);
        }
    }

    fn tell_grants(&mut self, provider: &ProviderId, turns: &[dispatch_core::store::Granted]) {
        let Some(row) = self.model.providers.get(provider) else {
            return;
        };
        let (limit, cooldown_ms) = (row.limit, row.cooldown_ms);
        self.tell(&Fact::Granted {
            provider,
            limit,
            cooldown_ms,
            turns,
        });
    }

    fn tell_acceptance(&mut self, turn: TurnId) {
        if self.mirror.open.contains_key(&turn) {
            return;
        }
        let Some(row) = self.model.turns.get(&turn) else {
            return;
        };
        if row.state == TurnState::Ended {
            return;
        }
        let row = row.clone();
        self.tell(&Fact::Moved {
            before: None,
            after: &row,
        });
        self.tell_rows(&row);
        self.mirror.open.insert(turn, row);
    }

    /// Tells of rows that have changed; whether one now streams that did not.
    fn tell_moves(&mut self) -> bool {
        let moment = self.moment();
        let mut granted = false;
        let (mut ended, mut changed) = (Vec::new(), Vec::new());
        for (turn, before) in &mut self.mirror.open {
            let Some(after) = self.model.turns.get(turn) else {
                continue;
            };
            if before == after {
                continue;
            }
            granted |= after.state == TurnState::Streaming && before.state == TurnState::Parked;
            let fact = Fact::Moved {
                before: Some(before),
                after,
            };
            self.recorder.watched(|watch| watch.fact(self.at, &fact));
            self.court.hear(&moment, &fact);
            changed.push(after.clone());
            if after.state == TurnState::Ended {
                ended.push(*turn);
            } else {
                *before = after.clone();
            }
        }
        for turn in ended {
            self.mirror.open.remove(&turn);
        }
        for row in changed {
            self.tell_rows(&row);
        }
        granted
    }

    fn tell_rows(&mut self, turn: &TurnRow) {
        let conversation = self.model.conversations.get(&turn.conversation);
        let holds = conversation.is_some_and(|row| row.turn == Some(turn.turn));
        let armed = self.model.markers.contains(&turn.turn);
        self.tell(&Fact::Rows { turn, holds, armed });
    }

    /// Tells under which ownership a turn was changed, before telling how.
    fn tell_writer(&mut self, verb: &Verb) {
        let Some(Fence { turn, epoch }) = fence_of(verb) else {
            return;
        };
        if self.mirror.open.get(&turn) == self.model.turns.get(&turn)
            || !self.mirror.open.contains_key(&turn)
        {
            return;
        }
        self.tell(&Fact::Written { turn, epoch });
    }

    /// Who waits and is due, by the rows themselves, and how many stream.
    fn line(&self, provider: &ProviderId) -> (Vec<Waiting>, u32) {
        let mut streaming = 0;
        let mut line = Vec::new();
        for row in self.mirror.open.values() {
            if row.provider != *provider {
                continue;
            }
            streaming += u32::from(row.state == TurnState::Streaming);
            if row.state != TurnState::Parked || row.due_at > self.model.now {
                continue;
            }
            let workspace = self
                .model
                .conversations
                .get(&row.conversation)
                .and_then(|conversation| self.model.workspaces.get(&conversation.workspace));
            line.push(Waiting {
                turn: row.turn,
                starred: workspace.is_some_and(|workspace| workspace.starred),
                accepted_at: row.accepted_at,
                bound: row.bound.clone(),
            });
        }
        (line, streaming)
    }
}

/// Under which ownership a verb writes to a turn.
fn fence_of(verb: &Verb) -> Option<Fence> {
    match verb {
        Verb::CommitStep { fence, .. }
        | Verb::RestartStep { fence, .. }
        | Verb::ToolsStarted { fence, .. }
        | Verb::ToolsFinished { fence, .. }
        | Verb::Park { fence, .. }
        | Verb::ScheduleRetry { fence, .. } => Some(*fence),
        Verb::Elect(election) => Some(election.fence),
        Verb::Load { turn, epoch } => Some(Fence {
            turn: *turn,
            epoch: *epoch,
        }),
        Verb::Boot(_)
        | Verb::Accept(_)
        | Verb::AdmissionView { .. }
        | Verb::ApplyGrants(_)
        | Verb::Checkpoint { .. }
        | Verb::RequestAbort(_)
        | Verb::Renew { .. }
        | Verb::Requests { .. }
        | Verb::SweepOne { .. }
        | Verb::Audit
        | Verb::Ended { .. }
        | Verb::PutWorkspace { .. }
        | Verb::Star { .. }
        | Verb::SetLimit { .. }
        | Verb::TakeDeliveries(_)
        | Verb::SettleDelivery { .. } => None,
    }
}
