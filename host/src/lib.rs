//! The thin host around `dispatch-core`: does everything, decides nothing.

pub mod clock;
pub mod store;
