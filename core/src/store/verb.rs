//! The verbs and what they answer.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use super::outbox::TakeDeliveries;
use super::rows::{AbortRequest, CallRow, Failure, RetryState, Segment, TurnRow};
use crate::admission::{AdmissionView, Grant};
use crate::event::AgentEvent;
use crate::ids::{
    ComputerId, ConversationId, EndpointId, Epoch, Owner, ProviderId, Seq, Slug, TurnId,
};
use crate::liveness::SweepPolicy;
use crate::time::Timestamp;
use crate::transcript::{Item, ToolCall, Usage};
use crate::webhook::{Delivery, DeliveryRow, EndpointRow, Tried};

/// What an owner's write carries: it lands only while the turn is owned under
/// this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The turn.
    pub turn: TurnId,
    /// The ownership.
    pub epoch: Epoch,
}

/// One transaction asked of the store. Every verb may be asked again after an
/// unknown outcome: a second landing changes nothing and answers alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    /// A replica (re)starts: its configuration, and the end of its earlier lives' ownerships.
    Boot(Boot),
    /// A turn is accepted: marker, message and place in line in one. -> `Accepted`
    Accept(Box<Accept>),
    /// All that a grant decision may rest on. -> `View`
    AdmissionView {
        /// Whose line.
        provider: ProviderId,
        /// A replica that was not heard of for so long takes no turns.
        live_ms: u64,
    },
    /// Compare-and-set of a plan. -> `Granted`, `Conflict`
    ApplyGrants(ApplyGrants),
    /// A granted turn's world. -> `Loaded`, `Fenced`
    Load {
        /// The turn.
        turn: TurnId,
        /// The ownership.
        epoch: Epoch,
    },
    /// Appends what open steps have shown; those of lost ownerships are dropped. -> `Landed`
    Checkpoint {
        /// Of any turns of this replica.
        segments: Vec<Segment>,
    },
    /// A step that asks for tools is complete. -> `Landed`, `Fenced`
    CommitStep {
        /// Who writes.
        fence: Fence,
        /// The step; has calls.
        step: StepRecord,
    },
    /// The open step is repeated at once. -> `Landed`, `Fenced`
    RestartStep {
        /// Who writes.
        fence: Fence,
        /// The step.
        step: u32,
        /// Shown to people.
        reason: String,
        /// Which counter moves, and to what.
        by: RestartCause,
    },
    /// Tools are about to start; frees the slot. -> `Landed`, `Fenced`
    ToolsStarted {
        /// Who writes.
        fence: Fence,
        /// Call ids of the last completed step.
        calls: Vec<String>,
    },
    /// Tools have answered; frees the slot. -> `Landed`, `Fenced`
    ToolsFinished {
        /// Who writes.
        fence: Fence,
        /// The answers.
        answers: Vec<ToolAnswer>,
    },
    /// Back in line under the same key. -> `Landed`, `Fenced`
    Park {
        /// Who writes.
        fence: Fence,
        /// The open step is given up half-way, for this reason: what was shown of it is void.
        restart: Option<String>,
    },
    /// Back in line until a retry is due. -> `Landed`, `Fenced`
    ScheduleRetry {
        /// Who writes.
        fence: Fence,
        /// The wait.
        retry: Retry,
    },
    /// A durable wish to stop a turn; of an unowned one, its end. -> `Ended`, `AbortRequested`, `NotFound`
    RequestAbort(AbortOf),
    /// The one terminal event. -> `Ended`, `Fenced`
    Elect(Box<Election>),
    /// More time for owned turns. -> `Renewed`
    Renew {
        /// Who owns them.
        owner: Owner,
        /// Which.
        turns: Vec<Fence>,
        /// From now.
        lease_ms: u64,
        /// Whether it still takes turns: it is heard of by this, too.
        serving: bool,
    },
    /// Abort requests of owned turns. -> `Requests`
    Requests {
        /// Which.
        turns: Vec<Fence>,
    },
    /// Parks again or ends one turn whose lease has lapsed. -> `Swept`
    SweepOne {
        /// What to do with it.
        policy: SweepPolicy,
    },
    /// Puts right markers that do not fit their turns, some at once. -> `Audited`
    Audit,
    /// Which of these turns have their terminal event, or are not known. -> `AreEnded`
    Ended {
        /// Which.
        turns: Vec<TurnId>,
    },
    /// Creates or changes a workspace. -> `Workspace`
    PutWorkspace {
        /// Which.
        slug: Slug,
        /// A new title; absent: unchanged.
        title: Option<String>,
        /// A new default working directory; absent: unchanged.
        cwd: Option<String>,
        /// A new default computer; absent: unchanged.
        computer: Option<ComputerId>,
    },
    /// Stars or unstars a workspace and re-orders what waits. -> `Workspace`, `NotFound`
    Star {
        /// Which.
        slug: Slug,
        /// The star.
        starred: bool,
    },
    /// Sets a provider's limit. -> `Landed`, `NotFound`
    SetLimit {
        /// Which.
        provider: ProviderId,
        /// Streams in flight.
        limit: u32,
    },
    /// Deliveries that are due are this replica's to try. -> `Deliveries`
    TakeDeliveries(Box<TakeDeliveries>),
    /// What came of a try. -> `Settled`, `NotFound`
    SettleDelivery {
        /// To whom.
        endpoint: EndpointId,
        /// Of this turn's end.
        turn: TurnId,
        /// Which try, from 1.
        tries: u32,
        /// What came of it.
        tried: Tried,
    },
}

