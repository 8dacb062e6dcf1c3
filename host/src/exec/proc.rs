//! Processes as `/proc` shows them: who descends from whom, and is that pid
//! still who it was.
//!
//! A pid alone names nobody, because pids are reused. A process is named by pid
//! and start time within one boot, and a signal goes through a pidfd that was
//! opened before that name was checked, so that it cannot reach a successor.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// The variable that every process of a command inherits: it finds those that
/// have left the command's session and lost their parent.
pub(super) const MARK: &str = "DISPATCH_RUN_MARK";

/// Names one process within one boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct ProcessName {
    pub(super) pid: u32,
    pub(super) pgid: u32,
    /// Clock ticks after boot: field 22 of `/proc/PID/stat`, proc(5).
    pub(super) start_ticks: u64,
}

/// Pid and start time: the group may change while a process lives.
type Identity = (u32, u64);

fn identity(name: &ProcessName) -> Identity {
    (name.pid, name.start_ticks)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    name: ProcessName,
    parent: u32,
    session: u32,
    alive: bool,
}

/// Identifies the running boot: pids of another one mean nothing.
pub(super) fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

/// The name of a process that is there now.
pub(super) fn name_of(pid: u32) -> io::Result<ProcessName> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_stat(&text)
        .map(|stat| stat.name)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat is not as proc(5) says")))
}

/// Whether the process of that name still runs.
pub(super) fn is_alive(name: ProcessName) -> bool {
    stat_of(name.pid).is_some_and(|stat| stat.alive && stat.name.start_ticks == name.start_ticks)
}

/// Signals the process of that name, and none that took over its pid.
pub(super) fn signal(name: ProcessName, signal: Signal) {
    let Some(pid) = i32::try_from(name.pid).ok().and_then(Pid::from_raw) else {
        return;
    };
    match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(fd) if is_alive(name) => {
            let _gone_meanwhile = rustix::process::pidfd_send_signal(fd, signal);
        }
        Err(Errno::NOSYS) if is_alive(name) => {
            let _gone_meanwhile = rustix::process::kill_process(pid, signal);
        }
        Ok(_) | Err(_) => {}
    }
}

/// Every living descendant of a process, nearest first.
pub(super) fn descendants(root: u32) -> Vec<ProcessName> {
    let all = snapshot();
    let mut found = BTreeSet::new();
    let mut order = Vec::new();
    grow(&all, vec![root], &mut found, &mut order);
    order
        .into_iter()
        .filter(|pid| *pid != root)
        .filter_map(|pid| all.get(&pid))
        .filter(|stat| stat.alive)
        .map(|stat| stat.name)
        .collect()
}

/// What a run may have left when its supervisor is gone.
#[derive(Clone, Debug)]
pub(super) struct Leftovers<'a> {
    /// The value of [`MARK`] in the environment of the run's processes.
    pub(super) mark: &'a str,
    /// Supervisor and command, if their names are known to be of this boot.
    pub(super) known: Vec<ProcessName>,
}

/// Kills all that is left of a run; comes back with what still lives when
/// `patience` is over.
///
/// Belongs to the run: what carries its mark, what its pid file names (start
/// time included), what descends from those, and what shares a session with
/// them that is not this process's own. A process whose membership cannot be
/// shown is left alone.
pub(super) fn kill_leftovers(leftovers: &Leftovers<'_>, patience: Duration) -> Vec<ProcessName> {
    let give_up = Instant::now() + patience;
    let mut known: BTreeSet<Identity> = leftovers.known.iter().map(identity).collect();
    let marked = format!("{MARK}={}", leftovers.mark);
    loop {
        let all = snapshot();
        let living = members(&all, &known, &marked);
        if living.is_empty() || Instant::now() >= give_up {
            return living;
        }
        for name in &living {
            signal(*name, Signal::KILL);
        }
        known.extend(living.iter().map(identity));
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn members(
    all: &BTreeMap<u32, Stat>,
    known: &BTreeSet<Identity>,
    marked: &str,
) -> Vec<ProcessName> {
    let me = std::process::id();
    let my_session = all.get(&me).map_or(0, |stat| stat.session);
    let seeds: Vec<&Stat> = all
        .values()
        .filter(|stat| known.contains(&identity(&stat.name)) || carries(stat.name.pid, marked))
        .collect();
    let sessions: BTreeSet<u32> = seeds
        .iter()
        .map(|stat| stat.session)
        .filter(|session| *session != my_session && *session != 0)
        .filter(|session| known.iter().any(|(pid, _)| pid == session))
        .collect();
    let mut roots: Vec<u32> = seeds.iter().map(|stat| stat.name.pid).collect();
    roots.extend(
        all.values()
            .filter(|stat| sessions.contains(&stat.session))
            .map(|stat| stat.name.pid),
    );
    let mut found = BTreeSet::new();
    grow(all, roots, &mut found, &mut Vec::new());
    found
        .iter()
        .filter(|pid| **pid != me && **pid != 1)
        .filter_map(|pid| all.get(pid))
        .filter(|stat| stat.alive)
        .map(|stat| stat.name)
        .collect()
}

fn grow(
    all: &BTreeMap<u32, Stat>,
    roots: Vec<u32>,
    found: &mut BTreeSet<u32>,
    order: &mut Vec<u32>,
) {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for stat in all.values() {
        children.entry(stat.parent).or_default().push(stat.name.pid);
    }
    let mut next = roots;
    while let Some(pid) = next.pop() {
        if found.insert(pid) {
            order.push(pid);
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
}

fn carries(pid: u32, marked: &str) -> bool {
    fs::read(format!("/proc/{pid}/environ"))
        .is_ok_and(|environ| environ.split(|b| *b == 0).any(|v| v == marked.as_bytes()))
}

fn snapshot() -> BTreeMap<u32, Stat> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return BTreeMap::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat_of(pid)?)))
        .collect()
}

