//! Requests as they are written (T7, T12), checked by the strict validator,
//! and the validator checked by requests that it must refuse.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use dispatch_core::{
    transcript::{Item, ToolCall},
    wire::{
        request::{ChatOptions, ToolSpec, ToolSpecError, chat_request},
        validate::validate_transcript,
    },
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

fn user(text: &str) -> Item {
    Item::User { text: text.into() }
}

fn assistant(text: &str, calls: Vec<ToolCall>) -> Item {
    Item::Assistant {
        text: text.into(),
        reasoning: "kept at home".into(),
        calls,
        partial: false,
    }
}

fn call(call_id: &str, name: &str, input: &str) -> ToolCall {
    ToolCall {
        call_id: call_id.into(),
        name: name.into(),
        input: input.into(),
    }
}

fn result(call_id: &str, output: &str) -> Item {
    Item::ToolResult {
        call_id: call_id.into(),
        ok: true,
        output: output.into(),
    }
}

fn written(items: &[Item]) -> Value {
    let body = chat_request("m", "", items, &[], &ChatOptions::default());
    serde_json::from_slice(&body).unwrap()
}

fn messages(items: &[Item]) -> Vec<Value> {
    written(items)["messages"].as_array().unwrap().clone()
}

fn read_tool() -> ToolSpec {
    ToolSpec::new(
        "read",
        "Reads a \"file\".",
        r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}"#,
    )
    .unwrap()
}

#[test]
fn a_request_is_written_to_the_byte() {
    let items = [
        user("Look\tat \"a\"\u{1}\u{7f}é"),
        assistant("", vec![call("c1", "read", r#"{"path":"a\\b"}"#)]),
        result("c1", "line\r\nend\\"),
        assistant("Done.", vec![]),
        user("Thanks"),
    ];
    let options = ChatOptions {
        max_output_tokens: Some(900),
        ..ChatOptions::default()
    };
    let body = chat_request("gpt-5.1", "Be brief.", &items, &[read_tool()], &options);
    let expected = concat!(
        r#"{"model":"gpt-5.1","messages":["#,
        r#"{"role":"system","content":"Be brief."},"#,
        r#"{"role":"user","content":"Look\tat \"a\"\u0001"#,
        "\u{7f}é\"},",
        r#"{"role":"assistant","content":null,"tool_calls":[{"id":"c1","type":"function","function":{"name":"read","arguments":"{\"path\":\"a\\\\b\"}"}}]},"#,
        r#"{"role":"tool","tool_call_id":"c1","content":"line\r\nend\\"},"#,
        r#"{"role":"assistant","content":"Done."},"#,
        r#"{"role":"user","content":"Thanks"}],"#,
        r#""stream":true,"stream_options":{"include_usage":true},"max_tokens":900,"#,
        r#""tools":[{"type":"function","function":{"name":"read","description":"Reads a \"file\".","parameters":"#,
        r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}}}]}"#,
    );
    assert_eq!(String::from_utf8(body.clone()).unwrap(), expected);
    validate_transcript(&body).unwrap();
}

#[test]
fn t7_a_last_step_without_tools_has_no_tools_key_and_stays_valid() {
    let items = [
        user("a"),
        assistant("", vec![call("c1", "read", "{}")]),
        result("c1", ""),
    ];
    let request = written(&items);
    assert!(request.get("tools").is_none());
    validate_transcript(request.to_string().as_bytes()).unwrap();
}

#[test]
fn options_choose_the_keys_that_vendors_differ_in() {
    let options = ChatOptions {
        max_output_tokens: Some(7),
        max_completion_tokens_key: true,
        include_usage: false,
    };
    let body = chat_request("m", "", &[user("a")], &[], &options);
    let request: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        request,
        json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "stream": true,
               "max_completion_tokens": 7})
    );
}

#[test]
fn t12_arguments_that_are_no_sound_json_object_go_out_as_an_empty_one() {
    let deep = format!("{{\"a\":{}0{}}}", "[".repeat(500), "]".repeat(500));
    for unsound in [
        "",
        "[]",
        "null",
        "\"{}\"",
        "{",
        "{\"a\":1",
        "{} {}",
        "{\"a\":\"\\ud83d\"}",
        "{\"a\":1e999}",
        "{\"a\":\"\n\"}",
        "\u{a0}{}",
        &deep,
    ] {
        let sent = &messages(&[assistant("", vec![call("a", "t", unsound)])])[0];
        assert_eq!(
            sent["tool_calls"][0]["function"]["arguments"], "{}",
            "{unsound:?}"
        );
    }
    for sound in [
        "{}",
        " {\"a\" : [1.5, null, \"\\ud83d\\ude00\"]} ",
        "\n{\"a\":{}}",
    ] {
        let sent = &messages(&[assistant("", vec![call("a", "t", sound)])])[0];
        assert_eq!(sent["tool_calls"][0]["function"]["arguments"], sound);
    }
}

