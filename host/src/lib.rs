//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod api;
pub mod cli;
pub(crate) mod client;
pub mod clock;
pub mod computers;
pub mod config;
pub mod data_dir;
pub mod demo;
pub mod driver;
pub mod exec;
pub(crate) mod guards;
pub mod hub;
pub mod journal;
pub mod net;
pub mod panics;
#[cfg(planted)]
pub mod points;
pub mod provider;
pub mod replay;
pub mod run;
pub mod scripted;
pub mod serve;
pub mod ssh;
pub mod store;
pub mod webhook;
