mod elsewhere;

use std::sync::atomic::{AtomicU32, Ordering};

use dispatch_core::event::{Chunk, ChunkKind};
use dispatch_core::ids::Slug;
use dispatch_core::store::{ConversationRow, Segment, StoreFault, Verb, WorkspaceRow};
use dispatch_core::time::{Instant, Now};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::*;
use crate::clock::Clock;
use crate::store::{Done, ProviderView, ReadError, ReplicaView, TurnView};

/// SplitMix64: a seeded stream is all that these tests need.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Now {
        Now {
            mono: Instant(0),
            wall: Timestamp(0),
        }
    }
}

/// A log that answers at once or, by turns, only when asked again.
#[derive(Default)]
struct Log {
    events: Mutex<Vec<AgentEvent>>,
    hesitation: AtomicU32,
    failing: AtomicU32,
}

impl Log {
    fn last(&self) -> Seq {
        self.events.lock().unwrap().len() as Seq
    }
}

impl Store for Log {
    fn submit(&self, _: Verb, done: Done) {
        done(Err(StoreFault::Failed("this store only reads".into())));
    }
    fn events(
        &self,
        _: &ConversationId,
        after: Seq,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AgentEvent>, ReadError>> {
        async move {
            if self
                .hesitation
                .fetch_add(1, Ordering::Relaxed)
                .is_multiple_of(3)
            {
                tokio::task::yield_now().await;
            }
            let failing = self.failing.load(Ordering::Relaxed);
            if failing > 0 {
                self.failing.store(failing - 1, Ordering::Relaxed);
                return Err(ReadError::Busy);
            }
            let events = self.events.lock().unwrap();
            let after = events.iter().skip(after as usize);
            Ok(after.take(limit).cloned().collect())
        }
        .boxed()
    }
    fn conversation(
        &self,
        id: &ConversationId,
    ) -> BoxFuture<'_, Result<Option<ConversationRow>, ReadError>> {
        let row = ConversationRow {
            id: id.clone(),
            workspace: Slug::default_workspace(),
            title: String::new(),
            created_at: Timestamp(0),
            last_activity_at: Timestamp(0),
            provider: "p".try_into().unwrap(),
            model: "m".into(),
            cwd: None,
            computer: None,
            last_seq: self.last(),
            turn: None,
            epoch: Epoch(0),
            next_ordinal: 0,
        };
        async move { Ok(Some(row)) }.boxed()
    }
    fn turn(&self, _: TurnId) -> BoxFuture<'_, Result<Option<TurnView>, ReadError>> {
        async { Ok(None) }.boxed()
    }
    fn open_turns_of(&self, _: &ConversationId) -> BoxFuture<'_, Result<Vec<TurnView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn workspace(&self, _: &Slug) -> BoxFuture<'_, Result<Option<WorkspaceRow>, ReadError>> {
        async { Ok(None) }.boxed()
    }
    fn providers(&self) -> BoxFuture<'_, Result<Vec<ProviderView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn replicas(&self) -> BoxFuture<'_, Result<Vec<ReplicaView>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn segments(&self, _: TurnId) -> BoxFuture<'_, Result<Vec<Segment>, ReadError>> {
        async { Ok(Vec::new()) }.boxed()
    }
    fn close(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }
}

fn conversation() -> ConversationId {
    "c".try_into().unwrap()
}

fn event(seq: Option<Seq>, turn: u128, epoch: u64, body: EventBody) -> AgentEvent {
    AgentEvent {
        seq,
        conversation: conversation(),
        turn: TurnId(turn),
        epoch: Epoch(epoch),
        at: Timestamp(0),
        body,
    }
}

fn delta(turn: u128, epoch: u64, step: u32, offset: usize, text: &str) -> AgentEvent {
    let body = EventBody::TextDelta {
        step,
        offset: offset as u64,
        text: text.to_owned(),
    };
    event(None, turn, epoch, body)
}

