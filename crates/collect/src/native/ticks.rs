//! Sampling by the clock, without perf events: `/proc` says who runs, ptrace stops those for a
//! moment and copies their registers and stacks.
//!
//! ```text
//!   each tick:  schedstat of each thread
//!                 │ slept before, not been on a CPU since ──► the same stack as before
//!                 ├─ sleeps now ──► stack pointer and pc from /proc, stack from memory: no stop
//!                 └─ runs ──► SEIZE + INTERRUPT, copy, let go; unwound afterwards
//! ```
//!
//! A thread that sleeps is stopped only where its stack cannot be followed from these two
//! registers. How much of the time threads may stand is bounded: the longer a stop took, the
//! later the next tick. The ticks are not regular, so that nothing in the target can be in step
//! with them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use image::{Arch, Avma};
use rustc_hash::FxHashMap;
use target::{Process, ProcessMemory, Schedule, SeizeError, Threads, Tracer};
use unwind::Registers;

use super::waiting;
use crate::clock::monotonic_now;
use crate::cputime::ThreadId;
use crate::gocpu::LabelsIndex;
use crate::recorder::{Copied, Recorder};
use crate::stacks::{NodeIndex, ROOT, ThreadIndex};

/// Threads stand for at most one part in so many of the time…
const STOPPED_SHARE: u32 = 20;
/// …and we are on a CPU ourselves for at most one in so many.
const OWN_SHARE: u32 = 5;
/// How often mappings are read again, where a stack shows that they have changed.
const REFRESH_INTERVAL: Duration = Duration::from_millis(200);
/// What is copied of a stack at first; a thread whose stack is deeper gets four times as much.
const FIRST_WINDOW: usize = 32 << 10;
const MAX_WINDOW: usize = 1 << 20;
/// New threads are looked for at each tick, in processes of more threads than this at each tenth.
const FEW_THREADS: usize = 64;

/// What the samples are to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Count {
    /// Threads that run.
    Cpu,
    /// All threads.
    Wall,
}

/// Samples of one thread, stack and state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sum {
    pub samples: u64,
    /// Time between the ticks that they were taken at and those before.
    pub ns: u64,
}

/// Where a thread was, with which labels of its goroutine, and in what state (an index of
/// [`Ticker::states`]).
pub(super) type Stand = (NodeIndex, LabelsIndex, usize);
/// Thread and stand.
pub(super) type Key = (ThreadIndex, Stand);

/// What is known of a thread.
#[derive(Debug, Clone, Copy)]
struct Seen {
    schedule: Schedule,
    /// It slept when it was seen last, there.
    asleep: Option<Stand>,
    window: usize,
    /// Its thread pointer, once it was stopped.
    thread_pointer: Option<u64>,
    /// CPU time when the recording began, or 0 for a thread that began later.
    baseline: u64,
    tick: u64,
}

/// Shared with the session.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub samples: AtomicU64,
    stop: AtomicBool,
    sampler: Mutex<Option<Thread>>,
}

impl Shared {
    /// Ends the sampling, after one more tick.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = &*self.sampler.lock().unwrap_or_else(PoisonError::into_inner) {
            thread.unpark();
        }
    }

    /// Waits for that, or for the time.
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
    // The only documented failure is a clock that does not exist; this one always does.
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID);
    time.map_or(Duration::ZERO, Duration::from)
}

/// Takes samples on a thread that traces.
pub(super) struct Ticker {
    pub recorder: Recorder,
    pub sums: BTreeMap<Key, Sum>,
    pub states: Vec<String>,
    /// How long each stop took, in microseconds, and their sum.
    pub stops: Vec<u32>,
    pub refused: BTreeMap<String, u64>,
    count: Count,
    processes: Vec<(Arc<Process>, Option<ProcessMemory>)>,
    threads: FxHashMap<ThreadId, Seen>,
    listed: Vec<Vec<i32>>,
    tick: u64,
    began: bool,
    /// How long threads stood in this tick.
    stood: Duration,
    /// Broken stacks when the mappings were read last, and when that was.
    refreshed: (u64, Instant),
    /// The targets are about to execute their programs.
    before_exec: bool,
    random: u64,
}

impl Ticker {
    pub fn new(
        roots: &[Arc<Process>],
        count: Count,
        recorder: Recorder,
        before_exec: bool,
    ) -> Self {
        let processes = roots.iter().map(|p| (p.clone(), p.memory().ok())).collect();
        let mut recorder = recorder;
        recorder.python.look_to_read(&recorder.processes);
        Self {
            recorder,
            sums: BTreeMap::new(),
            states: Vec::new(),
            stops: Vec::new(),
            refused: BTreeMap::new(),
            count,
            processes,
            threads: FxHashMap::default(),
            listed: vec![Vec::new(); roots.len()],
            tick: 0,
            began: false,
            stood: Duration::ZERO,
            refreshed: (0, Instant::now()),
            before_exec,
            random: monotonic_now() | 1,
        }
    }

