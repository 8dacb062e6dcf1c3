//! Computers that are reached over links: what is asked of them arrives late,
//! twice delayed, or never, and is done as their run directories have it (S5).

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::ids::{ComputerId, EffectId, Epoch, TurnId};
use dispatch_core::io::{Found, Input, ToolAdopt, ToolStart};
use dispatch_core::tools::READ;

use super::links::LinkEnd;
use super::tools::{Directory, Place};
use super::{Event, World};
use crate::clock::Us;
use crate::fact::Fact;
use crate::rng::Purpose;
use crate::scenario::{SECOND, Trouble};
use crate::sometimes::Point;

/// What a computer's clock, which counts seconds, may be wrong by.
const CLOCK_SLACK: Us = SECOND;

/// All of a run.
pub(crate) struct Computers {
    all: Vec<Computer>,
}

struct Computer {
    id: ComputerId,
    trouble: Option<(Us, Trouble)>,
    /// Of each call by the ownership and the attempt that made it: nothing older
    /// than any of them may be started.
    directories: BTreeMap<(TurnId, String), BTreeMap<(Epoch, u32), Directory>>,
}

/// Something to be done over there.
pub(crate) struct Far {
    pub(super) over: LinkEnd,
    pub(super) computer: usize,
    pub(super) op: Op,
}

pub(crate) enum Op {
    /// Not done later than at that moment: the computer is told by its own clock.
    Start(EffectId, Box<ToolStart>, Us),
    Adopt(EffectId, Box<ToolAdopt>, Us),
    Kill(EffectId),
    Ping,
    Find(EffectId),
    End(Vec<TurnId>),
}

impl Op {
    /// What it will be spoken of as.
    pub(super) fn attempt(&self) -> Option<EffectId> {
        match self {
            Op::Start(id, ..) | Op::Adopt(id, ..) => Some(*id),
            Op::Kill(_) | Op::Ping | Op::Find(_) | Op::End(_) => None,
        }
    }
}

impl Computers {
    pub(super) fn new(count: usize) -> Computers {
        let ids = (0..count).filter_map(|n| ComputerId::try_from(format!("box-{n}").as_str()).ok());
        let all = ids.map(|id| Computer {
            id,
            trouble: None,
            directories: BTreeMap::new(),
        });
        Computers { all: all.collect() }
    }

    pub(super) fn find(&self, id: &ComputerId) -> Option<usize> {
        self.all.iter().position(|computer| computer.id == *id)
    }

    pub(super) fn id(&self, computer: usize) -> &ComputerId {
        &self.all[computer].id
    }

    pub(super) fn trouble(&self, computer: usize, at: Us) -> Option<Trouble> {
        let (until, trouble) = self.all[computer].trouble?;
        (at < until).then_some(trouble)
    }

    /// Nothing comes or goes until then.
    pub(super) fn is_silent_until(&self, computer: usize, at: Us) -> Option<Us> {
        let (until, trouble) = self.all[computer].trouble?;
        let is_silent = matches!(trouble, Trouble::Silent | Trouble::Vanishes);
        (at < until && is_silent).then_some(until)
    }

    pub(super) fn calm_down(&mut self) {
        for computer in &mut self.all {
            computer.trouble = None;
        }
    }
}

