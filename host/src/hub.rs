//! Who follows which conversation, and what they are shown.
//!
//! The driver publishes here what is durable or provisional; a [`Follow`] reads
//! the log from its cursor and goes on with what is published. The log is the
//! truth: whoever misses something (a gap, a full buffer, an event committed
//! elsewhere) reads it again, so that nothing logged is missed or comes twice,
//! whatever is lost on the way (C5).

mod checkpoint;
mod follow;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use dispatch_core::event::{AgentEvent, EventBody};
use dispatch_core::ids::{ConversationId, Epoch, Seq, TurnId};
use dispatch_core::time::Timestamp;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::clock::Clock;
use crate::panics::locked;
use crate::store::{LogHead, ReadError, Store};

pub(crate) use follow::status;
pub use follow::{Follow, FollowError, Scope, Shown};

/// Items that a follower may be behind before it is sent back to the log.
const BUFFER: usize = 256;
/// How often the log is compared with what was published: a backstop for
/// events that were committed elsewhere.
const POLL: Duration = Duration::from_secs(2);
/// The same where other replicas write, whose words a client waits for.
const POLL_SHARED: Duration = Duration::from_millis(250);
/// A poll looks at so many conversations before it lets others have the store.
const POLL_BATCH: usize = 64;

/// The fan-out of events; cheap to clone.
#[derive(Clone)]
pub struct Hub {
    topics: Arc<Mutex<BTreeMap<ConversationId, Topic>>>,
    places: Arc<Semaphore>,
    hinted: Arc<Hinted>,
}

/// Followed conversations that have moved elsewhere, or so it is said.
#[derive(Default)]
struct Hinted {
    conversations: Mutex<BTreeSet<ConversationId>>,
    some: Notify,
}

/// A place among the followers; given back when dropped.
#[derive(Debug)]
pub struct Reserved(#[allow(dead_code)] OwnedSemaphorePermit);

/// An event on its way to followers; its JSON is made once, and only if
/// somebody reads it.
pub(crate) struct Published {
    event: AgentEvent,
    json: OnceLock<Arc<str>>,
}

impl Published {
    fn new(event: AgentEvent) -> Arc<Published> {
        Arc::new(Published {
            event,
            json: OnceLock::new(),
        })
    }

    fn json(&self) -> Arc<str> {
        self.json
            .get_or_init(|| self.event.to_json().into())
            .clone()
    }
}

/// What a follower's buffer holds.
enum Item {
    /// An event, and the highest sequence number that had been published
    /// before it: a provisional event that was overtaken is known by it.
    Event(Arc<Published>, Seq),
    /// The log may have grown.
    Wake,
}

/// The open step so far, with the highest sequence number published before its
/// last piece.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OpenStep {
    turn: TurnId,
    epoch: Epoch,
    step: u32,
    text: String,
    reasoning: String,
    at: Timestamp,
    tag: Seq,
}

impl OpenStep {
    fn event(&self, conversation: &ConversationId) -> AgentEvent {
        AgentEvent {
            seq: None,
            conversation: conversation.clone(),
            turn: self.turn,
            epoch: self.epoch,
            at: self.at,
            body: EventBody::Snapshot {
                step: self.step,
                text: self.text.clone(),
                reasoning: self.reasoning.clone(),
                position: None,
            },
        }
    }
}

#[derive(Default)]
struct Topic {
    /// The highest sequence number that anybody here has seen.
    known: Seq,
    /// The highest one that every follower was told of, directly or by a wake-up.
    told: Seq,
    open: Option<OpenStep>,
    /// It is streamed elsewhere, and its end is heard of here only while
    /// somebody follows.
    is_elsewhere: bool,
    /// After a wake-up a step may have begun anew without a published restart.
    is_suspect: bool,
    /// `known` still tells deltas of a repeated step from those before it.
    is_restarted: bool,
    next_follower: u64,
    followers: Vec<(u64, mpsc::Sender<Item>)>,
}

/// A follower's end of a topic; dropping it leaves the topic.
struct Subscription {
    open: Option<OpenStep>,
    items: mpsc::Receiver<Item>,
    _place: Place,
}

struct Place {
    hub: Hub,
    conversation: ConversationId,
    follower: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut topics = self.hub.lock();
        if let Some(topic) = topics.get_mut(&self.conversation) {
            topic.followers.retain(|(id, _)| *id != self.follower);
            if topic.is_idle() {
                topics.remove(&self.conversation);
            }
        }
    }
}

