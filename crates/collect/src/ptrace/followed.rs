//! A process whose threads are looked at again and again, and what is known of it from the time
//! before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use process::{Process, ProcessMemory, Program, Schedule};
use rustc_hash::FxHashMap;

use super::sums::Stand;

/// How often mappings are read again, where a stack shows that they have changed; and for how long
/// each time after an exec, since a program begins with loading its libraries.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);
/// What is copied of a stack at first; a thread whose stack is deeper gets four times as much.
pub(super) const FIRST_WINDOW: usize = 32 << 10;
/// Threads are listed at each tick, in processes of more threads than this at each tenth.
const FEW_THREADS: usize = 64;

/// What is known of a thread.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    pub schedule: Schedule,
    /// It slept when it was seen last, there.
    pub asleep: Option<Stand>,
    pub window: usize,
    /// Its thread pointer, once it was stopped.
    pub thread_pointer: Option<u64>,
    /// CPU time when the recording began, or 0 for a thread that began later.
    baseline: u64,
    /// CPU time of threads that had its number before, within the recording.
    earlier: u64,
}

impl Seen {
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

    /// CPU time within the recording.
    pub fn cpu_ns(&self) -> u64 {
        self.earlier + self.schedule.cpu_ns.saturating_sub(self.baseline)
    }

    /// The scheduler's count is `now`. Whether the thread was on no CPU since it was seen last.
    pub fn update(&mut self, now: Schedule) -> bool {
        let slept_on = self.schedule.timeslices == now.timeslices;
        if now.cpu_ns < self.schedule.cpu_ns {
            // A clock that goes back is another thread's.
            *self = Self { earlier: self.cpu_ns(), ..Self::new(now, 0) };
            return false;
        }
        self.schedule = now;
        slept_on
    }
}

/// See the module.
pub(super) struct Followed {
    pub process: Arc<Process>,
    pub memory: Option<ProcessMemory>,
    pub threads: FxHashMap<i32, Seen>,
    /// Children that are not followed.
    pub passed_over: BTreeSet<i32>,
    /// Stacks were broken since the mappings were read.
    pub broken: bool,
    listed: Vec<i32>,
    program: Option<Program>,
    /// When mappings were read last, and when a program was executed.
    refreshed: Instant,
    executed: Option<Instant>,
}

/// What has become of a process' program.
pub(super) enum Changed {
    /// It has another name.
    Name,
    /// It is another one.
    Program,
}

impl Followed {
    pub fn new(process: Arc<Process>) -> Self {
        Self {
            memory: process.memory().ok(),
            program: process.program().ok(),
            process,
            threads: FxHashMap::default(),
            passed_over: BTreeSet::new(),
            broken: false,
            listed: Vec::new(),
            refreshed: Instant::now(),
            executed: None,
        }
    }

    /// Its threads, the leading one first; `anew` where they are many, too.
    pub fn list(&mut self, anew: bool) -> Vec<i32> {
        if anew || self.listed.len() <= FEW_THREADS {
            self.listed = self.process.threads().unwrap_or_default();
        }
        self.listed.clone()
    }

    /// Whether its mappings are to be read again; to be asked before each look.
    pub fn wants_refresh(&mut self) -> bool {
        let settles = self.executed.is_some();
        if self.executed.is_some_and(|at| at.elapsed() >= REFRESH_INTERVAL) {
            self.executed = None;
        }
        settles || (self.broken && self.refreshed.elapsed() >= REFRESH_INTERVAL)
    }

    /// Its mappings are read now.
    pub fn refresh(&mut self) {
        self.broken = false;
        self.refreshed = Instant::now();
        // The descriptor belongs to the address space before an exec.
        self.memory = self.process.memory().ok();
    }

    /// What has changed since it was asked last: to be asked where the leading thread has run.
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
    fn a_number_that_is_used_again_keeps_the_time_of_both() {
        let at = |cpu_ns, timeslices| Schedule { cpu_ns, timeslices };
        let mut seen = Seen::new(at(700, 3), 500);
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
