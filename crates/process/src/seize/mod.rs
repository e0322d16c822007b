//! Stopping threads for a moment: `PTRACE_SEIZE` and `PTRACE_INTERRUPT`, never `SIGSTOP`.
//!
//! ```text
//!   seize ──► interrupt ──► stands ──► registers, memory ──► detach
//!     no stop    no signal     │ or on a signal, which is handed on at the detach
//! ```
//!
//! The target is safe from us in three ways. A [`Seized`] detaches when it is dropped. What it
//! cannot detach (a thread that sleeps in the kernel and has not stopped) the kernel lets go when
//! the tracing *thread* ends, and a [`Tracer`] exists on a thread of its own only. And if we are
//! killed in the middle, the kernel does the same: without `PTRACE_O_EXITKILL` the threads run
//! on, and a signal that one stood on is delivered (kernel/signal.c, `ptrace_signal`).
//!
//! What a program can notice: a system call that sleeps is interrupted and begun again by the
//! kernel, except for those that never are (`epoll_wait`, timed `recv` and the like, signal(7)),
//! which fail with `EINTR` as they do for any signal.

mod reaper;
mod registers;
mod sys;

use std::collections::HashSet;
use std::io;
use std::marker::PhantomData;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::procdir::ThreadFile;
use crate::{Process, ProcessMemory};
use host::RealtimePriority;
use host::rights::{Obstacle, Rights, TargetRights};
use reaper::Reaper;
use sys::Waited;

pub use registers::{NoRegisters, UserRegisters};

/// How long another tracer is waited for: one of ours lets go after milliseconds.
const CONTENTION: Duration = Duration::from_millis(250);
/// How long one is waited for that is a thread of our own process, such as that of another kind in
/// the same session: it surely lets go, but on a busy machine its own threads need as long to stop.
const OWN_CONTENTION: Duration = Duration::from_secs(5);
/// How long threads that run get to stop: until they get a CPU, on a machine that has none free.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long one gets that sleeps in the kernel and cannot be woken; the others stand meanwhile.
const PATIENCE_ASLEEP: Duration = Duration::from_millis(2);
/// How long to sleep between two looks whether a thread stands: while that is a matter of
/// microseconds, and when it is not.
const NAP: Duration = Duration::from_micros(20);
const LONG_NAP: Duration = Duration::from_micros(100);
/// A program that creates threads faster than they are stopped is given up on after this.
const MAX_RESCANS: usize = 64;

/// Why threads could not be stopped.
#[derive(Debug, thiserror::Error)]
pub enum SeizeError {
    /// The process, or the only thread asked for, has ended.
    #[error("process {pid} has exited")]
    Gone {
        /// The process.
        pid: i32,
    },
    /// A process can have one tracer, and has one.
    #[error(
        "process {pid} is traced already, by process {by} ({comm}), and can have one tracer: end that, then try again"
    )]
    Traced {
        /// The process.
        pid: i32,
        /// The tracer (its thread).
        by: i32,
        /// Its name.
        comm: String,
    },
    /// A right is missing, and this gives it.
    #[error("not permitted to stop process {pid}: {}; to mend it: {}", .obstacle.reason, .obstacle.remedy)]
    NotPermitted {
        /// The process.
        pid: i32,
        /// What stands in the way.
        obstacle: Obstacle,
    },
    /// Refused although our rights suffice.
    #[error(
        "ptrace of process {pid} is blocked ({source}), although the rights suffice: a seccomp filter \
         or a security module forbids it; in a container, run exoprof with --cap-add SYS_PTRACE, \
         or outside of it"
    )]
    Blocked {
        /// The process.
        pid: i32,
        /// The system's answer.
        source: io::Error,
    },
    /// The system failed otherwise.
    #[error("cannot {what} of process {pid}: {source}")]
    System {
        /// The process.
        pid: i32,
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        source: io::Error,
    },
}

/// Where a stopped thread stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Where it was when it was asked to stop.
    Interrupted,
    /// On its way to take this signal, which it gets when it is let go.
    Signal(i32),
    /// It was stopped before, by this signal (`SIGSTOP`, Ctrl-Z), and stays so.
    Group(i32),
}

/// Which threads to stop.
#[derive(Debug, Clone, Copy)]
pub enum Threads<'a> {
    /// Every one, also those that are created meanwhile.
    All,
    /// These, as far as they live.
    Only(&'a [i32]),
}

/// The one thread that may trace: the kernel knows tracers by thread. See [`Tracer::run`].
#[derive(Debug)]
pub struct Tracer {
    /// Threads that were asked to stop and did not in time. They are let go as soon as they do.
    pending: Vec<Tracee>,
    reaper: Arc<Reaper>,
    /// Neither to be sent to another thread nor shared with one.
    bound: PhantomData<*const ()>,
}

