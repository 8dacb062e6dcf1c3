//! Writes Chat Completions requests, in one pass from the history to bytes.

use alloc::{
    borrow::Cow,
    collections::BTreeSet,
    format,
    string::{String, ToString},
    vec::Vec,
};
use core::fmt;
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{MapAccess, SeqAccess, Visitor},
};

use super::assemble::is_usable_call_id;
use crate::transcript::{Item, ToolCall};

/// How long a tool's name may be, in bytes: what vendors accept.
pub const MAX_TOOL_NAME_BYTES: usize = 64;

/// Why a tool cannot be offered to a model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ToolSpecError {
    /// Vendors refuse the whole request for such a name.
    #[error("the tool name {name:?} is not 1 to 64 characters of A-Z a-z 0-9 _ -: rename the tool")]
    BadName {
        /// The name.
        name: String,
    },
    /// Parameters are described by a JSON Schema object.
    #[error(
        "the parameters of tool {name:?} are not a JSON object: give a JSON Schema such as {{\"type\":\"object\",\"properties\":{{}}}}"
    )]
    BadParameters {
        /// The tool's name.
        name: String,
    },
}

/// A tool as it is offered to a model; checked once, when it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolSpec {
    name: String,
    description: String,
    parameters: String,
}

impl ToolSpec {
    /// A tool with its JSON Schema as text.
    ///
    /// # Errors
    /// A name that vendors refuse, or parameters that are no JSON object.
    pub fn new(
        name: impl Into<String>,
        description: impl Into<String>,
        parameters: impl Into<String>,
    ) -> Result<Self, ToolSpecError> {
        let name = name.into();
        let parameters = parameters.into();
        if !is_tool_name(&name) {
            return Err(ToolSpecError::BadName { name });
        }
        if !is_json_object(&parameters) {
            return Err(ToolSpecError::BadParameters { name });
        }
        Ok(ToolSpec {
            name,
            description: description.into(),
            parameters,
        })
    }

    /// The name by which the model calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the model is told about it.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// Its JSON Schema, as text.
    pub fn parameters(&self) -> &str {
        &self.parameters
    }
}

/// What vendors of the dialect differ in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatOptions {
    /// The bound on the answer, in tokens; none leaves it to the provider.
    pub max_output_tokens: Option<u32>,
    /// Send the bound as `max_completion_tokens`, which OpenAI's reasoning
    /// models demand, not as `max_tokens`, which is all that others know.
    pub max_completion_tokens_key: bool,
    /// Ask for usage in the stream (`stream_options.include_usage`).
    pub include_usage: bool,
}

impl Default for ChatOptions {
    /// No bound; usage is asked for.
    fn default() -> Self {
        ChatOptions {
            max_output_tokens: None,
            max_completion_tokens_key: false,
            include_usage: true,
        }
    }
}

/// The body of a streaming request for the next step.
///
/// `items` is the repaired history (L5). What a strict provider would still
/// refuse is put right on the way (T12): arguments that are no JSON object go
/// out as `{}`, a tool name outside the vendors' alphabet is respelled, a call
/// id that is unusable or was used before is replaced together with that of
/// its result, messages without content are left out. Reasoning stays here.
/// An empty `system` sends no system message, empty `tools` no `tools` key (T7).
pub fn chat_request(
    model: &str,
    system: &str,
    items: &[Item],
    tools: &[ToolSpec],
    options: &ChatOptions,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(capacity_bytes(system, items, tools));
    out.extend_from_slice(b"{\"model\":");
    string(&mut out, model);
    out.extend_from_slice(b",\"messages\":[");
    let mut messages = Messages {
        first: true,
        ids: WireIds::default(),
    };
    if !system.is_empty() {
        messages.text(&mut out, "system", system);
    }
    for item in items {
        messages.item(&mut out, item);
    }
    out.extend_from_slice(b"],\"stream\":true");
    if options.include_usage {
        out.extend_from_slice(b",\"stream_options\":{\"include_usage\":true}");
    }
    if let Some(tokens) = options.max_output_tokens {
        let key: &[u8] = if options.max_completion_tokens_key {
            b",\"max_completion_tokens\":"
        } else {
            b",\"max_tokens\":"
        };
        out.extend_from_slice(key);
        out.extend_from_slice(tokens.to_string().as_bytes());
    }
    write_tools(&mut out, tools);
    out.push(b'}');
    out
}

struct Messages<'i> {
    first: bool,
    ids: WireIds<'i>,
}

impl<'i> Messages<'i> {
    fn item(&mut self, out: &mut Vec<u8>, item: &'i Item) {
        match item {
            Item::User { text } => {
                if !text.is_empty() {
                    self.text(out, "user", text);
                }
            }
            Item::Assistant {
                text,
                reasoning: _,
                calls,
                partial: _,
            } => self.assistant(out, text, calls),
            Item::ToolResult {
                call_id,
                ok: _,
                output,
            } => {
                self.open(out, "tool");
                out.extend_from_slice(b",\"tool_call_id\":");
                string(out, &self.ids.answered(call_id));
                content(out, output);
                out.push(b'}');
            }
        }
    }

    fn text(&mut self, out: &mut Vec<u8>, role: &str, text: &str) {
        self.open(out, role);
        content(out, text);
        out.push(b'}');
    }

