//! A provider's own check of a Chat Completions request, as strict as the
//! strictest vendor's. Simulated and scripted providers refuse by it what a
//! real one would (T12, V3), so it shares no code with the writer of requests.

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
};
use serde_json::{Map, Value};

type Object = Map<String, Value>;

/// Checks a request's body.
///
/// # Errors
/// The first thing that a strict vendor would answer with status 400: where it
/// stands and what is wrong with it.
pub fn validate_transcript(body: &[u8]) -> Result<(), String> {
    let request: Value =
        serde_json::from_slice(body).map_err(|error| format!("the body is not JSON: {error}"))?;
    validate_request(&request)
}

/// Checks a request's body that was read already.
///
/// # Errors
/// As of [`validate_transcript`].
pub fn validate_request(request: &Value) -> Result<(), String> {
    let request = request.as_object().ok_or("the body is not an object")?;
    match request.get("model") {
        Some(Value::String(model)) if !model.is_empty() => {}
        _ => return Err("model: must be a non-empty string".into()),
    }
    let streams = match request.get("stream") {
        None => false,
        Some(Value::Bool(streams)) => *streams,
        Some(_) => return Err("stream: must be a boolean".into()),
    };
    match request.get("stream_options") {
        None => {}
        Some(Value::Object(_)) if streams => {}
        Some(Value::Object(_)) => return Err("stream_options: only with stream: true".into()),
        Some(_) => return Err("stream_options: must be an object".into()),
    }
    for key in ["max_tokens", "max_completion_tokens"] {
        match request.get(key) {
            None => {}
            Some(bound) if bound.as_u64().is_some_and(|bound| bound > 0) => {}
            Some(_) => return Err(format!("{key}: must be a positive integer")),
        }
    }
    if let Some(tools) = request.get("tools") {
        check_tools(tools)?;
    }
    let messages = request
        .get("messages")
        .and_then(Value::as_array)
        .ok_or("messages: must be an array")?;
    check_messages(messages)
}

fn check_messages(messages: &[Value]) -> Result<(), String> {
    let mut seen_ids = BTreeSet::new();
    // Call id to the index of the assistant message that asks for it.
    let mut unanswered: BTreeMap<&str, usize> = BTreeMap::new();
    let mut last_role = None;
    for (at, message) in messages.iter().enumerate() {
        let refuse = |why: &str| format!("messages[{at}]: {why}");
        let message = message
            .as_object()
            .ok_or_else(|| refuse("must be an object"))?;
        check_keys(message).map_err(|why| refuse(&why))?;
        let role = message
            .get("role")
            .and_then(Value::as_str)
            .ok_or_else(|| refuse("role must be a string"))?;
        if role != "tool"
            && let Some((id, asked_at)) = unanswered.first_key_value()
        {
            return Err(refuse(&format!(
                "role {role} comes before tool call {id:?} of messages[{asked_at}] has its tool message"
            )));
        }
        match role {
            "system" | "developer" if at != 0 => {
                return Err(refuse("a system message may only be the first"));
            }
            "system" | "developer" | "user" => {
                check_content(message.get("content")).map_err(|why| refuse(&why))?;
            }
            "assistant" => {
                check_assistant(message, at, &mut seen_ids, &mut unanswered)
                    .map_err(|why| refuse(&why))?;
            }
            "tool" => {
                if !message.get("content").is_some_and(Value::is_string) {
                    return Err(refuse("a tool message's content must be a string"));
                }
                let id = message
                    .get("tool_call_id")
                    .and_then(Value::as_str)
                    .ok_or_else(|| refuse("tool_call_id must be a string"))?;
                if unanswered.remove(id).is_none() {
                    return Err(refuse(&format!(
                        "tool_call_id {id:?} answers no open tool call of the message before"
                    )));
                }
            }
            other => return Err(refuse(&format!("role {other:?} is unknown"))),
        }
        last_role = Some(role);
    }
    if let Some((id, asked_at)) = unanswered.first_key_value() {
        return Err(format!(
            "messages[{asked_at}]: tool call {id:?} has no tool message"
        ));
    }
    match last_role {
        Some("user" | "tool") => Ok(()),
        Some(role) => Err(format!(
            "messages[{}]: the last message must be of role user or tool, not {role}",
            messages.len() - 1
        )),
        None => Err("messages: must not be empty".into()),
    }
}

