//! Outcomes of store verbs. "Unknown" and silence have one answer: ask the
//! same verb again, because every verb lands at most once however often it is
//! asked. What must not be asked again after silence is not.

use alloc::string::ToString;

use super::{Dispatcher, Stage};
use crate::ids::EffectId;
use crate::io::{Answer, Effect};
use crate::kit::{Ask, Purpose};
use crate::store::{Outcome, Reply, StoreFault, Verb};
use crate::turn::Stretch;

/// What a verb without a reply has done.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    /// Nothing.
    NotLanded,
    /// Everything or nothing, and that is settled.
    Unknown,
    /// Nothing yet, perhaps.
    MayLandYet,
}

impl Dispatcher {
    pub(super) fn stored(&mut self, id: EffectId, outcome: Outcome) {
        // No entry: its deadline has passed, or its turn is owned no more.
        let Some(ask) = self.kit.take_ask(id) else {
            return;
        };
        match outcome {
            Ok(reply) => self.answered(id, ask, reply),
            Err(StoreFault::Failed(message)) => {
                let verb = ask.verb.name();
                self.kit
                    .trace("store-failed", alloc::format!("{verb}: {message}"));
                self.unanswered(ask, Missing::NotLanded);
            }
            Err(StoreFault::Unknown) => self.unanswered(ask, Missing::Unknown),
        }
    }

    /// The verb's deadline has passed: it may land yet.
    pub(super) fn verb_due(&mut self, id: EffectId) {
        if let Some(ask) = self.kit.take_ask(id) {
            self.kit.trace("store-silent", ask.verb.name().to_string());
            self.unanswered(ask, Missing::MayLandYet);
        }
    }

    pub(super) fn ask_again(&mut self, n: u64) {
        if let Some(ask) = self.kit.pausing.remove(&n) {
            let (now, store_ms) = (self.now, self.config.deadlines.store_ms);
            let turn = match ask.purpose {
                Purpose::Turn(turn) => Some(turn),
                _ => None,
            };
            let id = self.kit.send(now, store_ms, ask);
            if let Some(stretch) = turn.and_then(|turn| self.turns.get_mut(&turn)) {
                stretch.asked_again(id);
            }
        }
    }

    fn unanswered(&mut self, ask: Ask, missing: Missing) {
        let waited_ms = self.now.mono.since_ms(ask.first_asked_at);
        match &ask.purpose {
            Purpose::Boot => self.kit.ask_again_later(self.now, ask),
            // Certainly not landed, this time or before: decide anew.
            Purpose::Grants(provider) if missing == Missing::NotLanded && ask.tries == 0 => {
                let provider = provider.clone();
                self.look_failed(&provider);
            }
            Purpose::Grants(_) => self.kit.ask_again_later(self.now, ask),
            Purpose::Turn(turn) => {
                // A lost ownership ends the asking too: the lease timer sees to it.
                if self.turns.contains_key(turn) {
                    self.kit.ask_again_later(self.now, ask);
                }
            }
            Purpose::Command(id) => {
                let in_time = waited_ms < self.config.deadlines.store_ms;
                if in_time && lands_once(&ask.verb, missing) {
                    self.kit.ask_again_later(self.now, ask);
                } else {
                    self.kit.emit(Effect::Answer {
                        id: *id,
                        answer: Answer::Unconfirmed,
                    });
                }
            }
            Purpose::View(provider) => {
                let provider = provider.clone();
                self.look_failed(&provider);
            }
            Purpose::Renew => self.renew_soon(),
            Purpose::Checkpoint => self.checkpointing = false,
            Purpose::Outbox => self.outbox_unread(),
            Purpose::Delivery(..) => self.delivery_unsettled(ask),
            // The next round asks anew.
            Purpose::Requests
            | Purpose::Sweep
            | Purpose::Runs
            | Purpose::RunsOn(..)
            | Purpose::Audit => {}
        }
    }

    fn answered(&mut self, id: EffectId, ask: Ask, reply: Reply) {
        match ask.purpose {
            Purpose::Boot => match reply {
                Reply::Fenced => self.superseded(ask),
                reply => self.booted(reply),
            },
            Purpose::Command(command) => self.command_answered(command, reply),
            Purpose::View(provider) => self.viewed(&provider, reply),
            Purpose::Grants(provider) => self.granted(&provider, reply, ask.asked_at),
            Purpose::Turn(turn) => {
                self.on_turn(turn, |stretch: &mut Stretch, ctx| {
                    stretch.replied(ctx, id, reply)
                });
            }
            Purpose::Renew => self.renewed(ask.verb, reply, ask.asked_at),
            Purpose::Requests => self.requests_read(reply),
            Purpose::Sweep => self.swept(reply),
            Purpose::Runs => self.unattended_judged(reply),
            Purpose::RunsOn(computer, link) => self.unattended_judged_on(&computer, link, reply),
            Purpose::Audit => self.audited(reply),
            Purpose::Checkpoint => self.checkpointed(ask.verb, reply),
            Purpose::Outbox => self.outbox_read(reply),
            Purpose::Delivery(..) => self.delivery_settled(ask.verb, reply),
        }
    }

    /// Whoever carries this core out is dead, or its clock went back.
    fn superseded(&mut self, ask: Ask) {
        if ask.tries == 0 {
            let node = &self.config.owner.node;
            let message = alloc::format!(
                "a later life of replica `{node}` has booted: this one takes no turns; restart it"
            );
            self.kit.trace("superseded", message);
        }
        self.kit.ask_again_later(self.now, ask);
    }

    fn booted(&mut self, reply: Reply) {
        if let Reply::Booted {
            events,
            taken_over,
            orphaned,
        } = reply
        {
            for provider in orphaned {
                self.lines.entry(provider).or_default();
            }
            self.kit.publish(events);
            self.kit.emit(Effect::Ready { taken_over });
        }
        if self.stage == Stage::Booting {
            self.stage = Stage::Serving;
        }
        self.begin_upkeep();
        self.look_everywhere();
        for (id, command) in core::mem::take(&mut self.early) {
            self.command(id, command);
        }
    }
}

/// Whether asking again is harmless. A write whose first asking may still land
/// later must be one that a later state does not fall back from.
fn lands_once(verb: &Verb, missing: Missing) -> bool {
    match verb {
        Verb::Accept(_) => true,
        // "The conversation's open turn" may be another one by now.
        Verb::RequestAbort(request) => request.turn.is_some() || missing == Missing::NotLanded,
        _ => missing != Missing::MayLandYet,
    }
}
