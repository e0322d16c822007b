//! Samples threads by wall-clock time, without perf events: `/proc` says which threads run; ptrace
//! stops those briefly to copy their registers and stacks.
//!
//! ```text
//!   each tick:  schedstat of each thread
//!                 ├─ slept before, not on a CPU since ──► the same stack as before
//!                 ├─ sleeps now ──► stack pointer and pc from /proc, stack from memory: no stop
//!                 └─ runs ──► SEIZE + INTERRUPT, copy, release; unwound afterwards
//! ```
//!
//! A sleeping thread is stopped only if its stack cannot be unwound from these two registers. The
//! share of the time for which threads are stopped is bounded: the longer a stop took, the later
//! the next tick. The ticks are irregular, so that nothing in the target can run in step with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use aggregate::clock::monotonic_now;
use aggregate::ids::{LabelsIndex, NodeIndex, ROOT, ThreadId};
use aggregate::recorder::{Copied, Recorder};
use aggregate::runtimes::OffCpuThread;
use aggregate::times;
use events::Comm;
use image::{Arch, Avma};
use process::{Process, SeizeError, Threads, Tracer};
use unwind::Registers;

use super::children::{ChildFinder, ChildOptions};
use super::followed::{Changed, FIRST_WINDOW, SampledProcess, ThreadRecord};
use super::sums::{Count, Key, Observation, Sum};
use crate::threads::waiting;

/// Threads are stopped for at most one part in this many of the time.
const STOPPED_SHARE: u32 = 20;
/// Our own sampling thread is on a CPU for at most one part in this many of the time.
const OWN_SHARE: u32 = 5;
/// A tick may exceed our own share, as unwinding the first stack in a large library does. The
/// excess is made up for in pauses of this length, so that no child is missed meanwhile.
const STEP: Duration = Duration::from_millis(40);
/// At most this much stays owed after a pause: what exceeds it is made up for at once.
const MAX_OWED: Duration = Duration::from_millis(500);
/// At most this many bytes of a stack are copied.
const MAX_WINDOW: usize = 1 << 20;
/// Work that takes long in large processes is done once in this many ticks.
const FULL_SCAN_TICKS: u64 = 10;

/// State that the sampler shares with the session.
#[derive(Debug, Default)]
pub(super) struct SamplerState {
    pub samples: AtomicU64,
    /// A followed process is alive.
    pub alive: AtomicBool,
    stop: AtomicBool,
    sampler: Mutex<Option<Thread>>,
}

impl SamplerState {
    /// Ends the sampling, after one more tick.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = &*self.sampler.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    /// Waits for `time`, or until [`SamplerState::stop`].
    fn wait(&self, time: Duration) {
        let until = Instant::now() + time;
        while !self.stop.load(Ordering::SeqCst) {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::park_timeout(left);
        }
    }
}

