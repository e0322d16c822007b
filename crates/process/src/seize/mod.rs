//! Stops threads briefly, with `PTRACE_SEIZE` and `PTRACE_INTERRUPT`, never with `SIGSTOP`.
//!
//! ```text
//!   seize ──► interrupt ──► stopped ──► registers, memory ──► detach
//!     no stop    no signal     │ or at a signal, which is delivered at the detach
//! ```
//!
//! No thread stays stopped. A [`Seized`] detaches when it is dropped. If it cannot (a thread that
//! sleeps in the kernel and has not stopped), the kernel detaches when the tracing *thread* ends, and
//! a [`Tracer`] only exists on a thread of its own. If we are killed, the kernel does the same:
//! without `PTRACE_O_EXITKILL` the threads run on, and a signal that one stopped at is delivered
//! (kernel/signal.c, `ptrace_signal`).
//!
//! What a program can notice: the kernel interrupts and restarts a blocking system call, except for
//! those that are never restarted (`epoll_wait`, timed `recv` and others, signal(7)). These fail with
//! `EINTR`, as they do for any signal.

mod error;
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
use crate::stat::Stat;
use crate::{Process, ProcessMemory};
use host::RealtimePriority;
use host::rights::{Rights, TargetRights};
use reaper::Reaper;
use sys::Waited;

pub use error::SeizeError;
pub use registers::{NoRegisters, UserRegisters};

/// How long to wait for another tracer: another exoprof detaches within milliseconds.
const CONTENTION: Duration = Duration::from_millis(250);
/// How long to wait for a tracer of our own process, such as that of another profile kind. It surely
/// detaches, but its threads may be slow to stop on a busy machine.
const OWN_CONTENTION: Duration = Duration::from_secs(5);
/// How long running threads have to stop: they must get a CPU first, on a machine with none free.
const STOP_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a thread in uninterruptible sleep has to stop; the others are stopped meanwhile.
const SLEEPER_TIMEOUT: Duration = Duration::from_millis(2);
/// How long to sleep between two checks whether a thread has stopped: at first, and later.
const CHECK_INTERVAL: Duration = Duration::from_micros(20);
const LONG_CHECK_INTERVAL: Duration = Duration::from_micros(100);
/// Lists of threads that are read for a program that creates threads faster than they are stopped.
const MAX_RESCANS: usize = 64;

/// Where a thread stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Where it was when it was asked to stop.
    Interrupted,
    /// At the delivery of this signal, which it gets at the detach.
    Signal(i32),
    /// It was stopped before, by this signal (`SIGSTOP`, Ctrl-Z), and remains stopped.
    Group(i32),
}

/// Which threads to stop.
#[derive(Debug, Clone, Copy)]
pub enum Threads<'a> {
    /// All of them, including those that are created meanwhile.
    All,
    /// These, if they still exist.
    Only(&'a [i32]),
}

/// The one thread that may trace: the kernel knows tracers by thread. See [`Tracer::run`].
#[derive(Debug)]
pub struct Tracer {
    /// Threads that did not stop in time. They are detached as soon as they stop.
    pending: Vec<Tracee>,
    reaper: Arc<Reaper>,
    /// Neither to be sent to another thread nor shared with one.
    bound: PhantomData<*const ()>,
}

impl Tracer {
    /// Runs `work` on a thread of its own, which may stop threads. When it returns (or panics) all
    /// threads run again. It has [`RealtimePriority`], since each moment that it waits for a CPU
    /// would lengthen a stop.
    ///
    /// Only copy registers and memory in here. Unwinding, opening files and everything else can be
    /// done afterwards.
    ///
    /// # Errors
    /// When the system is out of threads.
    pub fn run<T: Send>(work: impl FnOnce(&mut Self) -> T + Send) -> io::Result<T> {
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("tracer".into());
            let reaper = Arc::new(Reaper::default());
            let theirs = reaper.clone();
            let (done, is_done) = mpsc::channel::<()>();
            let running = thread.spawn_scoped(scope, move || {
                let _done = done;
                // Each oversleeping would lengthen a stop.
                host::minimize_timer_slack();
                let _priority = RealtimePriority::raise();
                work(&mut Self { pending: Vec::new(), reaper: theirs, bound: PhantomData })
            })?;
            reaper.serve(&is_done);
            Ok(running.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        })
    }

    /// Stops the threads, and returns when all of them are stopped (but see
    /// [`Seized::not_stopped`]).
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
            match StopAttempt::new(self, process).run(threads) {
                Err(SeizeError::Traced { by, .. })
                    if is_own_thread(by) && Instant::now() < begun + OWN_CONTENTION =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                // Without an obstacle the thread was executing a program, or ending.
                Err(SeizeError::Traced { .. } | SeizeError::Blocked { .. })
                    if Instant::now() < give_up =>
                {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(SeizeError::Gone { pid }) => return Err(SeizeError::Gone { pid }),
                // The kernel refuses a process that exits, in several ways.
                Err(_) if !process.is_alive() => {
                    return Err(SeizeError::Gone { pid: process.pid() });
                }
                Err(e) => return Err(e),
                Ok((held, complete)) => {
                    return Ok(Seized { tracer: self, process, held, complete });
                }
            }
        }
    }

    /// Detaches threads that stopped late. A long-lived tracer must call this now and then.
    pub fn settle(&mut self) {
        self.pending.retain(|tracee| match tracee.look() {
            Waited::Nothing => true,
            Waited::Ended => false,
            Waited::Stopped(stop) => !tracee.detach(stop),
        });
    }
}

