use serde::Deserialize;
use serde_json::Value;

/// What of a request decides about its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) model: String,
    /// The last user message.
    pub(crate) message: String,
    /// Which step of the turn is asked for: the assistant messages after the
    /// last user message.
    pub(crate) step: u32,
    /// Names (user messages, step): requests with the same one are attempts at
    /// the same step.
    pub(crate) attempt_key: u64,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) body_bytes: usize,
}

impl Facts {
    /// Reads a request that the transcript validator let pass.
    ///
    /// # Errors
    /// A sentence for the client when the body is no such request after all.
    pub(crate) fn read(body: &[u8]) -> Result<Facts, String> {
        let request: Request =
            serde_json::from_slice(body).map_err(|error| format!("unreadable request: {error}"))?;
        let mut message = String::new();
        let mut step = 0u32;
        let mut users = Fnv::new();
        for entry in &request.messages {
            if entry.role == "user" {
                message = text_of(&entry.content);
                users.add(message.as_bytes());
                // Else ["ab"] and ["a", "b"] would be the same conversation.
                users.add(&[0xff]);
                step = 0;
            } else if entry.role == "assistant" {
                step = step.saturating_add(1);
            }
        }
        users.add(&step.to_le_bytes());
        Ok(Facts {
            model: request.model,
            message,
            step,
            attempt_key: users.0,
            stream: request.stream,
            include_usage: request
                .stream_options
                .is_some_and(|options| options.include_usage),
            body_bytes: body.len(),
        })
    }
}

/// FNV-1a, 64 bits: the same in every build and on every machine.
pub(crate) struct Fnv(pub(crate) u64);

impl Fnv {
    pub(crate) fn new() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
}

#[derive(Deserialize)]
struct Request {
    #[serde(default)]
    model: String,
    messages: Vec<Entry>,
    #[serde(default)]
    stream: bool,
    stream_options: Option<StreamOptions>,
}

#[derive(Deserialize)]
struct Entry {
    role: String,
    #[serde(default)]
    content: Value,
}

#[derive(Deserialize)]
struct StreamOptions {
    #[serde(default)]
    include_usage: bool,
}

fn text_of(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts
            .iter()
            .filter_map(|part| part.get("text").and_then(Value::as_str))
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn facts(messages: Value) -> Facts {
        Facts::read(
            json!({"model": "m", "messages": messages})
                .to_string()
                .as_bytes(),
        )
        .unwrap()
    }

    #[test]
    fn the_step_counts_assistant_messages_after_the_last_user_message() {
        let read = facts(json!([
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "1"},
            {"role": "user", "content": [{"type": "text", "text": "tw"}, {"type": "text", "text": "o"}]},
            {"role": "assistant", "content": null, "tool_calls": []},
            {"role": "tool", "tool_call_id": "a", "content": "x"},
            {"role": "tool", "tool_call_id": "b", "content": "y"},
        ]));
        assert_eq!((read.message.as_str(), read.step), ("two", 1));
    }

    #[test]
    fn attempts_share_a_key_whatever_the_tools_answered() {
        let with_result = |result: &str| {
            facts(json!([
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": null},
                {"role": "tool", "content": result},
            ]))
            .attempt_key
        };
        assert_eq!(with_result("fine"), with_result("interrupted"));
    }

    #[test]
    fn the_same_words_in_a_later_turn_are_no_further_attempt() {
        let first = facts(json!([{"role": "user", "content": "x"}]));
        let second = facts(json!([
            {"role": "user", "content": "x"},
            {"role": "assistant", "content": "y"},
            {"role": "user", "content": "x"},
        ]));
        assert_eq!(first.step, second.step);
        assert_ne!(first.attempt_key, second.attempt_key);
    }
}
