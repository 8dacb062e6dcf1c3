//! Tool calls as real processes and files, through the public seam.

mod recovery;
mod results;
mod rig;
mod trees;
