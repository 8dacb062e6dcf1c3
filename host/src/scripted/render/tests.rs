use super::*;
use crate::scripted::script::Plan;

fn facts(stream: bool) -> Facts {
    Facts {
        model: "m".to_owned(),
        message: "x".to_owned(),
        step: 0,
        attempt_key: 7,
        stream,
        include_usage: true,
        body_bytes: 40,
    }
}

fn play_as(script: &str, stream: bool) -> Vec<ResponseAction> {
    let plan = Plan::in_message(&format!("script: {script}"))
        .unwrap()
        .unwrap();
    Rendering::new(&facts(stream), plan.actions(0, 0)).collect()
}

fn play(script: &str) -> Vec<ResponseAction> {
    play_as(script, true)
}

/// The data of the events, those of JSON as values.
fn events(actions: &[ResponseAction]) -> Vec<Value> {
    let mut body = Vec::new();
    for action in actions {
        if let ResponseAction::Bytes(piece) = action {
            body.extend_from_slice(piece);
        }
    }
    String::from_utf8(body)
        .unwrap()
        .split_terminator("\n\n")
        .map(|event| {
            let data = event.strip_prefix("data: ").unwrap();
            serde_json::from_str(data).unwrap_or_else(|_| data.into())
        })
        .collect()
}

fn deltas(events: &[Value], pointer: &str) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| event.pointer(pointer)?.as_str().map(str::to_owned))
        .collect()
}

#[test]
fn a_text_streams_as_a_vendor_streams_it() {
    let played = play(r#"[{"text": "héllo", "chunk": 2}]"#);
    assert_eq!(
        played[0],
        ResponseAction::Head {
            status: 200,
            headers: vec![("content-type".to_owned(), "text/event-stream".to_owned())],
        }
    );
    assert_eq!(played.last(), Some(&ResponseAction::End));
    let events = events(&played);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(
        deltas(&events, "/choices/0/delta/content"),
        ["", "hé", "ll", "o"]
    );
    assert_eq!(deltas(&events, "/choices/0/finish_reason"), ["stop"]);
    let usage = &events[events.len() - 2];
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(
        usage["usage"],
        json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12})
    );
    assert_eq!(events.last(), Some(&Value::from("[DONE]")));
}

#[test]
fn delays_lie_between_the_pieces_and_not_around_them() {
    let played = play(r#"[{"text": "abcd", "chunk": 2, "delay_ms": 9}]"#);
    let waits = played
        .iter()
        .filter(|action| **action == ResponseAction::Wait(Duration::from_millis(9)));
    assert_eq!(waits.count(), 1);
    assert!(matches!(played[0], ResponseAction::Head { .. }));
}

#[test]
fn a_text_repeats_without_being_built_up() {
    let script = r#"[{"text": "0123456789", "chunk": 10, "repeat": 1000}]"#;
    assert_eq!(events(&play(script)).len(), 1 + 1000 + 3);
}

#[test]
fn tool_calls_have_an_index_and_ids_that_repeat_with_the_request_only() {
    let script = r#"[[{"tool_call": {"name": "a", "arguments": {"x": 1}, "chunk": 4}},
                      {"tool_call": {"name": "b", "arguments": "{bro", "id": "mine"}}]]"#;
    let events = events(&play(script));
    let ids = deltas(&events, "/choices/0/delta/tool_calls/0/id");
    assert_eq!(ids[1], "mine");
    assert!(ids[0].starts_with("call_") && ids[0].len() <= 64);
    assert_eq!(
        deltas(&events, "/choices/0/delta/tool_calls/0/function/arguments"),
        ["", "{\"x\"", ":1}", "", "{bro"]
    );
    assert_eq!(deltas(&events, "/choices/0/finish_reason"), ["tool_calls"]);
    let again = super::tests::events(&play(script));
    assert_eq!(events, again);
    let plan = Plan::in_message(&format!("script: {script}"))
        .unwrap()
        .unwrap();
    let mut other = facts(true);
    other.attempt_key = 8;
    let other: Vec<_> = Rendering::new(&other, plan.actions(0, 0)).collect();
    assert_ne!(
        deltas(
            &super::tests::events(&other),
            "/choices/0/delta/tool_calls/0/id"
        )[0],
        ids[0]
    );
}

