//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod api;
pub mod clock;
pub mod config;
pub mod driver;
pub mod exec;
pub mod hub;
pub mod net;
pub mod panics;
pub mod provider;
pub mod scripted;
pub mod store;
