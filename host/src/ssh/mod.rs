//! Other computers, over SSH: which there are, whether they are who they were,
//! and a link to one of them (S2, S3, S4).
//!
//! Decides nothing about when: who wants a link, how long it may take and what
//! follows from a fault is told from outside. What is promised here is that
//! every attempt ends within its deadlines, that every link tells exactly one
//! cause of its end, whatever happened to it, and that nothing is left of it
//! then: no task, no socket, no process.
//!
//! - [`Computers`]: the computers of the user's own SSH configuration, and how
//!   each is reached.
//! - [`connect`]: an authenticated [`SshLink`], through jump hosts and proxy
//!   commands where so configured.
//! - [`HostKeys`]: known hosts, read from the user's files and kept in ours.
//! - [`Link`]: what a link is used for: commands and files.

mod auth;
mod channel;
mod client;
mod computers;
mod config_file;
mod known_hosts;
mod link;
mod pattern;
mod port;
mod session;
mod settings;
mod socket;

pub use client::{SshLimits, SshLink, connect};
pub use computers::{Computer, ComputerSource, Computers, DEFAULT_REJECT};
pub use dispatch_core::computer::{SshFault, SshFaultKind};
pub use known_hosts::HostKeys;
pub use link::{ExecDone, Link, LinkError, MAX_EXEC_BYTES};
pub use port::{SshComputers, reach};
pub use settings::{AgentSocket, ComputerSettings, Route};