/// A thread that we trace.
#[derive(Debug, Clone, Copy)]
struct Tracee {
    tid: i32,
    /// We reap it at its end: every thread but the leader of a child of ours, whose exit status
    /// others wait for.
    reap: bool,
}

impl Tracee {
    fn look(self) -> Waited {
        sys::look(self.tid, self.reap)
    }

    /// Detaches it. Returns whether it runs again, or is gone.
    fn detach(self, stop: Stop) -> bool {
        let signal = match stop {
            Stop::Signal(signal) => signal,
            Stop::Interrupted | Stop::Group(_) => 0,
        };
        // ESRCH also means that it was killed while stopped. Then we reap it.
        sys::detach(self.tid, signal).is_ok() || self.look() == Waited::Ended
    }
}

/// A thread that is seized.
#[derive(Debug, Clone, Copy)]
struct Held {
    tracee: Tracee,
    /// `None` until it is stopped.
    stop: Option<Stop>,
    /// When it was last seen running.
    moved: Instant,
}

/// An attempt to stop threads. Dropping it before it is done detaches all of them.
struct StopAttempt<'a> {
    tracer: &'a mut Tracer,
    process: &'a Process,
    held: Vec<Held>,
    is_our_child: bool,
}

impl<'a> StopAttempt<'a> {
    fn new(tracer: &'a mut Tracer, process: &'a Process) -> Self {
        let is_our_child = process
            .dir
            .status()
            .is_ok_and(|status| status.ppid == std::process::id().cast_signed());
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

    /// Threads that are not seized yet, and whether the list of threads is complete: the kernel leaves
    /// some out if others end while the list is read (fs/proc/base.c, `first_tid`).
    fn not_held(&self) -> Result<(Vec<i32>, bool), SeizeError> {
        let pid = self.process.pid();
        // Read before the list, so that a thread that ends meanwhile does not hide a missing one.
        let count = self.process.dir.status().ok().map(|status| status.threads);
        let mut tids = self.process.threads().map_err(|source| match source.raw_os_error() {
            Some(libc::ESRCH | libc::ENOENT) => SeizeError::Gone { pid },
            _ => SeizeError::System { pid, what: "list the threads", source },
        })?;
        let lists_all = count.is_none_or(|n| n <= tids.len() as u64);
        let held: HashSet<i32> = self.held.iter().map(|h| h.tracee.tid).collect();
        tids.retain(|tid| !held.contains(tid) && !self.is_pending(*tid));
        Ok((tids, lists_all))
    }

    /// Stops these threads, and returns when they are stopped. False if none of them existed.
    fn stop(&mut self, tids: Vec<i32>) -> Result<bool, SeizeError> {
        let begin = self.held.len();
        // Seizing stops nobody: all are seized before the first is stopped.
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
            // A traced thread keeps its id and is listed, even as a zombie. If it is not, the id had
            // become that of another process' thread.
            Ok(()) if self.process.thread_state(tid).is_none() => {
                detach_later(self.tracer, tracee);
                Ok(())
            }
            Ok(()) => {
                self.held.push(Held { tracee, stop: None, moved: Instant::now() });
                Ok(())
            }
            // It has ended, or is a zombie, which the kernel refuses with EPERM.
            Err(Errno::ESRCH) => Ok(()),
            Err(_) if self.ended(tid) => Ok(()),
            // An exec has given the leader's id to a thread that we had seized.
            Err(Errno::EPERM) if self.process.tracer_of(tid) == Some(own_tid()) => {
                self.held.push(Held { tracee, stop: None, moved: Instant::now() });
                Ok(())
            }
            Err(e) => {
                let why = self.explain(tid, e);
                // It may have begun to exit since.
                if self.ended(tid) { Ok(()) } else { Err(why) }
            }
        }
    }

