//! Requests and events: whatever a history holds, what goes out is JSON that a
//! strict provider accepts (T12, L5); the strict provider's own check survives
//! any bytes; an event survives its JSON.
//!
//! Input: a byte that chooses what, then text for the readers (`validate`,
//! `event`, `tool`), or what a history or an event is drawn from.

use arbitrary::{Result, Unstructured};
use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::reconcile::repair;
use dispatch_core::transcript::Item;
use dispatch_core::wire::request::{ChatOptions, ToolSpec, chat_request};
use dispatch_core::wire::validate::validate_transcript;
use serde_json::Value;

use super::{draw, rest};

/// See the module's page.
///
/// # Errors
/// Too few bytes.
pub fn target(u: &mut Unstructured<'_>) -> Result<()> {
    match u.arbitrary::<u8>()? % 5 {
        0 => check_validation(rest(u)?),
        1 => check_read_event(&String::from_utf8_lossy(rest(u)?)),
        2 => check_tool(&String::from_utf8_lossy(rest(u)?)),
        3 => check_history(u)?,
        _ => check_written_event(&draw::event(u)?),
    }
    Ok(())
}

/// What is accepted has the shape that it was accepted for, and loses it with
/// any of its tool messages.
fn check_validation(body: &[u8]) {
    if validate_transcript(body).is_err() {
        return;
    }
    let request: Value = serde_json::from_slice(body).expect("what is accepted is JSON");
    let messages = request["messages"].as_array().expect("and has messages");
    assert!(!messages.is_empty());
    for (at, message) in messages.iter().enumerate() {
        if message["role"] == "tool" {
            let mut without = request.clone();
            without["messages"]
                .as_array_mut()
                .expect("an array")
                .remove(at);
            assert!(validate_transcript(without.to_string().as_bytes()).is_err());
        }
    }
    let again = request.to_string();
    assert_eq!(
        validate_transcript(again.as_bytes()),
        Ok(()),
        "written again"
    );
}

fn check_read_event(json: &str) {
    if let Ok(event) = AgentEvent::from_json(json) {
        check_written_event(&event);
    }
}

fn check_written_event(event: &AgentEvent) {
    let json = event.to_json();
    assert!(!json.contains(['\n', '\r']), "an event is one line: {json}");
    let read = AgentEvent::from_json(&json).expect("what was written can be read");
    assert_eq!(read.to_json(), json, "reading changes nothing");
    match (&event.body, &read.body) {
        // Shown as JSON: the white space between its tokens is not kept.
        (EventBody::ToolCall { input, .. }, EventBody::ToolCall { input: read, .. }) => {
            assert_eq!(as_json(input), as_json(read), "the arguments' meaning");
        }
        _ => assert_eq!(&read, event),
    }
}

fn as_json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
}

/// Name, description and parameters, one a line; whatever is taken for a tool
/// can be offered.
fn check_tool(text: &str) {
    let mut lines = text.splitn(3, '\n').map(str::to_owned);
    let mut line = || lines.next().unwrap_or_default();
    let (name, description, parameters) = (line(), line(), line());
    let Ok(tool) = ToolSpec::new(name, description, parameters) else {
        return;
    };
    let items = [Item::User {
        text: "x".to_owned(),
    }];
    let tools = [tool];
    let body = chat_request("m", "", &items, &tools, &ChatOptions::default());
    let request: Value = serde_json::from_slice(&body).expect("a request is JSON");
    let function = &request["tools"][0]["function"];
    assert_eq!(function["name"], tools[0].name());
    assert_eq!(function["description"], tools[0].description());
    assert!(function["parameters"].is_object());
}

fn check_history(u: &mut Unstructured<'_>) -> Result<()> {
    let model = draw::text(u)?;
    let system = draw::text(u)?;
    let options = ChatOptions {
        max_output_tokens: draw::maybe(u, |u| u.int_in_range(1..=u32::MAX))?,
        max_completion_tokens_key: u.arbitrary()?,
        include_usage: u.arbitrary()?,
    };
    let mut items = draw::several(u, 12, draw::item)?;
    // A step starts from a message or from a tool's answer.
    items.push(Item::User {
        text: "go on".to_owned(),
    });

    let (repaired, repairs) = repair(items.clone());
    let (again, none) = repair(repaired.clone());
    assert_eq!(again, repaired, "repairing twice changes more");
    assert!(!none.any() && (repairs.any() || repaired == items));

    let body = chat_request(&model, &system, &repaired, &[], &options);
    let checked = validate_transcript(&body);
    if model.is_empty() {
        assert!(checked.is_err());
    } else {
        assert_eq!(checked, Ok(()), "{}", String::from_utf8_lossy(&body));
    }
    let request: Value = serde_json::from_slice(&body).expect("a request is JSON");
    assert_eq!(
        said(&request),
        kept(&system, &repaired),
        "what was said goes out"
    );
    // Even what nobody has repaired is JSON.
    let raw = chat_request(&model, &system, &items, &[], &options);
    serde_json::from_slice::<Value>(&raw).expect("a request is JSON");
    Ok(())
}

/// Role and content of every message, and how many calls it makes.
fn said(request: &Value) -> Vec<(String, String, usize)> {
    let messages = request["messages"].as_array().into_iter().flatten();
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let calls = |message: &Value| message["tool_calls"].as_array().map_or(0, Vec::len);
    messages
        .map(|message| {
            (
                word(&message["role"]),
                word(&message["content"]),
                calls(message),
            )
        })
        .collect()
}

fn kept(system: &str, items: &[Item]) -> Vec<(String, String, usize)> {
    let mut kept = Vec::new();
    if !system.is_empty() {
        kept.push(("system".to_owned(), system.to_owned(), 0));
    }
    for item in items {
        match item {
            Item::User { text } => kept.push(("user".to_owned(), text.clone(), 0)),
            Item::Assistant { text, calls, .. } => {
                let shown = if text.trim().is_empty() { "" } else { text };
                if !shown.is_empty() || !calls.is_empty() {
                    kept.push(("assistant".to_owned(), shown.to_owned(), calls.len()));
                }
            }
            Item::ToolResult { output, .. } => {
                kept.push(("tool".to_owned(), output.clone(), 0));
            }
        }
    }
    kept
}
