//! The core's whole contact with the world: [`Input`]s come in, [`Effect`]s go
//! out. Both are plain values; an [`EffectId`] ties a completion to its cause.

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use serde::{Deserialize, Serialize};

use crate::computer::{ComputerState, SshFault};
use crate::event::{AgentEvent, OutputStream};
use crate::ids::{
    CommandId, ComputerId, ConversationId, EffectId, Epoch, ProviderId, Slug, TurnId,
};
use crate::store::{Outcome, Receipt, Rejection, Verb, WorkspaceRow};
use crate::time::Instant;
use crate::webhook::Delivery;

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Time has passed.
    Tick,
    /// A client wants something.
    Command {
        /// Names the answer.
        id: CommandId,
        /// What.
        command: Command,
    },
    /// A verb came back.
    Stored {
        /// Of this effect.
        id: EffectId,
        /// With this.
        outcome: Outcome,
    },
    /// A provider's status line and the headers that matter, names in lower case.
    ProviderHead {
        /// Of this effect.
        id: EffectId,
        /// HTTP status.
        status: u16,
        /// `content-type`, `retry-after`, `retry-after-ms`, `x-should-retry`.
        headers: Vec<(String, String)>,
    },
    /// More of a provider's body.
    ProviderBytes {
        /// Of this effect.
        id: EffectId,
        /// As they came.
        bytes: Vec<u8>,
    },
    /// The body ended as HTTP says it should.
    ProviderEnd {
        /// Of this effect.
        id: EffectId,
    },
    /// No (more) answer will come.
    ProviderFailed {
        /// Of this effect.
        id: EffectId,
        /// What broke.
        kind: FailKind,
        /// For people; secrets masked.
        message: String,
    },
    /// A preview of a running tool's output.
    ToolOutput {
        /// Of this effect.
        id: EffectId,
        /// Which output.
        stream: OutputStream,
        /// Bytes before it.
        offset: u64,
        /// The text.
        text: String,
    },
    /// A tool is at its end; exactly one per `StartTool`, and per `AdoptTool`
    /// that found it running.
    ToolDone {
        /// Of this effect.
        id: EffectId,
        /// How.
        end: ToolEnd,
    },
    /// Nothing more can be told of a call over a link, which is as good as before;
    /// what was started may run on.
    ToolLost {
        /// Of this effect.
        id: EffectId,
        /// Why, for people; secrets masked.
        cause: String,
    },
    /// What an earlier ownership's run of a call has come to. Where it runs,
    /// `ToolOutput`* and `ToolDone` follow.
    Adopted {
        /// Of this effect.
        id: EffectId,
        /// What the run directory told.
        found: Found,
    },
    /// A link to a computer is open; it is named by the effect that wished it.
    ComputerUp {
        /// Of this effect.
        id: EffectId,
    },
    /// No link came, or it is there no more: nothing more is heard of it, nor
    /// of what was started or adopted over it.
    ComputerDown {
        /// The link.
        id: EffectId,
        /// Why.
        fault: SshFault,
    },
    /// A link has answered a [`Effect::PingComputer`].
    ComputerAlive {
        /// The link.
        id: EffectId,
    },
    /// Commands that run here, or over there, and that nobody watches: a dead
    /// server's, or such as were left.
    Unattended {
        /// Of this effect.
        id: EffectId,
        /// Their turns, each once, [`MAX_UNATTENDED`] at most.
        turns: Vec<TurnId>,
    },
    /// A try to deliver is over; exactly one per `Deliver` that is not cancelled.
    DeliveryDone {
        /// Of this effect.
        id: EffectId,
        /// The endpoint has it, or why not: for people, secrets masked.
        outcome: Result<(), String>,
    },
    /// The code that carried out an effect panicked; nothing else will come of it.
    EffectPanicked {
        /// Which.
        id: EffectId,
        /// The panic's message.
        message: String,
    },
    /// Another replica has done something that this one would come upon by
    /// itself: a hint, which may be late, needless or lost.
    Nudged,
    /// Stop granting, let stretches finish, then say [`Effect::Drained`] (L8).
    Shutdown,
}

/// What a client can want of the core. Reads go to the store directly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// A message for a conversation.
    Submit(Box<Submit>),
    /// Stop a turn.
    Abort {
        /// This one, or the conversation's first open one.
        turn: Option<TurnId>,
        /// The conversation.
        conversation: Option<ConversationId>,
        /// Who.
        by: String,
        /// Why.
        reason: Option<String>,
    },
    /// Create or change a workspace.
    PutWorkspace {
        /// Which.
        slug: Slug,
        /// New title.
        title: Option<String>,
        /// New default working directory.
        cwd: Option<String>,
        /// New default computer.
        computer: Option<ComputerId>,
    },
    /// Star or unstar a workspace.
    Star {
        /// Which.
        slug: Slug,
        /// The star.
        starred: bool,
    },
    /// Set a provider's limit.
    SetLimit {
        /// Which.
        provider: ProviderId,
        /// Streams in flight.
        limit: u32,
    },
    /// Find out whether a computer can be reached (S2).
    TestComputer {
        /// Which.
        computer: ComputerId,
    },
}

