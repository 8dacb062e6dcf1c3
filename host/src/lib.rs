//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod clock;
pub mod config;
pub mod exec;
pub mod hub;
pub mod net;
pub mod provider;
pub mod scripted;
pub mod store;
