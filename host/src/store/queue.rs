//! A bounded queue that never blocks whoever puts something in.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use dispatch_core::store::{Outcome, StoreFault};

use super::{Done, ReadError};
use crate::panics::locked;

/// The end that is put into.
#[derive(Debug)]
pub(super) struct Queue<T>(Mutex<Option<SyncSender<T>>>);

/// Why something was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    Full,
    Closed,
}

impl From<Refused> for StoreFault {
    fn from(refused: Refused) -> StoreFault {
        StoreFault::Failed(ReadError::from(refused).to_string())
    }
}

impl From<Refused> for ReadError {
    fn from(refused: Refused) -> ReadError {
        match refused {
            Refused::Full => ReadError::Busy,
            Refused::Closed => ReadError::Closed,
        }
    }
}

/// A queue that holds `bound` at most.
pub(super) fn queue<T>(bound: usize) -> (Queue<T>, Receiver<T>) {
    let (sender, receiver) = sync_channel(bound.max(1));
    (Queue(Mutex::new(Some(sender))), receiver)
}

impl<T> Queue<T> {
    /// Queues it, or hands it back.
    pub(super) fn push(&self, job: T) -> Result<(), (T, Refused)> {
        match &*locked(&self.0) {
            None => Err((job, Refused::Closed)),
            Some(sender) => sender.try_send(job).map_err(|refused| match refused {
                TrySendError::Full(job) => (job, Refused::Full),
                TrySendError::Disconnected(job) => (job, Refused::Closed),
            }),
        }
    }

    /// Takes nothing more; what is queued is still carried out.
    pub(super) fn close(&self) {
        locked(&self.0).take();
    }
}

/// A panic in the listener is the listener's: this thread serves others.
pub(super) fn answer(done: Done, outcome: Outcome) {
    if catch_unwind(AssertUnwindSafe(|| done(outcome))).is_err() {
        tracing::error!("whoever was to hear a verb's outcome panicked");
    }
}
