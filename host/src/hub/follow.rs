use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dispatch_core::event::{AgentEvent, EventBody, StatusState};
use dispatch_core::ids::{ConversationId, Seq, TurnId};
use dispatch_core::store::TurnState;
use dispatch_core::time::Timestamp;
use tokio::time::Instant;

use super::view::{Logged, Passing, View};
use super::{Hub, Item, OpenStep, Reserved, Subscription};
use crate::clock::Clock;
use crate::store::{ReadError, Store, TurnView};

/// Which events of a conversation are shown, and when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All of them, for ever.
    Conversation,
    /// All of them, up to this turn's terminal event.
    Until(TurnId),
    /// This turn's only, up to its terminal event.
    Turn(TurnId),
}

/// Something to show to a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shown {
    /// An event.
    Event {
        /// Its place in the log; `None` for provisional ones.
        seq: Option<Seq>,
        /// Its `type`.
        kind: &'static str,
        /// The event.
        json: Arc<str>,
    },
    /// Replay has caught up with the log at this place.
    Synced(Seq),
}

/// Why a stream cannot begin or go on.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// O5.
    #[error("too many clients follow events; try again in a moment")]
    Full,
    /// The log could not be read for longer than a client should be kept.
    #[error("the log cannot be read: {0}")]
    Read(#[from] ReadError),
}

/// Events read from the log at a time.
const PAGE: usize = 64;
/// A6: a waiting client is told at most so often.
const SAMPLE: Duration = Duration::from_secs(1);
/// Turns of one conversation whose place in line is told.
const SAMPLED_TURNS: usize = 16;
/// Failing reads are repeated with growing pauses before the stream gives up.
const READ_ATTEMPTS: u32 = 6;
const READ_PAUSE: Duration = Duration::from_millis(50);

enum Phase {
    /// Not in the hub: at the beginning, and after a full buffer.
    Outside,
    /// Reads the log from the cursor to its end.
    Reading(Option<OpenStep>),
    /// Shows what is published.
    Live,
    Over,
}

/// One client's way through a conversation: the log after a cursor, a snapshot
/// if a step is open, `synced`, then what happens (C5).
pub struct Follow {
    hub: Hub,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    conversation: ConversationId,
    scope: Scope,
    view: View,
    phase: Phase,
    subscription: Option<Subscription>,
    is_synced: bool,
    failed_reads: u32,
    sampling: Sampling,
    ready: VecDeque<Shown>,
    _place: Reserved,
}

#[derive(Default)]
struct Sampling {
    last: BTreeMap<TurnId, EventBody>,
    next: Option<Instant>,
    sampled: Option<Instant>,
}

impl Follow {
    /// Begins after the logged event `after` (0: at the beginning).
    pub fn new(
        hub: &Hub,
        place: Reserved,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        conversation: ConversationId,
        after: Seq,
        scope: Scope,
    ) -> Follow {
        Follow {
            hub: hub.clone(),
            store,
            clock,
            conversation,
            scope,
            view: View::new(after),
            phase: Phase::Outside,
            subscription: None,
            is_synced: false,
            failed_reads: 0,
            sampling: Sampling::default(),
            ready: VecDeque::new(),
            _place: place,
        }
    }

    /// The next thing to show; `None` when the scope is at its end. May be
    /// dropped and called again without loss.
    ///
    /// # Errors
    /// [`FollowError::Read`]: the client resumes by its cursor.
    pub async fn next(&mut self) -> Result<Option<Shown>, FollowError> {
        loop {
            if let Some(shown) = self.ready.pop_front() {
                return Ok(Some(shown));
            }
            match &self.phase {
                Phase::Over => return Ok(None),
                Phase::Outside => self.enter().await?,
                Phase::Reading(_) => self.read().await?,
                Phase::Live => self.live().await?,
            }
        }
    }

