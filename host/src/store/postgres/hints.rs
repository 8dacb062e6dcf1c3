//! Hints from replica to replica, by NOTIFY. They carry names and no content,
//! and may be lost without harm: everybody also looks by himself. What happens
//! within some milliseconds goes out as one, because a NOTIFY with every commit
//! costs several times the commit. Behind a pooler of transactions there are none.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dispatch_core::ids::ConversationId;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::types::Type;
use tokio_postgres::{Client, Notification};

use super::super::{Heard, Hint};
use super::address::Address;
use super::wire::PgFault;
use crate::panics::locked;

/// Hints are gathered for so long.
const EVERY: Duration = Duration::from_millis(30);
/// PostgreSQL takes 8,000 bytes at a time.
const MOST_BYTES: usize = 7_900;
/// More than fits into a few messages is not worth them: whoever waits for it
/// looks by himself soon enough.
const MOST_WAITING: usize = 500;
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_secs(2);

/// What is to be told to the others.
#[derive(Default)]
pub(super) struct Hints {
    waiting: Mutex<BTreeSet<String>>,
    some: tokio::sync::Notify,
    /// Somebody hears them here, and so, in all likelihood, elsewhere.
    is_on: AtomicBool,
}

impl Hints {
    pub(super) fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub(super) fn add(&self, hints: impl IntoIterator<Item = Hint>) {
        if !self.is_on() {
            return;
        }
        let mut waiting = locked(&self.waiting);
        for hint in hints {
            if waiting.len() < MOST_WAITING {
                waiting.insert(written(&hint));
            }
        }
        if !waiting.is_empty() {
            self.some.notify_one();
        }
    }

    /// Nothing is told or heard any more.
    pub(super) fn give_up(&self) {
        self.is_on.store(false, Ordering::Relaxed);
        self.some.notify_one();
    }

    /// Tells and hears until [`Hints::give_up`].
    pub(super) async fn run(&self, address: Address, heard: Heard) {
        self.is_on.store(true, Ordering::Relaxed);
        while self.is_on() {
            let met = self.session(&address, &heard).await;
            locked(&self.waiting).clear();
            if let Err(fault) = met {
                tracing::debug!(%fault, "hints of other replicas are not heard for a moment");
                sleep(PAUSE).await;
            }
        }
    }

    async fn session(&self, address: &Address, heard: &Heard) -> Result<(), PgFault> {
        let (client, mut said) = address.listen(&Handle::current()).await?;
        let own = "SELECT pg_backend_pid()";
        let own = client.query_typed(own, &[]).await?;
        let own: i32 = own.first().map_or(0, |row| row.get(0));
        client.batch_execute("LISTEN dispatch").await?;
        let mut due = None;
        loop {
            tokio::select! {
                said = said.recv() => match said {
                    Some(said) if said.process_id() != own => tell(&said, heard),
                    Some(_) => {}
                    None => return Err(PgFault::Lost("closed".to_owned())),
                },
                () = self.some.notified(), if due.is_none() => due = Some(Instant::now() + EVERY),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    due = None;
                    self.send(&client).await?;
                }
            }
            if !self.is_on() {
                return Ok(());
            }
        }
    }

    async fn send(&self, client: &Client) -> Result<(), PgFault> {
        let waiting = std::mem::take(&mut *locked(&self.waiting));
        for payload in packed(waiting) {
            let notify = "SELECT pg_notify('dispatch', $1)";
            client
                .query_typed(notify, &[(&payload, Type::TEXT)])
                .await?;
        }
        Ok(())
    }
}

fn written(hint: &Hint) -> String {
    match hint {
        Hint::Conversation(id) => format!("c{id}"),
        Hint::Node(node) => format!("n{node}"),
    }
}

fn read(line: &str) -> Option<Hint> {
    match (line.get(..1)?, line.get(1..)?) {
        ("c", id) => ConversationId::try_from(id).ok().map(Hint::Conversation),
        ("n", node) => Some(Hint::Node(node.into())),
        // A later build's.
        _ => None,
    }
}

fn tell(said: &Notification, heard: &Heard) {
    said.payload().lines().filter_map(read).for_each(heard);
}

/// As few messages as they fit into.
fn packed(lines: BTreeSet<String>) -> Vec<String> {
    let mut messages: Vec<String> = Vec::new();
    for line in lines {
        match messages.last_mut() {
            Some(last) if last.len() + 1 + line.len() <= MOST_BYTES => {
                last.push('\n');
                last.push_str(&line);
            }
            Some(_) | None if line.len() <= MOST_BYTES => messages.push(line),
            Some(_) | None => {}
        }
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn l9_hints_come_back_as_they_were_and_no_message_is_too_long() {
        let id = |n: u32| {
            let text = format!("c-{n}-{}", "x".repeat(40));
            ConversationId::try_from(text.as_str()).unwrap()
        };
        let mut hints: Vec<Hint> = (0..450).map(|n| Hint::Conversation(id(n))).collect();
        hints.push(Hint::Node("node-7".into()));
        let messages = packed(hints.iter().map(written).collect());
        assert!(messages.iter().all(|message| message.len() <= MOST_BYTES));
        assert_eq!(messages.len(), 3);
        let mut back: Vec<Hint> = Vec::new();
        for message in &messages {
            back.extend(message.lines().filter_map(read));
        }
        hints.sort();
        back.sort();
        assert_eq!(back, hints);
        assert_eq!(read("?of a later build"), None);
        assert_eq!(packed(BTreeSet::from(["c".repeat(9_000)])), [""; 0]);
    }
}