    /// Samples until it is told to stop.
    pub fn run(mut self, period: Duration, shared: &Shared) -> std::io::Result<Self> {
        // Baselines of CPU time, and who sleeps already.
        Tracer::run(move |tracer| {
            let this_thread = Some(std::thread::current());
            *shared.sampler.lock().unwrap_or_else(PoisonError::into_inner) = this_thread;
            let mut last = Instant::now();
            self.tick(tracer, Duration::ZERO);
            self.began = true;
            let lives = |this: &Self| this.processes.iter().any(|p| p.0.is_alive());
            let mut over = false;
            while !over && lives(&self) {
                // The last one counts the time up to the end.
                over = shared.stop.load(Ordering::SeqCst);
                let (begun, own) = (Instant::now(), own_cpu_time());
                self.stood = Duration::ZERO;
                self.tick(tracer, begun - last);
                last = begun;
                shared.samples.store(self.recorder.stats.kept, Ordering::Relaxed);
                let rest = self.stood * (STOPPED_SHARE - 1);
                let rest = rest.max(own_cpu_time().saturating_sub(own) * (OWN_SHARE - 1));
                let rest = rest.max(self.jittered(period).saturating_sub(begun.elapsed()));
                if !over {
                    shared.wait(rest);
                }
                tracer.settle();
            }
            self
        })
    }

    /// Between half and one and a half periods.
    fn jittered(&mut self, period: Duration) -> Duration {
        // xorshift64 (Marsaglia 2003): nothing depends on its quality.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        period / 2 + period.mul_f64((self.random % 1000) as f64 / 1000.0)
    }

