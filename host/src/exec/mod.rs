//! The seam through which a turn's tool calls become commands and files.
//!
//! A command belongs to its run directory, not to this process: a small
//! supervisor starts it, keeps its deadline and writes down how it ended, so
//! that a server that dies and comes back finds what it left (L10, D37).
//!
//! ```text
//! DATA_DIR/runs/<turn>/<call>-e<epoch>/
//!   meta.json   what was asked; written before anything is started
//!   control     a FIFO: open for reading exactly while the supervisor lives
//!   revoked     from now on nothing may be started here
//!   pid         who runs: pid, group, start time, boot id
//!   output      standard output and error as they came, bounded (D27)
//!   exit        how it ended; written last, atomically, once
//! ```

use std::path::PathBuf;

pub use dispatch_core::event::OutputStream;
use dispatch_core::ids::{Epoch, TurnId};
use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

mod bash;
mod env;
mod files;
mod format;
mod input;
mod local;
mod proc;
mod rundir;
mod settle;
mod sink;
pub mod supervisor;
mod sweep;

pub use local::{LocalExec, LocalExecConfig};

/// The verb by which the binary becomes a supervisor; not for people.
pub const SUPERVISE: &str = "__supervise";

/// Most bytes of preview that one call sends while it runs.
pub const PREVIEW_BYTES: usize = 16 * 1024;

/// One tool call, ready to be carried out.
#[derive(Clone, Debug)]
pub struct ToolRequest {
    /// The turn that asks.
    pub turn: TurnId,
    /// The call, unique within its turn.
    pub call_id: String,
    /// The ownership under which it runs; the run directory carries it.
    pub epoch: Epoch,
    /// The tool.
    pub name: String,
    /// JSON text as the model wrote it, possibly malformed.
    pub input: String,
    /// The working directory (C4).
    pub cwd: PathBuf,
    /// Milliseconds from the start after which the call is ended (T10).
    pub deadline_ms: u64,
}

/// What a running call tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Provisional: the beginning of what a command writes, at most
    /// [`PREVIEW_BYTES`] a call and ten a second. Left out rather than waited
    /// for when the receiver is slow; `offset` shows the hole.
    Output {
        /// Which output.
        stream: OutputStream,
        /// Bytes of decoded text before this.
        offset: u64,
        /// The text.
        text: String,
    },
    /// The call is over. Arrives exactly once, as the last event.
    Done(ToolDone),
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolDone {
    /// The tool did what was asked.
    pub ok: bool,
    /// What the model reads: bounded (T8), and never empty.
    pub output: String,
    /// The file that holds the full text, when `output` was shortened.
    pub spilled: Option<String>,
    /// Something was left out of `output`.
    pub truncated: bool,
    /// How long the call took.
    pub duration_ms: u64,
}

/// What was found of a call that an earlier ownership or boot had started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReapOutcome {
    /// Nothing was ever started for this call.
    NotFound,
    /// It had been running, and has been stopped. The output is what it wrote
    /// until then.
    Killed(ToolDone),
    /// It had ended by itself or at its deadline: the result that its owner
    /// would have had.
    AlreadyFinished(ToolDone),
    /// It could not be stopped or asked; the cause is for people.
    Stuck {
        /// What stands in the way, and what to do.
        cause: String,
    },
}

/// How many finished runs are kept on disk; the oldest go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunBounds {
    /// A finished run older than this is removed.
    pub max_age_ms: u64,
    /// Most runs.
    pub max_runs: usize,
    /// Most bytes of all runs' output.
    pub max_bytes: u64,
}

impl Default for RunBounds {
    fn default() -> RunBounds {
        RunBounds {
            max_age_ms: 7 * 24 * 3_600 * 1_000,
            max_runs: 10_000,
            max_bytes: 4 << 30,
        }
    }
}

/// What a sweep of the run directories did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Unfinished runs that were found and stopped.
    pub killed: usize,
    /// Run directories that were removed.
    pub removed: usize,
    /// Run directories that are left.
    pub kept: usize,
    /// What could not be done, one sentence each.
    pub failures: Vec<String>,
}

/// Stops a call. Dropping it does not.
#[derive(Clone, Debug)]
pub struct ToolHandle {
    kill: CancellationToken,
}

impl ToolHandle {
    /// A handle, and the token by which an implementation of [`Exec`] hears of it.
    pub fn new() -> (ToolHandle, CancellationToken) {
        let kill = CancellationToken::new();
        (ToolHandle { kill: kill.clone() }, kill)
    }

    /// Stops the call and its whole process tree; idempotent, and nothing once
    /// the call is over. [`ToolEvent::Done`] still arrives (T5).
    pub fn kill(&self) {
        self.kill.cancel();
    }
}

/// Carries out tool calls: here, over SSH or in a simulation.
pub trait Exec: Send + Sync + 'static {
    /// Starts a call. Whatever happens, `events` gets [`ToolEvent::Done`]
    /// exactly once, last: bad input, a command that cannot be started and a
    /// supervisor that dies are all answers, not errors.
    fn start(&self, request: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle;

    /// Ends whatever earlier ownerships or boots left of a call, and comes back
    /// when it is gone (L10, D37). It never runs a call again (D21).
    fn reap(&self, turn: TurnId, call_id: &str) -> BoxFuture<'static, ReapOutcome>;

    /// At boot, and from time to time: stops every unfinished run that is not
    /// this process's own, and removes finished ones beyond `bounds` (O5).
    fn sweep_runs(&self, bounds: RunBounds) -> BoxFuture<'static, SweepReport>;
}

impl ToolDone {
    /// A call that did not do what was asked, and why.
    pub(crate) fn failed(output: impl Into<String>) -> ToolDone {
        ToolDone {
            ok: false,
            output: output.into(),
            spilled: None,
            truncated: false,
            duration_ms: 0,
        }
    }

    /// A call that did what was asked.
    pub(crate) fn succeeded(output: impl Into<String>) -> ToolDone {
        ToolDone {
            ok: true,
            ..ToolDone::failed(output)
        }
    }
}
