//! A run directory on another computer, and what its `exit` tells.

use dispatch_core::ids::{Epoch, TurnId};
use dispatch_core::output::{HeadTail, LIMIT_BYTES};

use super::far::{Far, Fault};
use crate::exec::format::{Exit, Reason, VERSION};
use crate::exec::rundir::call_name;
use crate::exec::{ToolDone, settle};

/// Most bytes of an `exit` that are read.
const EXIT_LIMIT_BYTES: usize = 8 * 1024;
/// How much of a long output's beginning and end is read: more than a history
/// takes, and some characters more.
const PART_BYTES: usize = LIMIT_BYTES + 16 * 1024;

/// One call of a tool on another computer, and how often it was tried there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteCall {
    /// The turn.
    pub turn: TurnId,
    /// The call, unique within its turn.
    pub call_id: String,
    /// The ownership that asks.
    pub epoch: Epoch,
    /// Of a start: which try under this epoch it is. Of a look: the last one
    /// that may have been sent. Counted from 0.
    pub attempt: u32,
}

impl RemoteCall {
    /// The call as a file name.
    pub(super) fn plain_name(&self) -> String {
        call_name(&self.call_id)
    }

    /// The name of the run directory within the turn's.
    pub(super) fn dir_name(&self) -> String {
        let (call, epoch) = (self.plain_name(), self.epoch.0);
        match self.attempt {
            0 => format!("{call}-e{epoch}"),
            attempt => format!("{call}-e{epoch}.{attempt}"),
        }
    }

    /// Epoch and attempt of a directory's name, if it is of this call.
    pub(super) fn rank(&self, dir_name: &str) -> Option<(u64, u32)> {
        let (call, rank) = dir_name.rsplit_once("-e")?;
        if call != self.plain_name() {
            return None;
        }
        match rank.split_once('.') {
            Some((epoch, attempt)) => Some((epoch.parse().ok()?, attempt.parse().ok()?)),
            None => Some((rank.parse().ok()?, 0)),
        }
    }
}

/// A run directory, by its absolute path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) call: RemoteCall,
    pub(super) path: String,
    /// The last part of the path.
    pub(super) name: String,
}

/// What `exit` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Nothing was ever started here, and nothing will be.
    Claimed,
    Over(RemoteExit),
}

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RemoteExit {
    pub(super) exit: Exit,
    pub(super) deadline_ms: u64,
    /// Newlines in `output`.
    pub(super) newlines: u64,
}

impl Run {
    pub(super) fn new(far: &Far, call: &RemoteCall, name: String) -> Run {
        let path = format!("{}/{name}", turn_dir(far, call));
        let call = call.clone();
        Run { call, path, name }
    }