fn complete(step: u32, text: &str) -> EventBody {
    EventBody::StepComplete {
        step,
        chunks: vec![Chunk {
            kind: ChunkKind::Text,
            text: text.to_owned(),
        }],
        usage: Default::default(),
        duration_ms: 0,
        partial: false,
    }
}

fn start() -> EventBody {
    EventBody::TurnStart {
        message: "m".into(),
        model: "p/m".into(),
        workspace_id: Slug::default_workspace(),
    }
}

fn restart(step: u32) -> EventBody {
    EventBody::StepRestart {
        step,
        reason: "r".into(),
    }
}

fn done() -> EventBody {
    EventBody::Done {
        finish_reason: "stop".into(),
        usage: Default::default(),
        duration_ms: 0,
    }
}

/// What the core does to a conversation, one act at a time: it commits, and
/// what it has to publish may reach the hub later, or not at all.
struct Core {
    log: Arc<Log>,
    hub: Hub,
    random: Random,
    outbox: std::collections::VecDeque<AgentEvent>,
    turn: u128,
    epoch: u64,
    step: u32,
    attempt: u64,
    text: String,
    is_open: bool,
}

impl Core {
    fn commit(&mut self, body: EventBody) {
        let mut events = self.log.events.lock().unwrap();
        let seq = events.len() as Seq + 1;
        let committed = event(Some(seq), self.turn, self.epoch, body);
        events.push(committed.clone());
        drop(events);
        // A commit whose reply was lost is never published.
        if self.random.below(8) != 0 {
            self.outbox.push_back(committed);
        } else if self.random.below(2) == 0 {
            self.flush();
            self.hub.wake(&conversation());
        }
    }

    fn flush(&mut self) {
        while let Some(event) = self.outbox.pop_front() {
            self.hub.publish(event);
        }
    }

    /// Attempts differ in what they say, so that a mixture of two shows.
    fn say(&mut self) {
        let piece = format!("{}.{}.{};", self.epoch, self.attempt, self.text.len());
        self.outbox.push_back(delta(
            self.turn,
            self.epoch,
            self.step,
            self.text.len(),
            &piece,
        ));
        self.text.push_str(&piece);
    }

    fn act(&mut self) {
        if !self.is_open {
            self.turn += 1;
            self.epoch += 1;
            self.step = 0;
            self.attempt = 0;
            self.text.clear();
            self.is_open = true;
            return self.commit(start());
        }
        match self.random.below(14) {
            0 => {
                self.commit(restart(self.step));
                // The core waits for the commit before it streams again.
                self.flush();
                self.hub.wake(&conversation());
                self.attempt += 1;
                self.text.clear();
            }
            1 => {
                self.commit(restart(self.step));
                self.epoch += 2;
                self.attempt += 1;
                self.text.clear();
            }
            2 | 3 => {
                let text = std::mem::take(&mut self.text);
                self.commit(complete(self.step, &text));
                self.step += 1;
                self.attempt = 0;
            }
            4 => {
                let text = std::mem::take(&mut self.text);
                self.commit(complete(self.step, &text));
                self.commit(done());
                self.is_open = false;
            }
            _ => self.say(),
        }
    }
}

/// What a client keeps: it trusts logged events and places deltas by their offsets.
struct Client {
    cursor: Seq,
    synced: u32,
    closed: std::collections::BTreeSet<(String, u64, u64)>,
    open: Option<((String, u64, u64), String)>,
}

