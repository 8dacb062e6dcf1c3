//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod clock;
pub mod exec;
pub mod net;
pub mod provider;
pub mod scripted;
pub mod store;
