//! Deliveries of terminal events (C7): taken from the outbox under a lease,
//! tried with a deadline, settled. Turns neither wait for them nor notice them.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::{Broken, Dispatcher, Stage};
use crate::ids::{EffectId, EndpointId, TurnId};
use crate::io::Effect;
use crate::kit::{Ask, Flight, Purpose, Wake};
use crate::store::{Reply, TakeDeliveries, Verb, WantedDeliveries};
use crate::time::Timestamp;
use crate::webhook::{AT_ONCE, Delivery, DeliveryState, GIVEN_UP, Tried};

/// How far ends that come one after the other are gathered for one look.
const GATHER_MS: u64 = 20;

/// What this replica has taken and not settled.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Deliveries {
    under_way: BTreeMap<(EndpointId, TurnId), UnderWay>,
    /// A look into the outbox is in flight.
    looking: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct UnderWay {
    delivery: Delivery,
    /// The try; `None`: it is over, and the store is being told.
    sending: Option<EffectId>,
}

impl Deliveries {
    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Of whose try of this number the store is being told.
    fn settling(&self, key: &(EndpointId, TurnId), tries: u32) -> Option<&UnderWay> {
        let under_way = self.under_way.get(key)?;
        let is_this = under_way.delivery.tries == tries && under_way.sending.is_none();
        is_this.then_some(under_way)
    }
}

impl Dispatcher {
    /// After each input: what has ended over it may be in the outbox.
    pub(super) fn tell_of_ends(&mut self) {
        let ended = core::mem::take(&mut self.kit.ended);
        if ended.is_empty() || self.config.webhooks.is_empty() {
            return;
        }
        if crate::planted!("D45") {
            self.write_outbox_late(&ended);
        }
        self.look_into_outbox_soon();
    }

    /// The defect behind D45: the outbox is written after the election.
    fn write_outbox_late(&mut self, ended: &[TurnId]) {
        let Some(webhook) = self.config.webhooks.first() else {
            return;
        };
        let endpoint = webhook.endpoint.id.clone();
        for turn in ended {
            let verb = Verb::SettleDelivery {
                endpoint: endpoint.clone(),
                turn: *turn,
                tries: 0,
                tried: Tried::Failed,
            };
            self.ctx().ask(Purpose::Requests, verb);
        }
    }

    pub(super) fn look_into_outbox_soon(&mut self) {
        if !self.config.webhooks.is_empty() && self.stage == Stage::Serving {
            let soon = self.now.mono + GATHER_MS;
            self.kit.timers.arm_by(Wake::OutboxDue, soon);
        }
    }

    /// Takes what is due, for as many as may be under way at once.
    pub(super) fn look_into_outbox(&mut self) {
        if self.stage != Stage::Serving {
            return;
        }
        let due = self.now.mono + self.config.outbox_ms;
        self.kit.timers.arm(Wake::OutboxDue, due);
        if self.deliveries.looking {
            return;
        }
        self.deliveries.looking = true;
        let wants = self.config.webhooks.iter().map(|webhook| WantedDeliveries {
            endpoint: webhook.endpoint.id.clone(),
            at_once: AT_ONCE,
            lease_ms: self.lease_ms(webhook.timeout_ms),
        });
        let mut wants: Vec<WantedDeliveries> = wants.collect();
        // In the same order at every replica: where it locks, it locks alike.
        wants.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
        let ask = TakeDeliveries {
            owner: self.config.owner.clone(),
            wants,
            holding: self.deliveries.under_way.keys().cloned().collect(),
        };
        self.ctx()
            .ask(Purpose::Outbox, Verb::TakeDeliveries(ask.into()));
    }

    /// Long enough to try, and to tell the store of it.
    fn lease_ms(&self, timeout_ms: u64) -> u64 {
        timeout_ms.saturating_add(self.config.deadlines.store_ms)
    }

    pub(super) fn outbox_read(&mut self, reply: Reply) {
        self.deliveries.looking = false;
        let Reply::Deliveries {
            taken,
            given_up,
            next_due,
            now,
        } = reply
        else {
            return;
        };
        for delivery in &given_up {
            self.trace_given_up(delivery, "nobody told what came of the last one");
        }
        for delivery in taken {
            // What came after the shutdown was asked for is left to its lease.
            if self.stage == Stage::Serving {
                self.try_to_deliver(delivery);
            }
        }
        self.come_back(next_due, now);
    }

    /// Nothing is known of it: what it may have taken is handed out again.
    pub(super) fn outbox_unread(&mut self) {
        self.deliveries.looking = false;
        let pause_ms = 500 + self.kit.random_below(500);
        if self.stage == Stage::Serving {
            self.kit
                .timers
                .arm_by(Wake::OutboxDue, self.now.mono + pause_ms);
        }
    }

    fn come_back(&mut self, due: Option<Timestamp>, now: Timestamp) {
        if let Some(due) = due.filter(|_| self.stage == Stage::Serving) {
            let at = self.now.mono + due.since_ms(now).max(1);
            self.kit.timers.arm_by(Wake::OutboxDue, at);
        }
    }

    fn try_to_deliver(&mut self, delivery: Delivery) {
        let mut webhooks = self.config.webhooks.iter();
        let Some(webhook) = webhooks.find(|w| w.endpoint.id == delivery.endpoint) else {
            return;
        };
        let timeout_ms = webhook.timeout_ms;
        let (endpoint, turn) = (delivery.endpoint.clone(), delivery.turn);
        // Its lease has lapsed unnoticed: this is the next try.
        self.break_off(&endpoint, turn);
        let id = self.kit.register(Flight::Delivery(endpoint.clone(), turn));
        let due = self.now.mono + timeout_ms;
        self.kit
            .timers
            .arm(Wake::DeliveryDue(endpoint.clone(), turn), due);
        self.kit.emit(Effect::Deliver {
            id,
            delivery: delivery.clone().into(),
        });
        let under_way = UnderWay {
            delivery,
            sending: Some(id),
        };
        self.deliveries
            .under_way
            .insert((endpoint, turn), under_way);
    }

