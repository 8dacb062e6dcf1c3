//! A client's host: sends messages with a key, follows their turns over
//! streams that it loses or drops, comes back by its cursor, aborts, and reads
//! everything once more when all is over.

use std::sync::Arc;
use std::time::Duration;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, Seq, TurnId};
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::fact::{Fact, Log};
use super::http::{Answer, Events, Frame, Http, Lost};
use super::plan::{ConversationPlan, Plan, TurnPlan};
use crate::rng::{Purpose, Rng};
use crate::script::Script;

/// Before a failed request is sent again.
const AGAIN: Duration = Duration::from_millis(500);
const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

/// Runs one client to the end of everything that it wants.
pub(super) async fn live(plan: Arc<Plan>, number: usize, log: Log) -> turmoil::Result {
    let mut talks = JoinSet::new();
    let http = Http::new();
    for conversation in plan.clients[number].clone() {
        let id = ConversationId::try_from(conversation.id.as_str())?;
        let talk = Arc::new(Talk {
            id,
            conversation,
            http: http.clone(),
            log: log.clone(),
            seed: plan.seed,
            calm_at_ms: plan.calm_at_ms,
        });
        talks.spawn(talk.go());
    }
    while let Some(talk) = talks.join_next().await {
        talk?;
    }
    Ok(())
}

/// One conversation with the server.
struct Talk {
    id: ConversationId,
    conversation: ConversationPlan,
    http: Http,
    log: Log,
    seed: u64,
    calm_at_ms: u64,
}

impl Talk {
    async fn go(self: Arc<Talk>) {
        let (done, is_done) = watch::channel(false);
        let watcher = self.conversation.is_watched.then(|| {
            let talk = self.clone();
            tokio::spawn(async move { talk.watch(is_done).await })
        });
        let mut turns = JoinSet::new();
        let mut accepted = Vec::new();
        for turn in self.conversation.turns.clone() {
            tokio::time::sleep(Duration::from_millis(turn.after_ms)).await;
            let (talk, name) = (self.clone(), turn.token);
            let (receipt, received) = tokio::sync::oneshot::channel();
            turns.spawn(async move { Following::new(talk, turn).go(receipt).await });
            // The next message may only be sent when this one's place is sure.
            if let Ok(turn) = received.await {
                accepted.push((name, turn));
            }
            if !self.conversation.is_pipelined {
                while turns.join_next().await.is_some() {}
            }
        }
        while turns.join_next().await.is_some() {}
        done.send_replace(true);
        if let Some(watcher) = watcher
            && let Err(error) = watcher.await
        {
            self.odd("a watcher", error);
        }
        let now_ms = self.log.now_ms();
        let calm = self.calm_at_ms.saturating_sub(now_ms);
        tokio::time::sleep(Duration::from_millis(calm)).await;
        self.audit(&accepted).await;
    }

    /// Follows the conversation as a whole, with breaks, until its turns are over.
    async fn watch(&self, mut is_done: watch::Receiver<bool>) {
        let mut rng = Rng::keyed(
            self.seed,
            Purpose::Clients,
            1 << 40,
            u64::from(self.first()),
        );
        let mut after = 0;
        loop {
            let stay = Duration::from_millis(rng.spread(1_000, 60_000));
            let look = async {
                let path = format!("/conversations/{}/events?after={after}", self.id);
                let Some(mut events) = self.open(&path).await else {
                    return;
                };
                let reader = self.begin(None, after);
                while let Ok(Some(frame)) = events.next().await {
                    if let Some(event) = self.show(reader, frame) {
                        after = event.seq.unwrap_or(after);
                    }
                }
            };
            let _ = tokio::time::timeout(stay, look).await;
            if *is_done.borrow() {
                return;
            }
            let pause = Duration::from_millis(rng.spread(50, 5_000));
            let _ = tokio::time::timeout(pause, is_done.changed()).await;
        }
    }

    fn first(&self) -> u32 {
        self.conversation.turns.first().map_or(0, |turn| turn.token)
    }

