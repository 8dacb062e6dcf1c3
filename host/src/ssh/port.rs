//! What the core's pool of links is carried out with: connections of
//! [`connect`](super::connect), and tools run over them (S4, S5).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dispatch_core::computer::ComputerState;
use dispatch_core::ids::{ComputerId, TurnId};
use dispatch_core::io::{ToolAdopt, ToolStart};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Computer, Computers as Known, HostKeys, SshFault, SshLimits, SshLink, connect};
use crate::computers::{ComputerView, Computers, Connect, Link, LinkEvent};
use crate::exec::remote::{RemoteCall, RemoteExec, RemoteTools};
use crate::exec::{EndReport, RunBounds, ToolEvent, ToolHandle, ToolRequest};
use crate::net::Net;
use crate::panics::locked;

/// Far beyond the core's own deadline for an answer: for a core that is gone.
const PING: Duration = Duration::from_secs(60);
/// Finished runs over there are looked through this often (O5).
const SWEEP: Duration = Duration::from_secs(3_600);
/// Computers whose state is kept: as many as the pool knows.
const MOST_STATES: usize = 1_000;
/// Events of one call that may wait.
const CALL_BUFFER: usize = 4;

/// The computers of the user who runs the server, over SSH.
#[derive(Debug)]
pub struct SshComputers<N> {
    net: N,
    known: Known,
    keys: HostKeys,
    exec: RemoteExec,
    states: Mutex<BTreeMap<ComputerId, ComputerState>>,
    tracker: TaskTracker,
}

impl<N: Net> SshComputers<N> {
    /// Nothing is looked up or connected yet.
    pub fn new(net: N, known: Known, keys: HostKeys, exec: RemoteExec) -> SshComputers<N> {
        SshComputers {
            net,
            known,
            keys,
            exec,
            states: Mutex::default(),
            tracker: TaskTracker::new(),
        }
    }
}

impl<N: Net> Computers for SshComputers<N> {
    fn connect(&self, wanted: Connect, events: mpsc::Sender<LinkEvent>) -> Arc<dyn Link> {
        let (opened, open) = watch::channel(None);
        let over = OverSsh {
            open,
            closing: CancellationToken::new(),
            events: events.clone(),
            tracker: self.tracker.clone(),
        };
        let closing = over.closing.clone();
        let (net, known, keys) = (self.net.clone(), self.known.clone(), self.keys.clone());
        let exec = self.exec.clone();
        self.tracker.spawn(async move {
            let limits = SshLimits {
                connect: Duration::from_millis(wanted.connect_ms),
                handshake: Duration::from_millis(wanted.handshake_ms),
            };
            let life = async {
                let alias = wanted.computer.as_str();
                let fault = match reach(alias, &net, &known, &keys, limits).await {
                    Ok(link) => live(Open::new(link, &exec), &opened, &events).await,
                    Err(fault) => fault,
                };
                let _nobody_listens = events.send(LinkEvent::Down(fault)).await;
            };
            closing.run_until_cancelled(life).await
        });
        Arc::new(over)
    }

    fn list(&self) -> Vec<ComputerView> {
        let states = locked(&self.states).clone();
        let shown = |computer: Computer| ComputerView {
            state: ComputerId::try_from(computer.alias.as_str())
                .ok()
                .and_then(|id| states.get(&id).cloned()),
            source: computer.source.name(),
            alias: computer.alias,
            host: computer.host,
        };
        self.known.list().into_iter().map(shown).collect()
    }

    fn may_be(&self, computer: &ComputerId) -> bool {
        self.known.may_be(computer.as_str())
    }

    fn changed(&self, computer: &ComputerId, state: &ComputerState) {
        let before = {
            let mut states = locked(&self.states);
            if states.len() >= MOST_STATES && !states.contains_key(computer) {
                states.pop_first();
            }
            states.insert(computer.clone(), state.clone())
        };
        let told = before.and_then(|before| before.fault);
        match &state.fault {
            Some(fault) if told.as_ref() != Some(fault) => {
                tracing::warn!(%computer, link = ?state.link, error = fault.message, "a computer has failed");
            }
            Some(_) | None => {
                tracing::debug!(%computer, link = ?state.link, "a computer has changed")
            }
        }
    }
}

/// A link to the computer of this name.
///
/// # Errors
/// [`SshFault`].
pub async fn reach<N: Net>(
    alias: &str,
    net: &N,
    known: &Known,
    keys: &HostKeys,
    limits: SshLimits,
) -> Result<SshLink, SshFault> {
    let settings = known.resolve(alias).await?;
    connect(&settings, net, keys, limits).await
}