impl Tracer {
    /// Runs `work` on a thread of its own, which may stop threads. When it returns (or panics)
    /// whatever was stopped runs again. It is [`RealtimePriority`] of others: each moment that it waits for a
    /// CPU would lengthen a stop.
    ///
    /// Nothing but the copying of registers and memory should happen in here: all else, such as
    /// unwinding and looking at files, can be done afterwards.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn run<T: Send>(work: impl FnOnce(&mut Self) -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("tracer".into());
            let reaper = Arc::new(Reaper::default());
            let theirs = reaper.clone();
            let (done, is_done) = mpsc::channel::<()>();
            let running = thread.spawn_scoped(scope, move || {
                let _done = done;
                sys::sleep_exactly();
                let _ahead = RealtimePriority::raise();
                work(&mut Self { pending: Vec::new(), reaper: theirs, bound: PhantomData })
            })?;
            reaper.serve(&is_done);
            Ok(running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Stops the threads, and returns when all of them stand (but see [`Seized::not_stopped`]).
    ///
    /// # Errors
    /// [`SeizeError`]; nothing is stopped then.
    pub fn seize<'a>(
        &'a mut self,
        process: &'a Process,
        threads: Threads<'_>,
    ) -> Result<Seized<'a>, SeizeError> {
        let begun = Instant::now();
        let give_up = begun + CONTENTION;
        loop {
            self.settle();
            match Attempt::new(self, process).run(threads) {
                Err(SeizeError::Traced { by, .. })
                    if is_own_thread(by) && Instant::now() < begun + OWN_CONTENTION =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Refused without a reason: it was in the middle of an exec, or ended.
                Err(SeizeError::Traced { .. } | SeizeError::Blocked { .. })
                    if Instant::now() < give_up =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(e) => return Err(e),
                Ok((held, complete)) => {
                    return Ok(Seized { tracer: self, process, held, complete });
                }
            }
        }
    }

    /// Lets threads go that have stopped late. To be called now and then by who keeps a tracer.
    pub fn settle(&mut self) {
        self.pending.retain(|tracee| match tracee.look() {
            Waited::Nothing => true,
            Waited::Ended => false,
            Waited::Stopped(stop) => !tracee.let_go(stop),
        });
    }
}

/// A thread that we trace.
#[derive(Debug, Clone, Copy)]
struct Tracee {
    tid: i32,
    /// Its end is for us to take note of. So is that of every thread but the leader of a child of
    /// ours, whose exit status somebody else here waits for.
    reap: bool,
}

impl Tracee {
    fn look(self) -> Waited {
        sys::look(self.tid, self.reap)
    }

    /// Whether it is free now, or gone.
    fn let_go(self, stop: Stop) -> bool {
        let signal = match stop {
            Stop::Signal(signal) => signal,
            Stop::Interrupted | Stop::Group(_) => 0,
        };
        // ESRCH also means that it was killed while it stood. Then it is ours to reap.
        sys::detach(self.tid, signal).is_ok() || self.look() == Waited::Ended
    }
}

/// A thread that is seized.
#[derive(Debug, Clone, Copy)]
struct Held {
    tracee: Tracee,
    /// `None` until it stands.
    stop: Option<Stop>,
    /// When it surely did not stand yet.
    moved: Instant,
}

/// Seizing and stopping; dropped before its end, it lets everything go.
struct Attempt<'a> {
    tracer: &'a mut Tracer,
    process: &'a Process,
    held: Vec<Held>,
    is_our_child: bool,
}

impl<'a> Attempt<'a> {
    fn new(tracer: &'a mut Tracer, process: &'a Process) -> Self {
        let is_our_child = process.status_number("PPid:") == Some(std::process::id().into());
        Self { tracer, process, held: Vec::new(), is_our_child }
    }

    fn run(mut self, threads: Threads<'_>) -> Result<(Vec<Held>, bool), SeizeError> {
        let mut complete = false;
        if let Threads::Only(tids) = threads {
            let free = tids.iter().copied().filter(|tid| !self.is_pending(*tid)).collect();
            self.stop(free)?;
            complete = true;
        }
        for _ in 0..MAX_RESCANS {
            if complete {
                break;
            }
            let (fresh, lists_all) = self.not_held()?;
            complete = !self.stop(fresh)? && lists_all;
        }
        if self.held.is_empty() && matches!(threads, Threads::All) {
            return Err(SeizeError::Gone { pid: self.process.pid() });
        }
        Ok((std::mem::take(&mut self.held), complete))
    }

