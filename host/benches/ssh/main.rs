//! What tools over SSH cost beside OpenSSH's own programs, against the same
//! sshd in the same run: files of 50 MB there and back, and the time that
//! `true` takes over a link that is open.

#![allow(clippy::unwrap_used)]

mod ours;
#[path = "../../../tests/support/sshd.rs"]
mod sshd;
mod theirs;

use std::path::Path;
use std::time::{Duration, Instant};

use ours::Ours;
use sshd::{Home, Sshd};
use theirs::Theirs;

const FILE_BYTES: usize = 50_000_000;
/// Each way, one after the other, so that all meet the same machine.
const COPIES: usize = 7;
const CALLS: usize = 300;

fn main() {
    // In memory, so that no disk is measured; the home of who logs in, too.
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(sshd) = Sshd::start_at(dir.path(), &[]) else {
        return println!("ssh: not measured");
    };
    let mut home = Home::new();
    sshd.authorize(&home.key());
    home.add("far", sshd.port, &[]);
    let source = dir.path().join("source");
    std::fs::write(&source, lines(FILE_BYTES)).unwrap();
    let ours = Ours::connect(&home);
    let theirs = Theirs::connect(&home);
    files(&ours, &theirs, dir.path(), &source);
    calls(&ours, &theirs);
}

/// A text, because `read` reads nothing else.
fn lines(bytes: usize) -> String {
    const LINE: &str = "a line of a file that goes there and back, and is as long as lines are\n";
    let mut text = LINE.repeat(bytes / LINE.len() + 1);
    text.truncate(bytes - 1);
    text.push('\n');
    text
}

fn files(ours: &Ours, theirs: &Theirs, dir: &Path, source: &Path) {
    let there = dir.join("there");
    let text = std::fs::read_to_string(source).unwrap();
    let [mut tool, mut session, mut put, mut get, mut written] = [const { Vec::new() }; 5];
    for _ in 0..COPIES {
        put.push(timed(|| theirs.put(source, &there)));
        get.push(timed(|| theirs.get(&there, &dir.join("back"))));
        tool.push(timed(|| ours.read_by_tool(&there, &text)));
        session.push(timed(|| ours.read(&there, FILE_BYTES)));
        written.push(timed(|| ours.write(&dir.join("ours"), &text)));
    }
    let rate = |times: &mut Vec<Duration>| FILE_BYTES as f64 / 1e6 / median(times).as_secs_f64();
    let [tool, session, put, get, written] =
        [&mut tool, &mut session, &mut put, &mut get, &mut written].map(rate);
    println!(
        "ssh: a file of 50 MB is read at {tool:.0} MB/s by the tool `read` and at {session:.0} MB/s by one plain SFTP handle; `sftp get` {get:.0} MB/s: {:.2} and {:.2} x",
        tool / get,
        session / get
    );
    println!(
        "ssh: it is written at {written:.0} MB/s; `sftp put` {put:.0} MB/s: {:.2} x",
        written / put
    );
}

fn calls(ours: &Ours, theirs: &Theirs) {
    let [mut link, mut tool, mut read, mut written, mut client] = [const { Vec::new() }; 5];
    for n in 0..CALLS {
        client.push(timed(|| theirs.run_true()));
        link.push(timed(|| ours.run_true()));
        tool.push(timed(|| ours.call_true(n)));
        written.push(timed(|| ours.write_small(&format!("small-{}", n / 2))));
        read.push(timed(|| ours.read_small(&format!("small-{}", n / 2))));
    }
    let beside = median(&mut client).as_secs_f64();
    for (what, times) in [
        ("`true` by a command over an open link", &mut link),
        ("`true` by the tool `bash`", &mut tool),
        ("a short file by the tool `read`", &mut read),
        ("a short file by the tool `write`", &mut written),
        ("`true` by `ssh` over an open ControlMaster", &mut client),
    ] {
        let half = median(times);
        let late = times[times.len() * 99 / 100];
        println!(
            "ssh: {what}: median {:.2} ms, p99 {:.2} ms; {:.2} x ssh",
            half.as_secs_f64() * 1e3,
            late.as_secs_f64() * 1e3,
            half.as_secs_f64() / beside
        );
    }
}

fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let since = Instant::now();
    std::hint::black_box(work());
    since.elapsed()
}

/// Sorts them.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

// What the computer is started and waited for with.

mod process {
    use rustix::process::Pid;

    pub(crate) fn pid_of(number: u32) -> Pid {
        Pid::from_raw(i32::try_from(number).unwrap()).unwrap()
    }
}

fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(
            since.elapsed() < Duration::from_secs(60),
            "waited in vain: {what}"
        );
        std::thread::sleep(Duration::from_millis(3));
    }
}

fn until_true(what: &str, mut probe: impl FnMut() -> bool) {
    until(what, || probe().then_some(()));
}
