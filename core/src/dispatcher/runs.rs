//! Commands that outlived their server: those of open turns wait to be adopted
//! by their turn's next stretch, the others are killed (L10).

use alloc::vec::Vec;

use super::Dispatcher;
use crate::ids::{EffectId, TurnId};
use crate::io::{Effect, MAX_UNATTENDED};
use crate::kit::{Flight, Purpose};
use crate::store::{Reply, Verb};

impl Dispatcher {
    /// One look at a time; one that was not answered is taken for lost.
    pub(super) fn find_unattended(&mut self) {
        let is_look = |flight: &Flight| matches!(flight, Flight::Runs);
        self.kit.flights.retain(|_, flight| !is_look(flight));
        let id = self.kit.register(Flight::Runs);
        self.kit.emit(Effect::FindUnattended { id, link: None });
    }

    pub(super) fn unattended_found(&mut self, id: EffectId, mut turns: Vec<TurnId>) {
        match self.kit.flights.get(&id).cloned() {
            Some(Flight::Runs) => {}
            Some(Flight::RunsOn(computer)) => {
                return self.unattended_found_on(id, &computer, turns);
            }
            _ => return,
        }
        self.kit.flights.remove(&id);
        turns.truncate(MAX_UNATTENDED);
        if turns.is_empty() || self.kit.asking(&Purpose::Runs) > 0 {
            return;
        }
        self.ctx().ask(Purpose::Runs, Verb::Ended { turns });
    }

    pub(super) fn unattended_judged(&mut self, reply: Reply) {
        if let Reply::AreEnded(turns) = reply
            && !turns.is_empty()
            && !crate::planted!("D46")
        {
            self.kit.emit(Effect::EndUnattended { turns, link: None });
        }
    }
}
