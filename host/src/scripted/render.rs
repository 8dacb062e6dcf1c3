use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};

use super::facts::{Facts, Fnv};
use super::script::{Action, Speech};

/// What a response does next, in the terms of its transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResponseAction {
    /// The response's head. Comes at most once, before any bytes.
    Head {
        /// The HTTP status.
        status: u16,
        /// Lower-case names and values.
        headers: Vec<(String, String)>,
    },
    /// A piece of the body.
    Bytes(Bytes),
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing until the name is released.
    Hold(String),
    /// Nothing for ever.
    Hang,
    /// The connection is dropped without an end. Last.
    Cut,
    /// The response ends as it should. Last.
    End,
}

/// Plays one list of actions in the shape of Chat Completions.
pub(crate) struct Rendering {
    model: String,
    call_prefix: String,
    include_usage: bool,
    prompt_tokens: usize,
    actions: std::vec::IntoIter<Action>,
    ready: VecDeque<ResponseAction>,
    speaking: Option<Speaking>,
    whole: Option<Whole>,
    calls: u32,
    said_bytes: usize,
    finish: FinishPlan,
    has_usage: bool,
    has_terminator: bool,
    is_open: bool,
    is_over: bool,
}

impl Rendering {
    pub(crate) fn new(facts: &Facts, actions: Vec<Action>) -> Rendering {
        let mut hash = Fnv::new();
        hash.add(&facts.attempt_key.to_le_bytes());
        let is_whole = !facts.stream || actions.contains(&Action::Json);
        Rendering {
            model: facts.model.clone(),
            call_prefix: format!("call_{:016x}", hash.0),
            include_usage: facts.include_usage || is_whole,
            prompt_tokens: facts.body_bytes.div_ceil(4),
            actions: actions.into_iter(),
            ready: VecDeque::new(),
            speaking: None,
            whole: is_whole.then(Whole::default),
            calls: 0,
            said_bytes: 0,
            finish: FinishPlan::Automatic,
            has_usage: false,
            has_terminator: true,
            is_open: false,
            is_over: false,
        }
    }