    /// Threads that are not held yet, and whether the list that they are from is as long as it
    /// should be: it leaves some out where others end while it is read (fs/proc/base.c,
    /// `first_tid`).
    fn not_held(&self) -> Result<(Vec<i32>, bool), SeizeError> {
        let pid = self.process.pid();
        // Before the list: one that ends in between must not make up for one that is left out.
        let count = self.process.status_number("Threads:");
        let mut tids = self.process.threads().map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => SeizeError::Gone { pid },
            _ => SeizeError::System { pid, what: "list the threads", source },
        })?;
        let lists_all = count.is_none_or(|n| n <= tids.len() as u64);
        let held: HashSet<i32> = self.held.iter().map(|h| h.tracee.tid).collect();
        tids.retain(|tid| !held.contains(tid) && !self.is_pending(*tid));
        Ok((tids, lists_all))
    }

    /// Stops these threads, and returns when they stand. False where none of them was left.
    fn stop(&mut self, tids: Vec<i32>) -> Result<bool, SeizeError> {
        let begin = self.held.len();
        // First all are seized, which stops nobody, then all are stopped.
        for tid in tids {
            self.seize(tid)?;
        }
        let any = self.held.len() > begin;
        if any {
            self.stop_from(begin);
        }
        Ok(any)
    }

    fn is_pending(&self, tid: i32) -> bool {
        self.tracer.pending.iter().any(|p| p.tid == tid)
    }

    fn seize(&mut self, tid: i32) -> Result<(), SeizeError> {
        let leads = tid == self.process.pid();
        let tracee = Tracee { tid, reap: !(leads && self.is_our_child) };
        let others = (!leads).then_some(tid);
        match self.tracer.reaper.guarded(others, || sys::seize(tid)) {
            // What is traced keeps its number, and is listed even as a zombie. If it is not, the
            // number had become that of another process's thread.
            Ok(()) if self.process.thread_state(tid).is_none() => {
                set_free_later(self.tracer, tracee);
                Ok(())
            }
            Ok(()) => {
                self.held.push(Held { tracee, stop: None, moved: Instant::now() });
                Ok(())
            }
            // Ended, or a zombie, which the kernel refuses with EPERM.
            Err(Errno::ESRCH) => Ok(()),
            Err(_) if self.ended(tid) => Ok(()),
            // An exec has given the leader's number to a thread that we had seized.
            Err(Errno::EPERM) if self.process.tracer_of(tid) == Some(own_tid()) => {
                self.held.push(Held { tracee, stop: None, moved: Instant::now() });
                Ok(())
            }
            Err(e) => Err(self.explain(tid, e)),
        }
    }

    fn ended(&self, tid: i32) -> bool {
        matches!(self.process.thread_state(tid), None | Some(b'Z' | b'X' | b'x'))
    }

    fn explain(&self, tid: i32, error: Errno) -> SeizeError {
        let pid = self.process.pid();
        if !matches!(error, Errno::EPERM | Errno::EACCES | Errno::ENOSYS) {
            return SeizeError::System { pid, what: "seize a thread", source: error.into() };
        }
        if let Some(by) = self.process.tracer_of(tid) {
            let comm = std::fs::read_to_string(format!("/proc/{by}/comm")).unwrap_or_default();
            return SeizeError::Traced { pid, by, comm: comm.trim_end().to_owned() };
        }
        let obstacle = || Rights::read().ok()?.attach(&TargetRights::read(pid).ok()?).err();
        match obstacle() {
            Some(obstacle) => SeizeError::NotPermitted { pid, obstacle },
            None => SeizeError::Blocked { pid, source: error.into() },
        }
    }

    /// Stops the threads from this one on, and waits until they stand.
    fn stop_from(&mut self, begin: usize) {
        for held in &self.held[begin..] {
            // ESRCH: it has ended, which waiting finds out.
            let _ = sys::interrupt(held.tracee.tid);
        }
        let asked = Instant::now();
        let process = self.process;
        self.held.retain_mut(|held| {
            if held.stop.is_some() {
                return true;
            }
            held.moved = asked;
            match wait(process, held.tracee, &mut held.moved) {
                Waited::Stopped(stop) => held.stop = Some(stop),
                Waited::Ended => return false,
                Waited::Nothing => {}
            }
            true
        });
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        release(self.tracer, &mut self.held);
    }
}

/// Waits until a thread stands, for as long as its state gives hope.
/// `moved` is when it was asked to, and becomes when it was last seen not to stand.
fn wait(process: &Process, tracee: Tracee, moved: &mut Instant) -> Waited {
    let asked = *moved;
    for round in 0u32.. {
        let now = Instant::now();
        match tracee.look() {
            Waited::Nothing => *moved = now,
            other => return other,
        }
        let waited = asked.elapsed();
        if waited > PATIENCE {
            break;
        }
        if waited > PATIENCE_ASLEEP {
            match process.thread_state(tracee.tid) {
                // It can also be a leader that has ended before other threads, which nobody can
                // take note of yet.
                None | Some(b'D' | b'Z' | b'X' | b'x') => return tracee.look(),
                Some(_) => {}
            }
        }
        // It needs a CPU to stop: perhaps ours. Where it has waited for long, the look itself takes
        // more of that than a little patience does.
        if round < 4 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(if waited > PATIENCE_ASLEEP { LONG_NAP } else { NAP });
        }
    }
    Waited::Nothing
}

