//! The Chat Completions dialect, with the deviations of its many vendors (P2).

use alloc::{
    borrow::Cow,
    format,
    string::{String, ToString},
    vec::Vec,
};
use serde::{Deserialize, Serialize};

use super::{
    bounded::bounded,
    chat_shape::{Call, Choice, Chunk, ErrorObject, Message},
    json_repair::mended,
    provider_event::{FinishReason, ProviderEvent},
    sse::{SseDecoder, SseEvent},
};
use crate::transcript::Usage;

/// What a stream may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatLimits {
    /// The largest single event of the stream, in bytes.
    pub event_bytes: usize,
}

impl Default for ChatLimits {
    /// 4 MiB an event: no step may be larger (T8).
    fn default() -> Self {
        ChatLimits {
            event_bytes: 4 * 1024 * 1024,
        }
    }
}

/// Decodes a `text/event-stream` of Chat Completions chunks.
///
/// It reports what the stream says; what that makes of the step is for
/// [`super::assemble::StepAssembler`]. An event beyond the limit is reported as
/// [`ProviderEvent::Malformed`] once, and what follows it is dropped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatDecoder {
    sse: SseDecoder,
    reader: ChunkReader,
    broken: bool,
}

impl ChatDecoder {
    /// A decoder at the start of a stream.
    pub fn new(limits: ChatLimits) -> Self {
        ChatDecoder {
            sse: SseDecoder::new(limits.event_bytes),
            reader: ChunkReader::default(),
            broken: false,
        }
    }

    /// Takes the next bytes of the body and appends what they say to `out`.
    pub fn push(&mut self, bytes: &[u8], out: &mut Vec<ProviderEvent>) {
        if self.broken {
            return;
        }
        let reader = &mut self.reader;
        if let Err(error) = self.sse.push(bytes, |event| reader.event(event, out)) {
            self.broken = true;
            out.push(malformed(&error.to_string()));
        }
    }
}

/// Decodes the body of a vendor that answers `stream: true` with a whole
/// `application/json` completion, or with an error object under status 200.
///
/// A completion ends in [`ProviderEvent::Terminated`]: its closing brace says
/// as much as `[DONE]` does. The caller bounds `body`.
pub fn json_completion(body: &[u8], out: &mut Vec<ProviderEvent>) {
    let text = String::from_utf8_lossy(body.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(body));
    with_chunk(text.trim(), out, |chunk, out| {
        if !chunk.says_something() {
            out.push(malformed(
                "the body is JSON but holds neither a completion nor an error",
            ));
            return;
        }
        let before = out.len();
        ChunkReader::default().chunk(chunk, false, out);
        let failed = out[before..]
            .iter()
            .any(|event| matches!(event, ProviderEvent::Error { .. }));
        if !failed {
            out.push(ProviderEvent::Terminated);
        }
    });
}

const ERROR_CHARS: usize = 4_000;
const LABEL_CHARS: usize = 64;
const MALFORMED_CHARS: usize = 200;

/// What has to be remembered from chunk to chunk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ChunkReader {
    calls: Vec<KnownCall>,
    next_call: u32,
    content_came: bool,
}

/// Beyond this many calls a step is refused by the assembler anyway.
const KNOWN_CALLS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct KnownCall {
    call: u32,
    vendor_index: Option<u64>,
    id_digest: Option<u64>,
    named: bool,
}

impl ChunkReader {
    fn event(&mut self, event: SseEvent<'_>, out: &mut Vec<ProviderEvent>) {
        let data = event.data.trim();
        if data == "[DONE]" {
            out.push(ProviderEvent::Terminated);
        } else if !data.is_empty() {
            let is_error = event.event == "error";
            with_chunk(data, out, |chunk, out| self.chunk(chunk, is_error, out));
        }
    }

