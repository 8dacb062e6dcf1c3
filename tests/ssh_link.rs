//! Links to other computers, against OpenSSH's own sshd and against servers
//! that misbehave (S2, S3, S4). Skipped, loudly, where sshd is not installed;
//! `DISPATCH_REQUIRE=sshd` makes that a failure.

#![allow(clippy::unwrap_used)]

mod support;

#[path = "ssh_link/faults.rs"]
mod faults;
#[path = "ssh_link/leaks.rs"]
mod leaks;
#[path = "ssh_link/login.rs"]
mod login;
#[path = "ssh_link/work.rs"]
mod work;
#[path = "ssh_link/yard.rs"]
mod yard;

use yard::{LIMITS, SHORT, Yard, end_of, until_true};
