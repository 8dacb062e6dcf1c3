//! [`AgentEvent`]: what clients read, what the log keeps.
//!
//! *Logged* events have a sequence number per conversation, without gap, in
//! commit order, and are committed before anyone sees them. *Provisional* ones
//! have none: deltas carry offsets instead, and `step-complete` supersedes them.
//!
//! Journals hold events in a compact binary form; people and the log read
//! [`AgentEvent::to_json`]. Both come from the one list below.

use alloc::{borrow::ToOwned, boxed::Box, string::String, string::ToString, vec::Vec};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{ConversationId, Epoch, Seq, Slug, TurnId};
use crate::time::Timestamp;
use crate::transcript::Usage;

/// One event of a turn, with its envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentEvent {
    /// Place in the conversation's log; `None` for provisional events.
    pub seq: Option<Seq>,
    /// The conversation.
    pub conversation: ConversationId,
    /// The turn.
    pub turn: TurnId,
    /// The ownership under which it was written.
    pub epoch: Epoch,
    /// When: store time for logged events.
    pub at: Timestamp,
    /// What happened.
    pub body: EventBody,
}

/// Where a parked or running turn stands, as `status` tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusState {
    /// Waits for a slot, for its due time or for its predecessor.
    Queued,
    /// The model is streaming.
    Active,
    /// Tools are running.
    WaitingTools,
}

/// Which output of a command a preview shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OutputStream {
    /// Standard output and standard error as they came, interleaved.
    Combined,
}

/// One run of a finished step's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// `text` or `reasoning`.
    #[serde(rename = "type")]
    pub kind: ChunkKind,
    /// The content.
    pub text: String,
}

/// The kinds of content that a step shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChunkKind {
    /// The answer.
    Text,
    /// The reasoning before it.
    Reasoning,
}

