//! What oracles are told: facts about the simulated world, never the inside of
//! the code under test.

use std::sync::Arc;

use dispatch_core::admission::AdmissionView;
use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ComputerId, ConversationId, EffectId, Epoch, ProviderId, TurnId};
use dispatch_core::io::{Answer, ToolEnd};
use dispatch_core::store::{ApplyGrants, Granted, TurnRow};
use dispatch_core::time::Timestamp;
use dispatch_core::webhook::Delivery;

use crate::clock::Us;

/// When a fact became one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Simulated microseconds.
    pub at: Us,
    /// Store time.
    pub store_now: Timestamp,
    /// The storm is over: nothing is made to fail any more.
    pub calm: bool,
}

/// How a replica's process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// Runs.
    Up,
    /// Is stopped with SIGSTOP.
    Paused,
    /// Has been asked to shut down.
    Draining,
    /// Is dead.
    Down,
}

/// Something that was done to a step, and so what may come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// A retryable failure before content: a retry, an error only once the
    /// budget is spent.
    Refused {
        /// As an `error` names it.
        cause: String,
        /// A Retry-After that is to be obeyed.
        retry_after_ms: Option<u64>,
    },
    /// A failure that ends the turn.
    Fatal {
        /// As an `error` names it.
        cause: String,
    },
    /// A failure after content.
    Broken {
        /// As an `error` names it.
        cause: String,
        /// A repetition may be configured (T11).
        is_cut: bool,
    },
    /// A clean completion without text or tool call.
    Empty,
}

/// A request as it reached a provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Names it.
    pub stream: u32,
    /// Who asks.
    pub replica: usize,
    /// In which of its lives.
    pub life: u32,
    /// Whom.
    pub provider: ProviderId,
    /// For which turn, as the effect says.
    pub turn: TurnId,
    /// For which step, as the transcript says.
    pub step: u32,
    /// Whether the model may ask for tools.
    pub offers_tools: bool,
    /// Whether a vendor would accept the transcript, or why not.
    pub verdict: Result<(), String>,
}

/// A parked and due turn, as the store's rows have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// The turn.
    pub turn: TurnId,
    /// Its workspace's own star.
    pub starred: bool,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// Where alone it may go on.
    pub bound: Option<Arc<str>>,
}

/// What must be gone when everything has come to rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    /// Turns without a terminal event.
    pub open_turns: Vec<TurnId>,
    /// Armed markers.
    pub markers: usize,
    /// Conversations that some turn owns.
    pub owned: Vec<ConversationId>,
    /// Requests that a provider still answers.
    pub requests: usize,
    /// Commands that still run.
    pub tools: Vec<String>,
    /// Client commands without an answer.
    pub unanswered: usize,
    /// Segments of open steps.
    pub segments: usize,
    /// Deliveries that are neither made nor given up.
    pub deliveries: usize,
    /// Clients have not come to the end of what they were to do.
    pub clients_are_busy: bool,
    /// The run was given up: it took more than any that comes to an end.
    pub is_given_up: bool,
}

impl Leftovers {
    /// Nothing is left.
    pub fn is_clean(&self) -> bool {
        *self == Leftovers::default()
    }
}

