//! How processes end, stand still and go on.

use dispatch_core::io::Input;

use super::process::Process;
use super::{Event, World};
use crate::clock::Us;
use crate::fact::Life;
use crate::scenario::MINUTE;
use crate::timeline::Note;

impl World<'_> {
    /// `kill -9`: what was in flight for the process is heard by nobody.
    pub(super) fn die(&mut self, replica: usize, down: Us) {
        let Some(process) = self.replicas[replica].process.take() else {
            return;
        };
        self.replicas[replica].inbox.clear();
        self.keep_journal(replica, &process);
        self.tell_life(replica, Life::Down);
        for stream in process.streams.into_values() {
            self.abandon_stream(stream, 100_000);
        }
        self.lose_commands(replica);
        self.detach_followers(replica);
        let life = self.replicas[replica].life;
        self.queue_in(down, Event::Start { replica, life });
    }

    fn keep_journal(&mut self, replica: usize, process: &Process) {
        if let Some(journal) = &process.journal {
            let name = format!("r{replica}-life{}", self.replicas[replica].life);
            self.journals.push((name, journal.frames().to_vec()));
        }
    }

    /// The journals of all lives, those that still last included.
    pub(crate) fn into_journals(mut self) -> Vec<(String, Vec<u8>)> {
        for replica in 0..self.replicas.len() {
            if let Some(process) = self.replicas[replica].process.take() {
                self.keep_journal(replica, &process);
            }
        }
        self.journals
    }

    pub(super) fn stop(&mut self, replica: usize, during: Us) {
        let place = &mut self.replicas[replica];
        if place.process.is_none() || place.state != Life::Up {
            return;
        }
        let life = place.life;
        self.tell_life(replica, Life::Paused);
        self.queue_in(during, Event::Continue { replica, life });
    }

    /// What came meanwhile is there at once; timers are late.
    pub(super) fn go_on(&mut self, replica: usize, life: u32) {
        let place = &mut self.replicas[replica];
        if place.life != life || place.state != Life::Paused {
            return;
        }
        let inbox = std::mem::take(&mut place.inbox);
        self.excuse_silence(replica);
        self.tell_life(replica, Life::Up);
        self.drain(replica);
        if self.dice.process().chance(5_000) {
            self.tick(replica);
        }
        for input in inbox {
            self.deliver(replica, life, input);
        }
        self.tick(replica);
    }

    pub(super) fn shut_down(&mut self, replica: usize, down: Us) {
        let place = &self.replicas[replica];
        if place.state != Life::Up {
            return;
        }
        let life = place.life;
        self.tell_life(replica, Life::Draining);
        self.queue_in(MINUTE, Event::DrainedOrNot { replica, life });
        self.replicas[replica].down_after_drain = down;
        self.feed(replica, Input::Shutdown);
    }

    /// A process that was told to stop exits, or is killed at last.
    pub(super) fn drained_or_not(&mut self, replica: usize, life: u32) {
        let place = &self.replicas[replica];
        if place.life == life && place.state == Life::Draining {
            let down = place.down_after_drain;
            self.die(replica, down);
        }
    }

    /// All processes run again; the store can be reached.
    pub(super) fn calm_down(&mut self) {
        self.calm = true;
        self.storm = None;
        self.computers.calm_down();
        self.recorder.line(self.at, || "calm".to_owned());
        self.recorder
            .watched(|watch| watch.note(self.at, &Note::Calm));
        for replica in 0..self.replicas.len() {
            let place = &mut self.replicas[replica];
            place.cut_off_until = 0;
            if let Some(process) = &mut place.process {
                process.doom = None;
                process.panics_after = None;
            }
            let life = place.life;
            self.go_on(replica, life);
            self.start(replica, life);
        }
    }
}
