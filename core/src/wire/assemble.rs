//! Puts a step together from what its provider's stream says.

use alloc::{
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

use super::provider_event::{FinishReason, ProviderEvent};
use crate::transcript::{ToolCall, Usage};

/// How large a step may become, in bytes, unless it is set otherwise (T8).
pub const DEFAULT_STEP_LIMIT_BYTES: usize = 4 * 1024 * 1024;

/// How many tool calls a step may hold.
pub const MAX_STEP_CALLS: usize = 128;

/// How long a vendor's tool call id may be to be kept, in bytes.
pub const MAX_CALL_ID_BYTES: usize = 64;

/// Why a step cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum AssembleError {
    /// The step has outgrown its bound (T8).
    #[error(
        "the step is larger than {limit_bytes} bytes: raise the step limit or ask for less at a time"
    )]
    StepTooLarge {
        /// The limit that was set, in bytes.
        limit_bytes: usize,
    },
    /// The step asks for too many tools at once.
    #[error("the step asks for more than {limit} tool calls: ask for less at a time")]
    TooManyToolCalls {
        /// [`MAX_STEP_CALLS`].
        limit: usize,
    },
    /// The provider reported a failure in mid-stream. Whether it is retryable
    /// is for the classification to say (T4).
    #[error("the provider failed in mid-stream: {message}")]
    Provider {
        /// The vendor's code, or empty.
        code: String,
        /// The vendor's error type, or empty.
        kind: String,
        /// What the vendor says.
        message: String,
    },
    /// A part of the stream could not be decoded, so the step has a hole.
    #[error("the provider's stream cannot be decoded: {message}")]
    Malformed {
        /// What is wrong.
        message: String,
    },
}

/// What an event made visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Nothing that a client sees yet.
    Nothing,
    /// Answer text.
    Text {
        /// Where it stands in the step's text, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
    },
    /// Reasoning.
    Reasoning {
        /// Where it stands in the step's reasoning, in bytes.
        offset: usize,
        /// How long it is, in bytes.
        len: usize,
    },
    /// A tool call has begun; its id is settled by [`StepAssembler::finish`].
    ToolCall,
}

/// What a stream that has ended amounts to (T11).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// A whole step.
    Complete {
        /// Why the model stopped.
        finish: FinishReason,
        /// The stream's own terminator never came.
        terminator_missing: bool,
    },
    /// A stream that ended well and holds neither text nor a tool call.
    Empty,
    /// A stream that was cut, failed, or ended without saying why.
    Truncated,
}

/// A step as it goes into the transcript.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepContent {
    /// The visible answer.
    pub text: String,
    /// The visible reasoning.
    pub reasoning: String,
    /// The tools that it asks for, in order; ids unique within the prompt.
    pub calls: Vec<ToolCall>,
    /// Tokens as the provider counted them last.
    pub usage: Usage,
    /// Why the model stopped, if it said so.
    pub finish: Option<FinishReason>,
    /// How many provider events carried content.
    pub chunks: u64,
}

/// Collects one step.
///
/// After the stream's terminator nothing counts any more; after a finish
/// reason a failure no longer harms, because the step is known to be whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepAssembler {
    step: u32,
    limit_bytes: usize,
    used_ids: BTreeSet<String>,
    text: String,
    reasoning: String,
    calls: Vec<OpenCall>,
    call_bytes: usize,
    usage: Usage,
    finish: Option<FinishReason>,
    terminated: bool,
    chunks: u64,
    failure: Option<AssembleError>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct OpenCall {
    index: u32,
    id: String,
    name: String,
    args: String,
}

impl StepAssembler {
    /// An assembler for the step with this number in its turn.
    ///
    /// `limit_bytes` bounds text, reasoning and tool calls together.
    /// `used_ids` are the call ids that the prompt holds already: no call of
    /// this step will be given one of them.
    pub fn new(step: u32, limit_bytes: usize, used_ids: BTreeSet<String>) -> Self {
        StepAssembler {
            step,
            limit_bytes,
            used_ids,
            text: String::new(),
            reasoning: String::new(),
            calls: Vec::new(),
            call_bytes: 0,
            usage: Usage::default(),
            finish: None,
            terminated: false,
            chunks: 0,
            failure: None,
        }
    }

