//! The sans-IO core of Dispatch.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod admission;
pub mod config;
pub mod event;
pub mod http_date;
pub mod ids;
pub mod io;
pub mod liveness;
pub mod planted;
pub mod reconcile;
pub mod retry;
pub mod store;
pub mod time;
pub mod transcript;
pub mod wire;
