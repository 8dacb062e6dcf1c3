//! Commands: they run in run directories of their replica's computer, and go on
//! when the replica dies, until it is back and adopts them.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::config::Deadlines;
use dispatch_core::event::OutputStream;
use dispatch_core::ids::{EffectId, Epoch, TurnId};
use dispatch_core::io::{Found, Input, ToolEnd, ToolStart};
use dispatch_core::tools::READ;
use madsim::task::spawn_local;
use madsim::time::sleep;
use tokio::sync::{Notify, mpsc};

use super::replica::Urgent;
use super::ring::Ring;
use crate::clock::Us;
use crate::fact::Fact;
use crate::rng::{Purpose, Rng};
use crate::scenario::{MINUTE, SECOND};

/// All commands of a run.
pub(super) struct Runs {
    runs: Vec<Run>,
    directories: BTreeMap<(usize, TurnId, String), Directory>,
    started: mpsc::UnboundedSender<(usize, Course)>,
    computer: Option<mpsc::UnboundedReceiver<(usize, Course)>>,
}

#[derive(Clone, Copy)]
enum Directory {
    Run(usize),
    /// Looked for before anything was started: nothing may be started in it.
    Closed,
}

struct Run {
    command: String,
    /// On whose computer.
    replica: usize,
    turn: TurnId,
    call_id: String,
    /// To the process that watches it, and as which effect; to nobody once it
    /// was let go of.
    watcher: Option<(mpsc::UnboundedSender<Urgent>, EffectId)>,
    state: State,
    kill: Rc<Notify>,
    is_dying: bool,
    /// Its watcher is not told of its end.
    end_is_lost: bool,
    fails: bool,
    adopters: Vec<(mpsc::UnboundedSender<Urgent>, EffectId)>,
}

impl Run {
    /// It runs, and no process hears of its end.
    fn is_left(&self) -> bool {
        let is_watched = self.watcher.as_ref().is_some_and(|(to, _)| !to.is_closed());
        matches!(self.state, State::Runs) && !is_watched
    }
}

enum State {
    Runs,
    Killed,
    Ended(ToolEnd),
}

/// How a command goes unless it is killed.
struct Course {
    lasts: Us,
    prints: bool,
    /// Between a kill and its death.
    kill_us: Us,
}

impl Default for Runs {
    fn default() -> Runs {
        let (started, computer) = mpsc::unbounded_channel();
        Runs {
            runs: Vec::new(),
            directories: BTreeMap::new(),
            started,
            computer: Some(computer),
        }
    }
}

impl Runs {
    /// Commands that run.
    pub(super) fn running(&self) -> Vec<String> {
        let running = self.runs.iter().filter(|r| matches!(r.state, State::Runs));
        running.map(|run| run.command.clone()).collect()
    }

    fn found(&self, run: usize) -> Found {
        let run = &self.runs[run];
        match &run.state {
            State::Ended(end) => Found::Finished(end.clone()),
            State::Killed | State::Runs => Found::Killed {
                output: format!("half of {}", output_of(&run.command)),
            },
        }
    }
}

/// The computer: what runs here belongs to no replica's process.
pub(super) async fn live(ring: Rc<Ring>) {
    let started = ring.runs.borrow_mut().computer.take();
    let mut started = started.expect("the computer never dies");
    while let Some((run, course)) = started.recv().await {
        spawn_local(supervise(ring.clone(), run, course));
    }
}

async fn supervise(ring: Rc<Ring>, run: usize, course: Course) {
    let kill = ring.runs.borrow().runs[run].kill.clone();
    let runs = async {
        sleep(Duration::from_micros(course.lasts / 2)).await;
        if course.prints {
            ring.tool_prints(run);
        }
        sleep(Duration::from_micros(course.lasts / 2)).await;
    };
    let dies = async {
        kill.notified().await;
        sleep(Duration::from_micros(course.kill_us)).await;
    };
    let is_killed = tokio::select! {
        biased;
        () = runs => false,
        () = dies => true,
    };
    ring.bury(run, is_killed);
}