/// A message as the client sent it, parsed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submit {
    /// Absent: a new one.
    pub conversation: Option<ConversationId>,
    /// Absent: the conversation's, or `default`.
    pub workspace: Option<Slug>,
    /// `PROVIDER/MODEL` or `MODEL`; absent: the conversation's, or the default.
    pub model: Option<String>,
    /// What the user says.
    pub message: String,
    /// A working directory for the conversation.
    pub cwd: Option<String>,
    /// The computer that the conversation's tools run on (S1).
    pub computer: Option<ComputerId>,
    /// Key and digest of the body (C6).
    pub idempotency: Option<(String, u64)>,
}

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// To `Submit`: durable; its terminal event will come.
    Accepted(Receipt),
    /// To `Submit`: nothing of it was kept.
    Rejected(Rejection),
    /// The command itself is wrong.
    Invalid(Invalid),
    /// To `Abort`: the turn has this terminal event.
    Ended(Box<AgentEvent>),
    /// To `Abort`: asked for; the terminal event will come.
    AbortRequested {
        /// Of this turn.
        turn: TurnId,
        /// In this conversation.
        conversation: ConversationId,
    },
    /// No such thing.
    NotFound,
    /// To `PutWorkspace`, `Star`.
    Workspace(WorkspaceRow),
    /// To `SetLimit`.
    Set,
    /// To `TestComputer`.
    Tested(Result<(), SshFault>),
    /// The store did not confirm it in time: it may have happened. Ask again
    /// with the same idempotency key.
    Unconfirmed,
    /// The server is shutting down and takes nothing new.
    ShuttingDown,
}

/// Why a command cannot be carried out as it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Invalid {
    /// Nothing said.
    #[error("the message is empty; send some text")]
    EmptyMessage,
    /// O5.
    #[error("the message has {bytes} bytes; {limit_bytes} are allowed")]
    MessageTooLong {
        /// Its size.
        bytes: usize,
        /// What is allowed.
        limit_bytes: usize,
    },
    /// The model's name has a provider that is not configured.
    #[error("no provider `{0}` is configured; see GET /health for those that are")]
    UnknownProvider(String),
    /// A model without a name.
    #[error("the model is empty; write PROVIDER/MODEL or MODEL")]
    EmptyModel,
    /// A limit of nothing would park every turn for ever.
    #[error("the limit is 0; at least 1 stream must be allowed")]
    ZeroLimit,
}

/// What broke between here and a provider.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FailKind {
    /// No connection within the deadline.
    ConnectTimeout,
    /// Nobody listens.
    Refused,
    /// The name does not resolve.
    Dns,
    /// No trust.
    Tls,
    /// Any other way not to get a connection.
    Connect,
    /// The connection broke before the head.
    Transport,
    /// The body broke off.
    Body,
}

impl FailKind {
    /// The cause that a client reads.
    pub fn cause(self) -> &'static str {
        match self {
            FailKind::ConnectTimeout => "connect-timeout",
            FailKind::Refused => "connection-refused",
            FailKind::Dns => "dns-failed",
            FailKind::Tls => "tls-failed",
            FailKind::Connect => "connect-failed",
            FailKind::Transport => "connection-lost",
            FailKind::Body => "stream-cut",
        }
    }
}

/// How a tool ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolEnd {
    /// It did what was asked.
    pub ok: bool,
    /// Bounded output (T8).
    pub output: String,
    /// How long it ran.
    pub duration_ms: u64,
    /// The file that holds the full text.
    pub spilled: Option<String>,
}

/// Turns that one [`Input::Unattended`] names at most.
pub const MAX_UNATTENDED: usize = 1_000;

/// What was found of an earlier run of a tool call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    /// No trace of it. Of a call on another computer it also means that nothing
    /// can be started any more in the directory that was looked for: who looks
    /// has claimed it.
    Nothing,
    /// It runs, and is watched from now on as if it had been started here.
    Running,
    /// It has been killed, with all its children, or its supervisor has died.
    Killed {
        /// What it had printed, bounded.
        output: String,
    },
    /// It had ended by itself before its answer could be written down.
    Finished(ToolEnd),
}

/// A tool to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolStart {
    /// For this turn.
    pub turn: TurnId,
    /// Under this ownership: its run directory bears the epoch.
    pub epoch: Epoch,
    /// The call.
    pub call_id: String,
    /// The tool.
    pub name: String,
    /// JSON text of the arguments.
    pub input: String,
    /// On this computer; `None`: here.
    pub computer: Option<ComputerId>,
    /// Over this link, which is one to that computer.
    pub link: Option<EffectId>,
    /// How often it was found not to have been started, under this ownership
    /// and on another computer: its run directory there bears the number.
    pub attempt: u32,
    /// Where; `None`: the server's default, or the user's home over there.
    pub cwd: Option<String>,
    /// Kept by the supervisor too, without the server.
    pub deadline_ms: u64,
    /// Not started later, and nothing said of it: as for a stream (L2).
    pub not_after: Instant,
}