    fn assistant(&mut self, out: &mut Vec<u8>, text: &str, calls: &'i [ToolCall]) {
        let is_blank = text.trim().is_empty();
        if calls.is_empty() {
            if !is_blank {
                self.text(out, "assistant", text);
            }
            return;
        }
        self.open(out, "assistant");
        if is_blank {
            out.extend_from_slice(b",\"content\":null");
        } else {
            content(out, text);
        }
        out.extend_from_slice(b",\"tool_calls\":[");
        self.ids.open.clear();
        for (at, call) in calls.iter().enumerate() {
            out.extend_from_slice(if at == 0 { b"{\"id\":" } else { b",{\"id\":" });
            string(out, self.ids.asked(&call.call_id));
            out.extend_from_slice(b",\"type\":\"function\",\"function\":{\"name\":");
            string(out, &tool_name(&call.name));
            out.extend_from_slice(b",\"arguments\":");
            let is_object = is_json_object(&call.input);
            string(out, if is_object { &call.input } else { "{}" });
            out.extend_from_slice(b"}}");
        }
        out.extend_from_slice(b"]}");
    }

    fn open(&mut self, out: &mut Vec<u8>, role: &str) {
        if !self.first {
            out.push(b',');
        }
        self.first = false;
        out.extend_from_slice(b"{\"role\":");
        string(out, role);
    }
}

/// Call ids as they go out: unique in the request, and the same for a call and
/// its result. Ids in the history need only be unique within their turn.
#[derive(Default)]
struct WireIds<'i> {
    used: BTreeSet<Cow<'i, str>>,
    /// The latest assistant message's calls that have no result yet.
    open: Vec<(&'i str, Cow<'i, str>)>,
    made: u64,
}

impl<'i> WireIds<'i> {
    fn asked(&mut self, call_id: &'i str) -> &str {
        let mut wire_id = Cow::Borrowed(call_id);
        while !is_usable_call_id(&wire_id) || self.used.contains(&wire_id) {
            self.made += 1;
            wire_id = Cow::Owned(format!("call_again_{}", self.made));
        }
        self.used.insert(wire_id.clone());
        self.open.push((call_id, wire_id));
        self.open.last().map_or(call_id, |(_, wire_id)| wire_id)
    }

    fn answered(&mut self, call_id: &'i str) -> Cow<'i, str> {
        match self.open.iter().position(|(asked, _)| *asked == call_id) {
            Some(at) => self.open.remove(at).1,
            None => Cow::Borrowed(call_id),
        }
    }
}

fn write_tools(out: &mut Vec<u8>, tools: &[ToolSpec]) {
    if tools.is_empty() {
        return;
    }
    for (at, tool) in tools.iter().enumerate() {
        let opening: &[u8] = if at == 0 { b",\"tools\":[" } else { b"," };
        out.extend_from_slice(opening);
        out.extend_from_slice(b"{\"type\":\"function\",\"function\":{\"name\":");
        string(out, &tool.name);
        out.extend_from_slice(b",\"description\":");
        string(out, &tool.description);
        out.extend_from_slice(b",\"parameters\":");
        out.extend_from_slice(tool.parameters.as_bytes());
        out.extend_from_slice(b"}}");
    }
    out.push(b']');
}

fn content(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(b",\"content\":");
    string(out, text);
}

/// A JSON string (RFC 8259 section 7).
fn string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[copied..at]);
        copied = at + 1;
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            control => out.extend_from_slice(format!("\\u{control:04x}").as_bytes()),
        }
    }
    out.extend_from_slice(&bytes[copied..]);
    out.push(b'"');
}

fn is_tool_name(name: &str) -> bool {
    (1..=MAX_TOOL_NAME_BYTES).contains(&name.len())
        && name
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

/// A name that vendors take back, for a call whose model invented one.
fn tool_name(name: &str) -> Cow<'_, str> {
    if is_tool_name(name) {
        return Cow::Borrowed(name);
    }
    if name.is_empty() {
        return Cow::Borrowed("unknown");
    }
    let respelled = name.chars().take(MAX_TOOL_NAME_BYTES).map(|letter| {
        if letter.is_ascii_alphanumeric() || letter == '-' {
            letter
        } else {
            '_'
        }
    });
    Cow::Owned(respelled.collect())
}

fn capacity_bytes(system: &str, items: &[Item], tools: &[ToolSpec]) -> usize {
    let items: usize = items
        .iter()
        .map(|item| match item {
            Item::User { text } => text.len() + 64,
            Item::Assistant { text, calls, .. } => {
                let calls: usize = calls.iter().map(|call| call.input.len() + 192).sum();
                text.len() + calls + 64
            }
            Item::ToolResult { output, .. } => output.len() + 128,
        })
        .sum();
    let tools: usize = tools
        .iter()
        .map(|tool| tool.description.len() + tool.parameters.len() + 128)
        .sum();
    let exact = system.len() + items + tools + 256;
    exact + exact / 8
}

/// Every strict parser reads this text as an object: the check decodes strings
/// and numbers, which skipping over them would not.
pub(crate) fn is_json_object(json: &str) -> bool {
    json.trim_start_matches([' ', '\t', '\n', '\r'])
        .starts_with('{')
        && serde_json::from_str::<Sound>(json).is_ok()
}

struct Sound;

struct SoundVisitor;

impl<'de> Visitor<'de> for SoundVisitor {
    type Value = Sound;
    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("JSON")
    }
    fn visit_bool<E>(self, _: bool) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_i64<E>(self, _: i64) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_u64<E>(self, _: u64) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_f64<E>(self, _: f64) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_str<E>(self, _: &str) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_unit<E>(self) -> Result<Sound, E> {
        Ok(Sound)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Sound, A::Error> {
        while seq.next_element::<Sound>()?.is_some() {}
        Ok(Sound)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Sound, A::Error> {
        while map.next_entry::<Sound, Sound>()?.is_some() {}
        Ok(Sound)
    }
}

impl<'de> Deserialize<'de> for Sound {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(SoundVisitor)
    }
}