impl Hub {
    /// A hub for at most `max_followers` at a time (O5).
    pub fn new(max_followers: usize) -> Hub {
        Hub {
            topics: Arc::default(),
            places: Arc::new(Semaphore::new(max_followers.min(Semaphore::MAX_PERMITS))),
            hinted: Arc::default(),
        }
    }

    /// Shows an event to whoever follows its conversation. Never blocks.
    pub fn publish(&self, event: AgentEvent) {
        let mut topics = self.lock();
        let conversation = event.conversation.clone();
        let topic = topics.entry(conversation.clone()).or_default();
        topic.is_elsewhere = false;
        topic.show(event);
        if topic.is_idle() {
            topics.remove(&conversation);
        }
    }

    /// Sends a conversation's followers back to the log.
    pub fn wake(&self, conversation: &ConversationId) {
        if let Some(topic) = self.lock().get_mut(conversation) {
            topic.is_suspect = true;
            topic.send(|| Item::Wake);
        }
    }

    /// Conversations that are held in memory: followed, or with an open step.
    pub fn topics(&self) -> usize {
        self.lock().len()
    }

    /// Looks for what was not published here, for ever.
    pub async fn poll(self, store: Arc<dyn Store>, clock: Arc<dyn Clock>) {
        let every = match store.is_shared() {
            true => POLL_SHARED,
            false => POLL,
        };
        let mut due = Instant::now() + every;
        let mut is_failing = false;
        loop {
            let conversations = tokio::select! {
                () = sleep_until(due) => {
                    due = Instant::now() + every;
                    self.followed()
                }
                () = self.hinted.some.notified() => self.take_hints(),
            };
            let now = clock.now().wall;
            let polled = self.poll_once(&*store, &conversations, now).await;
            if let (false, Err(error)) = (is_failing, &polled) {
                tracing::warn!(%error, "the log cannot be polled for followers");
            }
            is_failing = polled.is_err();
        }
    }

    /// Another replica says that a conversation has moved: it is looked at
    /// before its time, if anybody here wants to see it (L9).
    pub fn hint(&self, conversation: ConversationId) {
        let topics = self.lock();
        let topic = topics.get(&conversation);
        if topic.is_some_and(|topic| !topic.followers.is_empty()) {
            drop(topics);
            locked(&self.hinted.conversations).insert(conversation);
            self.hinted.some.notify_one();
        }
    }

    fn take_hints(&self) -> Vec<ConversationId> {
        let hinted = std::mem::take(&mut *locked(&self.hinted.conversations));
        hinted.into_iter().collect()
    }

    fn followed(&self) -> Vec<ConversationId> {
        let topics = self.lock();
        let followed = topics.iter().filter(|(_, t)| !t.followers.is_empty());
        followed.map(|(id, _)| id.clone()).collect()
    }

    async fn poll_once(
        &self,
        store: &dyn Store,
        conversations: &[ConversationId],
        now: Timestamp,
    ) -> Result<(), ReadError> {
        // A hub that knows only what its own replica publishes.
        if dispatch_core::planted!("D22") {
            return Ok(());
        }
        for some in conversations.chunks(POLL_BATCH) {
            for head in store.heads(some.to_vec()).await? {
                self.heard_of(&head);
                if let (true, Some(turn)) = (store.is_shared(), head.turn) {
                    let segments = store.segments(turn).await?;
                    if let Some(topic) = self.lock().get_mut(&head.conversation) {
                        topic.show_checkpoint(&head, &segments, now);
                    }
                }
            }
        }
        Ok(())
    }

    /// Sends followers to the log where it is longer than what they were told of.
    fn heard_of(&self, head: &LogHead) {
        let mut topics = self.lock();
        let Some(topic) = topics.get_mut(&head.conversation) else {
            return;
        };
        if head.last_seq > topic.told {
            topic.told = head.last_seq;
            topic.is_suspect = true;
            topic.send(|| Item::Wake);
        }
    }

    /// A follower's place, before anything is done that deserves one.
    ///
    /// # Errors
    /// [`FollowError::Full`].
    pub fn reserve(&self) -> Result<Reserved, FollowError> {
        let permit = self.places.clone().try_acquire_owned();
        permit.map(Reserved).map_err(|_| FollowError::Full)
    }

