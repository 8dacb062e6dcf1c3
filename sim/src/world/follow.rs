//! Followers: one for each conversation that a client knows of. Each is
//! connected to some replica, is sent what that one publishes, and reads the
//! log from its cursor wherever that is not enough (C5).

use std::collections::BTreeMap;

use dispatch_core::event::AgentEvent;
use dispatch_core::ids::{ConversationId, Seq};

use super::{Event, World};
use crate::fact::Fact;
use crate::scenario::SECOND;
use crate::sometimes::Point;

#[derive(Default)]
pub(crate) struct Followers {
    all: BTreeMap<ConversationId, Follower>,
}

struct Follower {
    client: usize,
    replica: Option<usize>,
    cursor: Seq,
}

impl World<'_> {
    pub(super) fn follow(&mut self, conversation: &ConversationId) {
        if self.followers.all.contains_key(conversation) {
            return;
        }
        let follower = Follower {
            client: self.followers.all.len(),
            replica: None,
            cursor: 0,
        };
        self.followers.all.insert(conversation.clone(), follower);
        self.attach(conversation);
    }

    /// Connects to some replica and reads what was missed.
    fn attach(&mut self, conversation: &ConversationId) {
        let up: Vec<usize> = (0..self.replicas.len())
            .filter(|replica| self.replicas[*replica].is_reachable())
            .collect();
        if up.is_empty() {
            return;
        }
        let replica = *self.dice.clients().pick(&up);
        if let Some(follower) = self.followers.all.get_mut(conversation) {
            follower.replica = Some(replica);
        }
        self.catch_up(conversation);
    }

    fn catch_up(&mut self, conversation: &ConversationId) {
        let Some(follower) = self.followers.all.get_mut(conversation) else {
            return;
        };
        let client = follower.client;
        let events = self.events_after(conversation, self.followers.all[conversation].cursor);
        for event in &events {
            self.tell(&Fact::Seen { client, event });
        }
        if let (Some(follower), Some(last)) = (
            self.followers.all.get_mut(conversation),
            events.last().and_then(|event| event.seq),
        ) {
            follower.cursor = last;
        }
    }

    pub(super) fn publish(&mut self, replica: usize, event: AgentEvent) {
        self.tell(&Fact::Published {
            replica,
            event: &event,
            decided_at: self.replicas[replica].decided_at(),
        });
        let Some(follower) = self.followers.all.get_mut(&event.conversation) else {
            return;
        };
        if follower.replica != Some(replica) {
            return;
        }
        let client = follower.client;
        match event.seq {
            Some(seq) if seq <= follower.cursor => {}
            Some(seq) if seq == follower.cursor + 1 => {
                follower.cursor = seq;
                self.tell(&Fact::Seen {
                    client,
                    event: &event,
                });
            }
            Some(_) => {
                self.court.sometimes.hit(Point::FollowerCaughtUp);
                self.catch_up(&event.conversation);
            }
            None => self.tell(&Fact::Seen {
                client,
                event: &event,
            }),
        }
    }

    pub(super) fn wake_followers(&mut self, replica: usize, conversation: &ConversationId) {
        let follower = self.followers.all.get(conversation);
        if follower.is_some_and(|follower| follower.replica == Some(replica)) {
            self.catch_up(conversation);
        }
    }

    /// The connection broke with the process.
    pub(super) fn detach_followers(&mut self, replica: usize) {
        for follower in self.followers.all.values_mut() {
            if follower.replica == Some(replica) {
                follower.replica = None;
            }
        }
    }

    /// Some reconnect; those that are behind read on.
    pub(super) fn poll_followers(&mut self) {
        let conversations: Vec<ConversationId> = self.followers.all.keys().cloned().collect();
        for conversation in conversations {
            let follower = &self.followers.all[&conversation];
            let (cursor, is_cut) = (follower.cursor, follower.replica.is_none());
            if is_cut || self.dice.clients().chance(1_000) {
                self.attach(&conversation);
            } else if self.last_event(&conversation) > cursor {
                self.catch_up(&conversation);
            }
        }
        self.queue_in(10 * SECOND, Event::Poll);
    }

    /// Each follower's cursor against the end of its log.
    pub(super) fn cursors(&self) -> Vec<(Seq, Seq)> {
        let all = self.followers.all.iter();
        all.map(|(conversation, follower)| (follower.cursor, self.last_event(conversation)))
            .collect()
    }
}