    pub(super) fn delivery_done(&mut self, id: EffectId, outcome: Result<(), String>) {
        let Some(Flight::Delivery(endpoint, turn)) = self.kit.flights.get(&id).cloned() else {
            return;
        };
        self.kit.flights.remove(&id);
        self.settle(endpoint, turn, outcome);
    }

    pub(super) fn delivery_due(&mut self, endpoint: EndpointId, turn: TurnId) {
        self.break_off(&endpoint, turn);
        self.settle(endpoint, turn, Err("no answer in time".into()));
    }

    fn break_off(&mut self, endpoint: &EndpointId, turn: TurnId) {
        let key = (endpoint.clone(), turn);
        let under_way = self.deliveries.under_way.get_mut(&key);
        if let Some(id) = under_way.and_then(|under_way| under_way.sending.take()) {
            self.kit.flights.remove(&id);
            self.kit.emit(Effect::CancelDelivery { id });
        }
    }

    fn settle(&mut self, endpoint: EndpointId, turn: TurnId, outcome: Result<(), String>) {
        let wake = Wake::DeliveryDue(endpoint.clone(), turn);
        self.kit.timers.disarm(&wake);
        let key = (endpoint.clone(), turn);
        let Some(under_way) = self.deliveries.under_way.get_mut(&key) else {
            return;
        };
        under_way.sending = None;
        let tries = under_way.delivery.tries;
        let tried = match outcome {
            Ok(()) => Tried::Delivered,
            Err(why) => {
                let message = format!("try {tries} to tell {endpoint} of turn {turn}: {why}");
                self.kit.trace("webhook-failed", message);
                Tried::Failed
            }
        };
        let verb = Verb::SettleDelivery {
            endpoint: endpoint.clone(),
            turn,
            tries,
            tried,
        };
        self.ctx().ask(Purpose::Delivery(endpoint, turn), verb);
    }

    /// Asked again until it is heard: what is forgotten here would be handed
    /// out once more, as a try that was not made.
    pub(super) fn delivery_unsettled(&mut self, ask: Ask) {
        let Verb::SettleDelivery {
            endpoint,
            turn,
            tries,
            ..
        } = &ask.verb
        else {
            return;
        };
        let key = (endpoint.clone(), *turn);
        if self.deliveries.settling(&key, *tries).is_some() {
            self.kit.ask_again_later(self.now, ask);
        }
    }

    pub(super) fn delivery_settled(&mut self, asked: Verb, reply: Reply) {
        let Verb::SettleDelivery {
            endpoint,
            turn,
            tries,
            ..
        } = asked
        else {
            return;
        };
        let key = (endpoint, turn);
        // It may be under way again: then this is about the try before.
        if self.deliveries.settling(&key, tries).is_none() {
            return;
        }
        self.deliveries.under_way.remove(&key);
        if let Reply::Settled { row, now } = reply {
            match row.state {
                DeliveryState::Failed => self.trace_given_up(&row.delivery, "it failed"),
                DeliveryState::Pending => self.come_back(Some(row.due_at), now),
                DeliveryState::Delivered => {}
            }
        }
        self.look_into_outbox_soon();
    }

    fn trace_given_up(&mut self, delivery: &Delivery, why: &str) {
        let Delivery {
            endpoint,
            turn,
            conversation,
            seq,
            tries,
        } = delivery;
        let message = format!(
            "webhook {endpoint} is not told of the end of turn {turn} (conversation \
             {conversation}, seq {seq}): given up after {tries} tries, {why}"
        );
        self.kit.trace(GIVEN_UP, message);
    }

    /// A shutdown has waited long enough: what is under way is left to its lease.
    pub(super) fn break_off_deliveries(&mut self) {
        let keys: Vec<_> = self.deliveries.under_way.keys().cloned().collect();
        for (endpoint, turn) in keys {
            self.break_off(&endpoint, turn);
            self.kit.timers.disarm(&Wake::DeliveryDue(endpoint, turn));
        }
        self.deliveries.under_way.clear();
    }

    /// Every delivery that was taken has a deadline, and the outbox is looked at.
    pub(super) fn check_deliveries(&self) -> Result<(), Broken> {
        let broken = |what, turn| Err(Broken { what, turn });
        for ((endpoint, turn), under_way) in &self.deliveries.under_way {
            let has_deadline = match &under_way.sending {
                Some(id) => {
                    let wake = Wake::DeliveryDue(endpoint.clone(), *turn);
                    self.kit.flights.contains_key(id) && self.kit.timers.is_armed(&wake)
                }
                None => {
                    let purpose = Purpose::Delivery(endpoint.clone(), *turn);
                    let mut pausing = self.kit.pausing.values();
                    self.kit.asking(&purpose) > 0 || pausing.any(|ask| ask.purpose == purpose)
                }
            };
            if !has_deadline {
                return broken("a delivery that nobody waits for", Some(*turn));
            }
        }
        let is_watched = self.config.webhooks.is_empty()
            || self.kit.timers.is_armed(&Wake::OutboxDue)
            || self.stage != Stage::Serving;
        if !is_watched {
            return broken("an outbox that nobody looks into", None);
        }
        Ok(())
    }
}
