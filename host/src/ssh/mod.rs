//! Other computers, reached over SSH.

pub mod link;

pub use link::{ExecDone, Link, LinkError};
