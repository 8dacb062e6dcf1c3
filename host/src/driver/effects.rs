//! Effects become work, and work becomes inputs.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use dispatch_core::ids::{EffectId, ProviderId, TurnId};
use dispatch_core::io::{Effect, FailKind, Found, Input, ToolEnd, ToolStart};
use dispatch_core::journal::Start;
use dispatch_core::store::{Outcome, StoreFault, Verb};
use dispatch_core::time::Instant;
use dispatch_core::webhook::{Delivery, GIVEN_UP};
use futures_util::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use super::flights::Work;
use super::{Driver, Lanes, Machine, Ports};
use crate::computers::Connect;
use crate::exec::{Adoption, ToolDone, ToolEvent, ToolRequest};
use crate::panics;
#[cfg(planted)]
use crate::points::{self, Point};
use crate::provider::{self, ProviderInput};
use crate::webhook;

/// Pieces of one provider's body that may wait for the shared lane.
const STREAM_BUFFER: usize = 8;
/// Previews of one tool that may wait.
pub(super) const TOOL_BUFFER: usize = 16;
/// How long the end of a finished step's body is waited for.
const FINISH: Duration = Duration::from_secs(1);

/// What a write has come to tells whether the next one has a chance.
fn note_health(unwell: &watch::Sender<Option<Arc<str>>>, outcome: &Outcome) {
    match outcome {
        Ok(_) => {
            unwell.send_if_modified(|unwell| unwell.take().is_some());
        }
        Err(StoreFault::Failed(why)) => {
            unwell.send_replace(Some(why.as_str().into()));
        }
        Err(StoreFault::Unknown) => {}
    }
}

/// The one turn that a verb is about.
fn turn_of_verb(verb: &Verb) -> Option<TurnId> {
    match verb {
        Verb::Accept(accept) => Some(accept.turn),
        Verb::Load { turn, .. } => Some(*turn),
        Verb::CommitStep { fence, .. }
        | Verb::RestartStep { fence, .. }
        | Verb::ToolsStarted { fence, .. }
        | Verb::ToolsFinished { fence, .. }
        | Verb::Park { fence, .. }
        | Verb::ScheduleRetry { fence, .. } => Some(fence.turn),
        Verb::RequestAbort(abort) => abort.turn,
        Verb::Elect(election) => Some(election.fence.turn),
        Verb::Boot(_)
        | Verb::AdmissionView { .. }
        | Verb::ApplyGrants(_)
        | Verb::Checkpoint { .. }
        | Verb::Renew { .. }
        | Verb::Requests { .. }
        | Verb::SweepOne { .. }
        | Verb::Audit
        | Verb::Ended { .. }
        | Verb::PutWorkspace { .. }
        | Verb::Star { .. }
        | Verb::SetLimit { .. }
        | Verb::TakeDeliveries(_)
        | Verb::SettleDelivery { .. } => None,
    }
}

