//! Pictures of runs: what a simulation or a production journal went through,
//! as one HTML page that needs nothing else (W2, V4).
//!
//! A [`Builder`] looks on and is told of inputs, effects and, in simulations,
//! of what only the world knows. It makes a [`Timeline`]: lanes, events, and
//! what each of them changed. [`html`] turns that into a page.
//!
//! ```no_run
//! use dispatch_sim::run::Profile;
//! let (timeline, _) = dispatch_sim::timeline::of_seed(7, Profile::Swarm);
//! std::fs::write("seed-7.html", dispatch_sim::timeline::html(&timeline))?;
//! # Ok::<(), std::io::Error>(())
//! ```

mod builder;
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
pub use html::html;
pub use journal::{JournalError, journals_at, of_journal};
pub use model::{Change, Dropped, Field, Kind, LaneKind, Shown, SpanKind, Timeline};
pub(crate) use watch::{Note, Watch};

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use crate::recipe::Recipe;
use crate::run::{Outcome, Profile, replay_watched, watched};

/// At most so many events are kept: a page beyond it would no longer be smooth.
/// Polling and deltas are left out first, then what is oldest.
pub const MOST_EVENTS: usize = 50_000;

/// Runs a seed and draws it.
pub fn of_seed(seed: u64, profile: Profile) -> (Timeline, Outcome) {
    let arguments = match profile {
        Profile::Swarm => format!("--seed {seed}"),
        Profile::Storm => format!("--seed {seed} --profile storm"),
    };
    let builder = Builder::simulation(&format!("Seed {seed}"), &arguments);
    drawn(builder, |watch| watched(seed, profile, watch))
}

/// Runs a recipe and draws it. `path` is where it stands.
pub fn of_recipe(recipe: &Recipe, path: &Path) -> (Timeline, Outcome) {
    let name = path.file_stem().unwrap_or(path.as_os_str()).display();
    let arguments = format!("--recipe {}", path.display());
    let builder = Builder::simulation(&format!("Recipe {name}"), &arguments);
    drawn(builder, |watch| replay_watched(recipe, watch))
}

fn drawn(builder: Builder, run: impl FnOnce(Box<dyn Watch>) -> Outcome) -> (Timeline, Outcome) {
    let builder = Rc::new(RefCell::new(builder));
    let outcome = run(Box::new(builder.clone()));
    let mut builder = builder.take();
    if let Some(violation) = &outcome.violation {
        builder.violation(violation);
    }
    (builder.finish(outcome.simulated_us), outcome)
}
