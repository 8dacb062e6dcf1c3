//! What befalls processes and the provider, and when.

use dispatch_core::io::Effect;

use super::{Event, World};
use crate::clock::Us;
use crate::fact::{Fact, Life};
use crate::scenario::{Chaos, When};
use crate::sometimes::Point;
use crate::timeline::Note;

/// A kill or a pause that waits for its moment.
pub(super) struct Doom {
    pub(super) when: When,
    pub(super) hit: Hit,
}

#[derive(Clone, Copy)]
pub(super) enum Hit {
    /// Dead for so long.
    Kill(Us),
    /// Stopped for so long.
    Pause(Us),
}

impl Doom {
    /// Whether this effect's moment is the one.
    pub(super) fn is_due(&mut self, effect: &Effect) -> bool {
        match &mut self.when {
            When::Now | When::AfterEffects(0) => true,
            When::AfterEffects(left) => {
                *left -= 1;
                false
            }
            When::At(name) => effect_name(effect) == name,
        }
    }
}

/// Of a verb its own name: as [`When::At`] has it.
fn effect_name(effect: &Effect) -> &'static str {
    match effect {
        Effect::Store { verb, .. } => verb.name(),
        Effect::OpenProvider { .. } => "open-provider",
        Effect::CloseProvider { .. } => "close-provider",
        Effect::StartTool { .. } => "start-tool",
        Effect::KillTool { .. } => "kill-tool",
        Effect::AdoptTool { .. } => "adopt-tool",
        Effect::LeaveTool { .. } => "leave-tool",
        Effect::FindUnattended { .. } => "find-unattended",
        Effect::EndUnattended { .. } => "end-unattended",
        Effect::ConnectComputer { .. } => "connect-computer",
        Effect::PingComputer { .. } => "ping-computer",
        Effect::CloseComputer { .. } => "close-computer",
        Effect::ComputerChanged { .. } => "computer-changed",
        Effect::Deliver { .. } => "deliver",
        Effect::CancelDelivery { .. } => "cancel-delivery",
        Effect::Publish { .. } => "publish",
        Effect::Wake { .. } => "wake",
        Effect::Nudge { .. } => "nudge",
        Effect::Answer { .. } => "answer",
        Effect::Trace { .. } => "trace",
        Effect::Ready { .. } => "ready",
        Effect::Drained => "drained",
    }
}

impl World<'_> {
    pub(super) fn befall(&mut self, chaos: Chaos) {
        self.recorder.line(self.at, || format!("chaos {chaos:?}"));
        let until = (self.at + chaos.lasts()).min(self.scenario.calm_at);
        self.recorder
            .watched(|watch| watch.note(self.at, &Note::Chaos(&chaos, until)));
        match chaos {
            Chaos::Kill {
                replica,
                when,
                down,
            } => match self.replicas[replica].state {
                Life::Down => {}
                Life::Draining => {
                    self.court.sometimes.hit(Point::DiedDraining);
                    self.die(replica, down);
                }
                Life::Paused => self.die(replica, down),
                Life::Up if when == When::Now => self.die(replica, down),
                Life::Up => self.doom(replica, when, Hit::Kill(down)),
            },
            Chaos::Shutdown {
                replica,
                down,
                killed_after,
            } => {
                self.shut_down(replica, down);
                if let Some(after) = killed_after {
                    let when = When::Now;
                    let kill = Chaos::Kill {
                        replica,
                        when,
                        down,
                    };
                    self.queue_in(after, Event::Chaos(Box::new(kill)));
                }
            }
            Chaos::Pause {
                replica,
                when: When::Now,
                during,
            } => self.stop(replica, during),
            Chaos::Pause {
                replica,
                when,
                during,
            } => self.doom(replica, when, Hit::Pause(during)),
            Chaos::Partition { replica, during } => {
                let until = (self.at + during).min(self.scenario.calm_at);
                let place = &mut self.replicas[replica];
                place.cut_off_until = place.cut_off_until.max(until);
                self.tell(&Fact::Trouble { replica });
            }
            Chaos::Panic {
                replica,
                after_inputs,
            } => {
                if let Some(process) = &mut self.replicas[replica].process {
                    process.panics_after = Some(after_inputs);
                }
            }
            Chaos::Wedge { replica, during } => {
                let until = (self.at + during).min(self.scenario.calm_at);
                self.replicas[replica].wedged_until = until;
            }
            Chaos::Storm { during, kind } => {
                let until = (self.at + during).min(self.scenario.calm_at);
                self.storm = Some((until, kind));
            }
            Chaos::Rot { conversation } => self.rot(conversation),
            Chaos::Computer {
                computer, trouble, ..
            } => self.befall_computer(computer, trouble, until),
            Chaos::WallJump { replica, by_ms } => {
                let place = &mut self.replicas[replica];
                place.wall_ahead_ms += by_ms;
                if let Some(process) = &mut place.process {
                    process.clock.jump_wall(by_ms);
                    place.wall_ahead_ms = process.clock.wall_ahead_ms();
                }
            }
        }
    }

    fn rot(&mut self, conversation: usize) {
        let Some(conversation) = self.clients.conversations[conversation].clone() else {
            return;
        };
        self.model.rotten.insert(conversation.clone());
        self.tell(&Fact::Rotted {
            conversation: &conversation,
        });
    }

    fn doom(&mut self, replica: usize, when: When, hit: Hit) {
        if let Some(process) = &mut self.replicas[replica].process {
            process.doom = Some(Doom { when, hit });
        }
    }
}