    /// CPU time of each thread in the recording, as far as it was seen.
    pub fn cpu_times(&self) -> impl Iterator<Item = (ThreadId, u64)> + '_ {
        self.threads.iter().map(|(id, s)| (*id, s.schedule.cpu_ns.saturating_sub(s.baseline)))
    }

    fn tick(&mut self, tracer: &mut Tracer, passed: Duration) {
        self.tick += 1;
        self.recorder.next_round(monotonic_now());
        self.refresh();
        self.recorder.go.look_to_read(&self.recorder.processes);
        let ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        for i in 0..self.processes.len() {
            let process = self.processes[i].0.clone();
            if self.listed[i].len() <= FEW_THREADS || self.tick.is_multiple_of(10) {
                self.listed[i] = process.threads().unwrap_or_default();
            }
            let tids = std::mem::take(&mut self.listed[i]);
            let mut running = Vec::new();
            for &tid in &tids {
                let id = ThreadId { pid: process.pid(), tid };
                self.look(&process, i, id, ns, &mut running);
            }
            self.listed[i] = tids;
            if !running.is_empty() {
                self.stop(tracer, i, &running, ns);
            }
        }
    }

    /// Reads the mappings again where stacks have been broken since: a library may have been
    /// loaded, or a program executed.
    fn refresh(&mut self) {
        let broken = self.recorder.stats.broken_total();
        let (then, when) = self.refreshed;
        let due = when.elapsed() >= REFRESH_INTERVAL && broken > then;
        if !due && !self.before_exec {
            return;
        }
        let before_exec = self.before_exec && when.elapsed() < REFRESH_INTERVAL;
        if !before_exec {
            self.before_exec = false;
            self.refreshed = (broken, Instant::now());
        }
        for (process, memory) in &mut self.processes {
            self.recorder.processes.refresh_maps(process, monotonic_now());
            if let Some(tracked) = self.recorder.processes.get_mut(process.pid()) {
                tracked.identity = process.read_identity().ok().or(tracked.identity.take());
            }
            // The descriptor belongs to the address space before an exec.
            *memory = process.memory().ok();
            if let Some(tracked) = self.recorder.processes.get_mut(process.pid()) {
                tracked.memory = process.memory().ok();
            }
        }
        self.recorder.python.look_to_read(&self.recorder.processes);
    }

    /// Looks at one thread; adds it to those that run, or counts it where it sleeps.
    fn look(
        &mut self,
        process: &Process,
        i: usize,
        id: ThreadId,
        ns: u64,
        running: &mut Vec<(i32, usize)>,
    ) {
        let Ok(schedule) = process.thread_schedule(id.tid) else { return };
        let (pid, tick) = (process.pid(), self.tick);
        let baseline = if self.began { 0 } else { schedule.cpu_ns };
        if !self.threads.contains_key(&id) {
            self.recorder.processes.add_thread(pid, id.tid, baseline);
        }
        let fresh = Seen {
            schedule,
            asleep: None,
            window: FIRST_WINDOW,
            thread_pointer: None,
            baseline,
            tick,
        };
        let seen = self.threads.entry(id).or_insert(fresh);
        seen.tick = tick;
        let slept_on = seen.schedule.timeslices == schedule.timeslices;
        seen.schedule = schedule;
        if let (Some(stand), true) = (seen.asleep, slept_on) {
            return self.add(id, stand, ns);
        }
        seen.asleep = None;
        let (window, pointer) = (seen.window, seen.thread_pointer);
        let Ok(wait) = process.thread_wait(id.tid) else { return };
        if let (Some(memory), true) =
            (&self.processes[i].1, wait.state == 'R' || self.count == Count::Wall)
        {
            self.recorder.go.meet(process, memory, id.tid);
        }
        if wait.state == 'R' {
            let state = self.state("running".into());
            running.push((id.tid, state));
            return;
        }
        if self.count == Count::Cpu || matches!(wait.state, 'Z' | 'X' | 't') {
            return;
        }
        let state = self.state(waiting::coarse_state(&wait).into());
        match self.sleeping_stack(i, id.tid, wait.call.map(|c| (c.pc, c.sp)), window, pointer) {
            // It slept before the stack was read, and has not been on a CPU since.
            Some((node, labels))
                if process.thread_schedule(id.tid).is_ok_and(|s| s == schedule) =>
            {
                let stand = (node, labels, state);
                if let Some(seen) = self.threads.get_mut(&id) {
                    seen.asleep = Some(stand);
                }
                self.add(id, stand, ns);
            }
            _ => running.push((id.tid, state)),
        }
    }

    fn state(&mut self, name: String) -> usize {
        self.states.iter().position(|s| *s == name).unwrap_or_else(|| {
            self.states.push(name);
            self.states.len() - 1
        })
    }

    /// The stack of a thread that sleeps, if two registers are enough to follow it to its root; of
    /// an interpreter's thread, if its thread pointer is known besides.
    fn sleeping_stack(
        &mut self,
        i: usize,
        tid: i32,
        call: Option<(Avma, Avma)>,
        window: usize,
        pointer: Option<u64>,
    ) -> Option<(NodeIndex, LabelsIndex)> {
        let (pc, sp) = call?;
        let (process, memory) = (&self.processes[i].0, self.processes[i].1.as_ref()?);
        let pid = process.pid();
        if pointer.is_none() && self.recorder.python.runs_in(pid) {
            return None;
        }
        let mut registers = Registers::unknown(Arch::host());
        registers.set_pc(pc);
        registers.set_sp(sp);
        let mut bytes = vec![0; window];
        let got = memory.read_upto(sp, &mut bytes).ok()?;
        let chain = pointer.and_then(|at| self.recorder.python.read_chain(pid, memory, at));
        let go = self.recorder.go.read(process, memory, tid, sp);
        let (bytes, chain, go) = (&bytes[..got], chain.as_ref(), go.as_ref());
        self.recorder.whole_stack(pid, &Copied { registers: &registers, bytes, chain, go })
    }

    /// Stops threads, copies, and counts them.
    fn stop(&mut self, tracer: &mut Tracer, i: usize, running: &[(i32, usize)], ns: u64) {
        let process = self.processes[i].0.clone();
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
            let seen = self.threads.get(&ThreadId { pid, tid });
            let mut bytes = vec![0; seen.map_or(FIRST_WINDOW, |s| s.window)];
            let memory = self.processes[i].1.as_ref();
            let got = memory.and_then(|m| m.read_upto(user.sp(), &mut bytes).ok()).unwrap_or(0);
            let full = got == bytes.len();
            bytes.truncate(got);
            let chain = user.thread_pointer().zip(memory);
            let chain = chain.and_then(|(at, m)| self.recorder.python.read_chain(pid, m, at));
            let go = &mut self.recorder.go;
            let go = memory.and_then(|m| go.read(&process, m, tid, user.sp()));
            copies.push((tid, state, user, bytes, full, chain, go));
        }
        let stood = seized.release();
        self.stood += stood;
        self.stops.push(u32::try_from(stood.as_micros()).unwrap_or(u32::MAX));
        for (tid, state, user, bytes, full, chain, go) in copies {
            let mut registers = Registers::unknown(Arch::host());
            user.by_dwarf_number().for_each(|(number, value)| registers.set(number, value));
            let before = self.recorder.stats.truncated;
            let (chain, go) = (chain.as_ref(), go.as_ref());
            let copy = Copied { registers: &registers, bytes: &bytes, chain, go };
            let (node, labels) = self.recorder.copied_stack(pid, &copy);
            let id = ThreadId { pid, tid };
            if let Some(seen) = self.threads.get_mut(&id) {
                seen.thread_pointer = user.thread_pointer();
                if full && self.recorder.stats.truncated > before {
                    seen.window = (seen.window * 4).min(MAX_WINDOW);
                }
            }
            self.add(id, (node, labels, state), ns);
        }
    }

    fn add(&mut self, id: ThreadId, stand: Stand, ns: u64) {
        if !self.began {
            return;
        }
        let Some(thread) = self.recorder.processes.sampled(id.pid, id.tid) else { return };
        let sum = self.sums.entry((thread, stand)).or_default();
        sum.samples += 1;
        sum.ns += ns;
        self.recorder.stats.kept += 1;
    }

    /// CPU time without a stack, for what is not named otherwise.
    pub fn marker(&mut self, name: &str) -> NodeIndex {
        self.recorder.marker(ROOT, name.into())
    }
}