fn check_keys(message: &Object) -> Result<(), String> {
    const KNOWN: [&str; 6] = [
        "role",
        "content",
        "name",
        "tool_calls",
        "tool_call_id",
        "refusal",
    ];
    match message.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        Some(key) => Err(format!("key {key:?} is unknown")),
        None => Ok(()),
    }
}

fn check_content(content: Option<&Value>) -> Result<(), String> {
    match content {
        Some(Value::String(text)) if !text.is_empty() => Ok(()),
        Some(Value::Array(parts)) if !parts.is_empty() => {
            let is_part = |part: &Value| part.get("type").is_some_and(Value::is_string);
            match parts.iter().position(|part| !is_part(part)) {
                Some(at) => Err(format!("content[{at}] must be an object with a type")),
                None => Ok(()),
            }
        }
        _ => Err("content must be a non-empty string or array".into()),
    }
}

fn check_assistant<'m>(
    message: &'m Object,
    at: usize,
    seen_ids: &mut BTreeSet<&'m str>,
    unanswered: &mut BTreeMap<&'m str, usize>,
) -> Result<(), String> {
    let Some(calls) = message.get("tool_calls") else {
        return check_content(message.get("content"));
    };
    match message.get("content") {
        None | Some(Value::Null) => {}
        Some(content) => check_content(Some(content))?,
    }
    let calls = calls
        .as_array()
        .filter(|calls| !calls.is_empty())
        .ok_or("tool_calls must be a non-empty array")?;
    for (call_at, call) in calls.iter().enumerate() {
        let id = check_call(call).map_err(|why| format!("tool_calls[{call_at}]: {why}"))?;
        if !seen_ids.insert(id) {
            return Err(format!("tool_calls[{call_at}]: id {id:?} is used twice"));
        }
        unanswered.insert(id, at);
    }
    Ok(())
}

fn check_call(call: &Value) -> Result<&str, String> {
    let id = call
        .get("id")
        .and_then(Value::as_str)
        .filter(|id| !id.is_empty() && id.len() <= 64)
        .ok_or("id must be a string of 1 to 64 bytes")?;
    if call.get("type").and_then(Value::as_str) != Some("function") {
        return Err("type must be \"function\"".into());
    }
    let function = call.get("function").ok_or("function is missing")?;
    check_name(function.get("name"))?;
    let arguments = function
        .get("arguments")
        .and_then(Value::as_str)
        .ok_or("function.arguments must be a string")?;
    match serde_json::from_str::<Value>(arguments) {
        Ok(Value::Object(_)) => Ok(id),
        Ok(_) => Err("function.arguments is JSON but no object".into()),
        Err(error) => Err(format!("function.arguments is not JSON: {error}")),
    }
}

fn check_name(name: Option<&Value>) -> Result<&str, String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
    name.and_then(Value::as_str)
        .filter(|name| !name.is_empty() && name.len() <= 64 && name.chars().all(is_letter))
        .ok_or_else(|| "function.name must match ^[a-zA-Z0-9_-]{1,64}$".into())
}

fn check_tools(tools: &Value) -> Result<(), String> {
    let tools = tools
        .as_array()
        .filter(|tools| !tools.is_empty())
        .ok_or("tools: must be a non-empty array, or absent")?;
    let mut names = BTreeSet::new();
    for (at, tool) in tools.iter().enumerate() {
        let refuse = |why: &str| format!("tools[{at}]: {why}");
        if tool.get("type").and_then(Value::as_str) != Some("function") {
            return Err(refuse("type must be \"function\""));
        }
        let function = tool
            .get("function")
            .ok_or_else(|| refuse("function is missing"))?;
        let name = check_name(function.get("name")).map_err(|why| refuse(&why))?;
        if !names.insert(name) {
            return Err(refuse(&format!("name {name:?} is used twice")));
        }
        match function.get("description") {
            None | Some(Value::String(_)) => {}
            Some(_) => return Err(refuse("function.description must be a string")),
        }
        match function.get("parameters") {
            None => {}
            Some(Value::Object(schema)) => match schema.get("type").and_then(Value::as_str) {
                None | Some("object") => {}
                Some(other) => {
                    return Err(refuse(&format!(
                        "function.parameters must describe an object, not type {other:?}"
                    )));
                }
            },
            Some(_) => return Err(refuse("function.parameters must be an object")),
        }
    }
    Ok(())
}