/// A tool call to watch on over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolAdopt {
    /// The turn.
    pub turn: TurnId,
    /// The ownership that takes it over.
    pub epoch: Epoch,
    /// The call.
    pub call_id: String,
    /// On this computer; `None`: here.
    pub computer: Option<ComputerId>,
    /// Over this link, which is one to that computer.
    pub link: Option<EffectId>,
    /// The ownership that may have started it.
    pub started: Epoch,
    /// Its last attempt. Where nothing is found on another computer, the directory
    /// of `epoch` and this attempt is claimed: nothing older starts any more.
    pub attempt: u32,
    /// Bytes of its output that have been shown: the preview goes on from there.
    pub shown_bytes: u64,
    /// Not done later, and nothing said of it: as for a stream (L2).
    pub not_after: Instant,
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Effect {
    /// Ask the store. -> `Stored`
    Store {
        /// Names the outcome.
        id: EffectId,
        /// What.
        verb: Verb,
    },
    /// Post a request. -> `ProviderHead`, `ProviderBytes`*, then `ProviderEnd` or `ProviderFailed`
    OpenProvider {
        /// Names the stream.
        id: EffectId,
        /// Whose address and credentials.
        provider: ProviderId,
        /// The turn it serves: for the host's log.
        turn: TurnId,
        /// JSON, serialised once (T13).
        body: Vec<u8>,
        /// Deadline for the connection.
        connect_ms: u64,
        /// Not opened later, and nothing said of it: the core has let the turn go
        /// by then, and someone else may own it (L2).
        not_after: Instant,
    },
    /// Drop a stream; nothing more is heard of it.
    CloseProvider {
        /// Which.
        id: EffectId,
        /// The step is whole and only the end of the body is missing: read on
        /// for a moment, so that the connection can serve the next request.
        finished: bool,
    },
    /// Connect to a computer. -> `ComputerUp`, then at most one `ComputerDown`;
    /// or `ComputerDown` alone
    ConnectComputer {
        /// Names the link from then on.
        id: EffectId,
        /// Which.
        computer: ComputerId,
        /// Deadline for the connection.
        connect_ms: u64,
        /// From there to the end of the handshake.
        handshake_ms: u64,
    },
    /// Ask whether a link is alive. -> `ComputerAlive`, or the link goes down
    PingComputer {
        /// The link.
        id: EffectId,
    },
    /// Drop a link, open or on its way; nothing more is heard of it, nor of what
    /// was started or adopted over it. Commands run on.
    CloseComputer {
        /// The link.
        id: EffectId,
    },
    /// How a computer stands, for whoever asks (S2).
    ComputerChanged {
        /// Which.
        computer: ComputerId,
        /// From now on.
        state: Box<ComputerState>,
    },
    /// Run a tool. -> `ToolOutput`*, `ToolDone`; over a link `Adopted` comes
    /// before them, as soon as a command runs without it
    StartTool {
        /// Names the run.
        id: EffectId,
        /// What.
        start: Box<ToolStart>,
    },
    /// Kill a tool with its whole process tree; its `ToolDone` still comes.
    KillTool {
        /// Which.
        id: EffectId,
    },
    /// Watch on over what an earlier ownership started for a call, or tell what
    /// became of it; nothing is started. -> `Adopted`
    AdoptTool {
        /// Names the run.
        id: EffectId,
        /// What.
        adopt: Box<ToolAdopt>,
    },
    /// Let a tool run and watch it no more; nothing is heard of it until
    /// somebody adopts it.
    LeaveTool {
        /// Which.
        id: EffectId,
    },
    /// Look for commands that nobody watches. -> `Unattended`
    FindUnattended {
        /// Names the answer.
        id: EffectId,
        /// Over this link; `None`: here.
        link: Option<EffectId>,
    },
    /// Kill what nobody watches of these turns: they are over (L10).
    EndUnattended {
        /// The turns.
        turns: Vec<TurnId>,
        /// Over this link; `None`: here.
        link: Option<EffectId>,
    },
    /// Post a terminal event to an endpoint. -> `DeliveryDone`
    Deliver {
        /// Names the try.
        id: EffectId,
        /// What, to whom.
        delivery: Box<Delivery>,
    },
    /// Break a try off; nothing more is heard of it.
    CancelDelivery {
        /// Which.
        id: EffectId,
    },
    /// Show an event to whoever follows the conversation. A logged one is durable.
    Publish {
        /// The event.
        event: Box<AgentEvent>,
    },
    /// A conversation's log may have grown by events that were not published:
    /// followers read it again.
    Wake {
        /// Which.
        conversation: ConversationId,
    },
    /// Something waits for this node: tell it, if that can be done (L9).
    Nudge {
        /// Whom.
        node: Arc<str>,
    },
    /// Answer a command.
    Answer {
        /// Which.
        id: CommandId,
        /// How.
        answer: Answer,
    },
    /// An input that could not be applied, or something worth a line in the log.
    Trace {
        /// Stable, kebab case.
        code: String,
        /// For people.
        message: String,
    },
    /// The store has answered the boot: requests can be served.
    Ready {
        /// Turns that an earlier life had owned.
        taken_over: u32,
    },
    /// After `Shutdown`: no turn is owned any more.
    Drained,
}