impl Client {
    fn takes(&mut self, shown: &Shown) {
        let (seq, json) = match shown {
            Shown::Synced(seq) => {
                assert_eq!(*seq, self.cursor, "synced names the cursor");
                self.synced += 1;
                return;
            }
            Shown::Event { seq, json, .. } => (seq, json),
        };
        let event: serde_json::Value = serde_json::from_str(json).unwrap();
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let number = |name: &str| event[name].as_u64().unwrap_or_default();
        let place = (text("turnId"), number("epoch"), number("step"));
        if let Some(seq) = seq {
            assert_eq!(*seq, self.cursor + 1, "nothing missed, nothing twice");
            self.cursor = *seq;
        }
        match text("type").as_str() {
            "text-delta" => {
                assert!(!self.closed.contains(&place), "a delta after its step");
                match &mut self.open {
                    Some((open, so_far)) if *open == place => {
                        assert_eq!(number("offset"), so_far.len() as u64, "a hole: {json}");
                        so_far.push_str(&text("text"));
                    }
                    _ => {
                        assert_eq!(number("offset"), 0, "a hole: {json}");
                        self.open = Some((place, text("text")));
                    }
                }
            }
            "snapshot" => {
                assert!(!self.closed.contains(&place), "a snapshot after its step");
                self.open = Some((place, text("text")));
            }
            "step-complete" => {
                if let Some((open, so_far)) = self.open.take()
                    && open == place
                {
                    let truth = event["chunks"][0]["text"].as_str().unwrap_or_default();
                    assert!(truth.starts_with(&so_far), "{so_far:?} is not of {truth:?}");
                }
                self.closed.insert(place);
            }
            "step-restart" => self.open = None,
            _ => {}
        }
    }
}

fn follow(hub: &Hub, log: &Arc<Log>, after: Seq, scope: Scope) -> Follow {
    let store: Arc<dyn Store> = log.clone();
    let place = hub.reserve().unwrap();
    Follow::new(
        hub,
        place,
        store,
        Arc::new(Still),
        conversation(),
        after,
        scope,
    )
}

async fn one_history(seed: u64) {
    let mut random = Random(seed);
    let log = Arc::new(Log::default());
    let hub = Hub::new(64);
    let mut core = Core {
        log: log.clone(),
        hub: hub.clone(),
        random: Random(seed ^ 0xABCD),
        outbox: Default::default(),
        turn: 0,
        epoch: 0,
        step: 0,
        attempt: 0,
        text: String::new(),
        is_open: false,
    };
    let mut clients: Vec<(Follow, Client)> = Vec::new();
    for _ in 0..400 {
        match random.below(10) {
            0 if clients.len() < 6 => {
                let after = random.below(log.last() + 1);
                let client = Client {
                    cursor: after,
                    synced: 0,
                    closed: Default::default(),
                    open: None,
                };
                clients.push((follow(&hub, &log, after, Scope::Conversation), client));
            }
            1..=4 => core.act(),
            5 | 6 => {
                if let Some(event) = core.outbox.pop_front() {
                    hub.publish(event);
                }
            }
            7 => poll(&hub, &log).await.unwrap(),
            8 if clients.len() > 3 => drop(clients.remove(0)),
            _ if !clients.is_empty() => {
                let n = random.below(clients.len() as u64) as usize;
                let (follow, client) = &mut clients[n];
                for _ in 0..random.below(12) {
                    // Polled once and dropped: `next` must lose nothing by that.
                    if let Some(shown) = follow.next().now_or_never() {
                        client.takes(&shown.unwrap().unwrap());
                    }
                }
            }
            _ => {}
        }
    }
    core.flush();
    poll(&hub, &log).await.unwrap();
    for (mut follow, mut client) in clients {
        while client.cursor < log.last() || client.synced == 0 {
            client.takes(&follow.next().await.unwrap().unwrap());
        }
        assert_eq!(client.synced, 1, "synced comes once");
    }
}

#[tokio::test(start_paused = true)]
async fn followers_miss_nothing_and_see_nothing_twice_whatever_is_lost_on_the_way() {
    for seed in 0..400 {
        one_history(seed).await;
    }
}

fn shown_kind(shown: &Shown) -> &'static str {
    match shown {
        Shown::Event { kind, .. } => kind,
        Shown::Synced(_) => "synced",
    }
}

async fn kinds(follow: &mut Follow) -> Vec<&'static str> {
    let mut kinds = Vec::new();
    while let Some(shown) = follow.next().await.unwrap() {
        kinds.push(shown_kind(&shown));
    }
    kinds
}

