//! Commands on a simulated computer. As in production they are detached: a
//! command goes on when its server dies, and is asked for by the next one.
//! Real processes would follow no seed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dispatch::exec::{
    Exec, OutputStream, ReapOutcome, RunBounds, SweepReport, ToolDone, ToolEvent, ToolHandle,
    ToolRequest,
};
use dispatch_core::ids::TurnId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
    life: u32,
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
            life,
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
    fn kill(&self, turn: TurnId, call_id: &str) -> ReapOutcome {
        let now_ms = self.log.now_ms();
        match self.lock().get_mut(&(turn, call_id.to_owned())) {
            None => ReapOutcome::NotFound,
            Some(run) if run.has_ended(now_ms) && !run.is_killed => {
                ReapOutcome::AlreadyFinished(run.done())
            }
            Some(run) => {
                run.is_killed = true;
                ReapOutcome::Killed(run.done())
            }
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

impl Exec for SimExec {
    fn start(&self, request: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let (handle, killed) = ToolHandle::new();
        let run = self.computer.begin(self.life, &request);
        tokio::spawn(watch(self.computer.clone(), request, run, events, killed));
        handle
    }

    fn reap(&self, turn: TurnId, call_id: &str) -> BoxFuture<'static, ReapOutcome> {
        let (computer, call_id) = (self.computer.clone(), call_id.to_owned());
        async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            computer.kill(turn, &call_id)
        }
        .boxed()
    }

    fn sweep_runs(&self, _: RunBounds) -> BoxFuture<'static, SweepReport> {
        let now_ms = self.computer.log.now_ms();
        let mut report = SweepReport::default();
        for run in self.computer.lock().values_mut() {
            if run.life != self.life && !run.has_ended(now_ms) {
                run.is_killed = true;
                report.killed += 1;
            }
            report.kept += 1;
        }
        std::future::ready(report).boxed()
    }
}

async fn watch(
    computer: Computer,
    request: ToolRequest,
    run: Run,
    events: mpsc::Sender<ToolEvent>,
    killed: CancellationToken,
) {
    let half = Duration::from_millis(run.takes_ms / 2);
    let end = Duration::from_millis(run.takes_ms) - half;
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
        () = killed.cancelled() => match computer.kill(request.turn, &request.call_id) {
            ReapOutcome::Killed(done) | ReapOutcome::AlreadyFinished(done) => done,
            ReapOutcome::NotFound | ReapOutcome::Stuck { .. } => run.done(),
        },
        done = work => done,
    };
    // A server that is gone asks again when it is back.
    let _ = events.send(ToolEvent::Done(done)).await;
}
