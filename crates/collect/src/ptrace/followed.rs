//! Keeps what is known about a process and its threads between two ticks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use process::{Process, ProcessMemory, Program, Schedule};
use rustc_hash::FxHashMap;

use super::sums::Observation;

/// How often mappings are read again if broken stacks suggest that they have changed. After an
/// exec, they are read at every tick for this long, since a program first loads its libraries.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);
/// Bytes of stack that are copied at first. A thread with a deeper stack gets four times as much.
pub(super) const FIRST_WINDOW: usize = 32 << 10;
/// Processes with more threads than this have them listed at every tenth tick only.
const FEW_THREADS: usize = 64;

/// What is known about a thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct ThreadRecord {
    pub schedule: Schedule,
    /// What was observed at the last tick, if it slept then.
    pub asleep: Option<Observation>,
    /// Bytes of its stack that are copied.
    pub window: usize,
    /// Its thread pointer, if it has been stopped before.
    pub thread_pointer: Option<u64>,
    /// CPU time in nanoseconds when the recording began; 0 for a thread that started later.
    baseline: u64,
    /// CPU time in nanoseconds, within the recording, of earlier threads with the same TID.
    earlier: u64,
}

impl ThreadRecord {
    pub fn new(schedule: Schedule, baseline: u64) -> Self {
        Self {
            schedule,
            asleep: None,
            window: FIRST_WINDOW,
            thread_pointer: None,
            baseline,
            earlier: 0,
        }
    }

    /// CPU time within the recording, in nanoseconds.
    pub fn cpu_ns(&self) -> u64 {
        self.earlier + self.schedule.cpu_ns.saturating_sub(self.baseline)
    }

    /// Stores the scheduler's counters. Returns whether the thread has not run since the last tick.
    pub fn update(&mut self, now: Schedule) -> bool {
        let kept_sleeping = self.schedule.timeslices == now.timeslices;
        if now.cpu_ns < self.schedule.cpu_ns {
            // The clock went back: it is another thread with the same TID.
            *self = Self { earlier: self.cpu_ns(), ..Self::new(now, 0) };
            return false;
        }
        self.schedule = now;
        kept_sleeping
    }
}

/// A followed process.
pub(super) struct SampledProcess {
    pub process: Arc<Process>,
    pub memory: Option<ProcessMemory>,
    pub threads: FxHashMap<i32, ThreadRecord>,
    /// Children that are not followed.
    pub ignored_children: BTreeSet<i32>,
    /// Stacks were broken since the mappings were last read.
    pub broken: bool,
    listed: Vec<i32>,
    program: Option<Program>,
    /// When the mappings were last read.
    refreshed: Instant,
    /// When a program was executed, if that was within [`REFRESH_INTERVAL`].
    executed: Option<Instant>,
}

/// How a process' program has changed.
pub(super) enum Changed {
    /// It has another name.
    Name,
    /// It is another program.
    Program,
}

impl SampledProcess {
    pub fn new(process: Arc<Process>) -> Self {
        Self {
            memory: process.memory().ok(),
            program: process.program().ok(),
            process,
            threads: FxHashMap::default(),
            ignored_children: BTreeSet::new(),
            broken: false,
            listed: Vec::new(),
            refreshed: Instant::now(),
            executed: None,
        }
    }

    /// Its TIDs, the main thread's first. With `force`, they are listed again even if there are
    /// many.
    pub fn list(&mut self, force: bool) -> Vec<i32> {
        if force || self.listed.len() <= FEW_THREADS {
            self.listed = self.process.threads().unwrap_or_default();
        }
        self.listed.clone()
    }

    /// Whether its mappings must be read again. Call this at each tick.
    pub fn needs_refresh(&mut self) -> bool {
        let settles = self.executed.is_some();
        if self.executed.is_some_and(|at| at.elapsed() >= REFRESH_INTERVAL) {
            self.executed = None;
        }
        settles || (self.broken && self.refreshed.elapsed() >= REFRESH_INTERVAL)
    }

    /// Notes that its mappings are being read, and opens its memory again.
    pub fn refresh(&mut self) {
        self.broken = false;
        self.refreshed = Instant::now();
        // After an exec, the old descriptor still refers to the old address space.
        self.memory = self.process.memory().ok();
    }

    /// What has changed since the last call. Call this when the main thread has run.
    pub fn changed(&mut self) -> Option<(Changed, Program)> {
        let now = self.process.program().ok().filter(|p| p.at != (0, 0))?;
        let before = self.program.replace(now.clone())?;
        if before.at != now.at {
            self.executed = Some(Instant::now());
            for seen in self.threads.values_mut() {
                seen.thread_pointer = None;
            }
            return Some((Changed::Program, now));
        }
        (before.comm != now.comm).then_some((Changed::Name, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_tid_keeps_the_time_of_both_threads() {
        let at = |cpu_ns, timeslices| Schedule { cpu_ns, timeslices };
        let mut seen = ThreadRecord::new(at(700, 3), 500);
        seen.window = 1 << 20;
        assert!(seen.update(at(700, 3)));
        assert!(!seen.update(at(900, 4)));
        assert_eq!(seen.cpu_ns(), 400);
        seen.update(at(50, 1));
        assert_eq!((seen.cpu_ns(), seen.window), (450, FIRST_WINDOW));
        seen.update(at(60, 2));
        assert_eq!(seen.cpu_ns(), 460);
    }
}