impl Ring {
    /// Starts a command at once, as a fork does; its number, unless its run
    /// directory is closed.
    pub(super) fn start_tool(
        &self,
        replica: usize,
        effect: EffectId,
        start: ToolStart,
        starter: &mpsc::UnboundedSender<Urgent>,
    ) -> Option<usize> {
        let input: serde_json::Value = serde_json::from_str(&start.input).unwrap_or_default();
        let command = input["command"].as_str().unwrap_or(&start.input).to_owned();
        if start.name == READ.name {
            self.look_at_file(effect, &command, starter);
            return None;
        }
        let directory = (replica, start.turn, start.call_id.clone());
        let runs = &mut *self.runs.borrow_mut();
        if let Some(Directory::Closed) = runs.directories.get(&directory) {
            let end = refused("its run directory was closed by a later ownership");
            let _ = starter.send(Urgent::Input(Input::ToolDone { id: effect, end }));
            return None;
        }
        self.tell(&Fact::ToolStarted {
            computer: None,
            command: &command,
            turn: start.turn,
            epoch: start.epoch,
            call_id: &start.call_id,
            replica,
            deadline_ms: start.deadline_ms,
        });
        let digest = xxhash_rust::xxh3::xxh3_64(command.as_bytes());
        let mut rng = Rng::keyed(self.seed, Purpose::Tool, digest, 0);
        let faults = &self.plan.scenario.faults;
        let deadline = start.deadline_ms * 1_000;
        let lasts = match rng.chance(faults.tool_hang) {
            // Its own supervisor fails to keep the deadline.
            true => deadline + rng.range(60 * SECOND, 120 * SECOND),
            false if self.plan.scenario.slow_tools => rng.range(20 * SECOND, 8 * MINUTE),
            false => rng.spread(2_000, 90 * SECOND).min(deadline),
        };
        let course = Course {
            lasts,
            prints: rng.chance(4_000),
            kill_us: rng.spread(5_000, 5 * SECOND),
        };
        let run = runs.runs.len();
        runs.directories.insert(directory, Directory::Run(run));
        runs.runs.push(Run {
            command,
            replica,
            turn: start.turn,
            call_id: start.call_id,
            watcher: Some((starter.clone(), effect)),
            state: State::Runs,
            kill: Rc::default(),
            is_dying: false,
            end_is_lost: rng.chance(faults.tool_end_lost) && !self.is_calm(),
            fails: rng.chance(faults.tool_fails),
            adopters: Vec::new(),
        });
        let _ = runs.started.send((run, course));
        Some(run)
    }

    /// Within the process: one that dies meanwhile is not there to be told.
    fn look_at_file(&self, id: EffectId, command: &str, starter: &mpsc::UnboundedSender<Urgent>) {
        let digest = xxhash_rust::xxh3::xxh3_64(command.as_bytes());
        let mut rng = Rng::keyed(self.seed, Purpose::Tool, digest, 0);
        let end = ToolEnd {
            ok: true,
            output: output_of(command),
            duration_ms: 1,
            spilled: None,
        };
        let (starter, after) = (starter.clone(), rng.spread(1_000, 5 * SECOND));
        spawn_local(async move {
            sleep(Duration::from_micros(after)).await;
            let _ = starter.send(Urgent::Input(Input::ToolDone { id, end }));
        });
    }

    pub(super) fn kill_tool(&self, run: usize) {
        let run = &mut self.runs.borrow_mut().runs[run];
        run.is_dying = true;
        run.kill.notify_one();
    }