    /// A refusal with a JSON error in the shape that vendors use.
    pub(crate) fn refusal(
        code: u16,
        mut headers: Vec<(String, String)>,
        body: Option<Bytes>,
    ) -> Vec<ResponseAction> {
        let body = body.unwrap_or_else(|| error_body(code, "scripted", "refused by the script"));
        if !headers.iter().any(|(name, _)| name == "content-type") {
            headers.push(("content-type".to_owned(), "application/json".to_owned()));
        }
        let head = ResponseAction::Head {
            status: code,
            headers,
        };
        vec![head, ResponseAction::Bytes(body), ResponseAction::End]
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Say(speech) => self.speak(Voice::Text, speech),
            Action::Think(speech) => self.speak(Voice::Reasoning, speech),
            Action::ToolCall {
                id,
                name,
                arguments,
            } => self.call(id, name, arguments),
            Action::Usage(usage) => {
                self.has_usage = true;
                self.usage(usage);
            }
            Action::Finish(None) => self.finish = FinishPlan::Never,
            Action::Finish(Some(reason)) => {
                self.finish = FinishPlan::Done;
                self.finish_with(reason);
            }
            Action::Status {
                code,
                headers,
                body,
            } => {
                self.ready.extend(Rendering::refusal(code, headers, body));
                self.is_over = true;
            }
            Action::Open => self.open(),
            Action::Cut => {
                self.ready.push_back(ResponseAction::Cut);
                self.is_over = true;
            }
            Action::Hang => self.ready.push_back(ResponseAction::Hang),
            Action::Hold(name) => self.ready.push_back(ResponseAction::Hold(name)),
            Action::Delay(delay) => self.ready.push_back(ResponseAction::Wait(delay)),
            Action::Malformed(data) => self.frame(&data),
            Action::ErrorEvent(error) => {
                // Vendors say nothing more after it, and then end cleanly.
                self.finish = FinishPlan::Never;
                self.has_usage = true;
                self.has_terminator = false;
                let error = json!({ "error": error });
                match &mut self.whole {
                    Some(whole) => whole.error = Some(error),
                    None => self.frame(&error.to_string()),
                }
            }
            Action::NoTerminator => self.has_terminator = false,
            Action::Json => {}
            Action::Raw(bytes) => {
                self.head("text/event-stream");
                self.ready.push_back(ResponseAction::Bytes(bytes));
            }
        }
    }

    fn speak(&mut self, voice: Voice, speech: Speech) {
        self.said_bytes += speech.text.len();
        if let Some(whole) = &mut self.whole {
            let text = speech
                .text
                .repeat(usize::try_from(speech.repeat).unwrap_or(usize::MAX));
            match voice {
                Voice::Text => whole.text.push_str(&text),
                Voice::Reasoning => whole.reasoning.push_str(&text),
                Voice::Arguments(_) => {
                    if let Some(call) = whole.calls.last_mut() {
                        call["function"]["arguments"] = Value::String(text);
                    }
                }
            }
            return;
        }
        self.speaking = Some(Speaking {
            voice,
            speech,
            at: 0,
            has_begun: false,
        });
    }

    fn call(&mut self, id: Option<String>, name: String, arguments: Speech) {
        let index = self.calls;
        self.calls = self.calls.saturating_add(1);
        let id = id.unwrap_or_else(|| format!("{}_{index}", self.call_prefix));
        let function = json!({ "name": name, "arguments": "" });
        let mut call = json!({ "id": id, "type": "function", "function": function });
        match &mut self.whole {
            Some(whole) => whole.calls.push(call),
            None => {
                call["index"] = index.into();
                self.open();
                self.delta(&json!({ "tool_calls": [call] }), None);
            }
        }
        self.speak(Voice::Arguments(index), arguments);
    }

    fn usage(&mut self, usage: Value) {
        match &mut self.whole {
            Some(whole) => whole.usage = Some(usage),
            None => {
                let chunk = json!({
                    "id": COMPLETION_ID, "object": "chat.completion.chunk", "created": 0,
                    "model": self.model, "choices": [], "usage": usage,
                });
                self.frame(&chunk.to_string());
            }
        }
    }

    fn finish_with(&mut self, reason: String) {
        match &mut self.whole {
            Some(whole) => whole.finish = Some(reason),
            None => {
                self.open();
                self.delta(&json!({}), Some(&reason));
            }
        }
    }

    /// What a response still owes when its actions are through.
    fn end(&mut self) {
        self.is_over = true;
        if self.finish == FinishPlan::Automatic {
            let reason = if self.calls > 0 { "tool_calls" } else { "stop" };
            self.finish_with(reason.to_owned());
        }
        if self.include_usage && !self.has_usage {
            let completion_tokens = self.said_bytes.div_ceil(4);
            self.usage(json!({
                "prompt_tokens": self.prompt_tokens,
                "completion_tokens": completion_tokens,
                "total_tokens": self.prompt_tokens + completion_tokens,
            }));
        }
        match self.whole.take() {
            Some(whole) => {
                self.head("application/json");
                let body = whole.into_body(&self.model);
                self.ready.push_back(ResponseAction::Bytes(body));
            }
            None => {
                self.head("text/event-stream");
                if self.has_terminator {
                    self.frame("[DONE]");
                }
            }
        }
        self.ready.push_back(ResponseAction::End);
    }

    fn head(&mut self, content_type: &str) {
        if !self.is_open {
            self.is_open = true;
            self.ready.push_back(ResponseAction::Head {
                status: 200,
                headers: vec![("content-type".to_owned(), content_type.to_owned())],
            });
        }
    }

    /// The head, and the empty chunk with the role that comes first.
    fn open(&mut self) {
        if !self.is_open {
            self.delta(&json!({ "role": "assistant", "content": "" }), None);
        }
    }

    fn delta(&mut self, delta: &impl Serialize, finish_reason: Option<&str>) {
        let chunk = Chunk {
            id: COMPLETION_ID,
            object: "chat.completion.chunk",
            created: 0,
            model: &self.model,
            choices: [Choice {
                index: 0,
                delta,
                finish_reason,
            }],
        };
        // Strings and numbers only: there is nothing that could fail.
        let data = serde_json::to_string(&chunk).unwrap_or_default();
        self.frame(&data);
    }

    fn frame(&mut self, data: &str) {
        self.head("text/event-stream");
        let frame = Bytes::from(format!("data: {data}\n\n"));
        self.ready.push_back(ResponseAction::Bytes(frame));
    }

    fn speak_on(&mut self, mut speaking: Speaking) {
        let Some(piece) = speaking.next_piece() else {
            return;
        };
        if speaking.has_begun && !speaking.speech.delay.is_zero() {
            self.ready
                .push_back(ResponseAction::Wait(speaking.speech.delay));
        }
        speaking.has_begun = true;
        self.open();
        match speaking.voice {
            Voice::Text => self.delta(&TextDelta { content: &piece }, None),
            Voice::Reasoning => {
                let delta = ReasoningDelta {
                    reasoning_content: &piece,
                };
                self.delta(&delta, None);
            }
            Voice::Arguments(index) => {
                let call = json!({ "index": index, "function": { "arguments": piece } });
                self.delta(&json!({ "tool_calls": [call] }), None);
            }
        }
        self.speaking = Some(speaking);
    }
}

