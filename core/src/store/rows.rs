//! The rows: typed columns, so that liveness never depends on a payload.

use alloc::string::String;
use alloc::sync::Arc;
use serde::{Deserialize, Serialize};

use crate::admission::WaiterKey;
use crate::ids::{ComputerId, ConversationId, Epoch, Owner, ProviderId, Seq, Slug, TurnId};
use crate::time::Timestamp;
use crate::transcript::{Item, Usage};

/// Where a turn is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum TurnState {
    /// Waits for its predecessor in the conversation.
    Blocked,
    /// In line: no owner, no timer, no memory.
    Parked,
    /// Owned, and holds a slot: the slot *is* this state.
    Streaming,
    /// Owned, without a slot: its tools run.
    Tools,
    /// Has its terminal event.
    Ended,
}

impl TurnState {
    /// Some replica runs a stretch of it.
    pub fn is_owned(self) -> bool {
        matches!(self, TurnState::Streaming | TurnState::Tools)
    }
}

/// One accepted turn.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TurnRow {
    /// Its name.
    pub turn: TurnId,
    /// Its conversation.
    pub conversation: ConversationId,
    /// Its place among the conversation's turns, from 0.
    pub ordinal: u64,
    /// The provider that it streams from.
    pub provider: ProviderId,
    /// The model, as the provider names it.
    pub model: String,
    /// Where it is.
    pub state: TurnState,
    /// Its place in line.
    pub key: WaiterKey,
    /// Not granted before.
    pub due_at: Timestamp,
    /// Who runs it; `None` unless owned.
    pub owner: Option<Owner>,
    /// Until when, unless renewed.
    pub lease_until: Timestamp,
    /// The conversation's epoch at this turn's latest change of ownership.
    pub epoch: Epoch,
    /// Completed steps; also the number of the open one.
    pub step: u32,
    /// Items of the transcript that this turn has written.
    pub items: u32,
    /// Times that the open step was repeated after an empty or cut completion.
    pub restarts: Restarts,
    /// The open step's refusals.
    pub retry: RetryState,
    /// Takeovers since the last completed step.
    pub resumes: u32,
    /// The node whose files it has touched: only there it goes on (L9).
    pub bound: Option<Arc<str>>,
    /// The computer that its tools run on, as it was when the message was
    /// accepted: a call is looked for where it was started (S1).
    pub computer: Option<ComputerId>,
    /// Somebody wants it stopped.
    pub abort: Option<AbortRequest>,
    /// When it was accepted.
    pub accepted_at: Timestamp,
    /// When it entered its state.
    pub since: Timestamp,
    /// Time by kind up to `since`.
    pub timing: Timing,
    /// Tokens of its completed steps.
    pub usage: Usage,
}

/// How often the open step was repeated, by cause; `commit_step` resets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restarts {
    /// After an empty completion (T11).
    pub empty: u32,
    /// After a cut, where configured (T11).
    pub cut: u32,
}

/// A step's refusals so far (T3, L6); `commit_step` resets it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetryState {
    /// The next refusal's index into the schedule.
    pub attempt: u32,
    /// Scheduled waits so far; a Retry-After does not count.
    pub sum_ms: u64,
    /// When the first refusal was met.
    pub first_failure_at: Option<Timestamp>,
    /// The last refusal.
    pub last: Option<Failure>,
}

/// What a provider did to refuse or break a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// In the provider's words, bounded, secrets masked.
    pub message: String,
    /// Its status or error code.
    pub code: Option<String>,
    /// What happened, kebab case: `http-429`, `connection-refused`, ...
    pub cause: String,
}

/// A durable wish to stop a turn (T5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbortRequest {
    /// Who wishes it.
    pub by: String,
    /// Why.
    pub reason: Option<String>,
    /// Since when.
    pub at: Timestamp,
}

/// How a turn's time was spent (T13): the four add up to its age.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Timing {
    /// In line, due.
    pub queue_ms: u64,
    /// In line, not due yet.
    pub backoff_ms: u64,
    /// Streaming.
    pub model_ms: u64,
    /// In tools.
    pub tool_ms: u64,
}

impl TurnRow {
    /// Time by kind up to `now`.
    pub fn timing_at(&self, now: Timestamp) -> Timing {
        let mut timing = self.timing;
        let spent_ms = now.since_ms(self.since);
        match self.state {
            TurnState::Blocked => timing.queue_ms += spent_ms,
            TurnState::Parked => {
                let backoff_ms = self.due_at.since_ms(self.since).min(spent_ms);
                timing.backoff_ms += backoff_ms;
                timing.queue_ms += spent_ms - backoff_ms;
            }
            TurnState::Streaming => timing.model_ms += spent_ms,
            TurnState::Tools => timing.tool_ms += spent_ms,
            TurnState::Ended => {}
        }
        timing
    }

