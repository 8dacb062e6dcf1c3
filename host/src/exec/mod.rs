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

mod adopt;
mod bash;
pub(crate) mod env;
mod files;
mod format;
mod input;
mod local;
mod preview;
mod proc;
pub mod remote;
mod rundir;
mod settle;
mod sink;
pub mod supervisor;
mod sweep;
mod unattended;

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
    /// To [`Exec::adopt`], first and exactly once: what was found.
    Adopted(Adoption),
    /// The call is over. Arrives exactly once, as the last event, except of a
    /// call that was left, or found not to run.
    Done(ToolDone),
    /// The call was left: the last event of one that was.
    Left,
    /// The link to the computer was lost, the last event of a call over there.
    /// What was started runs on, and is adopted over the next link (S5).
    LinkLost {
        /// What was seen of it.
        cause: String,
    },
    /// What becomes of a call on another computer cannot be told, though the
    /// link is there: the last event. A command may run on, and somebody has to
    /// see to its end.
    Unknown {
        /// What stands in the way; for people.
        cause: String,
    },
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
pub enum Adoption {
    /// Nothing was ever started for this call.
    NotFound,
    /// It runs, and is watched from now on.
    Running,
    /// It was stopped, or its supervisor died. The output is what it wrote
    /// until then.
    Killed(ToolDone),
    /// It had ended by itself or at its deadline: the result that its owner
    /// would have had.
    AlreadyFinished(ToolDone),
    /// It could not be asked, or, where it had to be, not stopped; the cause is
    /// for people.
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
    /// Run directories that were removed.
    pub removed: usize,
    /// Run directories of finished runs that are left.
    pub kept: usize,
    /// What could not be done, one sentence each.
    pub failures: Vec<String>,
}

/// What became of runs that were to be ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndReport {
    /// Runs that were found running and stopped.
    pub killed: usize,
    /// What could not be done, one sentence each.
    pub failures: Vec<String>,
}

/// Stops a call, or lets go of it. Dropping it does neither.
#[derive(Clone, Debug)]
pub struct ToolHandle {
    wishes: Wishes,
}

/// What the holder of a [`ToolHandle`] wants of its call.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// See [`ToolHandle::kill`].
    pub kill: CancellationToken,
    /// See [`ToolHandle::leave`].
    pub leave: CancellationToken,
}

impl ToolHandle {
    /// A handle, and what an implementation of [`Exec`] hears of it by.
    pub fn new() -> (ToolHandle, Wishes) {
        let wishes = Wishes::default();
        let handle = ToolHandle {
            wishes: wishes.clone(),
        };
        (handle, wishes)
    }

    /// Stops the call and its whole process tree; idempotent, and nothing once
    /// the call is over. [`ToolEvent::Done`] still arrives (T5).
    pub fn kill(&self) {
        self.wishes.kill.cancel();
    }

    /// Watches the call no more: its events end with [`ToolEvent::Left`]. A
    /// command runs on until somebody adopts or ends it (L8, L10).
    pub fn leave(&self) {
        self.wishes.leave.cancel();
    }
}

/// Carries out tool calls: here, over SSH or in a simulation.
pub trait Exec: Send + Sync + 'static {
    /// Starts a call. Whatever happens, `events` gets [`ToolEvent::Done`]
    /// exactly once, last: bad input, a command that cannot be started and a
    /// supervisor that dies are all answers, not errors.
    fn start(&self, request: ToolRequest, events: mpsc::Sender<ToolEvent>) -> ToolHandle;

    /// Watches on over what an earlier ownership or boot started for a call, or
    /// tells what became of it, by [`ToolEvent::Adopted`] (L10). It never runs a
    /// call again (D21).
    fn adopt(&self, turn: TurnId, call_id: &str, events: mpsc::Sender<ToolEvent>) -> ToolHandle;

    /// The turns of commands that run and that nobody watches, each once.
    fn unattended(&self) -> BoxFuture<'static, Vec<TurnId>>;

    /// Ends what nobody watches of these turns, and comes back when it is gone
    /// (L10, D37).
    fn end_unattended(&self, turns: Vec<TurnId>) -> BoxFuture<'static, EndReport>;

    /// Removes finished runs beyond `bounds` (O5).
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
