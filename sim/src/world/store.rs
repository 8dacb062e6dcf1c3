//! The store: the Model behind a network that delays, loses and repeats.

use dispatch_core::ids::{EffectId, ProviderId, TurnId};
use dispatch_core::io::Input;
use dispatch_core::store::{Fence, Outcome, Reply, StoreFault, TurnRow, TurnState, Verb};

use super::{Event, World, judge};
use crate::clock::Us;
use crate::fact::{Fact, Waiting};
use crate::rng::{Purpose, Rng};
use crate::scenario::SECOND;

/// A verb on its way.
pub(crate) struct AtStore {
    replica: usize,
    life: u32,
    id: EffectId,
    verb: Verb,
    fate: Fate,
}

/// What becomes of a verb.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Fine,
    /// It lands; the reply says that nobody knows.
    UnknownLanded,
    /// It does not land; the reply says that nobody knows.
    UnknownLost,
    /// It does not land, and the reply says so.
    Failed,
    /// It lands; the reply comes after the core has given up.
    LateReply,
    /// It lands after the core has given up.
    LateLanding,
    /// It is on its way when the network breaks, and lands when that is mended.
    Held,
    /// It does not land, and no reply comes.
    Lost,
    /// Its reply comes twice.
    Twice,
    /// It was sent once more by a layer below: it lands, and nobody listens.
    Echo,
}

impl World<'_> {
    pub(super) fn ask_store(&mut self, replica: usize, id: EffectId, verb: Verb) {
        let place = &mut self.replicas[replica];
        let life = place.life;
        if let (Verb::AdmissionView { provider }, Some(process)) = (&verb, &mut place.process) {
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
            false => self.fate(replica),
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
        }
        let after = match fate {
            Fate::LateLanding if fence_of(&verb).is_some() => {
                self.dice.store.range(25 * SECOND, 120 * SECOND)
            }
            Fate::LateLanding => self.dice.store.range(25 * SECOND, 45 * SECOND),
            Fate::Held => {
                let left = self.replicas[replica].cut_off_until.saturating_sub(self.at);
                left + self.dice.store.spread(1_000, 30 * SECOND)
            }
            _ => self.store_delay(),
        };
        self.echo(replica, id, &verb);
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
    fn echo(&mut self, replica: usize, id: EffectId, verb: &Verb) {
        let life = self.replicas[replica].life;
        let incarnation = u64::from(id.incarnation) << 32 | u64::from(life) << 8 | replica as u64;
        let mut rng = Rng::keyed(self.seed, Purpose::Store, id.n, incarnation + 1);
        if self.calm || fence_of(verb).is_none() || !rng.chance(self.scenario.faults.store_echo) {
            return;
        }
        let echo = Box::new(AtStore {
            replica,
            life,
            id,
            verb: verb.clone(),
            fate: Fate::Echo,
        });
        let after = rng.spread(SECOND / 10, 90 * SECOND);
        self.queue_in(after, Event::Store(echo));
    }

    fn store_delay(&mut self) -> Us {
        let slowest = self.scenario.faults.store_slowest;
        self.dice.store.spread(200, slowest)
    }

    fn fate(&mut self, replica: usize) -> Fate {
        let dice = &mut self.dice.store;
        if self.replicas[replica].cut_off_until > self.at {
            return *dice.pick(&[Fate::Failed, Fate::Lost, Fate::UnknownLost, Fate::Held]);
        }
        if self.calm {
            return Fate::Fine;
        }
        let faults = &self.scenario.faults;
        if dice.chance(faults.store_unknown) {
            return *dice.pick(&[Fate::UnknownLanded, Fate::UnknownLost]);
        }
        if dice.chance(faults.store_failed) {
            return Fate::Failed;
        }
        if dice.chance(faults.store_stall) {
            return *dice.pick(&[Fate::LateReply, Fate::LateLanding, Fate::Lost]);
        }
        if dice.chance(faults.store_twice) {
            return Fate::Twice;
        }
        Fate::Fine
    }

    pub(super) fn at_store(&mut self, asked: AtStore) {
        let AtStore {
            replica,
            life,
            id,
            verb,
            fate,
        } = asked;
        let has_died =
            self.replicas[replica].life != life || self.replicas[replica].process.is_none();
        if has_died && self.dice.store.chance(5_000) {
            return;
        }
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
            Fate::LateReply => self.dice.store.range(25 * SECOND, 45 * SECOND),
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
        self.tell_writer(verb);
        match (verb, &reply) {
            (Verb::AdmissionView { provider }, Reply::View(view)) => {
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
            judge(
                &mut self.oracles,
                &mut self.violation,
                self.seed,
                moment,
                &fact,
            );
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
        | Verb::PutWorkspace { .. }
        | Verb::Star { .. }
        | Verb::SetLimit { .. } => None,
    }
}