impl<M: Machine, F: FnMut(Start) -> M + Send + 'static> Driver<M, F> {
    /// A panic on the way is a failure of this one effect.
    pub(super) fn carry_out(&mut self, effect: Effect) {
        let id = match &effect {
            Effect::Store { id, .. }
            | Effect::OpenProvider { id, .. }
            | Effect::StartTool { id, .. }
            | Effect::AdoptTool { id, .. }
            | Effect::FindUnattended { id, .. }
            | Effect::ConnectComputer { id, .. }
            | Effect::Deliver { id, .. } => Some(*id),
            Effect::CloseProvider { .. }
            | Effect::KillTool { .. }
            | Effect::LeaveTool { .. }
            | Effect::EndUnattended { .. }
            | Effect::PingComputer { .. }
            | Effect::CloseComputer { .. }
            | Effect::ComputerChanged { .. }
            | Effect::CancelDelivery { .. }
            | Effect::Publish { .. }
            | Effect::Wake { .. }
            | Effect::Nudge { .. }
            | Effect::Answer { .. }
            | Effect::Trace { .. }
            | Effect::Ready { .. }
            | Effect::Drained => None,
        };
        let Err(caught) = panics::guard(|| self.begin(effect)) else {
            return;
        };
        tracing::error!(message = %caught.message, "an effect panicked\n{}", caught.trace);
        if let Some(id) = id {
            self.lanes.urgent(Input::EffectPanicked {
                id,
                message: caught.message,
            });
        }
    }

    fn begin(&mut self, effect: Effect) {
        match effect {
            Effect::Store { id, verb } => {
                self.flights.add(id, turn_of_verb(&verb), Work::Plain);
                let lanes = self.lanes.clone();
                let unwell = (!verb.is_read()).then(|| self.unwell.clone());
                #[cfg(planted)]
                let name = points::submitting(id, &verb);
                let done = Box::new(move |outcome| {
                    #[cfg(planted)]
                    points::committed(name, &outcome);
                    if let Some(unwell) = unwell {
                        note_health(&unwell, &outcome);
                    }
                    lanes.urgent(Input::Stored { id, outcome });
                });
                self.ports.store.submit(verb, done);
            }
            Effect::OpenProvider {
                id,
                provider,
                turn,
                body,
                connect_ms,
                not_after,
            } => {
                if self.is_in_time(turn, not_after) {
                    self.open(id, &provider, turn, body, connect_ms);
                }
            }
            Effect::CloseProvider { id, finished } => self.flights.close(id, finished),
            Effect::StartTool { id, start } => {
                if self.is_in_time(start.turn, start.not_after) {
                    match start.link {
                        Some(link) => self.start_over(link, id, *start),
                        None => self.start_tool(id, *start),
                    }
                }
            }
            Effect::KillTool { id } => self.flights.stop(id),
            Effect::AdoptTool { id, adopt } => {
                if self.is_in_time(adopt.turn, adopt.not_after) {
                    match adopt.link {
                        Some(link) => self.adopt_over(link, id, *adopt),
                        None => self.adopt_tool(id, adopt.turn, &adopt.call_id),
                    }
                }
            }
            Effect::LeaveTool { id } => self.flights.let_go(id),
            Effect::FindUnattended { id, link } => self.find_unattended(id, link),
            Effect::EndUnattended { turns, link } => self.end_unattended(turns, link),
            Effect::ConnectComputer {
                id,
                computer,
                connect_ms,
                handshake_ms,
            } => self.connect(
                id,
                Connect {
                    computer,
                    connect_ms,
                    handshake_ms,
                },
            ),
            Effect::PingComputer { id } => self.ping(id),
            Effect::CloseComputer { id } => self.flights.unlink(id),
            Effect::ComputerChanged { computer, state } => {
                self.ports.computers.changed(&computer, &state);
            }
            Effect::Deliver { id, delivery } => self.deliver(id, *delivery),
            Effect::CancelDelivery { id } => self.flights.close(id, false),
            Effect::Publish { event } => self.ports.hub.publish(*event),
            Effect::Wake { conversation } => self.ports.hub.wake(&conversation),
            Effect::Nudge { node } => self.ports.store.nudge(&node),
            Effect::Answer { id, answer } => {
                if let Some(waiting) = self.waiting.remove(&id) {
                    // The client may have gone.
                    let _ = waiting.send(answer);
                }
            }
            Effect::Trace { code, message } if code == GIVEN_UP => {
                tracing::error!(code, "{message}");
            }
            Effect::Trace { code, message } => tracing::warn!(code, "{message}"),
            Effect::Ready { taken_over } => {
                if taken_over > 0 {
                    tracing::info!(taken_over, "turns of an earlier life go on");
                }
                self.booted.send_replace(true);
            }
            Effect::Drained => {
                self.drained.send_replace(true);
            }
        }
    }

    /// A process that was stopped between an input and its effects must not
    /// begin what another replica may be doing by now (L2).
    fn is_in_time(&self, turn: TurnId, not_after: Instant) -> bool {
        let is_in_time = self.ports.clock.now().mono <= not_after;
        if !is_in_time {
            tracing::warn!(%turn, "this process stood still past its lease: nothing is begun");
        }
        is_in_time
    }

    fn open(
        &mut self,
        id: EffectId,
        provider: &ProviderId,
        turn: TurnId,
        body: Vec<u8>,
        connect_ms: u64,
    ) {
        let Some(port) = self.ports.providers.get(provider) else {
            self.flights.add(id, Some(turn), Work::Plain);
            return self.lanes.urgent(Input::ProviderFailed {
                id,
                kind: FailKind::Connect,
                message: format!("provider `{provider}` is not configured"),
            });
        };
        tracing::debug!(%turn, %provider, bytes = body.len(), "a step is asked for");
        let (sink, events) = mpsc::channel(STREAM_BUFFER);
        let port = port.clone();
        let lanes = self.lanes.clone();
        let finish = CancellationToken::new();
        let finished = finish.clone();
        let task = self.spawn(id, async move {
            let mut events = events;
            let _stream = port.open(body.into(), connect_ms, sink);
            tokio::select! {
                biased;
                () = finished.cancelled() => {}
                () = forward_stream(id, &mut events, lanes) => return,
            }
            let rest = async { while events.recv().await.is_some() {} };
            let _ = tokio::time::timeout(FINISH, rest).await;
        });
        self.flights
            .add(id, Some(turn), Work::Stream { task, finish });
    }

    fn start_tool(&mut self, id: EffectId, start: ToolStart) {
        let turn = start.turn;
        let request = ToolRequest {
            turn,
            call_id: start.call_id,
            epoch: start.epoch,
            name: start.name,
            input: start.input,
            cwd: start
                .cwd
                .map_or_else(|| self.ports.cwd.clone(), |cwd| self.ports.cwd.join(cwd)),
            deadline_ms: start.deadline_ms,
        };
        let (sink, events) = mpsc::channel(TOOL_BUFFER);
        let exec = self.ports.exec.clone();
        let tool = exec.start(request, sink);
        let lanes = self.lanes.clone();
        self.spawn(id, forward_tool(id, events, lanes, Duration::ZERO));
        self.flights.add(id, Some(turn), Work::Tool(tool));
    }

    fn adopt_tool(&mut self, id: EffectId, turn: TurnId, call_id: &str) {
        let (sink, events) = mpsc::channel(TOOL_BUFFER);
        let tool = self.ports.exec.adopt(turn, call_id, sink);
        let lanes = self.lanes.clone();
        self.spawn(id, forward_tool(id, events, lanes, Duration::ZERO));
        self.flights.add(id, Some(turn), Work::Tool(tool));
    }

    fn deliver(&mut self, id: EffectId, delivery: Delivery) {
        let Ports {
            store,
            webhooks,
            clock,
            ..
        } = &self.ports;
        let now = clock.now().wall;
        let work = webhook::deliver(store.clone(), webhooks.clone(), delivery, now);
        let lanes = self.lanes.clone();
        let task = self.spawn(id, async move {
            let outcome = work.await;
            lanes.urgent(Input::DeliveryDone { id, outcome });
        });
        self.flights.add(id, None, Work::Delivery(task));
    }

    /// Every task is tracked, and a panic in one is an input about its effect.
    pub(super) fn spawn(
        &self,
        id: EffectId,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> AbortHandle {
        let lanes = self.lanes.clone();
        let guarded = async move {
            if let Err(payload) = AssertUnwindSafe(work).catch_unwind().await {
                let message = panics::message(&*payload);
                tracing::error!(message, "the work on an effect panicked");
                lanes.urgent(Input::EffectPanicked { id, message });
            }
        };
        self.tracker.spawn(guarded).abort_handle()
    }
}

