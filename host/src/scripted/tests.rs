use super::*;
use serde_json::{Value, json};

fn request(message: &str) -> Bytes {
    let messages = json!([{"role": "user", "content": message}]);
    Bytes::from(json!({"model": "scripted", "stream": true, "messages": messages}).to_string())
}

async fn play(provider: &ScriptedProvider, body: Bytes) -> Vec<ProviderInput> {
    let (sink, mut inputs) = mpsc::channel(4);
    let _stream = provider.open(body, sink);
    let mut seen = Vec::new();
    while let Some(input) = inputs.recv().await {
        seen.push(input);
    }
    seen
}

fn text_of(inputs: &[ProviderInput]) -> String {
    let mut text = String::new();
    for input in inputs {
        if let ProviderInput::Bytes(piece) = input {
            text.push_str(std::str::from_utf8(piece).unwrap());
        }
    }
    text.split_terminator("\n\n")
        .filter_map(|event| serde_json::from_str::<Value>(event.strip_prefix("data: ")?).ok())
        .filter_map(|event| {
            event["choices"][0]["delta"]["content"]
                .as_str()
                .map(str::to_owned)
        })
        .collect()
}

async fn until(mut is_met: impl FnMut() -> bool) {
    let waited = async {
        while !is_met() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), waited)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_message_without_a_script_is_echoed() {
    let provider = ScriptedProvider::new(None);
    let seen = play(&provider, request("good morning, scripted provider")).await;
    assert!(matches!(seen[0], ProviderInput::Head { status: 200, .. }));
    assert_eq!(text_of(&seen), "You said: good morning, scripted provider");
    assert_eq!(seen.last(), Some(&ProviderInput::End));
    let log = provider.log(0, 10);
    assert_eq!(
        (log[0].n, log[0].state, log[0].in_flight),
        (1, RequestState::Finished, 1)
    );
}

#[tokio::test]
async fn a_turn_walks_through_the_steps_of_its_message() {
    let provider = ScriptedProvider::new(None);
    let message = r#"script: [{"tool_call": {"name": "bash", "arguments": {"command": "ls"}, "id": "c1"}}, "all done"]"#;
    let first = play(&provider, request(message)).await;
    assert!(!text_of(&first).contains("all done"));
    let second = json!({"model": "scripted", "stream": true, "messages": [
        {"role": "user", "content": message},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "x"},
    ]});
    let second = play(&provider, second.to_string().into()).await;
    assert_eq!(text_of(&second), "all done");
    let steps: Vec<(u32, u32)> = provider
        .log(0, 10)
        .iter()
        .map(|entry| (entry.step, entry.attempt))
        .collect();
    assert_eq!(steps, [(0, 0), (1, 0)]);
}

#[tokio::test]
async fn attempts_at_one_step_are_counted() {
    let provider = ScriptedProvider::new(None);
    let body = request(
        r#"script: [{"attempts": [{"status": 503}, {"cut": true}, ["a", {"cut": true}], "fine"]}]"#,
    );
    let refused = play(&provider, body.clone()).await;
    assert!(matches!(
        refused[0],
        ProviderInput::Head { status: 503, .. }
    ));
    assert_eq!(refused.last(), Some(&ProviderInput::End));
    let cut = play(&provider, body.clone()).await;
    assert!(matches!(
        &cut[..],
        [ProviderInput::Failed {
            kind: FailKind::Reset,
            ..
        }]
    ));
    let cut = play(&provider, body.clone()).await;
    assert_eq!(text_of(&cut), "a");
    assert!(matches!(
        cut.last(),
        Some(ProviderInput::Failed {
            kind: FailKind::Body,
            ..
        })
    ));
    assert_eq!(text_of(&play(&provider, body).await), "fine");
    let seen: Vec<(u32, RequestState)> = provider
        .log(0, 10)
        .iter()
        .map(|entry| (entry.attempt, entry.state))
        .collect();
    assert_eq!(
        seen,
        [
            (0, RequestState::Refused),
            (1, RequestState::Cut),
            (2, RequestState::Cut),
            (3, RequestState::Finished),
        ]
    );
}

#[tokio::test]
async fn an_invalid_transcript_is_refused_with_the_reason_and_counted() {
    let provider = ScriptedProvider::new(None);
    let dangling = json!({"model": "scripted", "stream": true, "messages": [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "bash", "arguments": "{}"}}]},
        {"role": "user", "content": "y"},
    ]});
    for body in [dangling.to_string(), "no json".to_owned(), "{}".to_owned()] {
        let seen = play(&provider, body.into()).await;
        assert!(matches!(seen[0], ProviderInput::Head { status: 400, .. }));
    }
    let bad_script = play(&provider, request("script: [{\"txt\": 1}]")).await;
    assert!(matches!(
        bad_script[0],
        ProviderInput::Head { status: 400, .. }
    ));
    assert_eq!(provider.stats().invalid, 4);
    let log = provider.log(0, 10);
    assert!(log.iter().all(|entry| entry.state == RequestState::Invalid));
    assert!(log[3].reason.as_ref().unwrap().contains("known are: text"));
}

