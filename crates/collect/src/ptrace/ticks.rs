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

use aggregate::clock::monotonic_now;
use aggregate::ids::{LabelsIndex, NodeIndex, ROOT, ThreadId};
use aggregate::recorder::{Copied, Recorder};
use aggregate::runtimes::StandingThread;
use aggregate::times;
use events::Comm;
use image::{Arch, Avma};
use process::{Process, SeizeError, Threads, Tracer};
use unwind::Registers;

use super::followed::{Changed, FIRST_WINDOW, Followed, Seen};
use super::offspring::{Offspring, Wanted};
use super::sums::{Count, Key, Stand, Sum};
use crate::threads::waiting;

/// Threads stand for at most one part in so many of the time…
const STOPPED_SHARE: u32 = 20;
/// …and we are on a CPU ourselves for at most one in so many.
const OWN_SHARE: u32 = 5;
/// What a tick took of that beyond its due, as the first stack in a large library does, is made up
/// for in steps of this, so that no child is overlooked meanwhile…
const STEP: Duration = Duration::from_millis(40);
/// …as long as no more is owed than this.
const MOST_OWED: Duration = Duration::from_millis(500);
/// The deepest stack that is copied.
const MAX_WINDOW: usize = 1 << 20;
/// What takes long in large processes is done at each tick of so many.
const SELDOM: u64 = 10;

/// Shared with the session.
#[derive(Debug, Default)]
pub(super) struct Shared {
    pub samples: AtomicU64,
    /// Somebody who is followed lives.
    pub living: AtomicBool,
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

/// The CPU time of a process' threads is added to what is known of them.
fn add_times(of: &Followed, to: &mut BTreeMap<ThreadId, u64>) {
    let pid = of.process.pid();
    for (&tid, seen) in &of.threads {
        *to.entry(ThreadId { pid, tid }).or_default() += seen.cpu_ns();
    }
}

/// Takes samples on a thread that traces.
pub(super) struct Ticker {
    pub recorder: Recorder,
    pub sums: BTreeMap<Key, Sum>,
    pub states: Vec<String>,
    /// How long each stop took, in microseconds, and their sum.
    pub stops: Vec<u32>,
    pub refused: BTreeMap<String, u64>,
    pub offspring: Offspring,
    count: Count,
    followed: Vec<Followed>,
    /// CPU time of the threads of processes that have ended.
    ended: BTreeMap<ThreadId, u64>,
    tick: u64,
    began: bool,
    /// How long threads stood in this tick.
    stood: Duration,
    random: u64,
}

/// What a look at a process' threads has found.
#[derive(Default)]
struct Look {
    /// Threads to be stopped, and their states.
    running: Vec<(i32, usize)>,
    /// Threads that were on a CPU since the last look.
    ran: Vec<i32>,
}

impl Ticker {
    /// Of processes that are followed by `recorder` already.
    pub fn new(
        processes: &[Arc<Process>],
        count: Count,
        mut recorder: Recorder,
        children: Wanted,
    ) -> Self {
        recorder.look_for_runtimes();
        Self {
            recorder,
            sums: BTreeMap::new(),
            states: Vec::new(),
            stops: Vec::new(),
            refused: BTreeMap::new(),
            offspring: Offspring::new(processes, children),
            count,
            followed: processes.iter().cloned().map(Followed::new).collect(),
            ended: BTreeMap::new(),
            tick: 0,
            began: false,
            stood: Duration::ZERO,
            random: monotonic_now() | 1,
        }
    }

