//! Requests as they are written (T7, T12), checked by the strict validator.
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

#[test]
fn a_result_goes_to_the_latest_call_of_its_id() {
    let ask = || assistant("", vec![call("a", "t", "{}")]);
    let sent = messages(&[user("u"), ask(), ask(), result("a", "late")]);
    assert_eq!(sent[3]["tool_call_id"], sent[2]["tool_calls"][0]["id"]);
    assert_ne!(sent[3]["tool_call_id"], sent[1]["tool_calls"][0]["id"]);
}