/// A replica's start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Its new life. Ownerships of the same node's other lives end here.
    pub owner: Owner,
    /// Greater than that of every life before: a boot that has lingered on its
    /// way until its life was over changes nothing. -> `Fenced`
    pub life: u64,
    /// The providers of its configuration.
    pub providers: Vec<ProviderSettings>,
    /// What to do with turns that an earlier life owned.
    pub policy: SweepPolicy,
    /// The turn whose input made the earlier life panic (L7).
    pub seal: Option<TurnId>,
    /// The build that it runs.
    pub version: String,
    /// The endpoints of its configuration: who is told of ends from now on (C7).
    pub webhooks: Vec<EndpointRow>,
}

/// What the configuration says of a provider's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderSettings {
    /// Its name.
    pub id: ProviderId,
    /// Streams in flight (A1).
    pub limit: u32,
    /// How long a slot counts after it was left (A4).
    pub cooldown_ms: u64,
}

/// A message to accept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    /// The turn's name, drawn by the core: asking twice accepts once.
    pub turn: TurnId,
    /// The conversation; created if missing.
    pub conversation: ConversationId,
    /// `None`: the conversation's, or `default` for a new one.
    pub workspace: Option<Slug>,
    /// `None`: the conversation's, or the given default for a new one.
    pub model: Option<(ProviderId, String)>,
    /// For a conversation without a model.
    pub default_model: (ProviderId, String),
    /// What the user says.
    pub message: String,
    /// A working directory to set on the conversation.
    pub cwd: Option<String>,
    /// A computer to set on the conversation.
    pub computer: Option<ComputerId>,
    /// The client's key and the digest of its body (C6).
    pub idempotency: Option<(String, u64)>,
    /// The providers that are configured: no turn is taken for any other.
    pub configured: Vec<ProviderId>,
    /// Refuse above so many open turns (O5).
    pub max_open_turns: u64,
}

/// A plan to apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplyGrants {
    /// Whose line.
    pub provider: ProviderId,
    /// The view's version.
    pub version: u64,
    /// The fairness counter after the plan.
    pub fair: u32,
    /// The new owner.
    pub owner: Owner,
    /// The turns.
    pub grants: Vec<Grant>,
    /// For how long.
    pub lease_ms: u64,
}