    fn chunk(&mut self, chunk: Chunk<'_>, is_error: bool, out: &mut Vec<ProviderEvent>) {
        let choice = chunk.choices.unwrap_or_default();
        let Choice {
            delta,
            message,
            finish_reason,
            usage,
            borrows: _,
        } = choice;
        match (delta, message) {
            (Some(delta), _) => self.message(delta, false, out),
            // Some vendors repeat the whole text as `message` at the end.
            (None, Some(message)) if !self.content_came => self.message(message, true, out),
            (None, Some(_) | None) => {}
        }
        let usage = chunk
            .usage
            .or(usage)
            .or(chunk.x_groq.usage)
            .map(|tokens| tokens.usage())
            .filter(|usage| *usage != Usage::default());
        out.extend(usage.map(ProviderEvent::Usage));

        let bare = (is_error || chunk.object.0 == "error").then_some(ErrorObject {
            code: chunk.code,
            kind: chunk.kind,
            message: chunk.message,
            detail: chunk.detail,
            ..ErrorObject::default()
        });
        match chunk.error.0.or(chunk.x_groq.error.0).or(bare) {
            Some(error) => out.push(error_event(error)),
            None => out.extend(finish_event(&finish_reason.0)),
        }
    }

    fn message(&mut self, message: Message<'_>, is_whole: bool, out: &mut Vec<ProviderEvent>) {
        let before = out.len();
        let reasoning = first_filled([
            message.reasoning_content.0,
            message.reasoning.0,
            message.content.reasoning,
            message.reasoning_details.0,
        ]);
        if !reasoning.is_empty() {
            out.push(ProviderEvent::Reasoning {
                text: reasoning.into_owned(),
            });
        }
        let text = first_filled([message.content.text, message.refusal.0]);
        if !text.is_empty() {
            out.push(ProviderEvent::Text {
                text: text.into_owned(),
            });
        }
        for call in message.tool_calls.0 {
            self.call(call, is_whole, out);
        }
        self.content_came |= out.len() > before;
    }

    fn call(&mut self, call: Call<'_>, is_whole: bool, out: &mut Vec<ProviderEvent>) {
        let id = match call.id.0 {
            id if id == "null" => Cow::Borrowed(""),
            id => id,
        };
        let name = call.function.name.0;
        let id_digest = (!id.is_empty()).then(|| xxhash_rust::xxh3::xxh3_64(id.as_bytes()));
        let known = if is_whole {
            None
        } else {
            self.known_call(call.index.0, id_digest, !name.is_empty())
        };
        let index = match known {
            Some(known) => {
                let learns_id = known.id_digest.is_none() && id_digest.is_some();
                let learns_name = !known.named && !name.is_empty();
                known.id_digest = known.id_digest.or(id_digest);
                known.named |= learns_name;
                let index = known.call;
                if learns_id || learns_name {
                    out.push(start_event(index, id, name));
                }
                index
            }
            None => {
                let index = self.remember_call(call.index.0, id_digest, !name.is_empty());
                out.push(start_event(index, id, name));
                index
            }
        };
        let fragment = call.function.arguments.0;
        if !fragment.is_empty() {
            out.push(ProviderEvent::ToolCallArgs {
                index,
                fragment: fragment.into_owned(),
            });
        }
    }

    /// The call that a fragment goes on with; none where it begins a new one.
    ///
    /// An index settles it, unless a new id comes with a name under a used
    /// index: some vendors number every call 0. Without an index the id
    /// settles it, then the name: only a beginning has one.
    fn known_call(
        &mut self,
        vendor_index: Option<u64>,
        id_digest: Option<u64>,
        named: bool,
    ) -> Option<&mut KnownCall> {
        let has_other_id = |known: &KnownCall| matches!((known.id_digest, id_digest), (Some(old), Some(new)) if old != new);
        if vendor_index.is_some() {
            let same_id = |known: &KnownCall| id_digest.is_some() && known.id_digest == id_digest;
            let same_index = |known: &KnownCall| known.vendor_index == vendor_index;
            let at = self
                .calls
                .iter()
                .rposition(|known| same_index(known) && same_id(known))
                .or_else(|| self.calls.iter().rposition(same_index))?;
            return self
                .calls
                .get_mut(at)
                .filter(|known| !(named && has_other_id(known)));
        }
        if id_digest.is_some()
            && let Some(at) = self
                .calls
                .iter()
                .rposition(|known| known.id_digest == id_digest)
        {
            return self.calls.get_mut(at);
        }
        self.calls
            .last_mut()
            .filter(|known| !named && !has_other_id(known))
    }