/// One fact.
#[derive(Clone, Debug)]
pub enum Fact<'a> {
    /// The store's log has grown by this event.
    Logged(&'a AgentEvent),
    /// A replica showed an event to its clients.
    Published {
        /// Which replica.
        replica: usize,
        /// The event.
        event: &'a AgentEvent,
        /// When its core decided to, in store time: a process may be stopped
        /// between that and the showing.
        decided_at: Timestamp,
    },
    /// A client received an event.
    Seen {
        /// Which client.
        client: usize,
        /// The event.
        event: &'a AgentEvent,
    },
    /// A turn's row has changed.
    Moved {
        /// As it was; `None`: it is new.
        before: Option<&'a TurnRow>,
        /// As it is.
        after: &'a TurnRow,
    },
    /// What a transaction that changed a turn has left behind.
    Rows {
        /// The turn.
        turn: &'a TurnRow,
        /// Its conversation names it as the one that is owned.
        holds: bool,
        /// Its marker is armed.
        armed: bool,
    },
    /// A fenced write has changed a turn's row.
    Written {
        /// Of this turn.
        turn: TurnId,
        /// Under this ownership.
        epoch: Epoch,
    },
    /// The store answered with a view.
    ViewRead {
        /// Whose line.
        provider: &'a ProviderId,
        /// The answer.
        view: &'a AdmissionView,
        /// Who really waits, in no order.
        line: &'a [Waiting],
        /// How many turns really stream.
        streaming: u32,
    },
    /// A view reached a replica.
    ViewHeard {
        /// Which replica.
        replica: usize,
        /// Whose line.
        provider: &'a ProviderId,
        /// The view.
        view: &'a AdmissionView,
    },
    /// A replica asks to have a plan applied.
    Planned {
        /// Which replica.
        replica: usize,
        /// The plan.
        plan: &'a ApplyGrants,
    },
    /// The store granted.
    Granted {
        /// Whose slots.
        provider: &'a ProviderId,
        /// Its limit at that moment.
        limit: u32,
        /// How long a slot counts after it was left.
        cooldown_ms: u64,
        /// To whom.
        turns: &'a [Granted],
    },
    /// A replica opens a stream.
    Opened {
        /// For this turn.
        turn: TurnId,
        /// Under this ownership.
        epoch: Epoch,
        /// Names it.
        stream: u32,
    },
    /// A request reached a provider and is in flight there.
    Requested(&'a Request),
    /// A replica has closed a stream; its provider does not know it yet.
    Closed {
        /// Which.
        stream: u32,
    },
    /// A request is no longer in flight at its provider.
    Gone {
        /// Which.
        stream: u32,
    },
    /// A replica's process has changed.
    Lives {
        /// Which replica.
        replica: usize,
        /// Which of its lives.
        life: u32,
        /// Drawn anew for each life, as owners carry it.
        boot: u64,
        /// How it is now.
        state: Life,
    },
    /// The store knows a node by this life of it.
    Registered {
        /// The node.
        node: &'a str,
        /// The life's number.
        life: u64,
    },
    /// A replica had trouble with the store.
    Trouble {
        /// Which replica.
        replica: usize,
    },
    /// A replica's core has panicked and is rebuilt.
    Panicked {
        /// Which replica.
        replica: usize,
        /// The turn whose input it was.
        seal: Option<TurnId>,
    },
    /// A part of its transcript cannot be read back any more.
    Rotted {
        /// Whose.
        conversation: &'a ConversationId,
    },
    /// Something was done to a step.
    Injected {
        /// To this turn.
        turn: TurnId,
        /// What.
        cause: &'a Cause,
    },
    /// A replica watches on over a command that an earlier ownership started.
    ToolAdopted {
        /// The command.
        command: &'a str,
        /// Its turn.
        turn: TurnId,
        /// Under this ownership.
        epoch: Epoch,
        /// Which replica.
        replica: usize,
        /// Where it runs, if not there.
        computer: Option<&'a ComputerId>,
        /// How long it may still run at most.
        deadline_ms: u64,
    },
    /// A replica watches over a command no more, and lives.
    ToolLeft {
        /// The command.
        command: &'a str,
    },
    /// A client asked for an abort.
    AbortAsked {
        /// Of this turn,
        turn: Option<TurnId>,
        /// or of this conversation's first open one.
        conversation: Option<&'a ConversationId>,
    },
    /// A command was started.
    ToolStarted {
        /// The command, unique in the run.
        command: &'a str,
        /// For this turn.
        turn: TurnId,
        /// Under this ownership.
        epoch: Epoch,
        /// The call.
        call_id: &'a str,
        /// By whom.
        replica: usize,
        /// Where, if not there.
        computer: Option<&'a ComputerId>,
        /// How long it may run.
        deadline_ms: u64,
    },
    /// A command is dead, with all its children.
    ToolGone {
        /// The command.
        command: &'a str,
        /// The call.
        call_id: &'a str,
        /// For this turn.
        turn: TurnId,
        /// How it ended, if by itself.
        end: Option<&'a ToolEnd>,
    },
    /// A replica wants a link to a computer.
    LinkWished {
        /// Which replica.
        replica: usize,
        /// To which computer.
        computer: &'a ComputerId,
        /// Names it.
        link: EffectId,
    },
    /// A replica was told that its link is open.
    LinkUp {
        /// Which replica.
        replica: usize,
        /// Which link.
        link: EffectId,
    },
    /// A replica has closed its link, or was told that there is none.
    LinkGone {
        /// Which replica.
        replica: usize,
        /// Which link.
        link: EffectId,
    },
    /// Something is wrong with a computer, or with the way to it.
    ComputerTroubled {
        /// Which.
        computer: &'a ComputerId,
        /// Not for longer than to this moment.
        until: Us,
    },
    /// A client wants to know whether a computer can be reached.
    ComputerTested {
        /// Which.
        computer: &'a ComputerId,
    },
    /// A client heard an answer.
    Answered {
        /// To a submission of this message.
        token: Option<u32>,
        /// The answer.
        answer: &'a Answer,
    },
    /// A delivery has reached its endpoint.
    Posted {
        /// What, to whom.
        delivery: &'a Delivery,
        /// The endpoint has it now, whether that is heard of or not.
        is_taken: bool,
    },
    /// The store has given a delivery up.
    GivenUp {
        /// Which.
        delivery: &'a Delivery,
    },
    /// `Dispatcher::check` was asked.
    Checked {
        /// Of this replica.
        replica: usize,
        /// What it said.
        result: Result<(), String>,
    },
    /// A replica's Dispatcher was weighed at rest.
    Weighed {
        /// Which replica.
        replica: usize,
        /// Its serialised size.
        bytes: usize,
        /// That of a new one after its boot.
        fresh_bytes: usize,
    },
    /// A look at all slots.
    Slots {
        /// Streaming turns, and whether a provider answers a request of theirs.
        streaming: &'a [(TurnId, bool)],
        /// First in line at a provider that has a slot free.
        idle: &'a [TurnId],
    },
    /// Code that must never panic has.
    Burst {
        /// Where, and what it said.
        message: &'a str,
    },
    /// The run is over.
    Finished {
        /// What has not come to rest in time.
        leftovers: &'a Leftovers,
        /// Each client's cursor against its conversation's last sequence number.
        cursors: &'a [(u64, u64)],
    },
}