/// Waits for room in the shared lane: that is what stops the socket.
async fn forward_stream(id: EffectId, events: &mut mpsc::Receiver<ProviderInput>, lanes: Lanes) {
    while let Some(event) = events.recv().await {
        let input = match event {
            ProviderInput::Head { status, headers } => Input::ProviderHead {
                id,
                status,
                headers,
            },
            ProviderInput::Bytes(bytes) => {
                #[cfg(planted)]
                points::reach(Point::BeforeFirstByte, points::TURN);
                Input::ProviderBytes {
                    id,
                    bytes: bytes.into(),
                }
            }
            ProviderInput::End => Input::ProviderEnd { id },
            ProviderInput::Failed { kind, message } => Input::ProviderFailed {
                id,
                kind: fail_kind(kind),
                message,
            },
        };
        let is_last = matches!(
            input,
            Input::ProviderEnd { .. } | Input::ProviderFailed { .. }
        );
        #[cfg(planted)]
        let is_bytes = matches!(input, Input::ProviderBytes { .. });
        // The order of one stream matters, so its end takes the same lane.
        if lanes.bytes.send(input).await.is_err() || is_last {
            return;
        }
        #[cfg(planted)]
        if is_bytes {
            points::reach(Point::AfterFirstByte, points::TURN);
        }
    }
    lanes.urgent(Input::ProviderFailed {
        id,
        kind: FailKind::Transport,
        message: "the exchange with the provider ended without a word".to_owned(),
    });
}