    async fn enter(&mut self) -> Result<(), FollowError> {
        // What the events up to the cursor closed is closed for this follower
        // too: the hub may still hold as open what has ended elsewhere. A page
        // reaches back to the last step, unless that made dozens of calls.
        if !self.is_synced && self.view.cursor > 0 {
            let cursor = self.view.cursor;
            let before = cursor.saturating_sub(PAGE as u64);
            let events = self.page(before, PAGE).await?;
            let seen = |event: &&AgentEvent| event.seq.is_some_and(|seq| seq <= cursor);
            for event in events.iter().filter(seen) {
                self.view.shown(event);
            }
        }
        // Into the hub first, then to the log: whatever is committed in
        // between is in both.
        let mut subscription = self.hub.subscribe(&self.conversation);
        let open = subscription.open.take();
        self.subscription = Some(subscription);
        self.phase = Phase::Reading(open);
        Ok(())
    }

    async fn read(&mut self) -> Result<(), FollowError> {
        let events = self.page(self.view.cursor, PAGE).await?;
        let is_end = events.len() < PAGE;
        for event in &events {
            let json = || event.to_json().into();
            if self.show_logged(event, json) {
                return Ok(());
            }
        }
        if !is_end {
            return Ok(());
        }
        self.hub.note(&self.conversation, self.view.cursor);
        let Phase::Reading(open) = std::mem::replace(&mut self.phase, Phase::Live) else {
            return Ok(());
        };
        if let Some(open) = open {
            self.show_snapshot(&open);
        }
        if !self.is_synced {
            self.is_synced = true;
            self.ready.push_back(Shown::Synced(self.view.cursor));
            self.sampling.next = Some(Instant::now());
        }
        Ok(())
    }

    async fn live(&mut self) -> Result<(), FollowError> {
        let Some(subscription) = &mut self.subscription else {
            self.phase = Phase::Outside;
            return Ok(());
        };
        let due = self.sampling.next;
        let item = tokio::select! {
            biased;
            item = subscription.items.recv() => item,
            () = sleep_until(due) => return self.sample().await,
        };
        match item {
            Some(Item::Wake) => self.phase = Phase::Reading(None),
            None => {
                self.subscription = None;
                self.phase = Phase::Outside;
            }
            Some(Item::Event(published, tag)) => match published.event.seq {
                Some(seq) => match self.view.judge(seq) {
                    Logged::Show => {
                        self.show_logged(&published.event, || published.json());
                    }
                    Logged::Old => {}
                    Logged::Gap => self.phase = Phase::Reading(None),
                },
                // Told by sampling, at most one a second (A6).
                None if matches!(published.event.body, EventBody::Status { .. }) => {
                    self.sampling.moved(&published.event);
                }
                None => match self.view.pass(&published.event, tag) {
                    Passing::Show => self.show_provisional(&published.event, published.json()),
                    Passing::Stale => {}
                    Passing::Hole => {
                        if let Some(open) = self.hub.open_step(&self.conversation) {
                            self.show_snapshot(&open);
                        }
                    }
                    Passing::Ahead => {
                        let open = self.hub.open_step(&self.conversation);
                        self.phase = Phase::Reading(open);
                    }
                },
            },
        }
        Ok(())
    }

    /// Whether the scope ends with it.
    fn show_logged(&mut self, event: &AgentEvent, json: impl FnOnce() -> Arc<str>) -> bool {
        self.view.shown(event);
        if self.is_in_scope(event.turn) {
            self.ready.push_back(Shown::Event {
                seq: event.seq,
                kind: event.kind(),
                json: json(),
            });
        }
        self.sampling.moved(event);
        let last = match self.scope {
            Scope::Conversation => None,
            Scope::Until(turn) | Scope::Turn(turn) => Some(turn),
        };
        let is_over = event.is_terminal() && last == Some(event.turn);
        if is_over {
            self.phase = Phase::Over;
            self.subscription = None;
        }
        is_over
    }

