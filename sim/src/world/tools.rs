//! Commands: they run in run directories of their replica's computer, or of one
//! that is reached over a link, and go on when the server that started them
//! dies, until somebody adopts them.

use std::collections::{BTreeMap, BTreeSet};

use dispatch_core::config::Deadlines;
use dispatch_core::event::OutputStream;
use dispatch_core::ids::{EffectId, Epoch, TurnId};
use dispatch_core::io::{Found, Input, ToolAdopt, ToolEnd, ToolStart};
use dispatch_core::tools::READ;

use super::links::LinkEnd;
use super::{Event, World};
use crate::clock::Us;
use crate::fact::Fact;
use crate::rng::Purpose;
use crate::scenario::{MINUTE, SECOND};
use crate::sometimes::Point;

/// All commands of a run.
#[derive(Default)]
pub(crate) struct Runs {
    runs: Vec<Run>,
    directories: BTreeMap<(usize, TurnId, String), Directory>,
}

#[derive(Clone, Copy)]
pub(super) enum Directory {
    Run(usize),
    /// Looked for before anything was started: nothing may be started in it.
    Closed,
}

struct Run {
    command: String,
    turn: TurnId,
    call_id: String,
    /// Who watches it, and as which effect; nobody once it was let go of.
    place: Place,
    effect: Option<EffectId>,
    state: State,
    /// Between a kill and its death.
    kill_us: Us,
    is_dying: bool,
    /// Nobody is told of its end.
    end_is_lost: bool,
    fails: bool,
    /// Effects that wait for its death, and whose they are.
    adopters: Vec<(Place, EffectId)>,
}

/// From where a command is watched.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) replica: usize,
    pub(super) life: u32,
    /// On another computer, over this link.
    pub(super) far: Option<(usize, EffectId)>,
}

impl Place {
    fn here(replica: usize, life: u32) -> Place {
        let far = None;
        Place { replica, life, far }
    }

    pub(super) fn far(over: LinkEnd, computer: usize) -> Place {
        Place {
            replica: over.replica,
            life: over.life,
            far: Some((computer, over.link)),
        }
    }

    fn link(self) -> Option<LinkEnd> {
        let (_, link) = self.far?;
        Some(LinkEnd {
            replica: self.replica,
            life: self.life,
            link,
        })
    }

    fn computer(self) -> Option<usize> {
        self.far.map(|(computer, _)| computer)
    }
}

impl Run {
    /// It runs on the replica's own computer.
    fn is_at(&self, replica: usize) -> bool {
        self.place.far.is_none() && self.place.replica == replica
    }
}

enum State {
    Runs,
    Killed,
    Ended(ToolEnd),
}

impl Runs {
    pub(super) fn turn_of(&self, run: usize) -> Option<TurnId> {
        self.runs.get(run).map(|run| run.turn)
    }

    pub(super) fn count(&self) -> usize {
        self.runs.len()
    }

    /// Commands that run on a computer.
    pub(super) fn running_on(&self, computer: usize) -> Vec<usize> {
        let runs = self.runs.iter().enumerate();
        runs.filter(|(_, run)| run.place.computer() == Some(computer))
            .filter(|(_, run)| matches!(run.state, State::Runs))
            .map(|(n, _)| n)
            .collect()
    }

    /// The command that a process knows as this effect.
    pub(super) fn watched_as(&self, replica: usize, life: u32, id: EffectId) -> Option<usize> {
        let of = |run: &Run| (run.place.replica, run.place.life, run.effect);
        self.runs
            .iter()
            .position(|run| of(run) == (replica, life, Some(id)))
    }

    /// What this process knows a command as.
    pub(super) fn watcher_of(&self, run: usize, replica: usize, life: u32) -> Option<EffectId> {
        let run = &self.runs[run];
        let is_its = (run.place.replica, run.place.life) == (replica, life);
        run.effect.filter(|_| is_its)
    }

    /// Commands that run.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.runs.iter().filter(|r| matches!(r.state, State::Runs));
        running.map(|run| run.command.clone()).collect()
    }
}

