use dispatch_core::io::{Effect, Input};
use dispatch_core::time::Now;

use super::Life;

/// Records what the core was given and what came of it (O3). Deals with its
/// own errors: a journal never stops the server.
pub trait Journal: Send {
    /// A new life begins; entries after this are its own.
    fn segment(&mut self, life: &Life);
    /// One input, and all the effects that were drained after it.
    fn entry(&mut self, now: Now, input: &Input, effects: &[Effect]);
    /// Nothing waits: a good moment to flush.
    fn idle(&mut self);
}
