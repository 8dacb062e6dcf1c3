//! The sans-IO core of Dispatch.
#![no_std]
#![forbid(unsafe_code)]
#![deny(missing_docs)]

extern crate alloc;

pub mod ids;
pub mod output;
pub mod time;
pub mod tools;
pub mod transcript;
pub mod wire;
