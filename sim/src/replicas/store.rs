//! The store's node: the Model, whose rows survive the node as a disk does.
//! A verb may land and its reply be lost, or land long after it was asked.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, EffectId, ProviderId, Seq, TurnId};
use dispatch_core::store::{Granted, Model, Outcome, Reply, TurnRow, TurnState, Verb};
use madsim::net::Endpoint;
use madsim::task::spawn_local;
use madsim::time::sleep;

use super::plan::Who;
use super::ring::Ring;
use super::wire::{AskedVerb, LOG_READ, LONGEST, LogRead, VERB, address, datagram, packed};
use crate::clock::store_time;
use crate::fact::{Fact, Waiting};

/// Events in one answer to a read of a log.
pub(super) const EVENTS_AT_ONCE: usize = 32;

/// The rows, and what the oracles have been told of them.
#[derive(Default)]
pub(super) struct Disk {
    pub(super) model: Model,
    seqs: BTreeMap<ConversationId, Seq>,
    /// Turns that have not ended.
    pub(super) open: BTreeMap<TurnId, TurnRow>,
}

impl Disk {
    pub(super) fn last_seq(&self, conversation: &ConversationId) -> Seq {
        let row = self.model.conversations.get(conversation);
        row.map_or(0, |row| row.last_seq)
    }
}

pub(super) async fn live(ring: Rc<Ring>) {
    let own = address(Who::Store);
    let endpoint = Endpoint::bind(own).await.expect("a node's port is free");
    spawn_local(serve_logs(ring.clone(), endpoint.clone()));
    let mut buffer = vec![0; LONGEST];
    while let Ok((asked, from)) = datagram(&endpoint, VERB, &mut buffer).await {
        let AskedVerb { tag, id, verb } = asked;
        let (ring, endpoint) = (ring.clone(), endpoint.clone());
        spawn_local(async move {
            let outcome = carry_out(&ring, id, verb).await;
            // Whoever has asked may be gone.
            let _ = endpoint.send_to(from, tag, &packed(&outcome)).await;
        });
    }
}

/// Verbs that wait for their turn may overtake each other.
async fn carry_out(ring: &Ring, id: EffectId, verb: Verb) -> (EffectId, Outcome) {
    let slowest = ring.plan.scenario.faults.store_slowest;
    let wait = ring.dice.store.borrow_mut().spread(200, slowest);
    sleep(Duration::from_micros(wait)).await;
    ring.count();
    (id, Ok(ring.land(&verb)))
}

async fn serve_logs(ring: Rc<Ring>, endpoint: Endpoint) {
    let mut buffer = vec![0; LONGEST];
    while let Ok((read, from)) = datagram(&endpoint, LOG_READ, &mut buffer).await {
        let LogRead {
            tag,
            conversation,
            after,
        } = read;
        let events: Vec<AgentEvent> = {
            let disk = ring.disk.borrow();
            let log = disk.model.log_after(&conversation, after);
            log.take(EVENTS_AT_ONCE).cloned().collect()
        };
        let _ = endpoint.send_to(from, tag, &packed(&events)).await;
    }
}

impl Ring {
    fn land(&self, verb: &Verb) -> Reply {
        let disk = &mut *self.disk.borrow_mut();
        disk.model.now = store_time(self.at());
        let reply = disk.model.apply(verb);
        if let (Verb::Boot(boot), Reply::Booted { .. }) = (verb, &reply) {
            self.tell(&Fact::Registered {
                node: &boot.owner.node,
                life: boot.life,
            });
        }
        match (verb, &reply) {
            (Verb::AdmissionView { provider, .. }, Reply::View(view)) => {
                let (line, streaming) = disk.line(provider);
                self.tell(&Fact::ViewRead {
                    provider,
                    view,
                    line: &line,
                    streaming,
                });
            }
            (Verb::Checkpoint { .. }, _)
            | (_, Reply::Swept(None) | Reply::Fenced | Reply::Conflict | Reply::NotFound) => {}
            (Verb::ApplyGrants(plan), Reply::Granted(turns)) => {
                // Asked again after it had landed, it grants nothing anew.
                if self.tell_moves(disk) {
                    self.tell_grants(disk, &plan.provider, turns);
                }
            }
            (Verb::Accept(_), Reply::Accepted(receipt, _)) => {
                self.tell_acceptance(disk, receipt.turn);
                self.tell_moves(disk);
                self.tell_log(disk);
            }
            (verb, _) if verb.is_read() => {}
            (_, _) => {
                self.tell_moves(disk);
                self.tell_log(disk);
            }
        }
        reply
    }

    fn tell_grants(&self, disk: &Disk, provider: &ProviderId, turns: &[Granted]) {
        if let Some(row) = disk.model.providers.get(provider) {
            self.tell(&Fact::Granted {
                provider,
                limit: row.limit,
                cooldown_ms: row.cooldown_ms,
                turns,
            });
        }
    }

    fn tell_acceptance(&self, disk: &mut Disk, turn: TurnId) {
        let row = disk.model.turns.get(&turn);
        let Some(row) = row.filter(|row| row.state != TurnState::Ended) else {
            return;
        };
        if let Entry::Vacant(unknown) = disk.open.entry(turn) {
            self.tell(&Fact::Moved {
                before: None,
                after: row,
            });
            unknown.insert(row.clone());
        }
    }

    /// Tells of rows that have changed; whether one now streams that did not.
    fn tell_moves(&self, disk: &mut Disk) -> bool {
        let mut granted = false;
        let Disk { model, open, .. } = disk;
        for (turn, before) in open.iter_mut() {
            let Some(after) = model.turns.get(turn).filter(|after| *after != before) else {
                continue;
            };
            granted |= after.state == TurnState::Streaming && before.state == TurnState::Parked;
            self.tell(&Fact::Moved {
                before: Some(before),
                after,
            });
            *before = after.clone();
        }
        open.retain(|_, row| row.state != TurnState::Ended);
        granted
    }

    /// Tells of what the store has logged since the last time.
    fn tell_log(&self, disk: &mut Disk) {
        for (id, row) in &disk.model.conversations {
            let known = disk.seqs.entry(id.clone()).or_default();
            if row.last_seq <= *known {
                continue;
            }
            for event in disk.model.log_after(id, *known) {
                self.line(|| format!("log {}", event.to_json()));
                self.tell(&Fact::Logged(event));
            }
            *known = row.last_seq;
        }
    }
}

impl Disk {
    /// Who waits and is due, by the rows themselves, and how many stream.
    fn line(&self, provider: &ProviderId) -> (Vec<Waiting>, u32) {
        let mut streaming = 0;
        let mut line = Vec::new();
        for row in self.open.values().filter(|row| row.provider == *provider) {
            streaming += u32::from(row.state == TurnState::Streaming);
            if row.state != TurnState::Parked || row.due_at > self.model.now {
                continue;
            }
            let conversation = self.model.conversations.get(&row.conversation);
            let workspace = conversation.and_then(|c| self.model.workspaces.get(&c.workspace));
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