/// As its turn comes.
async fn poll(hub: &Hub, log: &Log) -> Result<(), ReadError> {
    hub.poll_once(log, &hub.followed(), Timestamp(0)).await
}

fn commit(hub: &Hub, log: &Log, turn: u128, body: EventBody) {
    let mut events = log.events.lock().unwrap();
    let committed = event(Some(events.len() as Seq + 1), turn, 1, body);
    events.push(committed.clone());
    drop(events);
    hub.publish(committed);
}

#[tokio::test(start_paused = true)]
async fn who_comes_in_the_middle_of_a_step_gets_a_snapshot_and_then_the_rest() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    hub.publish(delta(1, 1, 0, 0, "Hel"));
    hub.publish(delta(1, 1, 0, 3, "lo"));
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    let mut shown = Vec::new();
    for _ in 0..3 {
        shown.push(follow.next().await.unwrap().unwrap());
    }
    assert!(
        matches!(&shown[1], Shown::Event { json, seq: None, .. } if json.contains("\"Hello\""))
    );
    assert_eq!(shown[2], Shown::Synced(1));
    hub.publish(delta(1, 1, 0, 5, "!"));
    commit(&hub, &log, 1, complete(0, "Hello!"));
    commit(&hub, &log, 1, done());
    assert_eq!(
        kinds(&mut follow).await,
        ["text-delta", "step-complete", "done"]
    );
}

#[tokio::test(start_paused = true)]
async fn the_stream_of_one_turn_leaves_the_others_out() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    commit(&hub, &log, 2, start());
    commit(&hub, &log, 1, done());
    commit(&hub, &log, 2, complete(0, "x"));
    commit(&hub, &log, 2, done());
    let mut follow = follow(&hub, &log, 0, Scope::Turn(TurnId(2)));
    assert_eq!(
        kinds(&mut follow).await,
        ["turn-start", "step-complete", "done"]
    );
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_falls_behind_reads_the_log_again() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    while follow.next().await.unwrap().unwrap() != Shown::Synced(1) {}
    for step in 0..2 * BUFFER as u32 {
        commit(&hub, &log, 1, complete(step, "x"));
    }
    commit(&hub, &log, 1, done());
    let kinds = kinds(&mut follow).await;
    assert_eq!(kinds.len(), 2 * BUFFER + 1);
    assert_eq!(kinds.last(), Some(&"done"));
}

#[tokio::test(start_paused = true)]
async fn a_topic_is_forgotten_when_nobody_follows_and_no_step_is_open() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    assert_eq!(hub.topics(), 0);
    hub.publish(delta(1, 1, 0, 0, "x"));
    assert_eq!(hub.topics(), 1);
    commit(&hub, &log, 1, complete(0, "x"));
    assert_eq!(hub.topics(), 0);
    let mut follower = follow(&hub, &log, 0, Scope::Conversation);
    follower.next().await.unwrap();
    assert_eq!(hub.topics(), 1);
    drop(follower);
    assert_eq!(hub.topics(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_follower_too_many_is_refused_and_a_place_comes_back() {
    let (hub, log) = (Hub::new(1), Arc::new(Log::default()));
    let first = follow(&hub, &log, 0, Scope::Conversation);
    assert!(matches!(hub.reserve(), Err(FollowError::Full)));
    drop(first);
    assert!(hub.reserve().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_log_that_cannot_be_read_for_a_moment_is_read_again() {
    let (hub, log) = (Hub::new(4), Arc::new(Log::default()));
    commit(&hub, &log, 1, start());
    commit(&hub, &log, 1, done());
    log.failing.store(3, Ordering::Relaxed);
    let mut follow = follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    assert_eq!(kinds(&mut follow).await, ["turn-start", "done"]);
    log.failing.store(1_000, Ordering::Relaxed);
    let mut follow = self::follow(&hub, &log, 0, Scope::Until(TurnId(1)));
    assert!(matches!(follow.next().await, Err(FollowError::Read(_))));
}
