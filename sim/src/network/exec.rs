//! Commands on a simulated computer. As in production they are detached: a
//! command goes on when its server dies, and is asked for by the next one.
//! Real processes would follow no seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dispatch::exec::{
    Adoption, EndReport, Exec, OutputStream, RunBounds, SweepReport, ToolDone, ToolEvent,
    ToolHandle, ToolRequest, Wishes,
};
use dispatch_core::ids::TurnId;
use dispatch_core::tools::READ;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::fact::{Fact, Log};
use crate::rng::{Purpose, Rng};

/// What runs and has run; clones are the same computer.
#[derive(Clone)]
pub(super) struct Computer {
    seed: u64,
    log: Log,
    runs: Arc<Mutex<BTreeMap<(TurnId, String), Run>>>,
}

/// One run directory, so to speak.
#[derive(Clone, Debug)]
struct Run {
    /// Whose server watches it, if one does.
    life: Option<u32>,
    started_at_ms: u64,
    takes_ms: u64,
    is_killed: bool,
    ok: bool,
    output: String,
}

impl Run {
    fn has_ended(&self, now_ms: u64) -> bool {
        self.is_killed || now_ms >= self.started_at_ms + self.takes_ms
    }

    fn done(&self) -> ToolDone {
        ToolDone {
            ok: self.ok && !self.is_killed,
            output: match self.is_killed {
                true => "stopped".to_owned(),
                false => self.output.clone(),
            },
            spilled: None,
            truncated: false,
            duration_ms: self.takes_ms,
        }
    }
}

impl Computer {
    pub(super) fn new(seed: u64, log: Log) -> Computer {
        Computer {
            seed,
            log,
            runs: Arc::default(),
        }
    }

    fn begin(&self, life: u32, request: &ToolRequest) -> Run {
        self.log.tell(Fact::Ran {
            turn: request.turn,
            call_id: request.call_id.clone(),
            command: request.input.clone(),
        });
        let words = request.input.bytes().fold(0, |sum: u64, byte| {
            sum.wrapping_mul(31).wrapping_add(u64::from(byte))
        });
        let mut rng = Rng::keyed(self.seed, Purpose::Tool, words, 0);
        let run = Run {
            life: Some(life),
            started_at_ms: self.log.now_ms(),
            takes_ms: rng.spread(5, 10_000),
            is_killed: false,
            ok: !rng.chance(1_000),
            output: format!("ran {}", request.input),
        };
        let key = (request.turn, request.call_id.clone());
        self.lock().insert(key, run.clone());
        run
    }

    /// Stops a run; a run that has ended stays as it was.
    fn kill(&self, turn: TurnId, call_id: &str) -> Option<ToolDone> {
        let now_ms = self.log.now_ms();
        let mut runs = self.lock();
        let run = runs.get_mut(&(turn, call_id.to_owned()))?;
        run.is_killed |= !run.has_ended(now_ms);
        Some(run.done())
    }

    /// Takes a run that goes on for a life; otherwise says what became of it.
    fn adopt(&self, life: u32, turn: TurnId, call_id: &str) -> (Adoption, Option<Run>) {
        let now_ms = self.log.now_ms();
        let mut runs = self.lock();
        let Some(run) = runs.get_mut(&(turn, call_id.to_owned())) else {
            return (Adoption::NotFound, None);
        };
        if run.is_killed {
            return (Adoption::Killed(run.done()), None);
        }
        if run.has_ended(now_ms) {
            return (Adoption::AlreadyFinished(run.done()), None);
        }
        run.life = Some(life);
        (Adoption::Running, Some(run.clone()))
    }

    fn leave(&self, turn: TurnId, call_id: &str) {
        if let Some(run) = self.lock().get_mut(&(turn, call_id.to_owned())) {
            run.life = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<(TurnId, String), Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The computer as one life of the server uses it.
pub(super) struct SimExec {
    computer: Computer,
    life: u32,
}

impl SimExec {
    pub(super) fn new(computer: Computer, life: u32) -> SimExec {
        SimExec { computer, life }
    }
}

impl SimExec {
    /// Those that run and that this life, the only one there is, does not watch.
    fn unwatched(&self) -> Vec<TurnId> {
        let now_ms = self.computer.log.now_ms();
        let runs = self.computer.lock();
        let left = runs
            .iter()
            .filter(|(_, run)| run.life != Some(self.life) && !run.has_ended(now_ms));
        let mut turns: Vec<TurnId> = left.map(|((turn, _), _)| *turn).collect();
        turns.dedup();
        turns
    }
}

impl Exec for SimExec {
    fn start(&self, request: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        if request.name == READ.name {
            // Within the server, and gone with it.
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let done = ToolDone {
                    ok: true,
                    output: format!("read {}", request.input),
                    spilled: None,
                    truncated: false,
                    duration_ms: 20,
                };
                let _ = events.send(ToolEvent::Done(done)).await;
            });
            return handle;
        }
        let run = self.computer.begin(self.life, &request);
        let call = (request.turn, request.call_id);
        tokio::spawn(watch(self.computer.clone(), call, run, events, wishes));
        handle
    }

    fn adopt(&self, turn: TurnId, call_id: &str, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, wishes) = ToolHandle::new();
        let (computer, life) = (self.computer.clone(), self.life);
        let call = (turn, call_id.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let (adoption, run) = computer.adopt(life, call.0, &call.1);
            let _ = events.send(ToolEvent::Adopted(adoption)).await;
            if let Some(run) = run {
                watch(computer, call, run, events, wishes).await;
            }
        });
        handle
    }

    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>> {
        std::future::ready(self.unwatched()).boxed()
    }

    fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        let now_ms = self.computer.log.now_ms();
        let mut report = EndReport::default();
        for ((turn, _), run) in self.computer.lock().iter_mut() {
            let is_left = run.life != Some(self.life) && !run.has_ended(now_ms);
            if is_left && turns.contains(turn) {
                run.is_killed = true;
                report.killed += 1;
            }
        }
        std::future::ready(report).boxed()
    }

    fn sweep_runs(&self, _: RunBounds) -> BoxFuture<'static, SweepReport> {
        let kept = self.computer.lock().len();
        let report = SweepReport {
            kept,
            ..SweepReport::default()
        };
        std::future::ready(report).boxed()
    }
}

async fn watch(
    computer: Computer,
    (turn, call_id): (TurnId, String),
    run: Run,
    events: mpsc::Sender<ToolEvent>,
    wishes: Wishes,
) {
    let ran_ms = computer.log.now_ms().saturating_sub(run.started_at_ms);
    let left_ms = run.takes_ms.saturating_sub(ran_ms);
    let half = Duration::from_millis(left_ms / 2);
    let end = Duration::from_millis(left_ms) - half;
    let work = async {
        tokio::time::sleep(half).await;
        // Left out rather than waited for, as the real ones are.
        let _ = events.try_send(ToolEvent::Output {
            stream: OutputStream::Combined,
            offset: 0,
            text: run.output.clone(),
        });
        tokio::time::sleep(end).await;
        run.done()
    };
    let done = tokio::select! {
        biased;
        () = wishes.kill.cancelled() => {
            let killed = computer.kill(turn, &call_id);
            killed.unwrap_or_else(|| run.done())
        }
        () = wishes.leave.cancelled() => {
            computer.leave(turn, &call_id);
            let _ = events.send(ToolEvent::Left).await;
            return;
        }
        done = work => done,
    };
    // A server that is gone asks again when it is back.
    let _ = events.send(ToolEvent::Done(done)).await;
}
