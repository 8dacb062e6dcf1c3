use super::*;

fn facts(message: &str, step: u32) -> Facts {
    Facts {
        model: "m".to_owned(),
        message: message.to_owned(),
        step,
        attempt_key: 1,
        stream: true,
        include_usage: false,
        body_bytes: 0,
    }
}

fn said(text: &str) -> Vec<Action> {
    vec![Action::Say(Speech::plain(text.to_owned()))]
}

fn plan(message: &str) -> Plan {
    Plan::in_message(message).unwrap().unwrap()
}

fn refused(script: &str) -> String {
    let rules = format!("{{\"rules\": [{{\"steps\": {script}}}]}}");
    Script::parse(&rules).unwrap_err().to_string()
}

#[test]
fn a_message_carries_its_script_plain_or_in_a_fence_and_goes_on_behind_it() {
    let expected = plan(r#"script: ["a", "b"]"#);
    assert_eq!(expected.actions(0, 0), said("a"));
    assert_eq!(expected.actions(1, 0), said("b"));
    assert_eq!(expected.actions(2, 0), said("Done."));
    for message in [
        "Hello! script:[\"a\",\"b\"] and more [text]",
        "script:\n```json\n[\"a\", \"b\"]\n```\n",
        "script: ``` [\"a\", \"b\"] ```",
    ] {
        assert_eq!(plan(message), expected, "{message}");
    }
}

#[test]
fn a_message_without_a_script_has_none() {
    for message in [
        "hello",
        "my script: about dogs",
        "script:",
        "script: ```\nls\n```",
    ] {
        assert_eq!(Plan::in_message(message), None, "{message}");
    }
}

#[test]
fn a_broken_script_in_a_message_is_an_error_and_not_an_echo() {
    let error = Plan::in_message("script: [{\"text\": }]")
        .unwrap()
        .unwrap_err();
    assert!(error.to_string().contains("is not JSON"), "{error}");
}

#[test]
fn attempts_follow_each_other_and_the_last_one_stays() {
    let plan = plan(r#"script: [{"attempts": [[{"status": 503}], ["b"]]}, "next"]"#);
    let Action::Status { code, .. } = plan.actions(0, 0)[0] else {
        panic!();
    };
    assert_eq!(code, 503);
    assert_eq!(plan.actions(0, 1), said("b"));
    assert_eq!(plan.actions(0, 9), said("b"));
    assert_eq!(plan.actions(1, 9), said("next"));
}

#[test]
fn the_first_rule_that_fits_answers() {
    let script = Script::parse(
        r#"{"rules": [
            {"when": {"contains": "rain", "step": 1}, "do": "step one"},
            {"when": {"contains": "rain", "attempt": 0}, "do": ["first"]},
            {"when": {"equals": "rain"}, "steps": ["s0", "s1"]},
            {"when": {"prefix": "ra", "model": "other"}, "do": "other model"},
            {"when": {"prefix": "sun"}, "do": "sunny"}
        ]}"#,
    )
    .unwrap();
    assert_eq!(script.find(&facts("rain", 1), 5), Some(said("step one")));
    assert_eq!(script.find(&facts("rain", 0), 0), Some(said("first")));
    assert_eq!(script.find(&facts("rain", 0), 1), Some(said("s0")));
    assert_eq!(script.find(&facts("sunshine", 3), 1), Some(said("sunny")));
    assert_eq!(script.find(&facts("rainy", 0), 1), None);
}