fn output_of(command: &str) -> String {
    format!("output of {command}")
}

impl World<'_> {
    pub(super) fn start_tool(&mut self, replica: usize, effect: EffectId, start: ToolStart) {
        let life = self.replicas[replica].life;
        if start.name == READ.name {
            return self.look_at_file(replica, effect, &start);
        }
        let directory = (replica, start.turn, start.call_id.clone());
        if let Some(Directory::Closed) = self.runs.directories.get(&directory) {
            let end = refused("its run directory was closed by a later ownership");
            self.send(1_000, replica, life, Input::ToolDone { id: effect, end });
            return;
        }
        let run = Directory::Run(self.runs.count());
        self.runs.directories.insert(directory, run);
        self.begin_run(Place::here(replica, life), effect, start);
    }

    pub(super) fn begin_run(&mut self, place: Place, effect: EffectId, start: ToolStart) {
        let replica = place.replica;
        let command = command_of(&start);
        self.tell(&Fact::ToolStarted {
            command: &command,
            turn: start.turn,
            epoch: start.epoch,
            call_id: &start.call_id,
            replica,
            computer: start.computer.as_ref(),
            deadline_ms: start.deadline_ms,
        });
        let digest = xxhash_rust::xxh3::xxh3_64(command.as_bytes());
        let mut rng = self.dice.keyed(Purpose::Tool, digest, 0);
        let luck = &mut self.dice.keyed(Purpose::Luck, digest, 0);
        let trouble = self.luck.tool(luck, &command, self.calm);
        let deadline = start.deadline_ms * 1_000;
        let lasts = match trouble.hangs {
            // Its own supervisor fails to keep the deadline.
            true => deadline + rng.range(60 * SECOND, 120 * SECOND),
            false if self.scenario.slow_tools => rng.range(20 * SECOND, 8 * MINUTE),
            false => rng.spread(2_000, 90 * SECOND).min(deadline),
        };
        let run = self.runs.runs.len();
        self.runs.runs.push(Run {
            command,
            turn: start.turn,
            call_id: start.call_id,
            place,
            effect: Some(effect),
            state: State::Runs,
            kill_us: rng.spread(5_000, 5 * SECOND),
            is_dying: false,
            // Over there an end is read, not told.
            end_is_lost: trouble.end_is_lost && place.far.is_none(),
            fails: trouble.fails,
            adopters: Vec::new(),
        });
        self.watches(place, effect, run);
        if rng.chance(4_000) {
            self.queue_in(lasts / 2, Event::ToolPrints(run));
        }
        self.queue_in(lasts, Event::ToolEnds(run));
    }

    /// Within the server, and gone with it.
    fn look_at_file(&mut self, replica: usize, id: EffectId, start: &ToolStart) {
        let life = self.replicas[replica].life;
        let digest = xxhash_rust::xxh3::xxh3_64(command_of(start).as_bytes());
        let mut rng = self.dice.keyed(Purpose::Tool, digest, 0);
        let end = read_end(start);
        let after = rng.spread(1_000, 5 * SECOND);
        self.send(after, replica, life, Input::ToolDone { id, end });
    }

    pub(super) fn tool_prints(&mut self, run: usize) {
        let run = &self.runs.runs[run];
        if let (State::Runs, Some(id)) = (&run.state, run.effect) {
            let input = Input::ToolOutput {
                id,
                stream: OutputStream::Combined,
                offset: 0,
                text: output_of(&run.command),
            };
            let Place { replica, life, .. } = run.place;
            match run.place.link() {
                Some(over) => self.say(over, 1_000, input),
                None => self.deliver(replica, life, input),
            }
        }
    }

    pub(super) fn tool_ends(&mut self, at: usize) {
        let run = &mut self.runs.runs[at];
        let State::Runs = run.state else { return };
        let end = ToolEnd {
            ok: !run.fails,
            output: output_of(&run.command),
            duration_ms: 1,
            spilled: None,
        };
        run.state = State::Ended(end.clone());
        self.bury(at, Some(&end));
    }

    pub(super) fn tool_dies(&mut self, at: usize) {
        let run = &mut self.runs.runs[at];
        let State::Runs = run.state else { return };
        run.state = State::Killed;
        self.bury(at, None);
    }

    /// Tells everybody of a command's end.
    fn bury(&mut self, at: usize, end: Option<&ToolEnd>) {
        let run = &mut self.runs.runs[at];
        let (place, id) = (run.place, run.effect);
        let (turn, is_heard) = (run.turn, !run.end_is_lost);
        let (command, call_id) = (run.command.clone(), run.call_id.clone());
        let adopters = std::mem::take(&mut run.adopters);
        self.recorder
            .line(self.at, || format!("`{command}` is gone: {end:?}"));
        self.tell(&Fact::ToolGone {
            command: &command,
            call_id: &call_id,
            turn,
            end,
        });
        for (place, id) in adopters {
            let found = self.found(at);
            self.hear(place, 1_000, Input::Adopted { id, found });
        }
        if let (true, Some(id)) = (is_heard, id) {
            let end = end.cloned().unwrap_or_else(|| refused("killed"));
            let after = self.dice.network().spread(500, 50_000);
            if self.scenario.lingers && self.dice.network().chance(3_000) {
                self.court.sometimes.hit(Point::AfterTheEnd);
                let twice = Input::ToolDone {
                    id,
                    end: end.clone(),
                };
                self.hear(place, 2 * after, twice);
            }
            self.hear(place, after, Input::ToolDone { id, end });
        }
    }

    /// Tells whoever watches a command.
    fn hear(&mut self, place: Place, after: Us, input: Input) {
        match place.link() {
            Some(over) => self.say(over, after, input),
            None => self.send(after, place.replica, place.life, input),
        }
    }

    fn found(&self, at: usize) -> Found {
        let run = &self.runs.runs[at];
        match &run.state {
            State::Ended(end) => Found::Finished(end.clone()),
            State::Killed | State::Runs => Found::Killed {
                output: format!("half of {}", output_of(&run.command)),
            },
        }
    }

    pub(super) fn kill_tool(&mut self, replica: usize, effect: EffectId) {
        let process = self.replicas[replica].process.as_ref();
        let run = process.and_then(|p| p.runs.get(&effect)).copied();
        if let Some(run) = run.filter(|run| self.runs.runs[*run].is_at(replica)) {
            self.kill_run(run);
        }
    }

    pub(super) fn kill_run(&mut self, at: usize) {
        let run = &mut self.runs.runs[at];
        if let (State::Runs, false) = (&run.state, run.is_dying) {
            run.is_dying = true;
            let after = run.kill_us;
            self.queue_in(after, Event::ToolDies(at));
        }
    }

    /// The effect is carried out at once, as a look at a disk is; its answer
    /// takes a moment.
    pub(super) fn adopt_tool(&mut self, replica: usize, id: EffectId, adopt: ToolAdopt) {
        let ToolAdopt {
            turn,
            call_id,
            epoch,
            ..
        } = adopt;
        let life = self.replicas[replica].life;
        let directory = self
            .runs
            .directories
            .entry((replica, turn, call_id))
            .or_insert(Directory::Closed);
        let found = match *directory {
            Directory::Closed => {
                self.court.sometimes.hit(Point::AdoptedNothing);
                Found::Nothing
            }
            Directory::Run(run) => {
                let place = Place::here(replica, life);
                match self.look_at_run(place, id, run, epoch) {
                    Some(found) => found,
                    None => return,
                }
            }
        };
        self.send(1_000, replica, life, Input::Adopted { id, found });
    }

    /// What is found of a command; it is watched from here where it runs. `None`:
    /// that is told when it has died.
    pub(super) fn look_at_run(
        &mut self,
        place: Place,
        id: EffectId,
        at: usize,
        epoch: Epoch,
    ) -> Option<Found> {
        let run = &mut self.runs.runs[at];
        Some(match run.state {
            State::Runs if run.is_dying => {
                run.adopters.push((place, id));
                return None;
            }
            State::Runs => {
                self.court.sometimes.hit(match place.far {
                    Some(_) => Point::AdoptedFar,
                    None => Point::AdoptedRunning,
                });
                self.watch_on(place, id, at, epoch);
                Found::Running
            }
            State::Killed | State::Ended(_) => {
                self.court.sometimes.hit(Point::AdoptedFinished);
                self.found(at)
            }
        })
    }

    fn watches(&mut self, place: Place, id: EffectId, run: usize) {
        let replica = &mut self.replicas[place.replica];
        let process = replica.process.as_mut();
        if let Some(process) = process.filter(|_| replica.life == place.life) {
            process.runs.insert(id, run);
        }
    }

    fn watch_on(&mut self, place: Place, id: EffectId, at: usize, epoch: Epoch) {
        let run = &mut self.runs.runs[at];
        run.place = place;
        run.effect = Some(id);
        let (turn, command) = (run.turn, run.command.clone());
        self.watches(place, id, at);
        let computer = place.computer();
        let computer = computer.map(|computer| self.computers.id(computer).clone());
        self.tell(&Fact::ToolAdopted {
            command: &command,
            turn,
            epoch,
            replica: place.replica,
            computer: computer.as_ref(),
            deadline_ms: Deadlines::default().tool_ms,
        });
    }

    /// Its server watches a command no more.
    pub(super) fn leave_tool(&mut self, replica: usize, effect: EffectId) {
        let process = self.replicas[replica].process.as_mut();
        let Some(process) = process else { return };
        process.attempts.remove(&effect);
        let Some(run) = process.runs.remove(&effect) else {
            return;
        };
        self.court.sometimes.hit(Point::CommandLeft);
        let left = &mut self.runs.runs[run];
        // Over there somebody else may watch it by now.
        let is_its = (left.place.replica, left.effect) == (replica, Some(effect));
        if !is_its {
            return;
        }
        left.effect = None;
        let command = left.command.clone();
        self.tell(&Fact::ToolLeft { command: &command });
    }

    /// Who is not watched by a process that lives, each turn once.
    pub(super) fn find_unattended(&mut self, replica: usize, id: EffectId) {
        let is_watched = |run: &Run| {
            let place = &self.replicas[run.place.replica];
            run.effect.is_some() && place.process.is_some() && place.life == run.place.life
        };
        let runs = self.runs.runs.iter();
        let here = runs.filter(|run| run.is_at(replica));
        let unwatched = here.filter(|r| matches!(r.state, State::Runs) && !is_watched(r));
        let turns: BTreeSet<TurnId> = unwatched.map(|run| run.turn).collect();
        let life = self.replicas[replica].life;
        let turns = turns.into_iter().collect();
        self.send(1_000, replica, life, Input::Unattended { id, turns });
    }

    pub(super) fn end_unattended(&mut self, replica: usize, turns: &[TurnId]) {
        for at in 0..self.runs.runs.len() {
            let run = &self.runs.runs[at];
            let place = &self.replicas[run.place.replica];
            let is_watched = run.effect.is_some() && place.life == run.place.life;
            let is_here = run.is_at(replica) && turns.contains(&run.turn);
            if matches!(run.state, State::Runs) && is_here {
                let is_left = !(is_watched && place.process.is_some());
                if is_left {
                    self.court.sometimes.hit(Point::UnattendedEnded);
                    self.kill_run(at);
                }
            }
        }
    }
}

fn command_of(start: &ToolStart) -> String {
    let input: serde_json::Value = serde_json::from_str(&start.input).unwrap_or_default();
    input["command"].as_str().unwrap_or(&start.input).to_owned()
}

pub(super) fn read_end(start: &ToolStart) -> ToolEnd {
    ToolEnd {
        ok: true,
        output: output_of(&command_of(start)),
        duration_ms: 1,
        spilled: None,
    }
}

pub(super) fn refused(why: &str) -> ToolEnd {
    ToolEnd {
        ok: false,
        output: why.to_owned(),
        duration_ms: 0,
        spilled: None,
    }
}
