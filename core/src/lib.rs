//! The sans-IO core of Dispatch.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod admission;
pub mod config;
mod dispatcher;
pub mod event;
pub mod http_date;
pub mod ids;
pub mod io;
mod kit;
pub mod liveness;
pub mod output;
pub mod planted;
pub mod reconcile;
pub mod retry;
pub mod store;
pub mod time;
pub mod tools;
pub mod transcript;
mod turn;
pub mod wire;

pub use dispatcher::{Broken, Dispatcher};
pub use kit::Wake;