    /// Takes the next event of the stream.
    ///
    /// # Errors
    /// [`AssembleError`] ends the step: the same one is given on every later
    /// call, and what came before it is kept.
    pub fn apply(&mut self, event: ProviderEvent) -> Result<Applied, AssembleError> {
        if let Some(failure) = &self.failure {
            return Err(failure.clone());
        }
        if self.terminated {
            return Ok(Applied::Nothing);
        }
        let applied = self.take(event);
        if let Err(failure) = &applied {
            self.failure = Some(failure.clone());
        }
        applied
    }

    /// Text, reasoning or a tool call was made visible: from here on the step
    /// is not retried (T3).
    pub fn content_seen(&self) -> bool {
        !self.text.is_empty() || !self.reasoning.is_empty() || !self.calls.is_empty()
    }

    /// What the step amounts to if its stream ends here. `clean_eof` says that
    /// the body ended as its framing promised, not by a cut.
    ///
    /// A finish reason makes a step with text or calls whole, cut or not, and
    /// so does the terminator; a clean end alone does not (T11).
    pub fn verdict(&self, clean_eof: bool) -> Verdict {
        if self.failure.is_some() {
            return Verdict::Truncated;
        }
        let finish = match (&self.finish, self.terminated) {
            (Some(finish), _) => finish.clone(),
            (None, true) => FinishReason::Stop,
            (None, false) if clean_eof && crate::planted!("D26") => FinishReason::Stop,
            (None, false) => return Verdict::Truncated,
        };
        let says_nothing = self.text.is_empty() && self.calls.is_empty();
        if says_nothing && !crate::planted!("D25") {
            let ended_well = clean_eof || self.terminated;
            return if ended_well {
                Verdict::Empty
            } else {
                Verdict::Truncated
            };
        }
        Verdict::Complete {
            finish,
            terminator_missing: !self.terminated,
        }
    }

    /// The step's text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The step's reasoning so far.
    pub fn reasoning(&self) -> &str {
        &self.reasoning
    }

    /// Tokens counted so far.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Why the model stopped, once it has said so.
    pub fn finish_reason(&self) -> Option<&FinishReason> {
        self.finish.as_ref()
    }

    /// The stream's terminator has come: nothing that follows counts.
    pub fn terminated(&self) -> bool {
        self.terminated
    }

    /// The step, or as much of it as came.
    ///
    /// A call's id is the vendor's where it is 1 to [`MAX_CALL_ID_BYTES`] of
    /// `A-Z a-z 0-9 _ -` and not in use, else one made from the step and the
    /// call's index. A call without arguments gets `{}`.
    pub fn finish(self) -> StepContent {
        let step = self.step;
        let mut used = self.used_ids;
        let calls = self
            .calls
            .into_iter()
            .map(|call| {
                let call_id = settled_id(call.id, step, call.index, &used);
                used.insert(call_id.clone());
                let is_blank = call.args.trim().is_empty();
                ToolCall {
                    call_id,
                    name: call.name,
                    input: if is_blank {
                        "{}".to_string()
                    } else {
                        call.args
                    },
                }
            })
            .collect();
        StepContent {
            text: self.text,
            reasoning: self.reasoning,
            calls,
            usage: self.usage,
            finish: self.finish,
            chunks: self.chunks,
        }
    }

    fn take(&mut self, event: ProviderEvent) -> Result<Applied, AssembleError> {
        match event {
            ProviderEvent::Text { text } if text.is_empty() => Ok(Applied::Nothing),
            ProviderEvent::Text { text } => {
                self.make_room(text.len())?;
                let (offset, len) = append(&mut self.text, text);
                self.chunks += 1;
                Ok(Applied::Text { offset, len })
            }
            ProviderEvent::Reasoning { text } if text.is_empty() => Ok(Applied::Nothing),
            ProviderEvent::Reasoning { text } => {
                self.make_room(text.len())?;
                let (offset, len) = append(&mut self.reasoning, text);
                self.chunks += 1;
                Ok(Applied::Reasoning { offset, len })
            }
            ProviderEvent::ToolCallStart { index, id, name } => self.call_begins(index, id, name),
            ProviderEvent::ToolCallArgs { index, fragment } => self.call_goes_on(index, fragment),
            ProviderEvent::Usage(usage) => {
                self.usage = later_usage(self.usage, usage);
                Ok(Applied::Nothing)
            }
            ProviderEvent::Finish { reason } => {
                self.finish.get_or_insert(reason);
                Ok(Applied::Nothing)
            }
            ProviderEvent::Terminated => {
                self.terminated = true;
                Ok(Applied::Nothing)
            }
            ProviderEvent::Error { .. } | ProviderEvent::Malformed { .. }
                if self.finish.is_some() =>
            {
                Ok(Applied::Nothing)
            }
            ProviderEvent::Error {
                code,
                kind,
                message,
            } => Err(AssembleError::Provider {
                code,
                kind,
                message,
            }),
            ProviderEvent::Malformed { message } => Err(AssembleError::Malformed { message }),
        }
    }

