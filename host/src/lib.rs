//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod config;
pub mod net;
pub mod provider;
pub mod scripted;