#[test]
fn t12_tool_names_outside_the_vendors_alphabet_are_respelled() {
    let long = "n".repeat(65);
    for (name, sent_name) in [
        ("", "unknown"),
        ("functions.read file", "functions_read_file"),
        ("über", "_ber"),
        ("a-b_C9", "a-b_C9"),
        (&long, &long[..64]),
    ] {
        let sent = &messages(&[assistant("", vec![call("a", name, "{}")])])[0];
        assert_eq!(sent["tool_calls"][0]["function"]["name"], sent_name);
    }
}

#[test]
fn t12_call_ids_that_two_turns_share_are_told_apart_together_with_their_results() {
    let turn = || {
        [
            user("a"),
            assistant(
                "",
                vec![call("call_0_0", "t", "{}"), call("sp ace", "t", "{}")],
            ),
            result("sp ace", "of the second"),
            result("call_0_0", "of the first"),
        ]
    };
    let items = [turn(), turn()].concat();
    let sent = messages(&items);
    let mut ids = BTreeSet::new();
    for at in [1, 5] {
        let calls = sent[at]["tool_calls"].as_array().unwrap();
        assert_eq!(calls[1]["id"], sent[at + 1]["tool_call_id"]);
        assert_eq!(calls[0]["id"], sent[at + 2]["tool_call_id"]);
        assert_eq!(sent[at + 2]["content"], "of the first");
        ids.extend(calls.iter().map(|call| call["id"].to_string()));
    }
    assert_eq!(ids.len(), 4);
    validate_transcript(written(&items).to_string().as_bytes()).unwrap();
}

#[test]
fn messages_without_content_are_left_out_and_reasoning_is_never_sent() {
    let items = [
        user("a"),
        assistant("", vec![]),
        assistant(" \n", vec![]),
        user(""),
        user("b"),
    ];
    let request = written(&items);
    assert_eq!(
        request["messages"],
        json!([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}])
    );
    assert!(!request.to_string().contains("kept at home"));
}

#[test]
fn a_tool_is_checked_when_it_is_made() {
    assert!(matches!(
        ToolSpec::new("bad name", "", "{}"),
        Err(ToolSpecError::BadName { .. })
    ));
    assert!(matches!(
        ToolSpec::new("t", "", "[]"),
        Err(ToolSpecError::BadParameters { .. })
    ));
    assert!(matches!(
        ToolSpec::new("t", "", "{\"a\":}"),
        Err(ToolSpecError::BadParameters { .. })
    ));
}

/// A repaired history: every call answered, in any order, with texts, names,
/// ids and arguments as bad as models write them.
fn histories() -> impl Strategy<Value = Vec<Item>> {
    let any_text = || prop_oneof![Just(String::new()), ".{0,12}", "[\u{0}-\u{ff}\"\\\\]{0,12}"];
    let id = prop_oneof![
        3 => "[ab]",
        1 => Just(String::new()),
        1 => Just("call_again_1".to_owned()),
        1 => ".{0,70}",
    ];
    let input = prop_oneof![
        any_text(),
        Just("{\"a\":[1]}".to_owned()),
        "[{}\\[\\]\":,a0 ]{0,8}"
    ];
    let tool_call = (id, any_text(), input, any_text());
    let step = (
        any_text(),
        any_text(),
        vec(tool_call, 0..4),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(text, reasoning, calls, reversed, partial)| {
            let mut seen = BTreeSet::new();
            let calls: Vec<_> = calls
                .into_iter()
                .filter(|(id, ..)| seen.insert(id.clone()))
                .collect();
            let mut results: Vec<_> = calls
                .iter()
                .map(|(call_id, _, _, output)| Item::ToolResult {
                    call_id: call_id.clone(),
                    ok: partial,
                    output: output.clone(),
                })
                .collect();
            if reversed {
                results.reverse();
            }
            let calls = calls
                .into_iter()
                .map(|(call_id, name, input, _)| ToolCall {
                    call_id,
                    name,
                    input,
                })
                .collect();
            let mut items = vec![Item::Assistant {
                text,
                reasoning,
                calls,
                partial,
            }];
            items.extend(results);
            items
        });
    let turn = (any_text(), vec(step, 0..4)).prop_map(|(text, steps)| {
        let mut items = vec![Item::User { text }];
        items.extend(steps.into_iter().flatten());
        items
    });
    vec(turn, 0..4).prop_map(|turns| {
        let mut items = turns.concat();
        items.push(user("go on"));
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn t12_no_repaired_history_makes_a_request_that_a_strict_provider_refuses(
        items in histories(),
        system in ".{0,8}",
    ) {
        let body = chat_request("m", &system, &items, &[read_tool()], &ChatOptions::default());
        let checked = validate_transcript(&body);
        prop_assert!(checked.is_ok(), "{checked:?} of {}", String::from_utf8_lossy(&body));
    }

    #[test]
    fn what_people_and_tools_said_arrives_unchanged(text in "[\u{0}-\u{2fff}\"\\\\😀]{1,40}") {
        let items = [
            user(&text),
            assistant("", vec![call("a", "t", "{}")]),
            result("a", &text),
        ];
        let sent = messages(&items);
        prop_assert_eq!(&sent[0]["content"], &text);
        prop_assert_eq!(&sent[2]["content"], &text);
    }
}

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