impl World<'_> {
    pub(super) fn befall_computer(&mut self, computer: usize, trouble: Trouble, until: Us) {
        self.computers.all[computer].trouble = Some((until, trouble));
        self.tell_trouble(computer, until);
        match trouble {
            Trouble::Cut | Trouble::Refuses => self.cut_links(computer),
            Trouble::Reboots => {
                self.cut_links(computer);
                for run in self.runs.running_on(computer) {
                    self.tool_dies(run);
                }
            }
            Trouble::Silent
            | Trouble::Vanishes
            | Trouble::Rejects
            | Trouble::OtherKey
            | Trouble::NoFiles
            | Trouble::Flaps
            | Trouble::Hangs
            | Trouble::Stalls
            | Trouble::Breaks => {}
        }
    }

    pub(super) fn tell_trouble(&mut self, computer: usize, until: Us) {
        let id = self.computers.id(computer).clone();
        self.tell(&Fact::ComputerTroubled {
            computer: &id,
            until,
        });
    }

    /// Something has come over a link, or over what was one when it was sent.
    pub(super) fn arrives_far(&mut self, far: Far) {
        let computer = &self.computers.all[far.computer];
        match computer.trouble.filter(|(until, _)| self.at < *until) {
            Some((_, Trouble::Refuses | Trouble::Reboots)) => return,
            Some((until, Trouble::Silent)) => {
                return self.queue_at(until, Event::Far(Box::new(far)));
            }
            Some((_, Trouble::Stalls)) if !matches!(far.op, Op::Start(..)) => {}
            Some((until, Trouble::Vanishes | Trouble::Stalls)) => {
                if self.dice.network().chance(5_000) {
                    self.queue_at(until, Event::Far(Box::new(far)));
                }
                return;
            }
            Some(_) | None => {}
        }
        if !self.is_linked(far.over) {
            // It had come before its link was lost, or had not.
            if self.dice.network().chance(5_000) {
                return;
            }
            self.court.sometimes.hit(Point::DoneUnheard);
        }
        let Far { over, computer, op } = far;
        match op {
            Op::Start(id, _, not_after) if self.at > not_after + CLOCK_SLACK => {
                self.court.sometimes.hit(Point::StartTooLate);
                let end = super::tools::refused("it came too late to be started");
                self.say(over, 1_000, Input::ToolDone { id, end });
            }
            Op::Start(id, start, _) => self.start_far(over, computer, id, *start),
            Op::Adopt(id, adopt, not_after) => {
                let is_heard = self.is_linked(over) && self.at <= not_after;
                self.adopt_far(over, computer, id, *adopt, is_heard);
            }
            Op::Kill(id) => {
                if let Some(run) = self.runs.watched_as(over.replica, over.life, id) {
                    self.kill_run(run);
                }
            }
            Op::Ping => self.say(over, 1_000, Input::ComputerAlive { id: over.link }),
            Op::Find(id) => self.find_far(over, computer, id),
            Op::End(turns) => self.end_far(over, computer, &turns),
        }
    }

    fn start_far(&mut self, over: LinkEnd, computer: usize, id: EffectId, start: ToolStart) {
        if start.name == READ.name {
            return self.read_far(over, id, &start);
        }
        let call = (start.turn, start.call_id.clone());
        let rank = (start.epoch, start.attempt);
        let made = self.computers.all[computer].directories.entry(call);
        let made = made.or_default();
        if made.range(rank..).next().is_some() {
            self.court.sometimes.hit(Point::StartGaveWay);
            let end = super::tools::refused("its run directory is somebody else's");
            return self.say(over, 1_000, Input::ToolDone { id, end });
        }
        made.insert(rank, Directory::Run(self.runs.count()));
        self.begin_run(Place::far(over, computer), id, start);
        let found = Found::Running;
        self.say(over, 1_000, Input::Adopted { id, found });
    }

    /// Leaves no trace.
    fn read_far(&mut self, over: LinkEnd, id: EffectId, start: &ToolStart) {
        let end = super::tools::read_end(start);
        let digest = xxhash_rust::xxh3::xxh3_64(start.input.as_bytes());
        let mut rng = self.dice.keyed(Purpose::Tool, digest, 0);
        let after = rng.spread(1_000, 5 * SECOND);
        self.say(over, after, Input::ToolDone { id, end });
    }

    /// Nobody watches over a link that is gone, or for a turn that was let go of;
    /// the directory may have been made all the same.
    fn adopt_far(
        &mut self,
        over: LinkEnd,
        computer: usize,
        id: EffectId,
        adopt: ToolAdopt,
        is_heard: bool,
    ) {
        let call = (adopt.turn, adopt.call_id);
        let made = self.computers.all[computer].directories.entry(call);
        let made = made.or_default();
        let begun = made.values().rev().find_map(|directory| match directory {
            Directory::Run(run) => Some(*run),
            Directory::Closed => None,
        });
        let Some(run) = begun else {
            made.insert((adopt.epoch, adopt.attempt), Directory::Closed);
            self.court.sometimes.hit(Point::LookedInVain);
            let found = Found::Nothing;
            return self.say(over, 1_000, Input::Adopted { id, found });
        };
        if !is_heard {
            return;
        }
        let place = Place::far(over, computer);
        if let Some(found) = self.look_at_run(place, id, run, adopt.epoch) {
            self.say(over, 1_000, Input::Adopted { id, found });
        }
    }

    fn is_watched_by(&self, over: LinkEnd, run: usize) -> bool {
        let process = self.replicas[over.replica].process.as_ref();
        let watched = self.runs.watcher_of(run, over.replica, over.life);
        watched.is_some_and(|id| process.is_some_and(|process| process.attempts.contains_key(&id)))
    }

    fn find_far(&mut self, over: LinkEnd, computer: usize, id: EffectId) {
        let running = self.runs.running_on(computer).into_iter();
        let unwatched = running.filter(|run| !self.is_watched_by(over, *run));
        let turns: BTreeSet<TurnId> = unwatched.filter_map(|run| self.runs.turn_of(run)).collect();
        let turns = turns.into_iter().collect();
        self.say(over, 1_000, Input::Unattended { id, turns });
    }

    fn end_far(&mut self, over: LinkEnd, computer: usize, turns: &[TurnId]) {
        for run in self.runs.running_on(computer) {
            let is_meant = self.runs.turn_of(run).is_some_and(|t| turns.contains(&t));
            if is_meant && !self.is_watched_by(over, run) {
                self.court.sometimes.hit(Point::UnattendedEndedFar);
                self.kill_run(run);
            }
        }
    }
}
