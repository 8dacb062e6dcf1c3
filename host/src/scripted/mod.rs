//! The scripted provider (P3): an OpenAI-compatible Chat Completions server
//! that says what a script tells it to, in its own process
//! (`dispatch provider`) or inside this one, without a socket.
//!
//! # Where a script comes from
//!
//! 1. From a file, `--script FILE`: `{"rules": [RULE, ...]}`. The first rule
//!    that fits the request answers it.
//! 2. Else from the last user message, after `script:`, plain or in a code
//!    fence: a list of steps. So everything can be driven through the public
//!    API of whatever calls this provider. What follows the JSON is ignored.
//! 3. Else the message is echoed: `You said: ...`.
//!
//! A **rule** is `{"when": {...}, "do": [ACTION, ...]}` or
//! `{"when": {...}, "steps": [STEP, ...]}`. `when` may have `contains`,
//! `equals`, `prefix` (of the last user message), `model`, `step`, `attempt`;
//! all that are given must fit, none fits everything.
//!
//! A **step** is one answer of the model within a turn: a list of actions, one
//! action alone, or `{"attempts": [[...], [...]]}` with one list for each
//! request for that step, the last one repeated. The step is the number of
//! assistant messages after the last user message; the attempt is the number
//! of earlier requests with the same user messages and the same step (refusals
//! by a storm do not count). Both are counted from 0. Steps beyond the last
//! one answer `Done.`
//!
//! # Actions
//!
//! | action | does |
//! |---|---|
//! | `"TEXT"`, `{"text": "TEXT", "chunk": 16, "delay_ms": 0, "repeat": 1}` | says the text `repeat` times in deltas of `chunk` characters, `delay_ms` between them |
//! | `{"reasoning": "TEXT", ...}` | the same as reasoning |
//! | `{"tool_call": {"name": N, "arguments": {...}, "id": I, ...}}` | asks for a tool; arguments given as a string are sent as they stand, broken or not; `chunk` and `delay_ms` as for text |
//! | `{"usage": {...}}` | sends this usage here, instead of the automatic one at the end |
//! | `{"finish": "length"}`, `{"finish": null}` | this finish reason, here; or none at all |
//! | `{"status": 503}`, `{"status": {"code": 429, "headers": {"retry-after": "2"}, "body": {...}}}` | refuses |
//! | `{"delay_ms": 500}` | waits; before any content also with the head |
//! | `{"hold": "NAME"}` | waits till `NAME` is released |
//! | `{"hang": true}` | says nothing more and keeps the connection |
//! | `{"open": true}` | sends the head now, before any content |
//! | `{"cut": true}` | drops the connection without an end; what the client has not taken yet may be lost |
//! | `{"malformed": true}`, `{"malformed": "{oops"}` | sends an event whose data is no JSON |
//! | `{"error_event": {"message": M, "type": T, "code": C}}` | sends an error inside the 200 stream, then ends without finish and terminator |
//! | `{"no_terminator": true}` | leaves `data: [DONE]` out |
//! | `{"json": true}` | answers with one JSON completion instead of a stream |
//! | `{"raw": "data: ...\n\n"}`, `{"raw": [255, 10]}` | sends these bytes |
//!
//! Without `finish`, a response ends with `tool_calls` or `stop`, with usage
//! where the request asked for it, and with `data: [DONE]`.
//!
//! # Strictness
//!
//! Every request must pass
//! [`validate_transcript`](dispatch_core::wire::validate::validate_transcript):
//! what a strict vendor would reject gets 400 here, with the reason, and is
//! counted. A `script:` that cannot be followed gets 400 as well.
//!
//! # Control
//!
//! On the same port, for loopback clients only: `GET /log` (`?after=N&limit=N`),
//! `GET /stats`, `POST /release/NAME`, `POST /release-all` (both also let
//! through what comes later), `POST /storm` with
//! `{"status": 429, "for_ms": 5000, "retry_after": 2}`, and `POST /reset`.

mod facts;
mod ledger;
mod render;
mod script;
mod server;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use dispatch_core::wire::validate::validate_transcript;
use tokio::sync::{mpsc, watch};
use tokio::time::Duration;

use crate::provider::{Ended, FailKind, ProviderInput, StreamHandle};
use facts::Facts;
use ledger::{Ledger, Ticket};
use render::{Rendering, error_body};
use script::{Action, Plan, Speech, is_hold_name};

pub use ledger::{LogEntry, RequestState, Stats};
pub use render::ResponseAction;
pub use script::{Script, ScriptError};
pub use server::{ProviderArgs, ServeError, serve, serve_on};