#[test]
fn every_action_of_the_documentation_parses() {
    let actions = r#"[["TEXT",
        {"text": "t", "chunk": 2, "delay_ms": 3, "repeat": 4}, {"reasoning": "r"},
        {"tool_call": {"name": "bash", "arguments": {"command": "ls"}, "id": "x", "chunk": 1}},
        {"tool_call": {"name": "bash", "arguments": "{broken"}},
        {"usage": {"prompt_tokens": 1}}, {"finish": "length"}, {"finish": null},
        {"delay_ms": 500}, {"hold": "NAME"}, {"open": true}, {"malformed": true},
        {"malformed": "{oops"}, {"error_event": {"message": "m"}}, {"no_terminator": true},
        {"raw": "data: x\n\n"}, {"raw": [255, 10]}, {"hang": true}],
        {"status": 503}, {"status": {"code": 429, "headers": {"Retry-After": 2}, "body": {"a": 1}}},
        [{"json": true}, "whole"], [{"delay_ms": 1}, {"cut": true}]]"#;
    let plan = plan(&format!("script: {actions}"));
    let first = plan.actions(0, 0);
    assert_eq!(first.len(), 18);
    assert_eq!(
        first[1],
        Action::Say(Speech {
            text: "t".to_owned(),
            repeat: 4,
            chunk: 2,
            delay: Duration::from_millis(3)
        })
    );
    assert_eq!(first[16], Action::Raw(Bytes::from_static(&[255, 10])));
    assert_eq!(
        plan.actions(2, 0),
        [Action::Status {
            code: 429,
            headers: vec![("retry-after".to_owned(), "2".to_owned())],
            body: Some("{\"a\":1}".into()),
        }]
    );
}

#[test]
fn a_mistake_is_told_with_its_place_and_the_remedy() {
    for (script, place, remedy) in [
        (
            r#"[{"txt": "x"}]"#,
            "script.rules[0].steps[0] ",
            "known are: text",
        ),
        (
            r#"[[{"text": "x", "speed": 1}]]"#,
            "steps[0][0].speed",
            "known are: text, chunk",
        ),
        (r#"[{"text": 5}]"#, "steps[0].text", "must be a string"),
        (
            r#"[{"text": "x", "chunk": 0}]"#,
            "steps[0].chunk",
            "at least 1",
        ),
        (
            r#"[{"text": "xxxx", "repeat": 4000000000}]"#,
            "steps[0][0]",
            "64 MiB",
        ),
        (r#"[{"status": 99}]"#, "steps[0].status", "200 to 599"),
        (
            r#"[{"status": {"code": 429, "headers": {"a b": "c"}}}]"#,
            "headers.a b",
            "HTTP header",
        ),
        (
            r#"[["x", {"status": 429}]]"#,
            "steps[0][1]",
            "before any content",
        ),
        (
            r#"[[{"cut": true}, "x"]]"#,
            "steps[0][1]",
            "ends the response",
        ),
        (
            r#"[[{"json": true}, {"raw": "x"}]]"#,
            "steps[0][1]",
            "no place",
        ),
        (r#"[{"hold": "no spaces"}]"#, "steps[0].hold", "1 to 64"),
        (r#"[{"cut": false}]"#, "steps[0].cut", "must be true"),
        (r#"[{"attempts": []}]"#, "steps[0].attempts", "not be empty"),
        (
            r#"[{"tool_call": {"arguments": {}}}]"#,
            "steps[0].tool_call",
            "needs \"name\"",
        ),
        (r#"[{"raw": [256]}]"#, "steps[0].raw", "byte values"),
        (
            r#"[{"delay_ms": 1e12}]"#,
            "steps[0].delay_ms",
            "milliseconds",
        ),
        ("7", "rules[0].steps", "list of steps"),
    ] {
        let message = refused(script);
        assert!(
            message.contains(place) && message.contains(remedy),
            "{script}: {message}"
        );
    }
    for (script, remedy) in [
        ("{}", "\"rules\""),
        ("[", "not JSON"),
        (r#"{"rules": [{}]}"#, "either \"do\""),
        (
            r#"{"rules": [{"when": {"regex": "x"}, "do": "y"}]}"#,
            "contains, equals",
        ),
        (r#"{"rules": [], "default": 1}"#, "script.default"),
    ] {
        let message = Script::parse(script).unwrap_err().to_string();
        assert!(message.contains(remedy), "{script}: {message}");
    }
}

#[test]
fn every_script_in_the_notes_can_be_followed() {
    let notes = include_str!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../notes/scripted-provider.md"
    ));
    let mut count = 0;
    for example in notes.split("\nscript: ").skip(1) {
        let plan = Plan::in_message(&format!("script: {example}"));
        assert!(matches!(plan, Some(Ok(_))), "{example:.80}: {plan:?}");
        count += 1;
    }
    assert_eq!(count, 16);
    let (_, file) = notes.split_once("```json\n").unwrap();
    let (file, _) = file.split_once("```").unwrap();
    Script::parse(file).unwrap();
}