macro_rules! bodies {
    ($(
        $(#[doc = $doc:expr])*
        $variant:ident { $( $(#[doc = $fdoc:expr])* $(@[$attr:meta])? $field:ident : $ty:ty ),* $(,)? }
    )*) => {
        /// What an event says; the field lists are the table in the wire documentation.
        #[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
        pub enum EventBody {
            $( $(#[doc = $doc])* $variant { $( $(#[doc = $fdoc])* $field: $ty ),* } ),*
        }

        #[derive(Serialize)]
        #[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
        enum Shown<'a> {
            $( $variant { $( $(#[$attr])? $field: &'a $ty ),* } ),*
        }

        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "kebab-case", rename_all_fields = "camelCase")]
        enum Read {
            $( $variant { $( $(#[$attr])? $field: $ty ),* } ),*
        }

        impl EventBody {
            fn shown(&self) -> Shown<'_> {
                match self { $( EventBody::$variant { $($field),* } => Shown::$variant { $($field),* } ),* }
            }
        }
        impl From<Read> for EventBody {
            fn from(read: Read) -> EventBody {
                match read { $( Read::$variant { $($field),* } => EventBody::$variant { $($field),* } ),* }
            }
        }
    };
}

bodies! {
    /// Logged in the accepting transaction.
    TurnStart {
        /// What the user said.
        message: String,
        /// `PROVIDER/MODEL`.
        model: String,
        /// The conversation's workspace.
        workspace_id: Slug,
    }
    /// Provisional: where the turn stands.
    Status {
        /// Queued, active or waiting for tools.
        state: StatusState,
        /// 1-based place in the provider's line.
        @[serde(default, skip_serializing_if = "none")]
        position: Option<u64>,
        /// The provider whose line it is.
        @[serde(default, skip_serializing_if = "none")]
        provider: Option<String>,
        /// The provider's gate.
        @[serde(default, skip_serializing_if = "none")]
        gate: Option<String>,
        /// When the turn may be tried again, in store time.
        @[serde(default, skip_serializing_if = "none")]
        due_at: Option<Timestamp>,
    }
    /// Provisional: more of a step's text.
    TextDelta {
        /// The step.
        step: u32,
        /// Bytes of the step's text before this.
        offset: u64,
        /// The text.
        text: String,
    }
    /// Provisional: more of a step's reasoning.
    ReasoningDelta {
        /// The step.
        step: u32,
        /// Bytes of the step's reasoning before this.
        offset: u64,
        /// The text.
        text: String,
    }
    /// Logged before the tool starts.
    ToolCall {
        /// The step that asked.
        step: u32,
        /// The call.
        call_id: String,
        /// The tool.
        name: String,
        /// JSON text of the arguments.
        @[serde(with = "raw_json")]
        input: String,
    }
    /// Provisional: a bounded preview while a tool runs.
    ToolOutput {
        /// The call.
        call_id: String,
        /// Which output.
        stream: OutputStream,
        /// Bytes of it before this.
        offset: u64,
        /// The text.
        text: String,
    }
    /// Logged: what a tool answered.
    ToolResult {
        /// The call.
        call_id: String,
        /// It did what was asked.
        ok: bool,
        /// Bounded output (T8).
        output: String,
        /// How long it ran.
        duration_ms: u64,
        /// The file that holds the full text.
        @[serde(default, skip_serializing_if = "none")]
        spilled: Option<String>,
    }
    /// Logged: the truth about a step; replaces its deltas.
    StepComplete {
        /// The step.
        step: u32,
        /// Its content.
        chunks: Vec<Chunk>,
        /// Tokens.
        usage: Usage,
        /// From the request to its end.
        duration_ms: u64,
        /// The step was cut short by an abort or an error.
        @[serde(default, skip_serializing_if = "is_false")]
        partial: bool,
    }
    /// Logged: discard what was shown of this step.
    StepRestart {
        /// The step.
        step: u32,
        /// Why it is repeated.
        reason: String,
    }
    /// Logged before the wait; not in the prompt (T3).
    ProviderRetry {
        /// 0-based.
        attempt: u32,
        /// The wait.
        delay_ms: u64,
        /// Its end, in store time.
        due_at: Timestamp,
        /// What the provider said.
        message: String,
        /// Its status or code.
        @[serde(default, skip_serializing_if = "none")]
        code: Option<String>,
        /// Where the delay comes from (T4).
        source: String,
    }
    /// Logged: something that a person should know.
    Warning {
        /// Stable, kebab case.
        code: String,
        /// For people.
        message: String,
    }
    /// Logged, terminal: the turn ended well.
    Done {
        /// `stop`, `length`, `step-limit`, ...
        finish_reason: String,
        /// Sum over the turn's steps.
        usage: Usage,
        /// From acceptance to here.
        duration_ms: u64,
    }
    /// Logged, terminal: the turn failed.
    Error {
        /// Stable, kebab case.
        code: String,
        /// For people; the provider's own words where it was the provider.
        message: String,
        /// What really happened (T2).
        cause: String,
        /// The same message may succeed later.
        retryable: bool,
    }
    /// Logged, terminal: somebody stopped the turn.
    Aborted {
        /// Who.
        by: String,
        /// Why.
        @[serde(default, skip_serializing_if = "none")]
        reason: Option<String>,
    }
    /// Provisional: the open step so far, to a new subscriber.
    Snapshot {
        /// The step.
        step: u32,
        /// Its text so far.
        text: String,
        /// Its reasoning so far.
        reasoning: String,
        /// 1-based place in line.
        @[serde(default, skip_serializing_if = "none")]
        position: Option<u64>,
    }
}

fn none<T>(value: &&Option<T>) -> bool {
    value.is_none()
}
fn is_false(value: &&bool) -> bool {
    !**value
}

/// Tool arguments are JSON text inside the core and JSON on the wire; what the
/// model wrote malformed is shown as the string that it is, and so is text that
/// is a JSON string already: shown raw, nobody could tell the two apart.
mod raw_json {
    use super::*;
    use serde_json::value::RawValue;

    pub(super) fn serialize<S: Serializer>(text: &&String, to: S) -> Result<S::Ok, S::Error> {
        match RawValue::from_string(on_one_line(text)) {
            Ok(raw) if !raw.get().starts_with('"') && is_readable(text) => raw.serialize(to),
            Ok(_) | Err(_) => text.serialize(to),
        }
    }
    /// Raw JSON is checked for its grammar only: what a reader would still
    /// refuse inside an envelope (lone surrogates, numbers out of range, deep
    /// nesting) must not make a log unreadable.
    fn is_readable(json: &str) -> bool {
        const ENVELOPE_DEPTH: usize = 4;
        let (open, close) = ("[".repeat(ENVELOPE_DEPTH), "]".repeat(ENVELOPE_DEPTH));
        serde_json::from_str::<serde_json::Value>(&alloc::format!("{open}{json}{close}")).is_ok()
    }

    /// Without the white space between tokens: an event is one line.
    fn on_one_line(json: &str) -> String {
        let mut in_string = false;
        let mut escaped = false;
        json.chars()
            .filter(|c| {
                if in_string {
                    in_string = escaped || *c != '"';
                    escaped = !escaped && *c == '\\';
                    return true;
                }
                in_string = *c == '"';
                !matches!(c, ' ' | '\t' | '\n' | '\r')
            })
            .collect()
    }

    /// As the text has it: reading a log again must not change a number or an order of keys.
    #[derive(Deserialize)]
    struct Probe<'a> {
        #[serde(borrow)]
        input: Option<&'a RawValue>,
    }

    /// The arguments' own text in an event's JSON, unless they are a string.
    pub(super) fn verbatim(event: &str) -> Option<String> {
        let probe: Probe<'_> = serde_json::from_str(event).ok()?;
        let raw = probe.input?.get();
        (!raw.starts_with('"')).then(|| raw.into())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
        Ok(match serde_json::Value::deserialize(from)? {
            serde_json::Value::String(text) => text,
            other => other.to_string(),
        })
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ShownEnvelope<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    seq: Option<Seq>,
    #[serde(flatten)]
    body: Shown<'a>,
    conversation_id: &'a ConversationId,
    turn_id: String,
    epoch: Epoch,
    at: Timestamp,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ReadEnvelope {
    seq: Option<Seq>,
    #[serde(flatten)]
    body: Read,
    conversation_id: String,
    turn_id: String,
    epoch: Epoch,
    at: Timestamp,
}

/// Why a text is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an event: {0}")]
pub struct BadEvent(Box<str>);

impl AgentEvent {
    /// The event as one line of JSON: camelCase fields, kebab-case `type`.
    pub fn to_json(&self) -> String {
        let envelope = ShownEnvelope {
            seq: self.seq,
            body: self.body.shown(),
            conversation_id: &self.conversation,
            turn_id: self.turn.to_string(),
            epoch: self.epoch,
            at: self.at,
        };
        serde_json::to_string(&envelope)
            .expect("an event has string keys and no failing serializer")
    }

    /// Reads what [`AgentEvent::to_json`] wrote.
    ///
    /// # Errors
    /// When the text is not JSON, not an event, or of a type that this build does not know.
    pub fn from_json(text: &str) -> Result<AgentEvent, BadEvent> {
        let bad = |e: &dyn core::fmt::Display| BadEvent(e.to_string().into());
        let read: ReadEnvelope = serde_json::from_str(text).map_err(|e| bad(&e))?;
        let mut body: EventBody = read.body.into();
        if let EventBody::ToolCall { input, .. } = &mut body
            && let Some(verbatim) = raw_json::verbatim(text)
        {
            *input = verbatim;
        }
        Ok(AgentEvent {
            seq: read.seq,
            conversation: read
                .conversation_id
                .as_str()
                .try_into()
                .map_err(|e| bad(&e))?,
            turn: read.turn_id.as_str().try_into().map_err(|e| bad(&e))?,
            epoch: read.epoch,
            at: read.at,
            body,
        })
    }

    /// `done`, `error` or `aborted`.
    pub fn is_terminal(&self) -> bool {
        self.body.is_terminal()
    }

    /// The value of `type`.
    pub fn kind(&self) -> &'static str {
        self.body.kind()
    }
}

impl EventBody {
    /// `done`, `error` or `aborted` (T2).
    pub fn is_terminal(&self) -> bool {
        matches!(
            self,
            EventBody::Done { .. } | EventBody::Error { .. } | EventBody::Aborted { .. }
        )
    }

    /// The value of `type` on the wire.
    pub fn kind(&self) -> &'static str {
        match self {
            EventBody::TurnStart { .. } => "turn-start",
            EventBody::Status { .. } => "status",
            EventBody::TextDelta { .. } => "text-delta",
            EventBody::ReasoningDelta { .. } => "reasoning-delta",
            EventBody::ToolCall { .. } => "tool-call",
            EventBody::ToolOutput { .. } => "tool-output",
            EventBody::ToolResult { .. } => "tool-result",
            EventBody::StepComplete { .. } => "step-complete",
            EventBody::StepRestart { .. } => "step-restart",
            EventBody::ProviderRetry { .. } => "provider-retry",
            EventBody::Warning { .. } => "warning",
            EventBody::Done { .. } => "done",
            EventBody::Error { .. } => "error",
            EventBody::Aborted { .. } => "aborted",
            EventBody::Snapshot { .. } => "snapshot",
        }
    }
}

/// The chunks of a step as `step-complete` lists them: reasoning, then text.
pub(crate) fn chunks(text: &str, reasoning: &str) -> Vec<Chunk> {
    [(ChunkKind::Reasoning, reasoning), (ChunkKind::Text, text)]
        .into_iter()
        .filter(|(_, text)| !text.is_empty())
        .map(|(kind, text)| Chunk {
            kind,
            text: text.to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(body: EventBody) -> AgentEvent {
        AgentEvent {
            seq: Some(7),
            conversation: "c-1".try_into().unwrap(),
            turn: TurnId(5),
            epoch: Epoch(2),
            at: Timestamp(1_000),
            body,
        }
    }

    #[test]
    fn an_event_survives_its_json_and_its_binary_form() {
        let call = event(EventBody::ToolCall {
            step: 1,
            call_id: "a".into(),
            name: "bash".into(),
            input: r#"{"command":"ls"}"#.into(),
        });
        let json = call.to_json();
        assert_eq!(
            json,
            r#"{"seq":7,"type":"tool-call","step":1,"callId":"a","name":"bash","input":{"command":"ls"},"conversationId":"c-1","turnId":"00000000000000000000000005","epoch":2,"at":1000}"#
        );
        assert_eq!(AgentEvent::from_json(&json).unwrap(), call);
        let bytes = postcard::to_allocvec(&call).unwrap();
        assert_eq!(postcard::from_bytes::<AgentEvent>(&bytes).unwrap(), call);
    }

    #[test]
    fn malformed_tool_arguments_are_shown_as_a_string() {
        let call = event(EventBody::ToolCall {
            step: 0,
            call_id: "a".into(),
            name: "bash".into(),
            input: r#"{"command":"#.into(),
        });
        assert!(call.to_json().contains(r#""input":"{\"command\":""#));
        assert_eq!(AgentEvent::from_json(&call.to_json()).unwrap(), call);
    }

    #[test]
    fn an_event_is_one_line_and_reading_it_changes_nothing() {
        let call = event(EventBody::ToolCall {
            step: 0,
            call_id: "a".into(),
            name: "bash".into(),
            input: "{ \"z\": 1.50,\n\t\"a\" : \"two  \\\" words\\\\\" , \"n\":12345678901234567890123 }".into(),
        });
        let json = call.to_json();
        assert!(
            json.contains(
                r#""input":{"z":1.50,"a":"two  \" words\\","n":12345678901234567890123}"#
            )
        );
        assert_eq!(json.lines().count(), 1);
        assert_eq!(AgentEvent::from_json(&json).unwrap().to_json(), json);
    }

    #[test]
    fn arguments_that_a_reader_would_refuse_are_shown_as_a_string() {
        let deep = "[".repeat(126) + &"]".repeat(126);
        for input in ["{\"a\":\"\\ud83d\"}", "{\"a\":1e999}", deep.as_str()] {
            let call = event(EventBody::ToolCall {
                step: 0,
                call_id: "a".into(),
                name: "bash".into(),
                input: input.into(),
            });
            assert_eq!(AgentEvent::from_json(&call.to_json()).unwrap(), call);
        }
    }

    #[test]
    fn arguments_that_are_a_json_string_are_not_taken_for_what_it_holds() {
        for input in ["\"10\"", " \"{}\"", "\"\\\"x\\\"\"", "\"\""] {
            let call = event(EventBody::ToolCall {
                step: 0,
                call_id: "a".into(),
                name: "bash".into(),
                input: input.into(),
            });
            assert_eq!(AgentEvent::from_json(&call.to_json()).unwrap(), call);
        }
    }

    #[test]
    fn absent_options_are_left_out() {
        let aborted = event(EventBody::Aborted {
            by: "client".into(),
            reason: None,
        });
        assert!(!aborted.to_json().contains("reason"));
        assert_eq!(AgentEvent::from_json(&aborted.to_json()).unwrap(), aborted);
    }
}