/// The scripted provider. Cheap to clone; clones share log, counts and holds.
#[derive(Clone)]
pub struct ScriptedProvider {
    script: Option<Arc<Script>>,
    ledger: Arc<Ledger>,
    released: Arc<watch::Sender<Released>>,
}

impl ScriptedProvider {
    /// A provider that follows `script`, and where it has no rule (or there is
    /// none), the user message.
    pub fn new(script: Option<Script>) -> ScriptedProvider {
        ScriptedProvider {
            script: script.map(Arc::new),
            ledger: Arc::new(Ledger::new()),
            released: Arc::new(watch::Sender::default()),
        }
    }

    /// Answers one request body, as the server does, without a socket.
    /// Counts as in flight until the response ended or was dropped.
    pub fn respond(&self, body: &[u8]) -> Response {
        self.answer(self.ledger.arrive(), body)
    }

    /// Answers one request body in the shape of a provider's stream; the
    /// in-process counterpart of `HttpProvider::open`.
    pub fn open(&self, body: Bytes, sink: mpsc::Sender<ProviderInput>) -> StreamHandle {
        let provider = self.clone();
        StreamHandle::spawn(sink.clone(), async move {
            let mut response = provider.respond(&body);
            drop(body);
            tokio::select! {
                biased;
                () = sink.closed() => Ended::Unwatched,
                ended = pass_on(&mut response, &sink) => ended,
            }
        })
    }

    /// Lets through everything that holds on `name`, now and later.
    ///
    /// # Errors
    /// [`ReleaseError`] when the name cannot be one, or there are too many.
    pub fn release(&self, name: &str) -> Result<(), ReleaseError> {
        if !is_hold_name(name) {
            return Err(ReleaseError::Name);
        }
        let mut is_full = false;
        self.released.send_modify(|released| {
            is_full = released.names.len() >= MAX_RELEASED && !released.names.contains(name);
            if !is_full {
                released.names.insert(name.to_owned());
            }
        });
        if is_full {
            Err(ReleaseError::TooMany)
        } else {
            Ok(())
        }
    }

    /// Lets through everything that holds on anything, now and later.
    pub fn release_all(&self) {
        self.released.send_modify(|released| released.all = true);
    }

    /// Refuses every request with `status` for `lasts`; zero ends a storm.
    pub fn storm(&self, status: u16, retry_after: Option<String>, lasts: Duration) {
        self.ledger.set_storm(status, retry_after, lasts);
    }

    /// Forgets log, counts, attempts, storm and releases. What is in flight
    /// goes on and stays counted.
    pub fn reset(&self) {
        self.ledger.reset();
        self.released
            .send_modify(|released| *released = Released::default());
    }

    /// The counts since the start or the last reset.
    pub fn stats(&self) -> Stats {
        self.ledger.stats()
    }

    /// The log after entry `after`, at most `limit` entries. It keeps the last
    /// 100,000.
    pub fn log(&self, after: u64, limit: usize) -> Vec<LogEntry> {
        self.ledger.entries(after, limit)
    }

    fn answer(&self, ticket: Ticket, body: &[u8]) -> Response {
        let facts = match validate_transcript(body).and_then(|()| Facts::read(body)) {
            Ok(facts) => facts,
            Err(reason) => return self.reject(ticket, &reason),
        };
        let attempt = match ticket.identify(&facts) {
            Ok(attempt) => attempt,
            Err(storm) => {
                ticket.explain("storm");
                let body = error_body(storm.status, "storm", "refused: a storm is on");
                let headers = storm
                    .retry_after
                    .map(|after| ("retry-after".to_owned(), after));
                let refusal =
                    Rendering::refusal(storm.status, headers.into_iter().collect(), Some(body));
                return self.response(ticket, RequestState::Refused, refusal.into_iter());
            }
        };
        match self.actions(&facts, attempt) {
            Ok(actions) => {
                let is_refusal = actions
                    .iter()
                    .any(|action| matches!(action, Action::Status { code, .. } if *code >= 400));
                let end = if is_refusal {
                    ticket.explain("the script");
                    RequestState::Refused
                } else {
                    RequestState::Finished
                };
                self.response(ticket, end, Rendering::new(&facts, actions))
            }
            Err(error) => self.reject(ticket, &error.to_string()),
        }
    }

    fn actions(&self, facts: &Facts, attempt: u32) -> Result<Vec<Action>, ScriptError> {
        let scripted = self
            .script
            .as_ref()
            .and_then(|script| script.find(facts, attempt));
        if let Some(actions) = scripted {
            return Ok(actions);
        }
        match Plan::in_message(&facts.message) {
            Some(plan) => Ok(plan?.actions(facts.step, attempt)),
            None => {
                let echo = format!("You said: {}", facts.message);
                Ok(vec![Action::Say(Speech::plain(echo))])
            }
        }
    }

