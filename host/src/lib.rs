//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod net;
pub mod provider;
pub mod scripted;
