//! Effects about other computers: links, and what goes over them; and about
//! commands that nobody watches, wherever they run.

use std::time::Duration;

use dispatch_core::computer::{SshFault, SshFaultKind};
use dispatch_core::ids::{EffectId, TurnId};
use dispatch_core::io::{Input, MAX_UNATTENDED, ToolAdopt, ToolStart};
use dispatch_core::journal::Start;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;

use super::effects::{TOOL_BUFFER, forward_tool};
use super::flights::Work;
use super::{Driver, Lanes, Machine};
use crate::computers::{Connect, LinkEvent};
use crate::exec::EndReport;

/// Events of one link that may wait.
const LINK_BUFFER: usize = 8;
/// A call whose events end without an answer has lost its link; should the link
/// live, it is known by then, and the call is given up.
const SILENCE: Duration = Duration::from_secs(60);

impl<M: Machine, F: FnMut(Start) -> M + Send + 'static> Driver<M, F> {
    pub(super) fn connect(&mut self, id: EffectId, connect: Connect) {
        let (sink, events) = mpsc::channel(LINK_BUFFER);
        let link = self.ports.computers.connect(connect, sink);
        let lanes = self.lanes.clone();
        self.spawn(id, forward_link(id, events, lanes));
        self.flights.add(id, None, Work::Link(link));
    }

    pub(super) fn ping(&self, id: EffectId) {
        if let Some(link) = self.flights.link(id) {
            link.ping();
        }
    }

    pub(super) fn start_over(&mut self, link: EffectId, id: EffectId, start: ToolStart) {
        let Some(over) = self.flights.link(link) else {
            return;
        };
        let turn = start.turn;
        let (sink, events) = mpsc::channel(TOOL_BUFFER);
        let tool = over.start(start, sink);
        self.watch_over(link, id, turn, events, Work::Tool(tool));
    }

    pub(super) fn adopt_over(&mut self, link: EffectId, id: EffectId, adopt: ToolAdopt) {
        let Some(over) = self.flights.link(link) else {
            return;
        };
        let turn = adopt.turn;
        let (sink, events) = mpsc::channel(TOOL_BUFFER);
        let tool = over.adopt(adopt, sink);
        self.watch_over(link, id, turn, events, Work::Tool(tool));
    }

    fn watch_over(
        &mut self,
        link: EffectId,
        id: EffectId,
        turn: TurnId,
        events: mpsc::Receiver<crate::exec::ToolEvent>,
        work: Work,
    ) {
        let lanes = self.lanes.clone();
        self.spawn(id, forward_tool(id, events, lanes, SILENCE));
        self.flights.add_over(link, id, turn, work);
    }

    /// Here, or over a link; nothing over one that is not there any more.
    pub(super) fn find_unattended(&mut self, id: EffectId, link: Option<EffectId>) {
        let found = match link {
            None => self.ports.exec.unattended(),
            Some(link) => match self.flights.link(link) {
                Some(over) => over.unattended(),
                None => return,
            },
        };
        let lanes = self.lanes.clone();
        self.spawn(id, async move {
            let mut turns = found.await;
            turns.truncate(MAX_UNATTENDED);
            lanes.urgent(Input::Unattended { id, turns });
        });
        self.flights.add(id, None, Work::Plain);
    }

    /// The same.
    pub(super) fn end_unattended(&self, turns: Vec<TurnId>, link: Option<EffectId>) {
        let ending = match link {
            None => self.ports.exec.end_unattended(turns),
            Some(link) => match self.flights.link(link) {
                Some(over) => over.end_unattended(turns),
                None => return,
            },
        };
        self.tracker.spawn(report_ends(ending));
    }
}

async fn report_ends(ending: BoxFuture<'static, EndReport>) {
    let report = ending.await;
    if report.killed > 0 {
        tracing::info!(
            killed = report.killed,
            "commands of turns that are over were stopped"
        );
    }
    for failure in report.failures {
        tracing::error!(
            failure,
            "a command of a turn that is over could not be stopped"
        );
    }
}

async fn forward_link(id: EffectId, mut events: mpsc::Receiver<LinkEvent>, lanes: Lanes) {
    while let Some(event) = events.recv().await {
        match event {
            LinkEvent::Up => lanes.urgent(Input::ComputerUp { id }),
            LinkEvent::Alive => lanes.urgent(Input::ComputerAlive { id }),
            LinkEvent::Down(fault) => {
                return lanes.urgent(Input::ComputerDown { id, fault });
            }
        }
    }
    // One that was closed on purpose is not known any more.
    let fault = SshFault {
        kind: SshFaultKind::Lost,
        message: "the connection ended without a word".to_owned(),
    };
    lanes.urgent(Input::ComputerDown { id, fault });
}