fn stat_of(pid: u32) -> Option<Stat> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Parses proc(5)'s one line; the name in parentheses may hold anything.
fn parse_stat(text: &str) -> Option<Stat> {
    let pid = text.split_once(' ')?.0.parse().ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let state = *fields.first()?;
    // The first thread may have ended while others run on.
    let threads: u32 = fields.get(17)?.parse().ok()?;
    Some(Stat {
        name: ProcessName {
            pid,
            pgid: fields.get(2)?.parse().ok()?,
            start_ticks: fields.get(19)?.parse().ok()?,
        },
        parent: fields.get(1)?.parse().ok()?,
        session: fields.get(3)?.parse().ok()?,
        alive: !matches!(state, "X" | "x") && (state != "Z" || threads > 1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sleeper(mark: &str) -> std::process::Child {
        Command::new("sleep")
            .arg("1000")
            .env(MARK, mark)
            .stdout(Stdio::null())
            .spawn()
            .expect("sleep starts")
    }

    #[test]
    fn a_command_name_full_of_spaces_and_parentheses_does_not_confuse_the_parser() {
        let line = "42 (a) S (b) R 7 8 9 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 12345 0 0";
        let stat = parse_stat(line).expect("it parses");
        assert_eq!((stat.name.pid, stat.parent, stat.session), (42, 7, 9));
        assert_eq!((stat.name.pgid, stat.name.start_ticks), (8, 12345));
        assert!(stat.alive);
    }

    #[test]
    fn a_malformed_stat_is_nobody() {
        for line in ["", "42", "x (y) R 1", "42 (y) R 1 2 3"] {
            assert_eq!(parse_stat(line), None, "{line}");
        }
    }

    #[test]
    fn a_pid_with_another_start_time_is_another_process() {
        let me = name_of(std::process::id()).expect("this process is there");
        assert!(is_alive(me));
        let successor = ProcessName {
            start_ticks: me.start_ticks + 1,
            ..me
        };
        assert!(!is_alive(successor));
    }

    #[test]
    fn l10_a_reused_pid_is_not_killed() {
        let mut innocent = sleeper("somebody-else");
        let name = name_of(innocent.id()).expect("it runs");
        let wrong = ProcessName {
            start_ticks: name.start_ticks + 1,
            ..name
        };
        let left = kill_leftovers(
            &Leftovers {
                mark: "mark-of-nobody-1",
                known: vec![wrong],
            },
            Duration::from_secs(5),
        );
        assert_eq!(left, vec![]);
        signal(wrong, Signal::KILL);
        assert_eq!(innocent.try_wait().expect("it can be asked"), None);
        assert!(is_alive(name));
        innocent.kill().expect("the test ends what it started");
        innocent.wait().expect("it is reaped");
    }

    #[test]
    fn l10_what_carries_the_mark_is_killed_even_without_a_known_parent() {
        let mut marked = sleeper("mark-of-test-2");
        let left = kill_leftovers(
            &Leftovers {
                mark: "mark-of-test-2",
                known: vec![],
            },
            Duration::from_secs(5),
        );
        assert_eq!(left, vec![]);
        let status = marked.wait().expect("it is reaped");
        assert!(!status.success());
    }
}
