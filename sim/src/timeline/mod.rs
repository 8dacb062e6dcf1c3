//! Pictures of runs: what a simulation or a production journal went through,
//! as one HTML page that needs nothing else (W2, V4).
//!
//! A [`Builder`] looks on and is told of inputs, effects and, in simulations,
//! of what only the world knows. It makes a [`Timeline`]: lanes, events, and
//! what each of them changed. [`html`] turns that into a page.
//!
//! ```no_run
//! let (timeline, _) = dispatch_sim::timeline::of_seed(7);
//! std::fs::write("seed-7.html", dispatch_sim::timeline::html(&timeline))?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod builder;
mod command;
mod effects;
mod finish;
mod flow;
mod html;
mod journal;
mod model;
mod rows;
mod strings;
#[cfg(test)]
mod tests;
mod watch;
mod words;
mod world;

pub use builder::Builder;
pub use command::Show;
pub use html::html;
pub use journal::{JournalError, of_journal};
pub use model::{Change, Dropped, Field, Kind, LaneKind, Shown, SpanKind, Timeline};
pub(crate) use watch::{Note, Watch};

use std::cell::RefCell;
use std::rc::Rc;

use crate::run::{Outcome, watched};

/// At most so many events are kept: a page beyond it would no longer be smooth.
/// Polling and deltas are left out first, then what is oldest.
pub const MOST_EVENTS: usize = 50_000;

/// Runs a seed and draws it.
pub fn of_seed(seed: u64) -> (Timeline, Outcome) {
    let builder = Rc::new(RefCell::new(Builder::simulation(seed)));
    let outcome = watched(seed, Box::new(builder.clone()));
    let mut builder = builder.take();
    if let Some(violation) = &outcome.violation {
        builder.violation(violation);
    }
    (builder.finish(outcome.simulated_us), outcome)
}
