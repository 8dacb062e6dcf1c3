//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod exec;
pub mod net;
pub mod provider;
pub mod scripted;
