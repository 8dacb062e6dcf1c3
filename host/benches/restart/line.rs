//! Turns as a server would have left them, made by many verbs at a time.

use std::sync::mpsc::channel;

use dispatch::store::{SqliteStore, Store};
use dispatch_core::ids::TurnId;
use dispatch_core::store::{Failure, Fence, Reply, Retry, Segment, Verb};

use super::verbs;

/// Verbs that are asked together.
const TOGETHER: usize = 2_048;
const TWO_HOURS_MS: u64 = 7_200_000;

/// A store and what its turns say.
pub(crate) struct Line<'s> {
    pub(crate) store: &'s SqliteStore,
    pub(crate) message: &'s str,
}

impl Line<'_> {
    pub(crate) fn ask(&self, verbs: impl IntoIterator<Item = Verb>) -> Vec<Reply> {
        let mut verbs = verbs.into_iter();
        let mut replies = Vec::new();
        loop {
            let (tell, heard) = channel();
            for verb in verbs.by_ref().take(TOGETHER) {
                let tell = tell.clone();
                self.store.submit(
                    verb,
                    Box::new(move |outcome| tell.send(outcome.unwrap()).unwrap()),
                );
            }
            drop(tell);
            let before = replies.len();
            replies.extend(heard);
            if replies.len() == before {
                return replies;
            }
        }
    }

    pub(crate) fn accept(&self, turns: u64) {
        let replies = self.ask((1..=turns).map(|n| verbs::accept(n, self.message)));
        assert!(replies.iter().all(|r| matches!(r, Reply::Accepted(..))));
    }

    /// Grants so many, from the head of the line.
    pub(crate) fn grant(&self, turns: u64) -> Vec<Fence> {
        let mut owned = Vec::new();
        while (owned.len() as u64) < turns {
            let view = self.ask([verbs::view()]).remove(0);
            let Reply::View(view) = view else {
                panic!("{view:?}");
            };
            let granted = self
                .ask([Verb::ApplyGrants(verbs::grants(&view))])
                .remove(0);
            let Reply::Granted(granted) = granted else {
                panic!("{granted:?}");
            };
            assert!(!granted.is_empty());
            owned.extend(granted.iter().map(|granted| Fence {
                turn: granted.turn,
                epoch: granted.epoch,
            }));
        }
        owned
    }

    /// Half a sentence of each, as a checkpoint keeps it.
    pub(crate) fn show_some(&self, streaming: &[Fence]) {
        let segments = streaming.iter().map(|fence| Segment {
            turn: fence.turn,
            epoch: fence.epoch,
            step: 0,
            text_offset: 0,
            text: "One, two, ".to_owned(),
            reasoning_offset: 0,
            reasoning: String::new(),
        });
        self.ask([Verb::Checkpoint {
            segments: segments.collect(),
        }]);
    }

    /// A first step with a tool, which has started.
    pub(crate) fn start_tools(&self, owned: &[Fence]) {
        let each = |verb: fn(Fence, u32) -> Verb| {
            let replies = self.ask(owned.iter().map(|fence| verb(*fence, 0)));
            assert!(replies.iter().all(|r| matches!(r, Reply::Landed { .. })));
        };
        each(verbs::commit_step);
        each(verbs::tools_started);
    }

    /// All in line, due.
    pub(crate) fn due(&self, turns: u64) {
        self.accept(turns);
    }

    /// All refused once, and not due for long.
    pub(crate) fn far(&self, turns: u64) {
        self.accept(turns);
        let owned = self.grant(turns);
        let retries = owned.iter().map(|fence| retry(*fence));
        let replies = self.ask(retries);
        assert!(replies.iter().all(|r| matches!(r, Reply::Landed { .. })));
    }
}

fn retry(fence: Fence) -> Verb {
    let TurnId(n) = fence.turn;
    Verb::ScheduleRetry {
        fence,
        retry: Retry {
            attempt: 0,
            delay_ms: TWO_HOURS_MS + u64::try_from(n % 1_000).unwrap(),
            counted_ms: 5_000,
            failure: Failure {
                message: "the model is overloaded, try again later".to_owned(),
                code: Some("503".to_owned()),
                cause: "http-503".to_owned(),
            },
            source: "retry-after".to_owned(),
        },
    }
}
