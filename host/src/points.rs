//! Fault points: places at which a build with `--cfg planted` loses an outcome
//! on request. In any other build there is no trace of them.

/// What becomes of the next commit on this thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// The transaction is gone.
    Before,
    /// It has landed, and nobody hears of it.
    After,
}

std::thread_local! {
    static NEXT_COMMIT: std::cell::Cell<Option<CommitFault>> = const { std::cell::Cell::new(None) };
}

/// Lets the next commit of a store without threads fail, or (`None`) not.
pub fn fail_next_commit(fault: Option<CommitFault>) {
    NEXT_COMMIT.set(fault);
}

/// Whether this commit fails so; it is the last one that does.
pub(crate) fn commit_fails(when: CommitFault) -> bool {
    let fails = NEXT_COMMIT.get() == Some(when);
    if fails {
        NEXT_COMMIT.set(None);
    }
    fails
}