    pub(super) fn file(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    pub(super) async fn ending(&self, far: &Far) -> Result<Option<Ending>, Fault> {
        let path = self.file("exit");
        let Some(bytes) = far.read_at(&path, 0, EXIT_LIMIT_BYTES).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let unreadable =
            || Fault::Failed(format!("{path} is not a run file of this build: {text}"));
        parse_ending(&text).map(Some).ok_or_else(unreadable)
    }

    /// What the model reads of a run that is over: the same as of a local one,
    /// without a long output's middle ever coming over the link (T8).
    pub(super) async fn result(&self, far: &Far, over: &RemoteExit) -> Result<ToolDone, Fault> {
        let path = self.file("output");
        let bytes = over.exit.output_bytes;
        let mut bound = HeadTail::default();
        if bytes <= 2 * PART_BYTES as u64 {
            let all = usize::try_from(bytes).unwrap_or(usize::MAX);
            bound.push(&far.read_at(&path, 0, all).await?.unwrap_or_default());
        } else {
            let tail_from = bytes - PART_BYTES as u64;
            let (head, tail) = tokio::try_join!(
                far.read_at(&path, 0, PART_BYTES),
                far.read_at(&path, tail_from, PART_BYTES)
            )?;
            let (head, tail) = (head.unwrap_or_default(), tail.unwrap_or_default());
            // Where the tail begins within a character, that is the gap's.
            let within = tail
                .iter()
                .take(3)
                .take_while(|b| **b & 0xC0 == 0x80)
                .count();
            let seen = newlines(&head) + newlines(&tail);
            bound.push(&head);
            bound.skip(
                tail_from - head.len() as u64 + within as u64,
                over.newlines.saturating_sub(seen),
            );
            bound.push(&tail[within..]);
        }
        let bounded = bound.finish(Some(&path));
        Ok(settle::done(bounded, &over.exit, over.deadline_ms, path))
    }
}

/// Where the runs of a turn are.
pub(super) fn turn_dir(far: &Far, call: &RemoteCall) -> String {
    let installation = &far.over.shared.installation;
    far.absolute(
        "",
        &format!(".cache/dispatch/runs/{installation}/{}", call.turn),
    )
}

fn newlines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

/// The line that says of a directory that nothing is started in it.
pub(super) fn claim_line(now_ms: u64) -> String {
    format!("version=1 ended_ms={now_ms} output_bytes=0 reason=claimed message=\n")
}

fn parse_ending(text: &str) -> Option<Ending> {
    let (fields, message) = text.strip_suffix('\n')?.split_once(" message=")?;
    let field = |name: &str| {
        fields
            .split(' ')
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let number = |name: &str| field(name)?.parse::<u64>().ok();
    if number("version")? != u64::from(VERSION) {
        return None;
    }
    let reason = match field("reason")? {
        "claimed" => return Some(Ending::Claimed),
        "exited" => Reason::Exited,
        "deadline" => Reason::Deadline,
        "killed" => Reason::Killed,
        "spawn-failed" => Reason::SpawnFailed,
        "supervisor-lost" => Reason::SupervisorLost,
        _ => return None,
    };
    let mut exit = Exit::new(reason, number("started_ms")?);
    exit.ended_ms = number("ended_ms")?;
    exit.code = field("code")?.parse().ok();
    exit.signal = field("signal")?.parse().ok();
    exit.output_bytes = number("output_bytes")?;
    exit.dropped_bytes = number("dropped_bytes")?;
    exit.survivors = field("survivors")?.parse().ok()?;
    exit.message = Some(message.trim().to_owned()).filter(|message| !message.is_empty());
    Some(Ending::Over(RemoteExit {
        exit,
        deadline_ms: number("deadline_ms")?,
        newlines: number("newlines")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(call_id: &str, epoch: u64, attempt: u32) -> RemoteCall {
        RemoteCall {
            turn: TurnId(7),
            call_id: call_id.to_owned(),
            epoch: Epoch(epoch),
            attempt,
        }
    }

    #[test]
    fn a_run_directorys_name_is_told_apart_from_other_calls() {
        assert_eq!(call("c", 3, 0).dir_name(), "c-e3");
        assert_eq!(call("c", 3, 2).dir_name(), "c-e3.2");
        assert_eq!(call("c", 9, 9).rank("c-e3.2"), Some((3, 2)));
        assert_eq!(call("c", 9, 9).rank("c-e3"), Some((3, 0)));
        assert_eq!(call("c", 9, 9).rank("c-e1-e3"), None);
        assert_eq!(call("c-e1", 9, 9).rank("c-e1-e3"), Some((3, 0)));
        assert_eq!(call("c", 9, 9).rank("c-e3.tmp"), None);
        let odd = call("../x y", 1, 4);
        assert_eq!(odd.rank(&odd.dir_name()), Some((1, 4)));
    }

    #[test]
    fn an_ending_is_read_strictly() {
        let line = "version=1 ended_ms=9 output_bytes=5 dropped_bytes=0 newlines=1 reason=exited \
                    code=3 signal= survivors=0 started_ms=4 deadline_ms=7 message=reason=killed \n";
        let Some(Ending::Over(over)) = parse_ending(line) else {
            panic!("not read");
        };
        assert_eq!(over.exit.reason, Reason::Exited);
        assert_eq!((over.exit.code, over.exit.signal), (Some(3), None));
        assert_eq!((over.deadline_ms, over.newlines), (7, 1));
        assert_eq!(over.exit.message.as_deref(), Some("reason=killed"));
        assert_eq!(parse_ending(&claim_line(5)), Some(Ending::Claimed));
        for torn in [
            "",
            "\n",
            line.trim_end_matches('\n'),
            &line.replace("=1 e", "=2 e"),
        ] {
            assert_eq!(parse_ending(torn), None, "{torn}");
        }
    }
}
