//! What the tests of tool calls share, wherever the calls run: a call's events,
//! and eyes on `/proc`.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use dispatch::exec::{Adoption, ToolDone, ToolEvent, ToolHandle, ToolRequest};
use dispatch_core::ids::{Epoch, TurnId};
use serde_json::Value;
use tokio::sync::mpsc;

pub(crate) const TURN: TurnId = TurnId(0x0019_3ab4_0000_0000_0000_0000_0000_0001);
pub(crate) const CALL: &str = "call_1";

/// How long anything may take. Generous: a test that passes never waits for it.
const PATIENCE: Duration = Duration::from_secs(90);

/// A call that was started or adopted.
pub(crate) struct Call {
    pub(crate) handle: ToolHandle,
    pub(crate) events: mpsc::Receiver<ToolEvent>,
}

impl Call {
    pub(crate) fn begin(begin: impl FnOnce(mpsc::Sender<ToolEvent>) -> ToolHandle) -> Call {
        let (to, events) = mpsc::channel(64);
        let handle = begin(to);
        Call { handle, events }
    }

    pub(crate) async fn next(&mut self) -> ToolEvent {
        let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
        event.expect("an event in time").expect("a last event")
    }

    /// What was found, of a call that is adopted.
    pub(crate) async fn found(mut self) -> (Adoption, Call) {
        match self.next().await {
            ToolEvent::Adopted(adoption) => (adoption, self),
            other => panic!("not what was found: {other:?}"),
        }
    }

    /// The result; it comes once, and nothing after it.
    pub(crate) async fn done(mut self) -> ToolDone {
        self.previews_and_done().await.1
    }

    pub(crate) async fn previews_and_done(&mut self) -> (Vec<(u64, String)>, ToolDone) {
        let mut previews = Vec::new();
        loop {
            match self.next().await {
                ToolEvent::Output { offset, text, .. } => previews.push((offset, text)),
                ToolEvent::Adopted(Adoption::Running) => {}
                ToolEvent::Done(done) => {
                    assert_eq!(self.events.recv().await, None, "nothing follows a result");
                    return (previews, done);
                }
                other => panic!("neither output nor end: {other:?}"),
            }
        }
    }
}

/// A call of the turn, in a working directory.
pub(crate) fn request(cwd: &Path, name: &str, input: &Value) -> ToolRequest {
    ToolRequest {
        turn: TURN,
        call_id: CALL.to_owned(),
        epoch: Epoch(3),
        name: name.to_owned(),
        input: input.to_string(),
        cwd: cwd.to_owned(),
        deadline_ms: 60_000,
    }
}

/// A pid that a command writes into its working directory.
pub(crate) async fn pid_in(cwd: &Path, file: &str) -> u32 {
    let path = cwd.join(file);
    let read = || fs::read_to_string(&path).ok()?.trim().parse::<u32>().ok();
    until(file, || read().is_some()).await;
    read().expect("it was there")
}

/// Waits for a condition; panics when it has not come about in time.
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let give_up = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < give_up, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; a zombie does not.
pub(crate) fn is_alive(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['Z', 'X'])))
        .is_some_and(|dead| !dead)
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it can be signalled");
}