    fn show_provisional(&mut self, event: &AgentEvent, json: Arc<str>) {
        if self.is_in_scope(event.turn) {
            self.ready.push_back(Shown::Event {
                seq: None,
                kind: event.kind(),
                json,
            });
        }
    }

    fn show_snapshot(&mut self, open: &OpenStep) {
        if self.view.snapshot(open) {
            let event = open.event(&self.conversation);
            self.show_provisional(&event, event.to_json().into());
        }
    }

    fn is_in_scope(&self, turn: TurnId) -> bool {
        match self.scope {
            Scope::Conversation | Scope::Until(_) => true,
            Scope::Turn(only) => only == turn,
        }
    }

    /// Tells where open turns stand, if that has changed (A6).
    async fn sample(&mut self) -> Result<(), FollowError> {
        let views = match self.scope {
            Scope::Turn(turn) => self.store.turn(turn).await.map(Vec::from_iter),
            Scope::Conversation | Scope::Until(_) => {
                self.store.open_turns_of(&self.conversation).await
            }
        };
        let now = self.clock.now().wall;
        self.sampling.sampled = Some(Instant::now());
        self.sampling.next = Some(Instant::now() + SAMPLE);
        let mut views = match views {
            Ok(views) => views,
            Err(error) => {
                tracing::debug!(%error, "a status could not be sampled");
                return Ok(());
            }
        };
        views.retain(|view| view.row.state != TurnState::Ended);
        views.truncate(SAMPLED_TURNS);
        // Every way out of `streaming` is a logged event, and `moved` samples again then.
        if views
            .iter()
            .all(|view| view.row.state == TurnState::Streaming)
        {
            self.sampling.next = None;
        }
        let mut last = BTreeMap::new();
        for view in &views {
            let body = status(view, now);
            if self.sampling.last.get(&view.row.turn) != Some(&body) {
                let event = AgentEvent {
                    seq: None,
                    conversation: self.conversation.clone(),
                    turn: view.row.turn,
                    epoch: view.row.epoch,
                    at: now,
                    body: body.clone(),
                };
                self.show_provisional(&event, event.to_json().into());
            }
            last.insert(view.row.turn, body);
        }
        self.sampling.last = last;
        Ok(())
    }

    async fn page(&mut self, after: Seq, limit: usize) -> Result<Vec<AgentEvent>, FollowError> {
        loop {
            match self.store.events(&self.conversation, after, limit).await {
                Ok(events) => {
                    self.failed_reads = 0;
                    return Ok(events);
                }
                Err(error) => {
                    self.failed_reads += 1;
                    if error == ReadError::Closed || self.failed_reads >= READ_ATTEMPTS {
                        return Err(error.into());
                    }
                    tokio::time::sleep(READ_PAUSE * 2u32.pow(self.failed_reads)).await;
                }
            }
        }
    }
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Follow")
            .field("conversation", &self.conversation)
            .field("scope", &self.scope)
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl Sampling {
    /// An event may have moved its turn to another state.
    fn moved(&mut self, event: &AgentEvent) {
        if self.next.is_none() && !matches!(event.body, EventBody::Warning { .. }) {
            let earliest = self.sampled.map(|at| at + SAMPLE);
            self.next = Some(earliest.unwrap_or_else(Instant::now));
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// Where a turn stands, as `status` tells it (A6).
pub(crate) fn status(view: &TurnView, now: Timestamp) -> EventBody {
    let row = &view.row;
    let state = match row.state {
        TurnState::Blocked | TurnState::Parked => StatusState::Queued,
        TurnState::Streaming => StatusState::Active,
        TurnState::Tools | TurnState::Ended => StatusState::WaitingTools,
    };
    let is_parked = row.state == TurnState::Parked;
    EventBody::Status {
        state,
        position: view.position,
        provider: Some(row.provider.to_string()),
        gate: None,
        due_at: (is_parked && row.due_at > now).then_some(row.due_at),
    }
}
