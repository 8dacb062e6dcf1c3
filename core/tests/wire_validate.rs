//! The strict validator, checked by requests that it must refuse (T12, V3).
#![allow(clippy::unwrap_used)]

use dispatch_core::wire::validate::validate_transcript;
use serde_json::{Value, json};

fn sound_request() -> Value {
    json!({
        "model": "m",
        "stream": true,
        "stream_options": {"include_usage": true},
        "tools": [{"type": "function", "function": {"name": "read", "parameters": {"type": "object"}}}],
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "u"},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "read", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "gone", "arguments": "{\"x\":1}"}},
            ]},
            {"role": "tool", "tool_call_id": "b", "content": "2"},
            {"role": "tool", "tool_call_id": "a", "content": ""},
            {"role": "assistant", "content": "t"},
            {"role": "user", "content": [{"type": "text", "text": "v"}]},
        ],
    })
}

#[test]
fn the_validator_accepts_a_sound_request_with_and_without_tools() {
    let mut request = sound_request();
    validate_transcript(request.to_string().as_bytes()).unwrap();
    request.as_object_mut().unwrap().remove("tools");
    validate_transcript(request.to_string().as_bytes()).unwrap();
    request["messages"].as_array_mut().unwrap().truncate(5);
    validate_transcript(request.to_string().as_bytes()).unwrap();
}

#[test]
fn the_validator_names_the_place_and_the_reason_of_each_fault() {
    let faults: Vec<(&str, Value, &str)> = vec![
        ("/model", json!(""), "model: must be a non-empty string"),
        ("/stream", json!("yes"), "stream: must be a boolean"),
        ("/stream", json!(false), "stream_options: only with stream"),
        (
            "/stream_options",
            json!(1),
            "stream_options: must be an object",
        ),
        ("/tools", json!([]), "tools: must be a non-empty array"),
        ("/tools/0/type", json!("f"), "tools[0]: type must be"),
        ("/tools/0/function", json!(null), "tools[0]: function.name"),
        (
            "/tools/0/function/name",
            json!("a b"),
            "tools[0]: function.name",
        ),
        (
            "/tools/0/function/parameters",
            json!("{}"),
            "tools[0]: function.parameters must be an object",
        ),
        (
            "/tools/0/function/parameters/type",
            json!("array"),
            "tools[0]: function.parameters must describe",
        ),
        ("/messages", json!({}), "messages: must be an array"),
        ("/messages", json!([]), "messages: must not be empty"),
        ("/messages/0", json!(1), "messages[0]: must be an object"),
        (
            "/messages/0/role",
            json!(null),
            "messages[0]: role must be a string",
        ),
        (
            "/messages/0/role",
            json!("bot"),
            "messages[0]: role \"bot\" is unknown",
        ),
        (
            "/messages/1/role",
            json!("system"),
            "messages[1]: a system message may only be the first",
        ),
        (
            "/messages/1/content",
            json!(""),
            "messages[1]: content must be",
        ),
        (
            "/messages/1/content",
            json!(null),
            "messages[1]: content must be",
        ),
        (
            "/messages/6/content",
            json!([]),
            "messages[6]: content must be",
        ),
        (
            "/messages/6/content",
            json!(["x"]),
            "messages[6]: content[0] must be",
        ),
        (
            "/messages/2/content",
            json!(""),
            "messages[2]: content must be",
        ),
        (
            "/messages/2/tool_calls",
            json!([]),
            "messages[2]: tool_calls must be a non-empty",
        ),
        (
            "/messages/2/tool_calls/1/id",
            json!("a"),
            "messages[2]: tool_calls[1]: id \"a\" is used twice",
        ),
        (
            "/messages/2/tool_calls/1/id",
            json!(""),
            "messages[2]: tool_calls[1]: id must be",
        ),
        (
            "/messages/2/tool_calls/0/type",
            json!("tool"),
            "messages[2]: tool_calls[0]: type must be",
        ),
        (
            "/messages/2/tool_calls/0/function/name",
            json!(""),
            "messages[2]: tool_calls[0]: function.name",
        ),
        (
            "/messages/2/tool_calls/0/function/arguments",
            json!({}),
            "messages[2]: tool_calls[0]: function.arguments must be a string",
        ),
        (
            "/messages/2/tool_calls/0/function/arguments",
            json!("[]"),
            "messages[2]: tool_calls[0]: function.arguments is JSON but no object",
        ),
        (
            "/messages/2/tool_calls/0/function/arguments",
            json!("{"),
            "messages[2]: tool_calls[0]: function.arguments is not JSON",
        ),
        (
            "/messages/3/content",
            json!(null),
            "messages[3]: a tool message's content",
        ),
        (
            "/messages/3/tool_call_id",
            json!(null),
            "messages[3]: tool_call_id must be a string",
        ),
        (
            "/messages/3/tool_call_id",
            json!("z"),
            "messages[3]: tool_call_id \"z\" answers no open",
        ),
        (
            "/messages/4/tool_call_id",
            json!("b"),
            "messages[4]: tool_call_id \"b\" answers no open",
        ),
        (
            "/messages/4",
            json!({"role": "user", "content": "x"}),
            "messages[4]: role user comes before tool call \"a\" of messages[2]",
        ),
        (
            "/messages/5",
            json!({"role": "tool", "tool_call_id": "a", "content": "x"}),
            "messages[5]: tool_call_id \"a\" answers no open",
        ),
        (
            "/messages/5/content",
            json!(""),
            "messages[5]: content must be",
        ),
        (
            "/messages/6/role",
            json!("assistant"),
            "messages[6]: the last message",
        ),
    ];
    for (place, fault, reason) in faults {
        let mut request = sound_request();
        *request.pointer_mut(place).unwrap() = fault.clone();
        let refusal = validate_transcript(request.to_string().as_bytes()).unwrap_err();
        assert!(refusal.starts_with(reason), "{place} = {fault}: {refusal}");
    }
}

#[test]
fn the_validator_refuses_what_is_missing_at_the_end_or_too_much() {
    let mut cut = sound_request();
    cut["messages"].as_array_mut().unwrap().truncate(4);
    assert_eq!(
        validate_transcript(cut.to_string().as_bytes()).unwrap_err(),
        "messages[2]: tool call \"a\" has no tool message"
    );
    let mut extra = sound_request();
    extra["messages"][5]["reasoning_content"] = json!("x");
    assert_eq!(
        validate_transcript(extra.to_string().as_bytes()).unwrap_err(),
        "messages[5]: key \"reasoning_content\" is unknown"
    );
    let mut twice = sound_request();
    let tool = twice["tools"][0].clone();
    twice["tools"].as_array_mut().unwrap().push(tool);
    assert_eq!(
        validate_transcript(twice.to_string().as_bytes()).unwrap_err(),
        "tools[1]: name \"read\" is used twice"
    );
    assert!(validate_transcript(b"{").unwrap_err().contains("not JSON"));
    assert!(
        validate_transcript(b"[]")
            .unwrap_err()
            .contains("not an object")
    );
}

#[test]
fn the_validator_refuses_an_id_that_an_earlier_message_used() {
    let asks = json!({"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "t", "arguments": "{}"}}]});
    let answer = json!({"role": "tool", "tool_call_id": "a", "content": "x"});
    let request = json!({"model": "m", "messages": [
        {"role": "user", "content": "u"}, asks, answer, asks, answer]});
    assert_eq!(
        validate_transcript(request.to_string().as_bytes()).unwrap_err(),
        "messages[3]: tool_calls[0]: id \"a\" is used twice"
    );
}
