//! Commands: they run in run directories that every replica can look into, and
//! go on when the replica that started them dies.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::event::OutputStream;
use dispatch_core::ids::{EffectId, TurnId};
use dispatch_core::io::{Found, Input, ToolEnd, ToolStart};
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
    directories: BTreeMap<(TurnId, String), Directory>,
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
    turn: TurnId,
    call_id: String,
    effect: EffectId,
    /// To the process that started it.
    starter: mpsc::UnboundedSender<Urgent>,
    state: State,
    kill: Rc<Notify>,
    /// Its starter is not told of its end.
    end_is_lost: bool,
    fails: bool,
    reapers: Vec<(mpsc::UnboundedSender<Urgent>, EffectId)>,
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
        let directory = (start.turn, start.call_id.clone());
        let runs = &mut *self.runs.borrow_mut();
        if let Some(Directory::Closed) = runs.directories.get(&directory) {
            let end = refused("its run directory was closed by a later ownership");
            let _ = starter.send(Urgent::Input(Input::ToolDone { id: effect, end }));
            return None;
        }
        self.tell(&Fact::ToolStarted {
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
            turn: start.turn,
            call_id: start.call_id,
            effect,
            starter: starter.clone(),
            state: State::Runs,
            kill: Rc::default(),
            end_is_lost: rng.chance(faults.tool_end_lost) && !self.is_calm(),
            fails: rng.chance(faults.tool_fails),
            reapers: Vec::new(),
        });
        let _ = runs.started.send((run, course));
        Some(run)
    }

    pub(super) fn kill_tool(&self, run: usize) {
        self.runs.borrow().runs[run].kill.notify_one();
    }

    pub(super) fn reap_tool(
        &self,
        id: EffectId,
        turn: TurnId,
        call_id: String,
        reaper: &mpsc::UnboundedSender<Urgent>,
    ) {
        let runs = &mut *self.runs.borrow_mut();
        let directory = runs.directories.entry((turn, call_id));
        let found = match *directory.or_insert(Directory::Closed) {
            Directory::Closed => Found::Nothing,
            Directory::Run(run) => {
                let place = &mut runs.runs[run];
                if let State::Runs = place.state {
                    place.reapers.push((reaper.clone(), id));
                    place.kill.notify_one();
                    return;
                }
                runs.found(run)
            }
        };
        let _ = reaper.send(Urgent::Input(Input::Reaped { id, found }));
    }

    fn tool_prints(&self, run: usize) {
        let run = &self.runs.borrow().runs[run];
        let input = Input::ToolOutput {
            id: run.effect,
            stream: OutputStream::Combined,
            offset: 0,
            text: output_of(&run.command),
        };
        let _ = run.starter.send(Urgent::Input(input));
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
        let reapers = std::mem::take(&mut run.reapers);
        if !run.end_is_lost {
            let (id, end) = (run.effect, end.unwrap_or_else(|| refused("killed")));
            let _ = run.starter.send(Urgent::Input(Input::ToolDone { id, end }));
        }
        for (reaper, id) in reapers {
            let found = runs.found(at);
            let _ = reaper.send(Urgent::Input(Input::Reaped { id, found }));
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