fn release(tracer: &mut Tracer, held: &mut Vec<Held>) {
    for Held { tracee, stop, .. } in held.drain(..) {
        let free = match stop.map_or_else(|| tracee.look(), Waited::Stopped) {
            Waited::Stopped(stop) => tracee.let_go(stop),
            Waited::Ended => true,
            Waited::Nothing => false,
        };
        if !free {
            set_free_later(tracer, tracee);
        }
    }
    // What is not free yet can still end, and an exec wait for it.
    tracer.reaper.keep_only(tracer.pending.iter().filter(|p| p.reap).map(|p| p.tid));
}

/// Only what stands can be let go.
fn set_free_later(tracer: &mut Tracer, tracee: Tracee) {
    let _ = sys::interrupt(tracee.tid);
    tracer.pending.push(tracee);
}

/// Threads that stand still for as long as this lives.
#[derive(Debug)]
pub struct Seized<'a> {
    tracer: &'a mut Tracer,
    process: &'a Process,
    held: Vec<Held>,
    complete: bool,
}

impl Seized<'_> {
    /// The process.
    #[must_use]
    pub fn process(&self) -> &Process {
        self.process
    }

    /// The threads that stand, and where.
    pub fn stopped(&self) -> impl Iterator<Item = (i32, Stop)> + '_ {
        self.held.iter().filter_map(|h| Some((h.tracee.tid, h.stop?)))
    }

    /// Threads that sleep in the kernel so that nothing wakes them (state D), or that got no CPU
    /// in half a second: they do not stand, and may begin to run any time.
    pub fn not_stopped(&self) -> impl Iterator<Item = i32> + '_ {
        self.held.iter().filter(|h| h.stop.is_none()).map(|h| h.tracee.tid)
    }

    /// Whether surely no thread was overlooked: false for a program that creates threads faster
    /// than they are stopped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The user registers of a thread that stands.
    ///
    /// # Errors
    /// [`NoRegisters`], also for a thread that was killed while it stood.
    pub fn registers(&self, tid: i32) -> Result<UserRegisters, NoRegisters> {
        UserRegisters::read(tid)
    }

    /// The memory of the process.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn memory(&self) -> io::Result<ProcessMemory> {
        self.process.memory()
    }

    /// How long the thread that has stood longest has stood, at most. A thread that was asked to
    /// stop and waited for a CPU did not stand in that time.
    #[must_use]
    pub fn stopped_for(&self) -> Duration {
        let standing = self.held.iter().filter(|h| h.stop.is_some());
        standing.map(|h| h.moved.elapsed()).max().unwrap_or_default()
    }

    /// Lets the threads go; gives how long the one that stood longest stood, at most.
    pub fn release(mut self) -> Duration {
        let before = Instant::now();
        let stood = self.stopped_for();
        release(self.tracer, &mut self.held);
        stood + before.elapsed()
    }
}

impl Drop for Seized<'_> {
    fn drop(&mut self) {
        release(self.tracer, &mut self.held);
    }
}

impl Process {
    /// The state letter of a thread (proc_pid_stat(5)); `None` once it is gone.
    pub(crate) fn thread_state(&self, tid: i32) -> Option<u8> {
        let mut file = ThreadFile::default();
        let text = file.read(&self.dir, tid, "stat").ok()?;
        crate::stat::Stat::parse(text).map(|s| s.state)
    }

    fn status_number(&self, field: &str) -> Option<u64> {
        let status = self.dir.read("status").ok()?;
        number_of(&status, field)
    }

    /// Who traces a thread (thread id), if anybody does.
    fn tracer_of(&self, tid: i32) -> Option<i32> {
        let mut file = ThreadFile::default();
        let text = file.read(&self.dir, tid, "status").ok()?;
        i32::try_from(number_of(text, "TracerPid:")?).ok().filter(|by| *by > 0)
    }
}

fn number_of(status: &[u8], field: &str) -> Option<u64> {
    let mut lines = status.split(|b| *b == b'\n');
    let value = lines.find_map(|l| l.strip_prefix(field.as_bytes()))?;
    crate::stat::decimal(value.trim_ascii())
}

fn is_own_thread(tid: i32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
}

fn own_tid() -> i32 {
    nix::unistd::gettid().as_raw()
}