    /// Reads the log and every turn once more, until that succeeds.
    async fn audit(&self, accepted: &[(u32, TurnId)]) {
        if accepted.is_empty() {
            return;
        }
        while self.read_log().await.is_err() {
            tokio::time::sleep(AGAIN).await;
        }
        for (_, turn) in accepted {
            while self.read_turn(*turn).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// The whole history, page by page (C2).
    async fn read_log(&self) -> Result<(), Lost> {
        let (mut events, mut since) = (Vec::new(), 0);
        loop {
            let path = format!("/conversations/{}?sinceSeq={since}", self.id);
            let answer = self.http.get(&path, NDJSON).await?;
            if answer.status != StatusCode::OK {
                self.refused(&path, answer, &[]).await;
                return Err(Lost);
            }
            let page = answer.json().await?;
            for event in page["events"].as_array().into_iter().flatten() {
                match AgentEvent::from_json(&event.to_string()) {
                    Ok(event) => events.push(event),
                    Err(bad) => self.odd(&path, format!("{bad}: {event}")),
                }
            }
            match page["nextSeq"].as_u64() {
                Some(next) => since = next,
                None => break,
            }
        }
        self.log.tell(Fact::Audited {
            conversation: self.id.clone(),
            events,
        });
        Ok(())
    }

    async fn read_turn(&self, turn: TurnId) -> Result<(), Lost> {
        let answer = self.http.get(&format!("/turns/{turn}"), NDJSON).await?;
        if answer.status != StatusCode::OK {
            return Err(Lost);
        }
        let shown = answer.json().await?;
        let terminal = shown["terminal"].to_string();
        let terminal = AgentEvent::from_json(&terminal).ok().map(Box::new);
        self.log.tell(Fact::Ended { turn, terminal });
        Ok(())
    }

    /// A stream of a conversation's events, where there is one.
    async fn open(&self, path: &str) -> Option<Events> {
        let answer = self.http.get(path, SSE).await.ok()?;
        match answer.status {
            StatusCode::OK => Some(answer.events(true)),
            _ => {
                // It may not have begun yet.
                self.refused(path, answer, &[StatusCode::NOT_FOUND]).await;
                None
            }
        }
    }

    /// A refusal that says "later" is none; any other is not expected here.
    async fn refused(&self, what: &str, answer: Answer, expected: &[StatusCode]) {
        let status = answer.status;
        let is_later = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
        if is_later || expected.contains(&status) {
            return;
        }
        if let Ok(text) = answer.text().await {
            self.odd(what, format!("{status}: {text}"));
        }
    }

    fn odd(&self, asked: &str, answer: impl ToString) {
        self.log.tell(Fact::Odd {
            asked: asked.to_owned(),
            answer: answer.to_string(),
        });
    }

    fn begin(&self, turn: Option<TurnId>, after: Seq) -> u32 {
        let reader = self.log.fresh_id();
        self.log.tell(Fact::Reading {
            reader,
            conversation: self.id.clone(),
            turn,
            after,
        });
        reader
    }

    fn show(&self, reader: u32, frame: Frame) -> Option<AgentEvent> {
        match frame {
            Frame::Event(event) => {
                self.log.tell(Fact::Showed {
                    reader,
                    event: event.clone(),
                });
                Some(*event)
            }
            Frame::Synced => None,
            Frame::Odd(what) => {
                self.odd("a stream of events", what);
                None
            }
        }
    }
}

/// One message and the turn that comes of it.
struct Following {
    talk: Arc<Talk>,
    plan: TurnPlan,
    rng: Rng,
    turn: Option<TurnId>,
    cursor: Seq,
    is_over: bool,
}

type Receipt = Option<tokio::sync::oneshot::Sender<TurnId>>;

impl Following {
    fn new(talk: Arc<Talk>, plan: TurnPlan) -> Following {
        let rng = Rng::keyed(talk.seed, Purpose::Clients, u64::from(plan.token), 0);
        Following {
            talk,
            plan,
            rng,
            turn: None,
            cursor: 0,
            is_over: false,
        }
    }

    async fn go(mut self, receipt: tokio::sync::oneshot::Sender<TurnId>) {
        let mut receipt = Some(receipt);
        while self.turn.is_none() {
            if self.submit(&mut receipt).await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        }
        if self.plan.resubmits {
            // For the replay's own sake; what comes of it is judged.
            let _ = self.submit(&mut None).await;
        }
        while !self.is_over {
            if self.resume().await.is_err() {
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Sends the message under its key, and reads on where a stream comes back.
    async fn submit(&mut self, receipt: &mut Receipt) -> Result<(), Lost> {
        let talk = self.talk.clone();
        let token = self.plan.token;
        talk.log.tell(Fact::Submitted {
            token,
            conversation: talk.id.clone(),
        });
        let mut body = json!({
            "message": Script::message(token),
            "conversationId": talk.conversation.id,
            "model": format!("p{}/model", talk.conversation.provider),
        });
        if self.plan.detach {
            body["detach"] = Value::Bool(true);
        }
        let accept = if self.plan.sse { SSE } else { NDJSON };
        let key = format!("key-{token}");
        let answer = talk.http.post("/chat", accept, Some(&key), &body).await?;
        match answer.status {
            StatusCode::ACCEPTED => {
                let shown = answer.json().await?;
                let turn = shown["turnId"].as_str().map(TurnId::try_from);
                match turn {
                    Some(Ok(turn)) => self.acked(turn, receipt),
                    Some(Err(_)) | None => talk.odd("POST /chat", shown),
                }
                Ok(())
            }
            StatusCode::OK => {
                let mut events = answer.events(self.plan.sse);
                let first = match events.next().await? {
                    Some(Frame::Event(event)) => event,
                    Some(frame @ (Frame::Synced | Frame::Odd(_))) => {
                        talk.odd("POST /chat", format!("{frame:?}"));
                        return Err(Lost);
                    }
                    None => return Err(Lost),
                };
                self.acked(first.turn, receipt);
                let reader = talk.begin(Some(first.turn), first.seq.unwrap_or(1) - 1);
                let first = talk.show(reader, Frame::Event(first));
                self.read(reader, first, events).await
            }
            _ => {
                talk.refused("POST /chat", answer, &[]).await;
                Err(Lost)
            }
        }
    }

    fn acked(&mut self, turn: TurnId, receipt: &mut Receipt) {
        self.talk.log.tell(Fact::Acked {
            token: self.plan.token,
            turn,
            conversation: self.talk.id.clone(),
        });
        if self.turn.is_some() {
            return;
        }
        self.turn = Some(turn);
        if let Some(receipt) = receipt.take() {
            // Without a listener the conversation is over anyhow.
            let _ = receipt.send(turn);
        }
        if let Some(after_ms) = self.plan.abort_after_ms {
            let talk = self.talk.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(after_ms)).await;
                talk.abort(turn).await;
            });
        }
    }

    /// Goes on from the cursor, in the framing that was drawn.
    async fn resume(&mut self) -> Result<(), Lost> {
        let Some(turn) = self.turn else {
            return Err(Lost);
        };
        let talk = self.talk.clone();
        let after = self.cursor;
        let path = format!(
            "/conversations/{}/events?after={after}&turnId={turn}",
            talk.id
        );
        // NDJSON has no heartbeat, so that it is lost again and again while a
        // turn waits: both must come to the same end.
        let accept = if self.plan.sse { SSE } else { NDJSON };
        let answer = talk.http.get(&path, accept).await?;
        match answer.status {
            StatusCode::OK => {
                let reader = talk.begin(None, after);
                let events = answer.events(self.plan.sse);
                self.read(reader, None, events).await
            }
            StatusCode::NO_CONTENT => {
                // All was seen, though perhaps not by this very stream.
                self.is_over = true;
                Ok(())
            }
            _ => {
                talk.refused(&path, answer, &[]).await;
                Err(Lost)
            }
        }
    }

    async fn read(
        &mut self,
        reader: u32,
        first: Option<AgentEvent>,
        mut events: Events,
    ) -> Result<(), Lost> {
        let mut shown = first;
        loop {
            if let Some(event) = shown.take() {
                self.cursor = event.seq.unwrap_or(self.cursor);
                self.is_over |= event.is_terminal() && Some(event.turn) == self.turn;
            }
            if self.rng.chance(self.plan.vanishes) {
                return Err(Lost);
            }
            match events.next().await? {
                Some(frame) => shown = self.talk.show(reader, frame),
                None => return Ok(()),
            }
        }
    }
}

impl Talk {
    /// Asks for an end, until somebody has heard it.
    async fn abort(&self, turn: TurnId) {
        self.log.tell(Fact::Aborting {
            conversation: self.id.clone(),
        });
        let path = format!("/conversations/{}/abort", self.id);
        let body = json!({ "turnId": turn.to_string(), "reason": "enough" });
        loop {
            if let Ok(answer) = self.http.post(&path, NDJSON, None, &body).await {
                match answer.status {
                    StatusCode::OK => {
                        let text = answer.text().await.unwrap_or_default();
                        if let Ok(event) = AgentEvent::from_json(&text)
                            && !is_end_of(&event, turn)
                        {
                            self.odd(&path, text);
                        }
                        return;
                    }
                    StatusCode::ACCEPTED => return,
                    _ => self.refused(&path, answer, &[]).await,
                }
            }
            tokio::time::sleep(AGAIN).await;
        }
    }
}

fn is_end_of(event: &AgentEvent, turn: TurnId) -> bool {
    event.turn == turn
        && matches!(
            event.body,
            EventBody::Done { .. } | EventBody::Error { .. } | EventBody::Aborted { .. }
        )
}