#[test]
fn waits_before_content_come_before_the_head() {
    let played = play(r#"[[{"delay_ms": 5}, {"hold": "h"}, {"open": true}, {"hang": true}]]"#);
    assert_eq!(played[0], ResponseAction::Wait(Duration::from_millis(5)));
    assert_eq!(played[1], ResponseAction::Hold("h".to_owned()));
    assert!(matches!(
        played[2],
        ResponseAction::Head { status: 200, .. }
    ));
    assert!(played.contains(&ResponseAction::Hang));
}

#[test]
fn a_cut_is_the_last_thing() {
    let played = play(r#"[["ab", {"cut": true}]]"#);
    assert_eq!(played.last(), Some(&ResponseAction::Cut));
    assert!(!played.contains(&ResponseAction::End));
    assert_eq!(play(r#"[{"cut": true}]"#), [ResponseAction::Cut]);
}

#[test]
fn a_status_is_all_there_is() {
    let played =
        play(r#"[{"status": {"code": 429, "headers": {"retry-after": "3"}, "body": "slow"}}]"#);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        played,
        [
            ResponseAction::Head {
                status: 429,
                headers: vec![
                    header("retry-after", "3"),
                    header("content-type", "application/json")
                ],
            },
            ResponseAction::Bytes("slow".into()),
            ResponseAction::End,
        ]
    );
    let ResponseAction::Bytes(body) = &play(r#"[{"status": 500}]"#)[1] else {
        panic!();
    };
    let body: Value = serde_json::from_slice(body).unwrap();
    assert_eq!(body["error"]["code"], "500");
}

#[test]
fn an_error_event_is_followed_by_a_clean_end_and_nothing_else() {
    let played =
        play(r#"[["a", {"error_event": {"message": "boom", "type": "overloaded_error"}}]]"#);
    let events = events(&played);
    assert_eq!(events.last().unwrap()["error"]["message"], "boom");
    assert!(deltas(&events, "/choices/0/finish_reason").is_empty());
    assert_eq!(played.last(), Some(&ResponseAction::End));
}

#[test]
fn finish_usage_and_terminator_can_be_chosen_or_left_out() {
    let chosen = events(&play(
        r#"[[{"usage": {"prompt_tokens": 1}}, "a", {"finish": "length"}, {"no_terminator": true}]]"#,
    ));
    assert_eq!(chosen[0]["usage"]["prompt_tokens"], 1);
    assert_eq!(deltas(&chosen, "/choices/0/finish_reason"), ["length"]);
    assert_eq!(
        chosen.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    let none = events(&play(r#"[["a", {"finish": null}]]"#));
    assert!(deltas(&none, "/choices/0/finish_reason").is_empty());
    assert_eq!(none.last(), Some(&Value::from("[DONE]")));
}

#[test]
fn a_malformed_event_and_raw_bytes_go_out_as_they_are() {
    let played = play(r#"[[{"malformed": "{oops"}, {"raw": [255, 0]}]]"#);
    assert_eq!(played[1], ResponseAction::Bytes("data: {oops\n\n".into()));
    assert_eq!(
        played[2],
        ResponseAction::Bytes(Bytes::from_static(&[255, 0]))
    );
}

#[test]
fn a_request_without_streaming_or_a_json_action_gets_one_completion() {
    let script = r#"[[{"reasoning": "hm"}, {"text": "ab", "repeat": 2},
                      {"tool_call": {"name": "t", "arguments": {"a": 1}}}]]"#;
    let with_json = script.replacen("[[", "[[{\"json\": true}, ", 1);
    for played in [play_as(script, false), play(&with_json)] {
        let [
            ResponseAction::Head {
                status: 200,
                headers,
            },
            ResponseAction::Bytes(body),
            ResponseAction::End,
        ] = &played[..]
        else {
            panic!("{played:?}");
        };
        assert_eq!(headers[0].1, "application/json");
        let body: Value = serde_json::from_slice(body).unwrap();
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["content"], "abab");
        assert_eq!(choice["message"]["reasoning_content"], "hm");
        assert_eq!(
            choice["message"]["tool_calls"][0]["function"]["arguments"],
            "{\"a\":1}"
        );
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert!(body["usage"]["total_tokens"].is_u64());
    }
}
