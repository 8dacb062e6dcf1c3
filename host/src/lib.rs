//! The host of Dispatch: does everything, decides nothing.

pub mod exec;