/// A finished or cut step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its number, from 0.
    pub step: u32,
    /// The answer.
    pub text: String,
    /// The reasoning.
    pub reasoning: String,
    /// The tools asked for.
    pub calls: Vec<ToolCall>,
    /// Cut short by an abort or an error.
    pub partial: bool,
    /// Tokens.
    pub usage: Usage,
    /// From request to end.
    pub duration_ms: u64,
    /// What a person should know of it: code and message.
    pub warnings: Vec<(String, String)>,
}

/// A tool's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolAnswer {
    /// The call.
    pub call_id: String,
    /// It did what was asked.
    pub ok: bool,
    /// Bounded output.
    pub output: String,
    /// How long it ran.
    pub duration_ms: u64,
    /// The file with the full text.
    pub spilled: Option<String>,
}

/// A wait before the next attempt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retry {
    /// 0-based: must be the turn's attempt index, or the wait is scheduled already.
    pub attempt: u32,
    /// The wait.
    pub delay_ms: u64,
    /// What of it counts against the budget.
    pub counted_ms: u64,
    /// What was met.
    pub failure: Failure,
    /// Where the delay comes from.
    pub source: String,
}

/// Why a step is repeated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartCause {
    /// An empty completion; the counter's new value.
    Empty(u32),
    /// A cut; the counter's new value.
    Cut(u32),
}

/// Which turn to stop.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortOf {
    /// This turn, or the conversation's first open one.
    pub turn: Option<TurnId>,
    /// The conversation.
    pub conversation: Option<ConversationId>,
    /// Who wishes it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// A request that its owner has not acknowledged for so long may be carried out by anyone.
    pub patience_ms: u64,
}

/// How a turn ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Terminal {
    /// Well.
    Done {
        /// Why the model stopped.
        finish_reason: String,
    },
    /// Badly.
    Error {
        /// Stable, kebab case.
        code: String,
        /// For people.
        message: String,
        /// What really happened.
        cause: String,
        /// The same message may succeed later.
        retryable: bool,
    },
    /// Stopped.
    Aborted {
        /// By whom.
        by: String,
        /// Why.
        reason: Option<String>,
    },
}

/// A bid for the terminal event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Election {
    /// Who writes.
    pub fence: Fence,
    /// The final or the cut step.
    pub step: Option<StepRecord>,
    /// Answers for calls that are still open.
    pub answers: Vec<ToolAnswer>,
    /// The end.
    pub terminal: Terminal,
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// To `Boot`: what was parked again or ended.
    Booted {
        /// Events to publish.
        events: Vec<AgentEvent>,
        /// Ownerships that ended.
        taken_over: u32,
        /// Providers that the store knows and the configuration does not: their
        /// turns must end, not wait for ever.
        orphaned: Vec<ProviderId>,
    },
    /// To `Accept`.
    Accepted(Receipt, Vec<AgentEvent>),
    /// To `Accept`: not taken, and nothing of it kept.
    Rejected(Rejection),
    /// To `AdmissionView`.
    View(AdmissionView),
    /// To `ApplyGrants`: who is owned now.
    Granted(Vec<Granted>),
    /// To `ApplyGrants`: the view is out of date.
    Conflict,
    /// To `Load`.
    Loaded(Box<Loaded>),
    /// The write is in the log, now or already.
    Landed {
        /// Events to publish; empty when it had landed before.
        events: Vec<AgentEvent>,
    },
    /// Someone else owns the turn, or nobody.
    Fenced,
    /// To `RequestAbort`: its owner will see it.
    AbortRequested {
        /// The turn concerned.
        turn: TurnId,
        /// Its conversation.
        conversation: ConversationId,
        /// Its owner's node.
        node: Arc<str>,
    },
    /// The turn has its terminal event: from this verb, or it had one.
    Ended {
        /// Events to publish; empty when it had ended before.
        events: Vec<AgentEvent>,
        /// The terminal event.
        terminal: Box<AgentEvent>,
    },
    /// No such turn, conversation, workspace or provider.
    NotFound,
    /// To `Renew`: which are still owned.
    Renewed(Vec<Fence>),
    /// To `Requests`: which shall stop, and which are owned no more.
    Requests {
        /// Abort requests.
        aborts: Vec<(TurnId, AbortRequest)>,
        /// Lost ownerships.
        lost: Vec<Fence>,
    },
    /// To `SweepOne`; `None`: nothing has lapsed.
    Swept(Option<Swept>),
    /// To `Audit`: what was wrong, and is not any more.
    Audited {
        /// Open turns that had no marker, and have one now.
        armed: Vec<TurnId>,
        /// Turns that are over, or not known, whose marker is gone now.
        taken: Vec<TurnId>,
    },
    /// To `Ended`: those that are.
    AreEnded(Vec<TurnId>),
    /// To `PutWorkspace` and `Star`: the row as it is now.
    Workspace(super::rows::WorkspaceRow),
    /// To `TakeDeliveries`.
    Deliveries {
        /// The asker's now.
        taken: Vec<Delivery>,
        /// Given up: nobody has told what came of their last tries.
        given_up: Vec<Delivery>,
        /// The earliest due time of what is not due yet.
        next_due: Option<Timestamp>,
        /// Store time.
        now: Timestamp,
    },
    /// To `SettleDelivery`: the row as it is now.
    Settled {
        /// See [`DeliveryRow`].
        row: Box<DeliveryRow>,
        /// Store time.
        now: Timestamp,
    },
}