    fn ended(&self, tid: i32) -> bool {
        self.process.thread_stat(tid).is_none_or(|stat| stat.is_zombie() || stat.exiting)
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

    /// Stops the threads from this index on, and waits until they are stopped.
    fn stop_from(&mut self, begin: usize) {
        for held in &self.held[begin..] {
            // ESRCH: it has ended, as waiting for it will show.
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

impl Drop for StopAttempt<'_> {
    fn drop(&mut self) {
        release(self.tracer, &mut self.held);
    }
}

/// Waits until a thread is stopped, as long as its state allows it to stop. `moved`: on entry, when
/// the thread was interrupted; on return, when it was last seen running.
fn wait(process: &Process, tracee: Tracee, moved: &mut Instant) -> Waited {
    let asked = *moved;
    for round in 0u32.. {
        let now = Instant::now();
        match tracee.look() {
            Waited::Nothing => *moved = now,
            other => return other,
        }
        let waited = asked.elapsed();
        if waited > STOP_TIMEOUT {
            break;
        }
        if waited > SLEEPER_TIMEOUT {
            match process.thread_state(tracee.tid) {
                // It may also be a leader that ended before other threads and cannot be reaped yet.
                None | Some(b'D' | b'Z' | b'X' | b'x') => return tracee.look(),
                Some(_) => {}
            }
        }
        // It needs a CPU to stop, perhaps ours. After a while, checking costs it more CPU time than
        // a longer sleep would.
        if round < 4 {
            std::thread::yield_now();
        } else {
            std::thread::sleep(if waited > SLEEPER_TIMEOUT {
                LONG_CHECK_INTERVAL
            } else {
                CHECK_INTERVAL
            });
        }
    }
    Waited::Nothing
}

fn release(tracer: &mut Tracer, held: &mut Vec<Held>) {
    for Held { tracee, stop, .. } in held.drain(..) {
        let detached = match stop.map_or_else(|| tracee.look(), Waited::Stopped) {
            Waited::Stopped(stop) => tracee.detach(stop),
            Waited::Ended => true,
            Waited::Nothing => false,
        };
        if !detached {
            detach_later(tracer, tracee);
        }
    }
    // Threads that are not detached yet can still end, and an exec wait for them.
    tracer.reaper.keep_only(tracer.pending.iter().filter(|p| p.reap).map(|p| p.tid));
}

/// Only a stopped thread can be detached.
fn detach_later(tracer: &mut Tracer, tracee: Tracee) {
    let _ = sys::interrupt(tracee.tid);
    tracer.pending.push(tracee);
}

/// Stopped threads. They run again when this is dropped.
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

    /// The stopped threads, and where they stopped.
    pub fn stopped(&self) -> impl Iterator<Item = (i32, Stop)> + '_ {
        self.held.iter().filter_map(|h| Some((h.tracee.tid, h.stop?)))
    }

    /// Threads that could not be stopped: in uninterruptible sleep (state D), or without a CPU for
    /// half a second. They may run any time.
    pub fn not_stopped(&self) -> impl Iterator<Item = i32> + '_ {
        self.held.iter().filter(|h| h.stop.is_none()).map(|h| h.tracee.tid)
    }

    /// Whether all threads were found: false for a program that creates threads faster than they are
    /// stopped.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The user registers of a stopped thread.
    ///
    /// # Errors
    /// [`NoRegisters`], also for a thread that was killed while it was stopped.
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

    /// An upper bound of how long any thread has been stopped. Waiting for a CPU before the stop does
    /// not count.
    #[must_use]
    pub fn stopped_for(&self) -> Duration {
        let stopped = self.held.iter().filter(|h| h.stop.is_some());
        stopped.map(|h| h.moved.elapsed()).max().unwrap_or_default()
    }

    /// Lets the threads run. Returns an upper bound of how long any of them was stopped.
    pub fn release(mut self) -> Duration {
        let before = Instant::now();
        let stopped = self.stopped_for();
        let threads = self.held.len();
        release(self.tracer, &mut self.held);
        let stopped = stopped + before.elapsed();
        let (pid, complete) = (self.process.pid(), self.complete);
        tracing::trace!(pid, threads, complete, ?stopped, "threads were stopped");
        stopped
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
        self.thread_stat(tid).map(|stat| stat.state)
    }

    fn thread_stat(&self, tid: i32) -> Option<Stat> {
        let mut file = ThreadFile::default();
        Stat::parse(file.read(&self.dir, tid, "stat").ok()?)
    }

    /// The thread ID of the tracer of a thread.
    fn tracer_of(&self, tid: i32) -> Option<i32> {
        host::status::tracer(&self.dir.thread_status(tid).ok()?)
    }
}

fn is_own_thread(tid: i32) -> bool {
    std::path::Path::new(&format!("/proc/self/task/{tid}")).exists()
}

fn own_tid() -> i32 {
    nix::unistd::gettid().as_raw()
}
