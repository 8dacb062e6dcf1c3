//! What other replicas do is shown in its order, and not twice (L9).

use super::*;

#[tokio::test(start_paused = true)]
async fn l9_a_restart_that_another_replica_has_logged_comes_before_the_text_anew() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    for kind in ["turn-start", "synced"] {
        let shown = follow.next().await.unwrap().unwrap();
        assert_eq!(shown_kind(&shown), kind);
    }
    hub.publish(delta(1, 1, 0, 0, "Hel"));
    let shown = follow.next().await.unwrap().unwrap();
    assert_eq!(shown_kind(&shown), "text-delta");
    // Swept elsewhere, granted here: nobody has published the restart here.
    let restarted = event(Some(2), 1, 1, restart(0));
    log.events.lock().unwrap().push(restarted);
    hub.publish(delta(1, 2, 0, 0, "H"));
    hub.publish(delta(1, 2, 0, 1, "e"));
    commit(&hub, &log, 1, complete(0, "Hello!"));
    commit(&hub, &log, 1, done());
    assert_eq!(
        kinds(&mut follow).await,
        ["step-restart", "step-complete", "done"]
    );
}

#[tokio::test(start_paused = true)]
async fn l9_a_step_that_has_ended_elsewhere_is_not_shown_to_who_has_seen_its_end() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    // What another replica streams was shown here until its follower left.
    hub.publish(delta(1, 1, 0, 0, "Hel"));
    let result = EventBody::ToolResult {
        call_id: "c".into(),
        ok: true,
        output: "o".into(),
        duration_ms: 0,
        spilled: None,
    };
    for (seq, body) in [(2, complete(0, "Hello")), (3, result)] {
        let committed = event(Some(seq), 1, 1, body);
        log.events.lock().unwrap().push(committed);
    }
    let mut follow = follow(&hub, &log, 3, Scope::Until(TurnId(1)));
    assert_eq!(follow.next().await.unwrap(), Some(Shown::Synced(3)));
    commit(&hub, &log, 1, done());
    assert_eq!(kinds(&mut follow).await, ["done"]);
}

#[tokio::test(start_paused = true)]
async fn l9_what_another_replica_checkpoints_is_shown_as_far_as_it_is_new_and_never_late() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    for kind in ["turn-start", "synced"] {
        let shown = follow.next().await.unwrap().unwrap();
        assert_eq!(shown_kind(&shown), kind);
    }
    let conversation = event(None, 1, 1, start()).conversation;
    let head = |last_seq| LogHead {
        conversation: conversation.clone(),
        last_seq,
        turn: Some(TurnId(1)),
    };
    let segment = |text_offset, text: &str| Segment {
        turn: TurnId(1),
        epoch: Epoch(1),
        step: 0,
        text_offset,
        text: text.to_owned(),
        reasoning_offset: 0,
        reasoning: String::new(),
    };
    let show = |head: LogHead, segments: &[Segment]| {
        let mut topics = hub.lock();
        let topic = topics.get_mut(&conversation).unwrap();
        topic.show_checkpoint(&head, segments, Timestamp(0));
    };
    let whole = [segment(0, "Hel"), segment(3, "lo")];
    show(head(1), &whole[..1]);
    show(head(1), &whole[..1]);
    show(head(1), &whole);
    let mut texts = Vec::new();
    for _ in 0..2 {
        if let Some(Shown::Event { json, .. }) = follow.next().await.unwrap() {
            let event: serde_json::Value = serde_json::from_str(&json).unwrap();
            texts.push(event["text"].as_str().unwrap().to_owned());
        }
    }
    assert_eq!(texts, ["Hel", "lo"]);
    commit(&hub, &log, 1, complete(0, "Hello"));
    // Read before the step's end, and here after it.
    show(head(1), &whole);
    commit(&hub, &log, 1, done());
    assert_eq!(kinds(&mut follow).await, ["step-complete", "done"]);
}

#[tokio::test(start_paused = true)]
async fn l9_a_step_of_another_replica_is_held_only_while_somebody_follows() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    for _ in 0..2 {
        follow.next().await.unwrap();
    }
    let conversation = event(None, 1, 1, start()).conversation;
    let head = LogHead {
        conversation: conversation.clone(),
        last_seq: 1,
        turn: Some(TurnId(1)),
    };
    let segment = Segment {
        turn: TurnId(1),
        epoch: Epoch(1),
        step: 0,
        text_offset: 0,
        text: "Hel".to_owned(),
        reasoning_offset: 0,
        reasoning: String::new(),
    };
    if let Some(topic) = hub.lock().get_mut(&conversation) {
        topic.show_checkpoint(&head, &[segment], Timestamp(0));
    }
    assert_eq!(hub.topics(), 1);
    drop(follow);
    assert_eq!(hub.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn l9_a_conversation_that_is_hinted_at_is_looked_at_before_its_time() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    for _ in 0..2 {
        follow.next().await.unwrap();
    }
    let clock = Arc::new(crate::clock::SystemClock::new());
    let polling = tokio::spawn(hub.clone().poll(log.clone(), clock));
    let began = tokio::time::Instant::now();
    let committed = event(Some(2), 1, 1, done());
    log.events.lock().unwrap().push(committed);
    let unfollowed = ConversationId::try_from("of-nobody").unwrap();
    hub.hint(unfollowed);
    assert_eq!(hub.take_hints(), [], "nobody here wants to see it");
    hub.hint(conversation());
    assert_eq!(kinds(&mut follow).await, ["done"]);
    assert_eq!(began.elapsed(), std::time::Duration::ZERO);
    polling.abort();
}