impl Iterator for Rendering {
    type Item = ResponseAction;

    fn next(&mut self) -> Option<ResponseAction> {
        loop {
            if let Some(action) = self.ready.pop_front() {
                return Some(action);
            }
            if self.is_over {
                return None;
            }
            if let Some(speaking) = self.speaking.take() {
                self.speak_on(speaking);
            } else if let Some(action) = self.actions.next() {
                self.act(action);
            } else {
                self.end();
            }
        }
    }
}

/// An error object as OpenAI shapes it.
pub(crate) fn error_body(code: u16, kind: &str, message: &str) -> Bytes {
    let error = json!({ "message": message, "type": kind, "code": code.to_string() });
    Bytes::from(json!({ "error": error }).to_string())
}

/// The same for every response: a script's bytes must repeat.
const COMPLETION_ID: &str = "chatcmpl-scripted";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FinishPlan {
    Automatic,
    Done,
    Never,
}

#[derive(Clone, Copy, Debug)]
enum Voice {
    Text,
    Reasoning,
    Arguments(u32),
}

struct Speaking {
    voice: Voice,
    speech: Speech,
    at: usize,
    has_begun: bool,
}

impl Speaking {
    fn next_piece(&mut self) -> Option<String> {
        if self.speech.text.is_empty() {
            return None;
        }
        if self.at == self.speech.text.len() {
            self.speech.repeat = self.speech.repeat.saturating_sub(1);
            self.at = 0;
        }
        if self.speech.repeat == 0 {
            return None;
        }
        let rest = &self.speech.text[self.at..];
        let piece: String = rest.chars().take(self.speech.chunk).collect();
        self.at += piece.len();
        Some(piece)
    }
}

/// A completion that is answered in one piece.
#[derive(Default)]
struct Whole {
    text: String,
    reasoning: String,
    calls: Vec<Value>,
    usage: Option<Value>,
    finish: Option<String>,
    error: Option<Value>,
}

impl Whole {
    fn into_body(self, model: &str) -> Bytes {
        if let Some(error) = self.error {
            return Bytes::from(error.to_string());
        }
        let mut message = json!({ "role": "assistant", "content": self.text });
        if !self.reasoning.is_empty() {
            message["reasoning_content"] = self.reasoning.into();
        }
        if !self.calls.is_empty() {
            message["tool_calls"] = self.calls.into();
        }
        let choice = json!({ "index": 0, "message": message, "finish_reason": self.finish });
        let completion = json!({
            "id": COMPLETION_ID, "object": "chat.completion", "created": 0,
            "model": model, "choices": [choice], "usage": self.usage,
        });
        Bytes::from(completion.to_string())
    }
}

#[derive(Serialize)]
struct Chunk<'a, D> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: [Choice<'a, D>; 1],
}

#[derive(Serialize)]
struct Choice<'a, D> {
    index: u32,
    delta: &'a D,
    finish_reason: Option<&'a str>,
}

#[derive(Serialize)]
struct TextDelta<'a> {
    content: &'a str,
}

#[derive(Serialize)]
struct ReasoningDelta<'a> {
    reasoning_content: &'a str,
}

#[cfg(test)]
mod tests;