    fn call_begins(
        &mut self,
        index: u32,
        id: String,
        name: String,
    ) -> Result<Applied, AssembleError> {
        self.make_room(id.len().saturating_add(name.len()))?;
        let Some(at) = self.position(index) else {
            return self.open_call(index, id, name, String::new());
        };
        let Some(call) = self.calls.get_mut(at) else {
            return Ok(Applied::Nothing);
        };
        let mut learned = 0;
        if call.id.is_empty() {
            learned += id.len();
            call.id = id;
        }
        if call.name.is_empty() {
            learned += name.len();
            call.name = name;
        }
        self.call_bytes = self.call_bytes.saturating_add(learned);
        Ok(Applied::Nothing)
    }

    fn call_goes_on(&mut self, index: u32, fragment: String) -> Result<Applied, AssembleError> {
        if fragment.is_empty() {
            return Ok(Applied::Nothing);
        }
        self.make_room(fragment.len())?;
        let Some(at) = self.position(index) else {
            return self.open_call(index, String::new(), String::new(), fragment);
        };
        self.chunks += 1;
        self.call_bytes = self.call_bytes.saturating_add(fragment.len());
        if let Some(call) = self.calls.get_mut(at) {
            append(&mut call.args, fragment);
        }
        Ok(Applied::Nothing)
    }

    fn open_call(
        &mut self,
        index: u32,
        id: String,
        name: String,
        args: String,
    ) -> Result<Applied, AssembleError> {
        if self.calls.len() >= MAX_STEP_CALLS {
            return Err(AssembleError::TooManyToolCalls {
                limit: MAX_STEP_CALLS,
            });
        }
        self.chunks += 1;
        self.call_bytes = self
            .call_bytes
            .saturating_add(id.len() + name.len() + args.len());
        self.calls.push(OpenCall {
            index,
            id,
            name,
            args,
        });
        Ok(Applied::ToolCall)
    }

    fn position(&self, index: u32) -> Option<usize> {
        self.calls.iter().rposition(|call| call.index == index)
    }

    fn make_room(&self, more_bytes: usize) -> Result<(), AssembleError> {
        let held = self.text.len() + self.reasoning.len() + self.call_bytes;
        if held.saturating_add(more_bytes) > self.limit_bytes {
            return Err(AssembleError::StepTooLarge {
                limit_bytes: self.limit_bytes,
            });
        }
        Ok(())
    }
}

fn append(text: &mut String, piece: String) -> (usize, usize) {
    let (offset, len) = (text.len(), piece.len());
    if text.is_empty() {
        *text = piece;
    } else {
        text.push_str(&piece);
    }
    (offset, len)
}

/// Vendors count cumulatively, but not every report fills every field.
fn later_usage(earlier: Usage, later: Usage) -> Usage {
    Usage {
        input_tokens: earlier.input_tokens.max(later.input_tokens),
        output_tokens: earlier.output_tokens.max(later.output_tokens),
        cached_tokens: earlier.cached_tokens.max(later.cached_tokens),
        reasoning_tokens: earlier.reasoning_tokens.max(later.reasoning_tokens),
    }
}

fn settled_id(vendor_id: String, step: u32, index: u32, used: &BTreeSet<String>) -> String {
    if is_usable_call_id(&vendor_id) && !used.contains(&vendor_id) {
        return vendor_id;
    }
    let made = format!("call_{step}_{index}");
    let mut free = made.clone();
    let mut again = 1u32;
    while used.contains(&free) {
        again = again.saturating_add(1);
        free = format!("{made}_{again}");
    }
    free
}

/// A call id that every vendor takes back.
pub(crate) fn is_usable_call_id(id: &str) -> bool {
    (1..=MAX_CALL_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}
