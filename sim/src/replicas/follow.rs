//! Followed conversations, at both ends: a replica shows what it publishes and
//! reads the log wherever that is not enough; a client keeps a cursor and goes
//! to another replica now and then, and whenever it is cut off (C5).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq};
use madsim::net::{Endpoint, TcpStream};
use madsim::time::timeout;
use tokio::sync::mpsc;

use super::plan::{REPLICAS, Who};
use super::ring::Ring;
use super::store::EVENTS_AT_ONCE;
use super::wire::{
    Hello, LOG_READ, LONGEST, LogRead, address, closed, datagram, followed, outcome_tag, packed,
    send,
};
use crate::fact::Fact;
use crate::scenario::{MINUTE, SECOND};

/// Who follows what on one replica.
pub(super) struct Hub {
    followers: RefCell<Vec<(ConversationId, mpsc::Sender<Shown>)>>,
    /// The tag of the last read of a log.
    last_tag: Cell<u64>,
}

#[derive(Clone)]
enum Shown {
    Event(Rc<AgentEvent>),
    /// The log may have grown.
    Wake,
}

/// What a slow follower misses it reads from the log.
const SHOWN_LANE: usize = 64;
const LOOK_EVERY: Duration = Duration::from_secs(10);
const READ_PATIENCE: Duration = Duration::from_secs(5);

impl Hub {
    /// The hub of a process in this life of its replica.
    pub(super) fn new(life: u32) -> Hub {
        Hub {
            followers: RefCell::default(),
            last_tag: Cell::new(outcome_tag(life)),
        }
    }

    pub(super) fn publish(&self, event: AgentEvent) {
        let event = Rc::new(event);
        self.show(&event.conversation, &Shown::Event(event.clone()));
    }

    pub(super) fn wake(&self, conversation: &ConversationId) {
        self.show(conversation, &Shown::Wake);
    }

    fn show(&self, conversation: &ConversationId, shown: &Shown) {
        self.followers.borrow_mut().retain(|(followed, lane)| {
            if followed != conversation {
                return !lane.is_closed();
            }
            !matches!(
                lane.try_send(shown.clone()),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        });
    }

    fn follow(&self, conversation: &ConversationId) -> mpsc::Receiver<Shown> {
        let (lane, shown) = mpsc::channel(SHOWN_LANE);
        let follower = (conversation.clone(), lane);
        self.followers.borrow_mut().push(follower);
        shown
    }

    /// A piece of the log; nothing when the store does not answer in time.
    async fn read(
        &self,
        endpoint: &Endpoint,
        conversation: &ConversationId,
        after: Seq,
    ) -> Vec<AgentEvent> {
        let tag = self.last_tag.get() + 1;
        self.last_tag.set(tag);
        let read = LogRead {
            tag,
            conversation: conversation.clone(),
            after,
        };
        let _ = endpoint
            .send_to(address(Who::Store), LOG_READ, &packed(&read))
            .await;
        let mut buffer = vec![0; LONGEST / 4];
        let answer = datagram(endpoint, tag, &mut buffer);
        match timeout(READ_PATIENCE, answer).await {
            Ok(Ok((events, _))) => events,
            Ok(Err(_)) | Err(_) => Vec::new(),
        }
    }
}

/// Shows a conversation on a connection until the client goes.
pub(super) async fn show(
    mut stream: TcpStream,
    endpoint: &Endpoint,
    hub: &Hub,
    conversation: ConversationId,
    after: Seq,
) {
    let mut shown = hub.follow(&conversation);
    let mut cursor = after;
    let mut is_behind = true;
    loop {
        while is_behind {
            let events = hub.read(endpoint, &conversation, cursor).await;
            is_behind = events.len() == EVENTS_AT_ONCE;
            for event in &events {
                if send(&mut stream, event).await.is_err() {
                    return;
                }
                cursor = event.seq.unwrap_or(cursor);
            }
            // What was shown provisionally before may belong to what is now over.
            while let Ok(next) = shown.try_recv() {
                is_behind |=
                    matches!(&next, Shown::Event(e) if e.seq.is_some_and(|seq| seq > cursor));
            }
        }
        let next = tokio::select! {
            biased;
            () = closed(&mut stream) => return,
            next = timeout(LOOK_EVERY, shown.recv()) => next,
        };
        match next {
            Ok(Some(Shown::Event(event))) => {
                let is_new = event.seq.is_none_or(|seq| seq == cursor + 1);
                is_behind = event.seq.is_some_and(|seq| seq > cursor + 1);
                if is_new {
                    cursor = event.seq.unwrap_or(cursor);
                    if send(&mut stream, &*event).await.is_err() {
                        return;
                    }
                }
            }
            Ok(Some(Shown::Wake)) | Err(_) => is_behind = true,
            Ok(None) => return,
        }
    }
}

/// A client that follows a conversation to the end of the run.
pub(super) async fn follow(ring: Rc<Ring>, client: usize, conversation: ConversationId) {
    loop {
        let (replica, stays) = {
            let mut dice = ring.dice.clients.borrow_mut();
            (dice.index(REPLICAS), dice.spread(10 * SECOND, 4 * MINUTE))
        };
        let reading = read_on(&ring, client, &conversation, replica);
        // Both an end and a change of mind lead to another replica.
        let _ = timeout(Duration::from_micros(stays), reading).await;
        madsim::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn read_on(
    ring: &Ring,
    client: usize,
    conversation: &ConversationId,
    replica: usize,
) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address(Who::Replica(replica))).await?;
    let hello = Hello::Follow {
        conversation: conversation.clone(),
        after: ring.clients.borrow().cursors[client].1,
    };
    send(&mut stream, &hello).await?;
    loop {
        let event = followed(&mut stream).await?;
        ring.tell(&Fact::Seen {
            client,
            event: &event,
        });
        if let Some(seq) = event.seq {
            ring.clients.borrow_mut().cursors[client].1 = seq;
        }
    }
}