    /// Samples until it is told to stop.
    pub fn run(mut self, period: Duration, shared: &Shared) -> std::io::Result<Self> {
        // Baselines of CPU time, and who sleeps already.
        Tracer::run(move |tracer| {
            let this_thread = Some(std::thread::current());
            *shared.sampler.lock().unwrap_or_else(PoisonError::into_inner) = this_thread;
            let (mut last, mut owed) = (Instant::now(), Duration::ZERO);
            self.tick(tracer, Duration::ZERO);
            self.began = true;
            let mut over = false;
            while !over && !self.followed.is_empty() {
                // The last one counts the time up to the end.
                over = shared.stop.load(Ordering::SeqCst);
                let (begun, own) = (Instant::now(), own_cpu_time());
                self.stood = Duration::ZERO;
                self.tick(tracer, begun - last);
                last = begun;
                shared.samples.store(self.recorder.stats.kept, Ordering::Relaxed);
                let rest = self.stood * (STOPPED_SHARE - 1);
                owed += own_cpu_time().saturating_sub(own) * (OWN_SHARE - 1);
                let rest = rest.max(owed.min(STEP)).max(owed.saturating_sub(MOST_OWED));
                let rest = rest.max(self.jittered(period).saturating_sub(begun.elapsed()));
                owed = owed.saturating_sub(rest);
                if !over {
                    shared.wait(rest);
                }
                tracer.settle();
            }
            shared.living.store(false, Ordering::SeqCst);
            times::end_reaped(&mut self.recorder.processes);
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
    pub fn cpu_times(&self) -> BTreeMap<ThreadId, u64> {
        let mut times = self.ended.clone();
        self.followed.iter().for_each(|f| add_times(f, &mut times));
        times
    }

    /// Nanoseconds that children took which had ended and were waited for, and that were not seen:
    /// they lived too short, or it was their last moment.
    pub fn unseen_cpu_time(&self) -> u64 {
        let seen = self.ended.values().sum();
        times::reaped(&self.recorder.processes).saturating_sub(seen)
    }

    fn tick(&mut self, tracer: &mut Tracer, passed: Duration) {
        self.tick += 1;
        self.recorder.next_round(monotonic_now());
        self.let_go_of_ended();
        self.offspring.next_tick(self.began);
        self.recorder.look_for_runtimes();
        let ns = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        let mut i = 0;
        // Children that are found on the way come last, and are looked at in the same tick.
        while i < self.followed.len() {
            self.look_at_process(tracer, i, ns);
            i += 1;
        }
    }

    fn let_go_of_ended(&mut self) {
        let (recorder, offspring, ended) =
            (&mut self.recorder, &mut self.offspring, &mut self.ended);
        self.followed.retain(|f| {
            let lives = f.process.is_alive();
            if !lives {
                let pid = f.process.pid();
                add_times(f, ended);
                offspring.ended(pid);
                recorder.processes.ended(pid);
                recorder.forget(pid);
            }
            lives
        });
    }

    fn look_at_process(&mut self, tracer: &mut Tracer, i: usize, ns: u64) {
        if self.followed[i].wants_refresh() {
            self.refresh(i);
        }
        let broken = self.recorder.stats.broken_total();
        let process = self.followed[i].process.clone();
        let seldom = self.tick.is_multiple_of(SELDOM);
        let tids = self.followed[i].list(seldom);
        let mut look = Look::default();
        for &tid in &tids {
            self.look(&process, i, ThreadId { pid: process.pid(), tid }, ns, &mut look);
        }
        if !look.running.is_empty() {
            self.stop(tracer, i, &look.running, ns);
        }
        self.followed[i].broken |= self.recorder.stats.broken_total() > broken;
        let may_have_forked = if seldom { &tids } else { &look.ran };
        let children = self.offspring.of(&mut self.followed[i], may_have_forked, seldom);
        if children.is_empty() {
            return;
        }
        for child in children {
            self.recorder.processes.add_child(&child, monotonic_now());
            self.recorder.forget(child.pid());
            self.followed.push(Followed::new(child));
        }
        // It goes through all processes.
        self.recorder.look_for_runtimes();
    }

    /// Reads the mappings again: a library may have been loaded, or a program executed.
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

    /// The leading thread was on a CPU: it may have executed another program.
    fn look_at_program(&mut self, i: usize) {
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

    /// Looks at one thread; adds it to those that run, or counts it where it sleeps.
    fn look(&mut self, process: &Process, i: usize, id: ThreadId, ns: u64, look: &mut Look) {
        let Ok(schedule) = process.thread_schedule(id.tid) else { return };
        let seen = self.followed[i].threads.get_mut(&id.tid);
        let before = seen.as_ref().map(|s| s.schedule);
        let slept_on = seen.is_some_and(|s| s.update(schedule));
        if before.is_none() {
            let baseline = if self.began { 0 } else { schedule.cpu_ns };
            self.recorder.processes.add_thread(id.pid, id.tid, baseline);
            self.followed[i].threads.insert(id.tid, Seen::new(schedule, baseline));
        }
        if before != Some(schedule) {
            look.ran.push(id.tid);
            if id.tid == id.pid {
                self.look_at_program(i);
            }
        }
        let Some(seen) = self.followed[i].threads.get_mut(&id.tid) else { return };
        if let (Some(stand), true) = (seen.asleep, slept_on) {
            return self.add(id, stand, ns);
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
            look.running.push((id.tid, state));
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
                if let Some(seen) = self.followed[i].threads.get_mut(&id.tid) {
                    seen.asleep = Some(stand);
                }
                self.add(id, stand, ns);
            }
            _ => look.running.push((id.tid, state)),
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
        let thread = StandingThread { process, memory, tid, sp, thread_pointer: pointer };
        let standing = Some(&self.recorder.runtimes.read(&thread));
        let copy = Copied { registers: &registers, bytes: &bytes[..got], standing };
        self.recorder.whole_stack(pid, &copy)
    }

    /// Stops threads, copies, and counts them.
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
                |memory| StandingThread { process: &process, memory, tid, sp, thread_pointer };
            let standing = memory.map(|m| self.recorder.runtimes.read(&thread(m)));
            copies.push((tid, state, user, bytes, full, standing));
        }
        let stood = seized.release();
        self.stood += stood;
        self.stops.push(u32::try_from(stood.as_micros()).unwrap_or(u32::MAX));
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