/// `silence` lies between the end of its events without an answer and the word
/// that none will come.
pub(super) async fn forward_tool(
    id: EffectId,
    mut events: mpsc::Receiver<ToolEvent>,
    lanes: Lanes,
    silence: Duration,
) {
    while let Some(event) = events.recv().await {
        match event {
            ToolEvent::Output {
                stream,
                offset,
                text,
            } => {
                // A preview gives way to everything else.
                let _ = lanes.bytes.try_send(Input::ToolOutput {
                    id,
                    stream,
                    offset,
                    text,
                });
            }
            ToolEvent::Adopted(adoption) => {
                if let Adoption::Stuck { cause } = &adoption {
                    tracing::error!(cause, "an earlier command could not be asked or stopped");
                }
                let found = found(adoption);
                let is_last = found != Found::Running;
                lanes.urgent(Input::Adopted { id, found });
                if is_last {
                    return;
                }
            }
            ToolEvent::Done(done) => {
                #[cfg(planted)]
                points::reach(Point::ToolEnded, points::TURN);
                return lanes.urgent(Input::ToolDone { id, end: end(done) });
            }
            ToolEvent::Unknown { cause } => {
                tracing::error!(cause, "what becomes of a command cannot be told");
                return lanes.urgent(Input::ToolLost { id, cause });
            }
            ToolEvent::Left | ToolEvent::LinkLost { .. } => return,
        }
    }
    tokio::time::sleep(silence).await;
    lanes.urgent(Input::EffectPanicked {
        id,
        message: "the tool's runner is gone without an answer".to_owned(),
    });
}

fn fail_kind(kind: provider::FailKind) -> FailKind {
    match kind {
        provider::FailKind::ConnectTimeout => FailKind::ConnectTimeout,
        provider::FailKind::Refused => FailKind::Refused,
        provider::FailKind::Dns => FailKind::Dns,
        provider::FailKind::Tls => FailKind::Tls,
        provider::FailKind::Connect => FailKind::Connect,
        provider::FailKind::Reset | provider::FailKind::Transport => FailKind::Transport,
        provider::FailKind::Body => FailKind::Body,
    }
}

fn end(done: ToolDone) -> ToolEnd {
    ToolEnd {
        ok: done.ok,
        output: done.output,
        duration_ms: done.duration_ms,
        spilled: done.spilled,
    }
}

fn found(adoption: Adoption) -> Found {
    match adoption {
        Adoption::NotFound => Found::Nothing,
        Adoption::Running => Found::Running,
        Adoption::Killed(done) => Found::Killed {
            output: done.output,
        },
        Adoption::AlreadyFinished(done) => Found::Finished(end(done)),
        Adoption::Stuck { cause } => Found::Killed {
            output: format!("what became of it cannot be told: {cause}"),
        },
    }
}
