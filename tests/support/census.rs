//! What a process holds, to be compared with what it held before.

#![allow(dead_code, clippy::unwrap_used)]

/// Open descriptors of a process.
pub(crate) fn descriptors(pid: u32) -> usize {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd"));
    open.into_iter().flatten().count()
}

/// Processes that this one has started and that are not reaped.
pub(crate) fn children() -> usize {
    let pid = std::process::id();
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let children = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    children.map(|list| list.split_whitespace().count()).sum()
}

/// Tasks of this runtime that are not over.
pub(crate) fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

/// A figure of `/proc/PID/status`, in bytes: `VmRSS`, `VmHWM`.
pub(crate) fn memory_bytes(pid: u32, figure: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(figure));
    let kib = line.unwrap().trim_start_matches(':').trim();
    1024 * kib.trim_end_matches(" kB").parse::<u64>().unwrap()
}