    fn remember_call(
        &mut self,
        vendor_index: Option<u64>,
        id_digest: Option<u64>,
        named: bool,
    ) -> u32 {
        let call = self.next_call;
        self.next_call = self.next_call.saturating_add(1);
        if self.calls.len() < KNOWN_CALLS {
            self.calls.push(KnownCall {
                call,
                vendor_index,
                id_digest,
                named,
            });
        }
        call
    }
}

impl Chunk<'_> {
    fn says_something(&self) -> bool {
        let answers = self.choices.as_ref().is_some_and(|choice| {
            choice.message.is_some() || choice.delta.is_some() || !choice.finish_reason.0.is_empty()
        });
        answers || self.error.0.is_some() || self.object.0 == "error"
    }
}

fn with_chunk(
    json: &str,
    out: &mut Vec<ProviderEvent>,
    read: impl FnOnce(Chunk<'_>, &mut Vec<ProviderEvent>),
) {
    if !json.starts_with(['{', '[']) {
        out.push(malformed(&format!(
            "expected a JSON object, found: {}",
            bounded(json, 80)
        )));
        return;
    }
    let refusal = match serde_json::from_str::<Chunk<'_>>(json) {
        Ok(chunk) => return read(chunk, out),
        Err(refusal) => refusal,
    };
    let mended = mended(json);
    match mended.as_deref().map(serde_json::from_str::<Chunk<'_>>) {
        Some(Ok(chunk)) => read(chunk, out),
        Some(Err(_)) | None => out.push(malformed(&format!(
            "broken JSON, {refusal}; it begins: {}",
            bounded(json, 80)
        ))),
    }
}

fn first_filled<const N: usize>(choices: [Cow<'_, str>; N]) -> Cow<'_, str> {
    choices
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

fn start_event(index: u32, id: Cow<'_, str>, name: Cow<'_, str>) -> ProviderEvent {
    ProviderEvent::ToolCallStart {
        index,
        id: id.into_owned(),
        name: name.into_owned(),
    }
}

fn error_event(error: ErrorObject<'_>) -> ProviderEvent {
    let message = first_filled([
        error.message.0,
        error.detail.0,
        Cow::Borrowed("the provider reported an error and gave no message"),
    ]);
    ProviderEvent::Error {
        code: bounded(&error.code.0, LABEL_CHARS),
        kind: bounded(&first_filled([error.kind.0, error.status.0]), LABEL_CHARS),
        message: bounded(&message, ERROR_CHARS),
    }
}

fn malformed(message: &str) -> ProviderEvent {
    ProviderEvent::Malformed {
        message: bounded(message, MALFORMED_CHARS),
    }
}

/// What a vendor's `finish_reason` means: the words of OpenAI, Mistral, Gemini
/// and of gateways to Anthropic, in any case. Two of them are failures that
/// came too late for a status code.
fn finish_event(reason: &str) -> Option<ProviderEvent> {
    let lower = reason.trim().to_ascii_lowercase();
    let reason = match lower.as_str() {
        "" | "null" | "none" => return None,
        "stop" | "end_turn" | "stop_sequence" | "eos" => FinishReason::Stop,
        "length" | "max_tokens" | "model_length" => FinishReason::Length,
        "tool_calls" | "tool_use" | "function_call" => FinishReason::ToolCalls,
        "content_filter" | "safety" => FinishReason::ContentFilter,
        "error" => {
            return Some(ProviderEvent::Error {
                code: String::new(),
                kind: String::from("error"),
                message: String::from("the provider ended the stream with finish_reason \"error\""),
            });
        }
        // DeepSeek's word for an overload in mid-stream.
        "insufficient_system_resource" => {
            return Some(ProviderEvent::Error {
                code: lower,
                kind: String::from("overloaded_error"),
                message: String::from(
                    "the provider ran out of resources and interrupted the answer",
                ),
            });
        }
        other => FinishReason::Other(bounded(other, LABEL_CHARS)),
    };
    Some(ProviderEvent::Finish { reason })
}
