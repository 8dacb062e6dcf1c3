//! Panics in the core (L7): what it was about to do is not done, and the
//! process goes on with a Dispatcher that is rebuilt from the store, as the
//! host's driver does it.

use dispatch_core::ids::{EffectId, Owner, TurnId};
use dispatch_core::io::Input;
use dispatch_core::journal::{self, Start};

use super::World;
use crate::fact::{Fact, Life};

impl World<'_> {
    /// The turn that an input concerns, as the host knows it by its effect.
    fn concerns(&self, replica: usize, input: &Input) -> Option<TurnId> {
        let process = self.replicas[replica].process.as_ref()?;
        let of_stream = |id: &EffectId| {
            let stream = process.streams.get(id)?;
            self.streams.turn_of(*stream)
        };
        match input {
            Input::ProviderHead { id, .. }
            | Input::ProviderBytes { id, .. }
            | Input::ProviderEnd { id }
            | Input::ProviderFailed { id, .. } => of_stream(id),
            Input::ToolOutput { id, .. } | Input::ToolDone { id, .. } => {
                self.runs.turn_of(*process.runs.get(id)?)
            }
            Input::Stored { id, .. } => process.writes.get(id).copied(),
            Input::Tick
            | Input::Command { .. }
            | Input::Adopted { .. }
            | Input::Unattended { .. }
            | Input::ComputerUp { .. }
            | Input::ComputerDown { .. }
            | Input::ComputerAlive { .. }
            | Input::DeliveryDone { .. }
            | Input::ToolLost { .. }
            | Input::EffectPanicked { .. }
            | Input::Nudged
            | Input::Shutdown => None,
        }
    }

    /// The core has panicked over this input.
    pub(super) fn panic_over(&mut self, replica: usize, input: &Input) {
        let seal = self.concerns(replica, input);
        self.recorder
            .line(self.at, || format!("r{replica} panics, sealing {seal:?}"));
        self.tell(&Fact::Panicked { replica, seal });
        self.tell(&Fact::Trouble { replica });
        let Some(process) = &mut self.replicas[replica].process else {
            return;
        };
        let streams = std::mem::take(&mut process.streams);
        let runs = process.runs.clone();
        process.posts.clear();
        process.links.clear();
        process.attempts.clear();
        for stream in streams.into_values() {
            self.tell(&Fact::Closed { stream });
            self.abandon_stream(stream, 50_000);
        }
        for run in runs.into_keys() {
            self.leave_tool(replica, run);
        }
        self.lose_taken_commands(replica);
        self.rebuild(replica, seal);
    }

    fn rebuild(&mut self, replica: usize, seal: Option<TurnId>) {
        let seed = self.dice.core().seed_bytes();
        let place = &self.replicas[replica];
        let Some(process) = &place.process else {
            return;
        };
        let owner = Owner {
            node: place.node.clone(),
            boot: process.boot,
            incarnation: process.incarnation + 1,
        };
        let start = Start {
            config: self.config(owner, place.life),
            seed,
            now: process.clock.now(self.at),
            life: journal::Life::Rebuilt { seal },
        };
        let core = start.dispatcher();
        let place = &mut self.replicas[replica];
        let is_draining = place.state == Life::Draining;
        if let Some(process) = &mut place.process {
            process.incarnation += 1;
            *process.core = core;
            if let Some(journal) = &mut process.journal {
                journal.start(&start).expect("a start can be journaled");
            }
            process.armed = None;
        }
        self.drain(replica);
        if is_draining {
            self.feed(replica, Input::Shutdown);
        }
    }
}
