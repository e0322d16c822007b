//! Reads /proc: a process's CPU time, and the state that a profiler must leave unchanged.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

/// The value of a field of `/proc/PID/status`.
///
/// # Panics
/// When the process or the field does not exist.
#[must_use]
pub fn status(pid: u32, field: &str) -> String {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == field)
        .unwrap_or_else(|| panic!("no {field} in {path}"))
        .1
        .trim()
        .to_owned()
}

/// The IDs of all threads.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn threads(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok()).collect()
}

/// The live children that its main thread has forked.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let path = format!("/proc/{pid}/task/{pid}/children");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// CPU nanoseconds of each live thread, from schedstat. Exact for a sleeping thread; for a running
/// one the kernel updates it at each tick.
#[must_use]
pub fn cpu_by_thread(pid: u32) -> BTreeMap<u32, u64> {
    let of = |tid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
        Some((tid, text.split_whitespace().next()?.parse().ok()?))
    };
    threads(pid).into_iter().filter_map(of).collect()
}

/// The CPU time of a process, including its ended threads, in units of the clock tick.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn cpu_of_all(pid: u32) -> Duration {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    // Fields 14 and 15 of proc(5), in ticks of 100 Hz on all machines; field 2 may contain spaces.
    let fields = text.rsplit_once(") ").map(|(_, rest)| rest.split(' ').skip(11).take(2));
    let ticks = fields.into_iter().flatten().filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(10 * ticks)
}

/// The total time that the live threads of a process have waited for a CPU.
///
/// # Panics
/// When the process does not exist.
#[must_use]
pub fn run_delay(pid: u32) -> Duration {
    let of = |tid: u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    Duration::from_nanos(threads(pid).into_iter().filter_map(of).sum())
}

/// The processes whose command line contains all these words.
#[must_use]
pub fn with_words(words: &[&str]) -> Vec<u32> {
    let has_all = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line);
        words.iter().all(|word| line.split(['\0', ' ']).any(|w| w == *word))
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|e| e.file_name().to_str()?.parse().ok()).filter(has_all).collect()
}

/// CPU nanoseconds of a process's main thread; 0 once it has ended.
#[must_use]
pub fn cpu_of_main_thread(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

/// The state of a process that must be the same before and after a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    tracer: String,
    threads: usize,
    stopped: Vec<u32>,
    signals: Vec<String>,
    descriptors: usize,
    executable: Vec<String>,
    seccomp: String,
}

impl State {
    /// The state now.
    ///
    /// # Panics
    /// When the process does not exist.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).expect("maps can be read");
        let executable = maps
            .lines()
            .filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.contains('x')))
            .map(ToOwned::to_owned)
            .collect();
        let tids = threads(pid);
        let is_stopped = |tid: &u32| {
            let stat = fs::read_to_string(format!("/proc/{pid}/task/{tid}/stat"));
            let state = stat.ok().and_then(|s| s.rsplit_once(") ")?.1.chars().next());
            matches!(state, Some('T' | 't'))
        };
        Self {
            tracer: status(pid, "TracerPid"),
            threads: tids.len(),
            stopped: tids.into_iter().filter(is_stopped).collect(),
            signals: ["SigBlk", "SigIgn", "SigCgt"].map(|f| status(pid, f)).to_vec(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("fd can be read").count(),
            executable,
            seccomp: status(pid, "Seccomp"),
        }
    }

    /// Whether nothing traces the process and no thread is stopped.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.tracer == "0" && self.stopped.is_empty()
    }
}
