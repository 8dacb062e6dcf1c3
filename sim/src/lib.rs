//! Seeded simulations of Dispatch.
//!
//! The core ring drives one to three Dispatchers, the very ones that run in
//! production, around the store's Model, a simulated provider, commands and
//! clients, through a storm of faults and then a calm. Everything is drawn
//! from the seed; after every event oracles judge what can be seen from
//! outside. [`run::run`] runs one seed, [`sweep::sweep`] many.

pub mod fact;
pub mod fuzz;
#[cfg(feature = "network")]
pub mod network;
pub mod oracle;
pub mod planted;
pub mod recipe;
#[cfg(madsim)]
pub mod replicas;
pub mod run;
pub mod script;
pub mod shrink;
pub mod sometimes;
pub mod sweep;
pub mod timeline;
pub mod watchdog;

mod burst;
mod clock;
mod dice;
mod line;
mod luck;
mod record;
mod request;
mod rng;
mod scenario;
mod sse;
mod world;
