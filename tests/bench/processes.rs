//! What processes took so far, as `/proc` tells it.

use std::{fs, time::Duration};

/// CPU of a process and of all its descendants, to the nanosecond; that of threads that have ended is
/// not in it.
pub(crate) fn cpu(pid: u32) -> Duration {
    let own = threads(pid).map(|thread| {
        let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        let nanos = text.split_whitespace().next().and_then(|first| first.parse().ok());
        Duration::from_nanos(nanos.unwrap_or(0))
    });
    own.sum::<Duration>() + children(pid).into_iter().map(cpu).sum::<Duration>()
}

/// A line of `/proc/PID/status` that is in kilobytes: `VmRSS`, `VmHWM`.
pub(crate) fn megabytes(pid: u32, what: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(what)).expect("the line");
    let kilobytes: f64 =
        line.split_whitespace().nth(1).expect("a value").parse().expect("a number");
    kilobytes / 1024.0
}

/// Processes whose parent it is.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text =
        threads(pid).map(|thread| fs::read_to_string(thread.join("children")).unwrap_or_default());
    let text: Vec<String> = text.collect();
    text.iter().flat_map(|line| line.split_whitespace()).map(|pid| pid.parse().unwrap()).collect()
}

/// None once the process has ended.
fn threads(pid: u32) -> impl Iterator<Item = std::path::PathBuf> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    threads.into_iter().flatten().flatten().map(|thread| thread.path())
}
