//! The thin host around `dispatch-core`: does everything, decides nothing.

pub(crate) mod client;
pub mod clock;
pub mod demo;
pub mod exec;
pub mod journal;
pub mod net;
pub mod provider;
pub mod replay;
pub mod run;
pub mod scripted;
pub mod store;