    fn subscribe(&self, conversation: &ConversationId) -> Subscription {
        let mut topics = self.lock();
        let topic = topics.entry(conversation.clone()).or_default();
        let (sender, items) = mpsc::channel(BUFFER);
        let follower = topic.next_follower;
        topic.next_follower += 1;
        topic.followers.push((follower, sender));
        Subscription {
            open: topic.open.clone(),
            items,
            _place: Place {
                hub: self.clone(),
                conversation: conversation.clone(),
                follower,
            },
        }
    }

    fn open_step(&self, conversation: &ConversationId) -> Option<OpenStep> {
        self.lock().get(conversation)?.open.clone()
    }

    /// A follower has read the log up to `seq`.
    fn note(&self, conversation: &ConversationId, seq: Seq) {
        if let Some(topic) = self.lock().get_mut(conversation) {
            topic.known = topic.known.max(seq);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ConversationId, Topic>> {
        locked(&self.topics)
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub")
            .field("topics", &self.topics())
            .finish()
    }
}

impl Topic {
    fn is_idle(&self) -> bool {
        let is_open_here = self.open.is_some() && !self.is_elsewhere;
        self.followers.is_empty() && !is_open_here && !self.is_restarted
    }

    /// A follower whose buffer is full loses its place and finds its buffer
    /// closed: it reads the log from its cursor.
    fn send(&mut self, item: impl Fn() -> Item) {
        self.followers
            .retain(|(_, sender)| sender.try_send(item()).is_ok());
    }

    fn show(&mut self, event: AgentEvent) {
        self.apply(&event);
        if self.followers.is_empty() {
            return;
        }
        let tag = self.known;
        let published = Published::new(event);
        self.send(|| Item::Event(published.clone(), tag));
    }

    fn apply(&mut self, event: &AgentEvent) {
        if let Some(seq) = event.seq {
            self.known = self.known.max(seq);
            self.told = self.told.max(seq);
        }
        match &event.body {
            EventBody::TextDelta { step, offset, text } => {
                self.append(event, *step, *offset, text, |open| &mut open.text);
            }
            EventBody::ReasoningDelta { step, offset, text } => {
                self.append(event, *step, *offset, text, |open| &mut open.reasoning);
            }
            EventBody::StepRestart { .. } => {
                self.close(event.turn, u32::MAX);
                self.is_restarted = true;
            }
            EventBody::StepComplete { step, .. } => {
                self.close(event.turn, *step);
                self.is_restarted = false;
            }
            EventBody::ProviderRetry { .. }
            | EventBody::Done { .. }
            | EventBody::Error { .. }
            | EventBody::Aborted { .. } => {
                self.close(event.turn, u32::MAX);
                self.is_restarted = false;
            }
            EventBody::TurnStart { .. }
            | EventBody::Status { .. }
            | EventBody::ToolCall { .. }
            | EventBody::ToolOutput { .. }
            | EventBody::ToolResult { .. }
            | EventBody::Warning { .. }
            | EventBody::Snapshot { .. } => {}
        }
    }

    fn close(&mut self, turn: TurnId, up_to: u32) {
        if self
            .open
            .as_ref()
            .is_some_and(|open| open.turn == turn && open.step <= up_to)
        {
            self.open = None;
        }
    }

    fn append(
        &mut self,
        event: &AgentEvent,
        step: u32,
        offset: u64,
        piece: &str,
        part: fn(&mut OpenStep) -> &mut String,
    ) {
        let same = self
            .open
            .as_mut()
            .filter(|open| (open.turn, open.epoch, open.step) == (event.turn, event.epoch, step));
        if let Some(open) = same {
            let length = part(open).len() as u64;
            let is_anew = offset < length || (offset == 0 && self.is_suspect);
            if offset == length && !is_anew {
                part(open).push_str(piece);
                open.at = event.at;
                open.tag = self.known;
                self.is_suspect = false;
                return;
            }
        } else if self
            .open
            .as_ref()
            .is_some_and(|open| event.epoch < open.epoch)
        {
            return;
        }
        self.is_suspect = false;
        self.open = None;
        // A step whose beginning was not seen here cannot be shown as a whole.
        if offset == 0 {
            let mut open = OpenStep {
                turn: event.turn,
                epoch: event.epoch,
                step,
                text: String::new(),
                reasoning: String::new(),
                at: event.at,
                tag: self.known,
            };
            part(&mut open).push_str(piece);
            self.open = Some(open);
        }
    }
}

#[cfg(test)]
mod tests;