fn own_cpu_time() -> Duration {
    // This cannot fail: the only documented error is an unknown clock, and this one always exists.
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Adds the CPU time of a process' threads, in nanoseconds.
fn add_times(of: &SampledProcess, to: &mut BTreeMap<ThreadId, u64>) {
    let pid = of.process.pid();
    for (&tid, seen) in &of.threads {
        *to.entry(ThreadId { pid, tid }).or_default() += seen.cpu_ns();
    }
}

/// Takes the samples, on a thread that uses ptrace.
pub(super) struct Ticker {
    pub recorder: Recorder,
    pub sums: BTreeMap<Key, Sum>,
    /// The names of thread states.
    pub states: Vec<String>,
    /// How long each stop took, in microseconds.
    pub stops: Vec<u32>,
    /// Stops that failed, by reason.
    pub refused: BTreeMap<String, u64>,
    pub children: ChildFinder,
    count: Count,
    followed: Vec<SampledProcess>,
    /// CPU time, in nanoseconds, of the threads of processes that have ended.
    ended: BTreeMap<ThreadId, u64>,
    tick: u64,
    began: bool,
    /// How long threads were stopped in this tick.
    stopped_for: Duration,
    /// The state of the random numbers.
    random: u64,
}

/// What one tick finds about a process' threads.
#[derive(Default)]
struct Scan {
    /// Threads to stop, and their states.
    running: Vec<(i32, usize)>,
    /// Threads that were on a CPU since the last tick.
    ran: Vec<i32>,
}

impl Ticker {
    /// Samples `processes`, which `recorder` already follows.
    pub fn new(
        processes: &[Arc<Process>],
        count: Count,
        mut recorder: Recorder,
        children: ChildOptions,
    ) -> Self {
        recorder.look_for_runtimes();
        Self {
            recorder,
            sums: BTreeMap::new(),
            states: Vec::new(),
            stops: Vec::new(),
            refused: BTreeMap::new(),
            children: ChildFinder::new(processes, children),
            count,
            followed: processes.iter().cloned().map(SampledProcess::new).collect(),
            ended: BTreeMap::new(),
            tick: 0,
            began: false,
            stopped_for: Duration::ZERO,
            random: monotonic_now() | 1,
        }
    }

    /// Samples until [`SamplerState::stop`], or until all processes have ended.
    pub fn run(mut self, period: Duration, shared: &SamplerState) -> std::io::Result<Self> {
        Tracer::run(move |tracer| {
            let this_thread = Some(std::thread::current());
            *shared.sampler.lock().unwrap_or_else(PoisonError::into_inner) = this_thread;
            let (mut last, mut owed) = (Instant::now(), Duration::ZERO);
            // Reads the baselines of CPU time, and the stacks of threads that already sleep.
            self.tick(tracer, Duration::ZERO);
            self.began = true;
            let mut over = false;
            while !over && !self.followed.is_empty() {
                // The last tick counts the time up to the end.
                over = shared.stop.load(Ordering::SeqCst);
                let (begun, own) = (Instant::now(), own_cpu_time());
                self.stopped_for = Duration::ZERO;
                self.tick(tracer, begun - last);
                last = begun;
                shared.samples.store(self.recorder.stats.kept, Ordering::Relaxed);
                let rest = self.stopped_for * (STOPPED_SHARE - 1);
                owed += own_cpu_time().saturating_sub(own) * (OWN_SHARE - 1);
                let rest = rest.max(owed.min(STEP)).max(owed.saturating_sub(MAX_OWED));
                let rest = rest.max(self.jittered(period).saturating_sub(begun.elapsed()));
                owed = owed.saturating_sub(rest);
                if !over {
                    shared.wait(rest);
                }
                tracer.settle();
            }
            shared.alive.store(false, Ordering::SeqCst);
            times::end_reaped(&mut self.recorder.processes);
            self
        })
    }

    /// A random time between half and one and a half periods.
    fn jittered(&mut self, period: Duration) -> Duration {
        // xorshift64 (Marsaglia 2003): nothing depends on its quality.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        period / 2 + period.mul_f64((self.random % 1000) as f64 / 1000.0)
    }

    /// CPU time of each thread within the recording, in nanoseconds, as of the last tick.
    pub fn cpu_times(&self) -> BTreeMap<ThreadId, u64> {
        let mut times = self.ended.clone();
        self.followed.iter().for_each(|f| add_times(f, &mut times));
        times
    }

    /// CPU time, in nanoseconds, of children that ended and were waited for, as far as it was not
    /// seen: they ended before a tick, or used it after the last tick that saw them.
    pub fn unseen_cpu_time(&self) -> u64 {
        let seen = self.ended.values().sum();
        times::reaped(&self.recorder.processes).saturating_sub(seen)
    }

    fn tick(&mut self, tracer: &mut Tracer, passed: Duration) {
        self.tick += 1;
        self.recorder.next_round(monotonic_now());
        self.remove_ended();
        self.children.next_tick(self.began);
        self.recorder.look_for_runtimes();
        let ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let mut i = 0;
        // Children that are found meanwhile are appended, and sampled in the same tick.
        while i < self.followed.len() {
            self.sample_process(tracer, i, ns);
            i += 1;
        }
    }

    fn remove_ended(&mut self) {
        let (recorder, children, ended) = (&mut self.recorder, &mut self.children, &mut self.ended);
        self.followed.retain(|f| {
            let lives = f.process.is_alive();
            if !lives {
                let pid = f.process.pid();
                add_times(f, ended);
                children.ended(pid);
                recorder.processes.ended(pid);
                recorder.forget(pid);
            }
            lives
        });
    }

    fn sample_process(&mut self, tracer: &mut Tracer, i: usize, ns: u64) {
        if self.followed[i].needs_refresh() {
            self.refresh(i);
        }
        let broken = self.recorder.stats.broken_total();
        let process = self.followed[i].process.clone();
        let full_scan = self.tick.is_multiple_of(FULL_SCAN_TICKS);
        let tids = self.followed[i].list(full_scan);
        let mut scan = Scan::default();
        for &tid in &tids {
            self.sample_thread(&process, i, ThreadId { pid: process.pid(), tid }, ns, &mut scan);
        }
        if !scan.running.is_empty() {
            self.stop(tracer, i, &scan.running, ns);
        }
        self.followed[i].broken |= self.recorder.stats.broken_total() > broken;
        let may_have_forked = if full_scan { &tids } else { &scan.ran };
        let children = self.children.of(&mut self.followed[i], may_have_forked, full_scan);
        if children.is_empty() {
            return;
        }
        for child in children {
            self.recorder.processes.add_child(&child, monotonic_now());
            self.recorder.forget(child.pid());
            self.followed.push(SampledProcess::new(child));
        }
        // Only if there are new children, because this goes through all processes.
        self.recorder.look_for_runtimes();
    }

    /// Reads the mappings again, after a library may have been loaded or a program executed.
    fn refresh(&mut self, i: usize) {
        let followed = &mut self.followed[i];
        let process = followed.process.clone();
        followed.refresh();
        self.recorder.processes.refresh_maps(&process, monotonic_now());
        if let Some(tracked) = self.recorder.processes.get_mut(process.pid()) {
            tracked.memory = process.memory().ok();
        }
        self.recorder.look_for_runtimes();
    }

    /// Checks whether a process executed another program or changed its name. Call this when its
    /// main thread was on a CPU.
    fn check_program(&mut self, i: usize) {
        let Some((changed, now)) = self.followed[i].changed() else { return };
        let pid = self.followed[i].process.pid();
        let exec = matches!(changed, Changed::Program);
        if exec {
            self.recorder.forget(pid);
        }
        let comm = Comm { exec, name: now.comm.as_bytes() };
        self.recorder.processes.named(pid, pid, comm, u64::MAX);
        if exec {
            self.refresh(i);
        }
    }

    /// Samples a sleeping thread, or adds a running one to those that must be stopped.
    fn sample_thread(
        &mut self,
        process: &Process,
        i: usize,
        id: ThreadId,
        ns: u64,
        scan: &mut Scan,
    ) {
        let Ok(schedule) = process.thread_schedule(id.tid) else { return };
        let seen = self.followed[i].threads.get_mut(&id.tid);
        let before = seen.as_ref().map(|s| s.schedule);
        let kept_sleeping = seen.is_some_and(|s| s.update(schedule));
        if before.is_none() {
            let baseline = if self.began { 0 } else { schedule.cpu_ns };
            self.recorder.processes.add_thread(id.pid, id.tid, baseline);
            self.followed[i].threads.insert(id.tid, ThreadRecord::new(schedule, baseline));
        }
        if before != Some(schedule) {
            scan.ran.push(id.tid);
            if id.tid == id.pid {
                self.check_program(i);
            }
        }
        let Some(seen) = self.followed[i].threads.get_mut(&id.tid) else { return };
        if let (Some(observation), true) = (seen.asleep, kept_sleeping) {
            return self.add(id, observation, ns);
        }
        seen.asleep = None;
        let (window, pointer) = (seen.window, seen.thread_pointer);
        let Ok(wait) = process.thread_wait(id.tid) else { return };
        if let (Some(memory), true) =
            (&self.followed[i].memory, wait.state == 'R' || self.count == Count::Wall)
        {
            self.recorder.runtimes.prepare_to_read(process, memory, id.tid);
        }
        if wait.state == 'R' {
            let state = self.state("running".into());
            scan.running.push((id.tid, state));
            return;
        }
        if self.count == Count::Cpu || matches!(wait.state, 'Z' | 'X' | 't') {
            return;
        }
        let state = self.state(waiting::coarse_state(&wait).into());
        match self.sleeping_stack(i, id.tid, wait.call.map(|c| (c.pc, c.sp)), window, pointer) {
            // It slept before the stack was read and has not been on a CPU since: the stack is
            // right.
            Some((node, labels))
                if process.thread_schedule(id.tid).is_ok_and(|s| s == schedule) =>
            {
                let observation = (node, labels, state);
                if let Some(seen) = self.followed[i].threads.get_mut(&id.tid) {
                    seen.asleep = Some(observation);
                }
                self.add(id, observation, ns);
            }
            _ => scan.running.push((id.tid, state)),
        }
    }

    /// The index of a state's name.
    fn state(&mut self, name: String) -> usize {
        self.states.iter().position(|s| *s == name).unwrap_or_else(|| {
            self.states.push(name);
            self.states.len() - 1
        })
    }

    /// The stack of a sleeping thread, if it can be unwound to its root from two registers. For the
    /// thread of an interpreter, the thread pointer must be known too.
    fn sleeping_stack(
        &mut self,
        i: usize,
        tid: i32,
        call: Option<(Avma, Avma)>,
        window: usize,
        pointer: Option<u64>,
    ) -> Option<(NodeIndex, LabelsIndex)> {
        let (pc, sp) = call?;
        let (process, memory) = (&self.followed[i].process, self.followed[i].memory.as_ref()?);
        let pid = process.pid();
        if pointer.is_none() && self.recorder.runtimes.need_thread_pointers_of(pid) {
            return None;
        }
        let mut registers = Registers::unknown(Arch::host());
        registers.set_pc(pc);
        registers.set_sp(sp);
        let mut bytes = vec![0; window];
        let got = memory.read_upto(sp, &mut bytes).ok()?;
        let thread = OffCpuThread { process, memory, tid, sp, thread_pointer: pointer };
        let standing = Some(&self.recorder.runtimes.read(&thread));
        let copy = Copied { registers: &registers, bytes: &bytes[..got], standing };
        self.recorder.whole_stack(pid, &copy)
    }

    /// Stops threads, copies their registers and stacks, and samples them.
    fn stop(&mut self, tracer: &mut Tracer, i: usize, running: &[(i32, usize)], ns: u64) {
        let process = self.followed[i].process.clone();
        let pid = process.pid();
        let tids: Vec<i32> = running.iter().map(|r| r.0).collect();
        let seized = match tracer.seize(&process, Threads::Only(&tids)) {
            Ok(seized) => seized,
            Err(SeizeError::Gone { .. }) => return,
            Err(e) => {
                *self.refused.entry(e.to_string()).or_default() += 1;
                return;
            }
        };
        let mut copies = Vec::with_capacity(tids.len());
        for &(tid, state) in running {
            let Ok(user) = seized.registers(tid) else { continue };
            let seen = self.followed[i].threads.get(&tid);
            let mut bytes = vec![0; seen.map_or(FIRST_WINDOW, |s| s.window)];
            let memory = self.followed[i].memory.as_ref();
            let got = memory.and_then(|m| m.read_upto(user.sp(), &mut bytes).ok()).unwrap_or(0);
            let full = got == bytes.len();
            bytes.truncate(got);
            let (sp, thread_pointer) = (user.sp(), user.thread_pointer());
            let thread =
                |memory| OffCpuThread { process: &process, memory, tid, sp, thread_pointer };
            let standing = memory.map(|m| self.recorder.runtimes.read(&thread(m)));
            copies.push((tid, state, user, bytes, full, standing));
        }
        let stopped_for = seized.release();
        self.stopped_for += stopped_for;
        self.stops.push(u32::try_from(stopped_for.as_micros()).unwrap_or(u32::MAX));
        for (tid, state, user, bytes, full, standing) in copies {
            let mut registers = Registers::unknown(Arch::host());
            user.by_dwarf_number().for_each(|(number, value)| registers.set(number, value));
            let before = self.recorder.stats.truncated;
            let standing = standing.as_ref();
            let copy = Copied { registers: &registers, bytes: &bytes, standing };
            let (node, labels) = self.recorder.copied_stack(pid, &copy);
            let id = ThreadId { pid, tid };
            if let Some(seen) = self.followed[i].threads.get_mut(&tid) {
                seen.thread_pointer = user.thread_pointer();
                if full && self.recorder.stats.truncated > before {
                    seen.window = (seen.window * 4).min(MAX_WINDOW);
                }
            }
            self.add(id, (node, labels, state), ns);
        }
    }

    /// Adds a sample, once the recording has begun.
    fn add(&mut self, id: ThreadId, observation: Observation, ns: u64) {
        if !self.began {
            return;
        }
        let Some(thread) = self.recorder.processes.sampled(id.pid, id.tid) else { return };
        let sum = self.sums.entry((thread, observation)).or_default();
        sum.samples += 1;
        sum.ns += ns;
        self.recorder.stats.kept += 1;
    }

    /// A node that stands in for a stack, for CPU time without one.
    pub fn marker(&mut self, name: &str) -> NodeIndex {
        self.recorder.marker(ROOT, name.into())
    }
}
