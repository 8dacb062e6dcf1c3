//! Tool calls on another computer, over a link that can be cut at any byte: a
//! shell and an SFTP server of this machine stand for the computer.

mod fake;
mod faults;
mod files;
mod limits;
mod links;
mod results;
mod rig;
mod trees;
mod upkeep;