#[tokio::test]
async fn a_hang_counts_in_flight_till_its_client_goes_away() {
    let provider = ScriptedProvider::new(None);
    let (sink, mut inputs) = mpsc::channel(8);
    let stream = provider.open(request(r#"script: [["a", {"hang": true}]]"#), sink);
    while !matches!(inputs.recv().await, Some(ProviderInput::Bytes(piece)) if piece.ends_with(b"\"content\":\"a\"},\"finish_reason\":null}]}\n\n"))
    {
    }
    assert_eq!(provider.stats().in_flight, 1);
    drop(stream);
    until(|| provider.stats().in_flight == 0).await;
    assert_eq!(provider.log(0, 1)[0].state, RequestState::CutByClient);
    assert_eq!(inputs.recv().await, None);
}

#[tokio::test]
async fn a_dropped_receiver_ends_even_a_hang() {
    let provider = ScriptedProvider::new(None);
    let (sink, inputs) = mpsc::channel(8);
    let _stream = provider.open(request(r#"script: [{"hang": true}]"#), sink);
    until(|| provider.stats().in_flight == 1).await;
    drop(inputs);
    until(|| provider.stats().in_flight == 0).await;
}

#[tokio::test]
async fn a_hold_waits_for_its_release_and_a_released_name_stays_released() {
    let provider = ScriptedProvider::new(None);
    let body = request(r#"script: [[{"hold": "gate-1"}, "passed"]]"#);
    let playing = tokio::spawn({
        let (provider, body) = (provider.clone(), body.clone());
        async move { play(&provider, body).await }
    });
    until(|| provider.stats().in_flight == 1).await;
    provider.release("other").unwrap();
    assert!(!playing.is_finished());
    provider.release("gate-1").unwrap();
    assert_eq!(text_of(&playing.await.unwrap()), "passed");
    assert_eq!(text_of(&play(&provider, body).await), "passed");
    assert_eq!(provider.release("no spaces"), Err(ReleaseError::Name));
}

#[tokio::test]
async fn release_all_lets_everything_pass_and_a_reset_closes_again() {
    let provider = ScriptedProvider::new(None);
    provider.release_all();
    let body = request(r#"script: [[{"hold": "x"}, "passed"]]"#);
    assert_eq!(text_of(&play(&provider, body.clone()).await), "passed");
    provider.reset();
    assert_eq!(provider.stats(), Stats::default());
    let (sink, _inputs) = mpsc::channel(8);
    let _stream = provider.open(body, sink);
    until(|| provider.stats().in_flight == 1).await;
    let entry = &provider.log(0, 10)[0];
    assert_eq!(
        (entry.n, entry.attempt, entry.state),
        (2, 0, RequestState::Open)
    );
}

#[test]
fn released_names_are_bounded() {
    let provider = ScriptedProvider::new(None);
    for n in 0..MAX_RELEASED {
        provider.release(&format!("n{n}")).unwrap();
    }
    assert_eq!(provider.release("one-more"), Err(ReleaseError::TooMany));
    assert_eq!(provider.release("n0"), Ok(()));
}

#[tokio::test]
async fn a_storm_refuses_everything_and_spends_no_attempt() {
    let provider = ScriptedProvider::new(None);
    provider.storm(429, Some("7".to_owned()), Duration::from_secs(600));
    let body = request(r#"script: [{"attempts": ["first", "second"]}]"#);
    let refused = play(&provider, body.clone()).await;
    let ProviderInput::Head { status, headers } = &refused[0] else {
        panic!("{refused:?}");
    };
    assert_eq!(*status, 429);
    assert!(headers.contains(&("retry-after".to_owned(), "7".to_owned())));
    provider.storm(429, None, Duration::ZERO);
    assert_eq!(text_of(&play(&provider, body).await), "first");
    assert_eq!(provider.stats().refused, 1);
}

#[tokio::test]
async fn a_script_file_goes_before_the_message_and_the_echo_stays_behind_it() {
    let script = r#"{"rules": [{"when": {"contains": "weather"}, "do": "It rains."}]}"#;
    let provider = ScriptedProvider::new(Some(Script::parse(script).unwrap()));
    assert_eq!(
        text_of(&play(&provider, request("weather?")).await),
        "It rains."
    );
    assert_eq!(
        text_of(&play(&provider, request("script: [\"hi\"]")).await),
        "hi"
    );
    assert_eq!(
        text_of(&play(&provider, request("hi")).await),
        "You said: hi"
    );
}

#[test]
fn a_response_tells_its_actions_without_waiting_for_them() {
    let provider = ScriptedProvider::new(None);
    let response = provider.respond(&request(
        r#"script: [[{"delay_ms": 60000}, {"status": 500}]]"#,
    ));
    assert_eq!(provider.stats().in_flight, 1);
    let actions: Vec<ResponseAction> = response.collect();
    assert_eq!(actions[0], ResponseAction::Wait(Duration::from_secs(60)));
    assert_eq!(provider.stats().in_flight, 0);
}