    /// Its number, where it runs and is watched on over.
    pub(super) fn adopt_tool(
        &self,
        replica: usize,
        id: EffectId,
        (turn, call_id): (TurnId, String),
        epoch: Epoch,
        adopter: &mpsc::UnboundedSender<Urgent>,
    ) -> Option<usize> {
        let runs = &mut *self.runs.borrow_mut();
        let directory = runs.directories.entry((replica, turn, call_id));
        let mut running = None;
        let found = match *directory.or_insert(Directory::Closed) {
            Directory::Closed => Found::Nothing,
            Directory::Run(run) => {
                let place = &mut runs.runs[run];
                match place.state {
                    State::Runs if place.is_dying => {
                        place.adopters.push((adopter.clone(), id));
                        return None;
                    }
                    State::Runs => {
                        place.watcher = Some((adopter.clone(), id));
                        self.tell(&Fact::ToolAdopted {
                            computer: None,
                            command: &place.command,
                            turn,
                            epoch,
                            replica,
                            deadline_ms: Deadlines::default().tool_ms,
                        });
                        running = Some(run);
                        Found::Running
                    }
                    State::Killed | State::Ended(_) => runs.found(run),
                }
            }
        };
        let _ = adopter.send(Urgent::Input(Input::Adopted { id, found }));
        running
    }

    pub(super) fn leave_tool(&self, run: usize) {
        let command = {
            let run = &mut self.runs.borrow_mut().runs[run];
            run.watcher = None;
            run.command.clone()
        };
        self.tell(&Fact::ToolLeft { command: &command });
    }

    /// Who runs without a process that would hear of its end, each turn once.
    pub(super) fn unattended(&self, replica: usize) -> Vec<TurnId> {
        let runs = self.runs.borrow();
        let left = runs
            .runs
            .iter()
            .filter(|run| run.replica == replica && run.is_left());
        let turns: BTreeSet<TurnId> = left.map(|run| run.turn).collect();
        turns.into_iter().collect()
    }

    pub(super) fn end_unattended(&self, replica: usize, turns: &[TurnId]) {
        for run in &mut self.runs.borrow_mut().runs {
            if run.replica == replica && run.is_left() && turns.contains(&run.turn) {
                run.is_dying = true;
                run.kill.notify_one();
            }
        }
    }

    fn tool_prints(&self, run: usize) {
        let run = &self.runs.borrow().runs[run];
        let Some((watcher, id)) = &run.watcher else {
            return;
        };
        let input = Input::ToolOutput {
            id: *id,
            stream: OutputStream::Combined,
            offset: 0,
            text: output_of(&run.command),
        };
        let _ = watcher.send(Urgent::Input(input));
    }

    /// Tells everybody of a command's end.
    fn bury(&self, at: usize, is_killed: bool) {
        self.count();
        let runs = &mut *self.runs.borrow_mut();
        let run = &mut runs.runs[at];
        let end = (!is_killed).then(|| ToolEnd {
            ok: !run.fails,
            output: output_of(&run.command),
            duration_ms: 1,
            spilled: None,
        });
        run.state = end.clone().map_or(State::Killed, State::Ended);
        self.line(|| format!("`{}` is gone: {end:?}", run.command));
        self.tell(&Fact::ToolGone {
            command: &run.command,
            call_id: &run.call_id,
            turn: run.turn,
            end: end.as_ref(),
        });
        let adopters = std::mem::take(&mut run.adopters);
        if let (false, Some((watcher, id))) = (run.end_is_lost, run.watcher.clone()) {
            let end = end.unwrap_or_else(|| refused("killed"));
            let _ = watcher.send(Urgent::Input(Input::ToolDone { id, end }));
        }
        for (adopter, id) in adopters {
            let found = runs.found(at);
            let _ = adopter.send(Urgent::Input(Input::Adopted { id, found }));
        }
    }
}

fn output_of(command: &str) -> String {
    format!("output of {command}")
}

fn refused(why: &str) -> ToolEnd {
    ToolEnd {
        ok: false,
        output: why.to_owned(),
        duration_ms: 0,
        spilled: None,
    }
}