/// What a client gets for its message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// The turn's provider.
    pub provider: ProviderId,
    /// The sequence number of its `turn-start`.
    pub seq: Seq,
    /// The key was known: this is the turn of an earlier request.
    pub replayed: bool,
}

/// Why a message was not taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Rejection {
    /// C6.
    #[error("this Idempotency-Key was used with another body; use a new key for a new message")]
    IdempotencyMismatch,
    /// The conversation lives elsewhere.
    #[error("the conversation belongs to workspace `{0}`; leave workspaceId out or name that one")]
    WorkspaceMismatch(Slug),
    /// O5.
    #[error("{0} turns are open already; wait for some to end and send it again")]
    TooManyOpenTurns(u64),
    /// The configuration has changed under the conversation.
    #[error("provider `{0}` is not configured; name another model")]
    UnknownProvider(ProviderId),
}

/// A turn that is owned now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The turn.
    pub turn: TurnId,
    /// Its conversation.
    pub conversation: ConversationId,
    /// The new ownership.
    pub epoch: Epoch,
}

/// What of a transcript cannot be read back, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreadable(pub String);

/// A granted turn's world: all that a stretch starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// The turn.
    pub turn: TurnRow,
    /// The transcript so far, this turn's message and steps included.
    pub items: Result<Vec<Item>, Unreadable>,
    /// Tool calls of the last completed step.
    pub calls: Vec<CallRow>,
    /// Effective working directory (C4); `None`: the server's default.
    pub cwd: Option<String>,
    /// Store time.
    pub now: Timestamp,
}

/// What became of one swept turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Swept {
    /// The turn.
    pub turn: TurnId,
    /// Its provider, whose line may move.
    pub provider: ProviderId,
    /// Events to publish.
    pub events: Vec<AgentEvent>,
}

/// A verb that brought no reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StoreFault {
    /// It may have landed or not.
    #[error("the outcome is unknown")]
    Unknown,
    /// It did not land.
    #[error("the store failed: {0}")]
    Failed(String),
}

/// What the driver hands back for a verb.
pub type Outcome = Result<Reply, StoreFault>;

/// The state of a step's refusals after one more (shared by the verb and by tests).
pub(crate) fn refused(before: &RetryState, retry: &Retry, now: Timestamp) -> RetryState {
    RetryState {
        attempt: retry.attempt + 1,
        sum_ms: before.sum_ms + retry.counted_ms,
        first_failure_at: before.first_failure_at.or(Some(now)),
        last: Some(retry.failure.clone()),
    }
}