/// A link that is there, and the tools over it.
#[derive(Clone)]
struct Open {
    link: Arc<SshLink>,
    tools: RemoteTools,
}

impl Open {
    fn new(link: SshLink, exec: &RemoteExec) -> Open {
        let link = Arc::new(link);
        let tools = exec.over(link.clone());
        Open { link, tools }
    }
}

/// Holds a link until it ends by itself, and tells why it did. Let go of before,
/// it ends at once, whoever still runs something over it.
async fn live(
    open: Open,
    opened: &watch::Sender<Option<Open>>,
    events: &mpsc::Sender<LinkEvent>,
) -> SshFault {
    let Open { link, tools } = open.clone();
    let _cut = CutOnDrop(link.clone());
    // A channel that is refused now is asked for again by whoever needs it.
    if let Err(fault) = tools.prepare().await {
        return fault;
    }
    opened.send_replace(Some(open));
    let _nobody_listens = events.send(LinkEvent::Up).await;
    // Nothing that was run there fills the disk for ever (O5).
    let upkeep = async {
        loop {
            let report = tools.sweep_runs(RunBounds::default()).await;
            for failure in report.failures {
                tracing::debug!(failure, "a run directory over there could not be swept");
            }
            tokio::time::sleep(SWEEP).await;
        }
    };
    tokio::select! {
        biased;
        fault = link.closed() => fault,
        () = upkeep => link.closed().await,
    }
}

struct CutOnDrop(Arc<SshLink>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.cut("it was closed here");
    }
}

/// One connection, on its way or open.
struct OverSsh {
    open: watch::Receiver<Option<Open>>,
    closing: CancellationToken,
    events: mpsc::Sender<LinkEvent>,
    tracker: TaskTracker,
}

impl OverSsh {
    /// What runs over it; nothing runs over one that is not open, or no longer.
    fn open(&self) -> Option<Open> {
        self.open.borrow().clone()
    }

    /// Where a call that cannot be heard over a link tells so, that link is of no
    /// more use, however well it seems: the pool goes on over the next one.
    fn heard(
        &self,
        link: Arc<SshLink>,
        events: mpsc::Sender<ToolEvent>,
    ) -> mpsc::Sender<ToolEvent> {
        let (sink, mut told) = mpsc::channel(CALL_BUFFER);
        self.tracker.spawn(async move {
            while let Some(event) = told.recv().await {
                if let ToolEvent::LinkLost { cause } = &event {
                    link.cut(cause);
                }
                if events.send(event).await.is_err() {
                    return;
                }
            }
        });
        sink
    }
}

impl Link for OverSsh {
    fn ping(&self) {
        let (Some(Open { link, .. }), events) = (self.open(), self.events.clone()) else {
            return;
        };
        self.tracker.spawn(async move {
            // A link that does not answer tells of its end by itself.
            if link.ping(PING).await.is_ok() {
                let _nobody_listens = events.send(LinkEvent::Alive).await;
            }
        });
    }

    fn close(&self) {
        self.closing.cancel();
    }

    fn start(
        &self,
        start: ToolStart,
        within: Duration,
        events: mpsc::Sender<ToolEvent>,
    ) -> ToolHandle {
        let Some(Open { link, tools }) = self.open() else {
            return ToolHandle::new().0;
        };
        let request = ToolRequest {
            turn: start.turn,
            call_id: start.call_id,
            epoch: start.epoch,
            name: start.name,
            input: start.input,
            cwd: start.cwd.map(PathBuf::from).unwrap_or_default(),
            deadline_ms: start.deadline_ms,
        };
        tools.start(request, start.attempt, within, self.heard(link, events))
    }

    fn adopt(&self, adopt: ToolAdopt, events: mpsc::Sender<ToolEvent>) -> ToolHandle {
        let Some(Open { link, tools }) = self.open() else {
            return ToolHandle::new().0;
        };
        let call = RemoteCall {
            turn: adopt.turn,
            call_id: adopt.call_id,
            epoch: adopt.epoch,
            attempt: adopt.attempt,
        };
        tools.adopt(call, adopt.shown_bytes, self.heard(link, events))
    }

    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>> {
        let Some(Open { tools, .. }) = self.open() else {
            return async { Vec::new() }.boxed();
        };
        let found = tools.unattended();
        async move {
            found.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "commands that nobody watches could not be looked for");
                Vec::new()
            })
        }
        .boxed()
    }

    fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        match self.open() {
            Some(Open { tools, .. }) => tools.end_unattended(turns),
            None => async { EndReport::default() }.boxed(),
        }
    }
}