    fn reject(&self, ticket: Ticket, reason: &str) -> Response {
        ticket.explain(reason);
        let body = error_body(400, "invalid_request_error", reason);
        let refusal = Rendering::refusal(400, Vec::new(), Some(body));
        self.response(ticket, RequestState::Invalid, refusal.into_iter())
    }

    fn response(
        &self,
        ticket: Ticket,
        end: RequestState,
        actions: impl Iterator<Item = ResponseAction> + Send + 'static,
    ) -> Response {
        Response {
            ticket,
            end,
            actions: Box::new(actions),
            released: self.released.subscribe(),
        }
    }
}

impl fmt::Debug for ScriptedProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScriptedProvider")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// An answer under way. Dropping it before its end is the client going away.
///
/// As an iterator it tells what happens next; [`Response::next_output`] also
/// does the waiting.
pub struct Response {
    ticket: Ticket,
    end: RequestState,
    actions: Box<dyn Iterator<Item = ResponseAction> + Send>,
    released: watch::Receiver<Released>,
}

impl Response {
    /// What goes out next, after the waits that come before it. `None` once the
    /// response has ended; a `hang` never returns.
    pub async fn next_output(&mut self) -> Option<Output> {
        loop {
            match self.next()? {
                ResponseAction::Head { status, headers } => {
                    return Some(Output::Head { status, headers });
                }
                ResponseAction::Bytes(piece) => return Some(Output::Bytes(piece)),
                ResponseAction::Wait(delay) => tokio::time::sleep(delay).await,
                ResponseAction::Hold(name) => {
                    let mut released = self.released.clone();
                    let is_released = released.wait_for(|released| released.lets_pass(&name));
                    if is_released.await.is_err() {
                        // The provider is gone: nobody is left to release it.
                        std::future::pending::<()>().await;
                    }
                }
                ResponseAction::Hang => std::future::pending().await,
                ResponseAction::Cut => return Some(Output::Cut),
                ResponseAction::End => return None,
            }
        }
    }
}

impl Iterator for Response {
    type Item = ResponseAction;

    fn next(&mut self) -> Option<ResponseAction> {
        let action = self.actions.next();
        match &action {
            Some(ResponseAction::End) | None => self.ticket.close(self.end),
            Some(ResponseAction::Cut) => self.ticket.close(RequestState::Cut),
            Some(
                ResponseAction::Head { .. }
                | ResponseAction::Bytes(_)
                | ResponseAction::Wait(_)
                | ResponseAction::Hold(_)
                | ResponseAction::Hang,
            ) => {}
        }
        action
    }
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("ticket", &self.ticket)
            .finish_non_exhaustive()
    }
}

/// What of a response goes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// The head; first, unless the connection is cut before.
    Head {
        /// The HTTP status.
        status: u16,
        /// Lower-case names and values.
        headers: Vec<(String, String)>,
    },
    /// A piece of the body.
    Bytes(Bytes),
    /// The connection is dropped without an end. Last.
    Cut,
}

/// A name that cannot be released.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReleaseError {
    /// No `hold` can have this name.
    #[error("a hold's name has 1 to 64 letters, digits, - and _")]
    Name,
    /// Every released name is remembered.
    #[error("10,000 names are released already; POST /reset forgets them")]
    TooMany,
}

#[derive(Debug, Default)]
struct Released {
    all: bool,
    names: BTreeSet<String>,
}

impl Released {
    fn lets_pass(&self, name: &str) -> bool {
        self.all || self.names.contains(name)
    }
}

const MAX_RELEASED: usize = 10_000;

async fn pass_on(response: &mut Response, sink: &mpsc::Sender<ProviderInput>) -> Ended {
    let mut has_head = false;
    while let Some(output) = response.next_output().await {
        let input = match output {
            Output::Head { status, headers } => {
                has_head = true;
                ProviderInput::Head { status, headers }
            }
            Output::Bytes(piece) => ProviderInput::Bytes(piece),
            Output::Cut => {
                let kind = if has_head {
                    FailKind::Body
                } else {
                    FailKind::Reset
                };
                return Ended::Failed {
                    kind,
                    message: "the connection was cut by the script".to_owned(),
                };
            }
        };
        if sink.send(input).await.is_err() {
            return Ended::Unwatched;
        }
    }
    Ended::Clean
}

#[cfg(test)]
mod tests;
