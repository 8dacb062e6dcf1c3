//! The seam through which other computers are reached (S4): links, and what is
//! started and watched over them. When to connect, what waits for it and what
//! becomes of a call whose link was lost is the core's to say.

use std::sync::Arc;

use dispatch_core::computer::{ComputerState, SshFault, SshFaultKind};
use dispatch_core::ids::{ComputerId, TurnId};
use dispatch_core::io::{ToolAdopt, ToolStart};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use crate::exec::{EndReport, ToolEvent, ToolHandle};

/// A connection to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// To this computer.
    pub computer: ComputerId,
    /// Deadline for the connection (T10).
    pub connect_ms: u64,
    /// From there to the end of the handshake.
    pub handshake_ms: u64,
}

/// What a link tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// It can be used. At most once, and before everything else.
    Up,
    /// To [`Link::ping`].
    Alive,
    /// It cannot be used (any more). At most once, and the last thing heard of
    /// it and of everything that was started or adopted over it.
    Down(SshFault),
}

/// A computer as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputerView {
    /// The name that people use.
    pub alias: String,
    /// The host that it stands for.
    pub host: String,
    /// Where the name comes from.
    pub source: &'static str,
    /// How it stands; `None`: nobody has wanted it yet.
    pub state: Option<ComputerState>,
}

/// Connects to computers.
pub trait Computers: Send + Sync + 'static {
    /// Begins to connect, and comes back at once. `events` hears whether it came
    /// to anything, within the two deadlines. Must be called within a tokio runtime.
    fn connect(&self, connect: Connect, events: mpsc::Sender<LinkEvent>) -> Arc<dyn Link>;

    /// Those that there are, and how each stands; may block.
    fn list(&self) -> Vec<ComputerView> {
        Vec::new()
    }

    /// Whether there may be one of this name: false only where a connection to it
    /// would be refused for certain. May block.
    fn may_be(&self, _computer: &ComputerId) -> bool {
        true
    }

    /// How a computer stands from now on: for whoever asks (S2).
    fn changed(&self, computer: &ComputerId, state: &ComputerState) {
        tracing::debug!(%computer, ?state, "a computer's state has changed");
    }
}

/// One connection, on its way or open. Commands outlive it: they belong to run
/// directories over there (S5).
pub trait Link: Send + Sync + 'static {
    /// Asks whether it is alive: [`LinkEvent::Alive`], or it goes down.
    fn ping(&self);

    /// Drops it, at once; its events end.
    fn close(&self);

    /// Starts a call over there. `events` gets, for a command,
    /// [`ToolEvent::Adopted`] with `Running` as soon as it runs without the link;
    /// then, or at once for other tools and for refusals, [`ToolEvent::Done`].
    /// Exactly one `Done` comes, unless the call is left, the link goes down or
    /// nothing can be told of it any more ([`ToolEvent::Unknown`]).
    fn start(&self, start: ToolStart, events: mpsc::Sender<ToolEvent>) -> ToolHandle;

    /// Watches on over a command, from `shown_bytes`, or tells what became of it,
    /// as [`Exec::adopt`](crate::exec::Exec::adopt) does. Where nothing is found,
    /// the directory of the ownership that asks (`epoch`) and of `attempt` is
    /// claimed first: no start of that attempt or an earlier one, by whichever
    /// ownership up to this one, can begin any more.
    fn adopt(&self, adopt: ToolAdopt, events: mpsc::Sender<ToolEvent>) -> ToolHandle;

    /// See [`Exec::unattended`](crate::exec::Exec::unattended).
    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>>;

    /// See [`Exec::end_unattended`](crate::exec::Exec::end_unattended).
    fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport>;
}

/// A build that reaches no computer.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoComputers;

/// What [`NoComputers`] hands out.
#[derive(Clone, Copy, Debug)]
struct NoLink;

impl Computers for NoComputers {
    fn connect(&self, _: Connect, events: mpsc::Sender<LinkEvent>) -> Arc<dyn Link> {
        let fault = SshFault {
            kind: SshFaultKind::Config,
            message: "this build cannot reach other computers yet".to_owned(),
        };
        tokio::spawn(async move {
            let _nobody_listens = events.send(LinkEvent::Down(fault)).await;
        });
        Arc::new(NoLink)
    }
}

impl Link for NoLink {
    fn ping(&self) {}
    fn close(&self) {}
    fn start(&self, _: ToolStart, _: mpsc::Sender<ToolEvent>) -> ToolHandle {
        ToolHandle::new().0
    }
    fn adopt(&self, _: ToolAdopt, _: mpsc::Sender<ToolEvent>) -> ToolHandle {
        ToolHandle::new().0
    }
    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>> {
        async { Vec::new() }.boxed()
    }
    fn end_unattended(&self, _: Vec<TurnId>) -> BoxFuture<'static, EndReport> {
        async { EndReport::default() }.boxed()
    }
}