    /// Moves to another state and books the time spent in the old one.
    pub(crate) fn enter(&mut self, state: TurnState, now: Timestamp) {
        self.timing = self.timing_at(now);
        self.since = self.since.max(now);
        self.state = state;
    }
}

/// One conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConversationRow {
    /// Its name.
    pub id: ConversationId,
    /// Its workspace.
    pub workspace: Slug,
    /// First message, 80 characters, or set.
    pub title: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// Moved at start, step and end of a turn.
    pub last_activity_at: Timestamp,
    /// Its provider.
    pub provider: ProviderId,
    /// Its model.
    pub model: String,
    /// Its own working directory, if it has one (C4).
    pub cwd: Option<String>,
    /// Its own computer, if it has one (S1).
    pub computer: Option<ComputerId>,
    /// The last sequence number in its log.
    pub last_seq: Seq,
    /// The turn that is owned right now.
    pub turn: Option<TurnId>,
    /// Rises with every change of ownership.
    pub epoch: Epoch,
    /// The next turn's ordinal.
    pub next_ordinal: u64,
}

/// One workspace (C3).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceRow {
    /// Its name.
    pub slug: Slug,
    /// For people.
    pub title: Option<String>,
    /// Its turns go first (A2).
    pub starred: bool,
    /// Working directory of conversations without one.
    pub cwd: Option<String>,
    /// Computer of conversations without one.
    pub computer: Option<ComputerId>,
    /// When it was created.
    pub created_at: Timestamp,
}

/// One provider's line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderRow {
    /// Its name.
    pub id: ProviderId,
    /// Rises with every grant and every change of limit, star or gate.
    pub version: u64,
    /// Streams allowed in flight.
    pub limit: u32,
    /// The limit that the configuration named when it was last read: a new one
    /// there replaces what was set at run time.
    pub configured_limit: u32,
    /// How long a slot counts after it was left.
    pub cooldown_ms: u64,
    /// Contended grants modulo four.
    pub fair: u32,
}

/// One replica, under its stable name (L9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaRow {
    /// Its latest life.
    pub owner: Owner,
    /// That life's number: lives of a node are told apart by their names, and
    /// put in order by this.
    pub life: u64,
    /// The build that it runs.
    pub version: String,
    /// When that life began.
    pub started_at: Timestamp,
    /// When it was last heard of.
    pub seen_at: Timestamp,
    /// It takes turns; `false` once it has begun to shut down.
    pub serving: bool,
}

impl ReplicaRow {
    /// Whether this life began after one that names itself so.
    pub fn is_later(&self, life: u64, owner: &Owner) -> bool {
        (self.life, self.owner.incarnation) > (life, owner.incarnation)
    }

    /// Whether it will grant what only it may run: it has not said that it
    /// goes, and was heard of within `live_ms`.
    pub fn is_live(&self, now: Timestamp, live_ms: u64) -> bool {
        self.serving && now.since_ms(self.seen_at) <= live_ms
    }
}

/// One item of a transcript, with its place: prompts are ordered by turn, then
/// by `n`, because a queued message is older than its predecessor's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRow {
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn's ordinal.
    pub ordinal: u64,
    /// Place within the turn.
    pub n: u32,
    /// The turn.
    pub turn: TurnId,
    /// What it is.
    pub item: Item,
}

/// How far a tool call has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CallState {
    /// Asked for; certainly not started.
    Asked,
    /// It may have started, under this epoch.
    Started(Epoch),
    /// Answered.
    Finished,
}

/// One tool call of a turn's open round.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallRow {
    /// The turn.
    pub turn: TurnId,
    /// The step that asked.
    pub step: u32,
    /// Place within the step.
    pub n: u32,
    /// The call.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// Its arguments, JSON text.
    pub input: String,
    /// How far it has come.
    pub state: CallState,
}

/// A piece of an open step's content, appended and never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Segment {
    /// The turn.
    pub turn: TurnId,
    /// The ownership that streamed it.
    pub epoch: Epoch,
    /// The step.
    pub step: u32,
    /// Bytes of text before it.
    pub text_offset: u64,
    /// More of the text.
    pub text: String,
    /// Bytes of reasoning before it.
    pub reasoning_offset: u64,
    /// More of the reasoning.
    pub reasoning: String,
}

/// What an idempotency key stands for (C6).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    /// Digest of the request's body.
    pub digest: u64,
    /// The turn that it made.
    pub turn: TurnId,
}
