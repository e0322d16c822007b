//! Copies registers and stacks of all threads of a process while they are briefly stopped.

use std::time::Duration;

use aggregate::runtimes::{OffCpuState, OffCpuThread, Runtimes};
use events::StackCopier;
use host::rights::{Obstacle, Rights};
use image::{Arch, Avma};
use process::seize::{NoRegisters, UserRegisters};
use process::{MapRow, Process, ProcessMemory, SeizeError, Seized, ThreadWait, Threads, Tracer};
use unwind::Registers;

use super::no_stop;
use crate::outcome::RecordError;

/// The maximum number of bytes that are copied of one stack.
pub(super) const MAX_STACK: usize = 1 << 20;
/// The maximum number of bytes that are copied of all stacks of a process. Threads are
/// stopped for as long as copying takes.
pub(super) const MAX_COPIED: usize = 64 << 20;
/// Bytes that are copied if the stack's mapping is unknown.
const UNMAPPED_COPY: usize = 64 << 10;
/// Bytes that are copied of a lock that a thread waits for: enough to find the owner.
pub(super) const LOCK_BYTES: usize = 16;

/// The copy of one thread.
pub(crate) struct ThreadCopy {
    pub tid: i32,
    pub name: String,
    /// What it was waiting for before it was stopped; `None` if it was running or resumed before
    /// the stop.
    pub wait: Option<ThreadWait>,
    /// Its registers, or why there are none. If a thread could not be stopped, only those that
    /// `/proc` shows.
    pub registers: Result<Registers, &'static str>,
    /// Its stack, from the stack pointer on.
    pub stack: Vec<u8>,
    /// The bytes of the lock that it waits for, if it waits in futex(2).
    pub lock: Option<[u8; LOCK_BYTES]>,
    /// Data that language runtimes keep outside the stack.
    pub standing: Option<OffCpuState>,
}

/// The copies of all threads of a process.
pub(crate) struct Snapshot {
    pub threads: Vec<ThreadCopy>,
    pub how: CopyTiming,
    /// Further remarks for the reader.
    pub notes: Vec<String>,
}

/// How threads were copied.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CopyTiming {
    /// While all were stopped: how long, from the first thread to the last.
    Stopped(Duration),
    /// Each at a moment when it was not running, all of them within this time.
    NotStopped(Duration),
}

/// A method of copying threads.
pub(crate) enum CopyMethod {
    /// Stop all of them briefly.
    Stop,
    /// Look at them repeatedly until each was found not running.
    Look(Box<StackCopier>),
}

impl CopyMethod {
    /// Chooses the method.
    ///
    /// # Errors
    /// [`RecordError::NotWithoutStop`] if stopping is forbidden and the BPF program cannot be
    /// loaded.
    pub fn new(no_stop: bool) -> Result<Self, RecordError> {
        if !no_stop {
            return Ok(Self::Stop);
        }
        let copier = open_copier().map_err(RecordError::NotWithoutStop)?;
        Ok(Self::Look(Box::new(copier)))
    }

    /// The name of the method in the profile.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stop => "ptrace, all threads at once",
            Self::Look(_) => "bpf task iterator, no thread was stopped",
        }
    }

    /// Copies all threads of a process.
    pub fn take(
        &mut self,
        process: &Process,
        runtimes: &mut Runtimes,
    ) -> Result<Snapshot, RecordError> {
        match self {
            Self::Stop => Ok(Snapshot::stop(process, runtimes)?),
            Self::Look(copier) => no_stop::take(copier, process, runtimes),
        }
    }
}

/// Loads the BPF program that copies threads without stopping them.
fn open_copier() -> Result<StackCopier, Obstacle> {
    if let Ok(rights) = Rights::read() {
        rights.bpf()?;
    }
    let later_kernel = || "boot Linux 5.18 or later with CONFIG_DEBUG_INFO_BTF=y".into();
    StackCopier::open()
        .map_err(|e| Obstacle { reason: e.reason(), fix: e.fix().unwrap_or_else(later_kernel) })
}

/// Checks whether stacks can be copied without stopping threads.
pub(crate) fn check_no_stop() -> Result<(), Obstacle> {
    open_copier().map(drop)
}

/// How long the snapshots of one or more processes took, and remarks on them.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// How long each stopped process was stopped.
    stopped: Vec<Duration>,
    /// How long each other process was looked at.
    looked: Vec<Duration>,
    notes: Vec<(String, String)>,
}

impl Stops {
    /// Adds a process.
    pub fn add(&mut self, process: &Process, snapshot: &Snapshot) {
        match snapshot.how {
            CopyTiming::Stopped(time) => self.stopped.push(time),
            CopyTiming::NotStopped(time) => self.looked.push(time),
        }
        let who = format!("{} ({})", process.identity().comm, process.pid());
        self.notes.extend(snapshot.notes.iter().map(|note| (who.clone(), note.clone())));
    }

    /// Notes for the reader: one line for all processes, then the remarks on each.
    pub fn notes(&self) -> Vec<String> {
        let longest = |times: &[Duration]| millis(times.iter().max().copied().unwrap_or_default());
        let (longest_stop, within) = (longest(&self.stopped), longest(&self.looked));
        let stopped = match &self.stopped[..] {
            [] => None,
            [_] => Some(format!("all threads were stopped for {longest_stop:.1} ms")),
            all => Some(format!(
                "the threads of {} processes were stopped, one process at a time, for at most \
                 {longest_stop:.1} ms each and {:.1} ms in total",
                all.len(),
                millis(all.iter().sum())
            )),
        };
        let looked = (!self.looked.is_empty()).then(|| {
            format!(
                "no thread was stopped: stacks are from different moments, those of one process \
                 within {within:.1} ms"
            )
        });
        let several = self.stopped.len() + self.looked.len() > 1;
        let special = self.notes.iter();
        let special =
            special.map(|(who, n)| if several { format!("{who}: {n}") } else { n.clone() });
        stopped.into_iter().chain(looked).chain(special).collect()
    }
}

impl Snapshot {
    /// Stops all threads, copies them, and detaches.
    fn stop(process: &Process, runtimes: &mut Runtimes) -> Result<Self, SeizeError> {
        let pid = process.pid();
        let system = |what| move |source| SeizeError::System { pid, what, source };
        let memory = process.memory().map_err(system("open the memory"))?;
        let rows = process.maps().map_err(system("read the mappings"))?.rows;
        let mut before: Vec<(i32, String, ThreadWait)> = Vec::new();
        for tid in process.threads().map_err(system("list the threads"))? {
            runtimes.prepare_to_read(process, &memory, tid);
            let wait = process.thread_wait(tid).unwrap_or_default();
            before.push((tid, process.thread_name(tid).unwrap_or_default(), wait));
        }
        before.sort_unstable_by_key(|(tid, ..)| *tid);
        let taken = Tracer::run(|tracer| {
            let seized = tracer.seize(process, Threads::All)?;
            let (memory, rows) = (&memory, &rows[..]);
            let copier = Copier { process, memory, rows, runtimes, left: MAX_COPIED };
            Ok(copy(seized, &before, copier))
        });
        let mut snapshot = taken.map_err(system("start a thread to trace"))??;
        for thread in snapshot.threads.iter_mut().filter(|t| t.name.is_empty()) {
            thread.name = process.thread_name(thread.tid).unwrap_or_default();
        }
        snapshot.threads.sort_unstable_by_key(|t| (t.tid != pid, t.tid));
        Ok(snapshot)
    }
}

type ThreadBeforeStop = (i32, String, ThreadWait);

fn copy(seized: Seized<'_>, before: &[ThreadBeforeStop], mut copier: Copier<'_>) -> Snapshot {
    let mut threads = Vec::new();
    let known = |tid: i32| {
        let at = before.binary_search_by_key(&tid, |(tid, ..)| *tid).ok()?;
        Some(&before[at])
    };
    for (tid, _) in seized.stopped() {
        match seized.registers(tid) {
            Ok(registers) => threads.push(copier.stopped(tid, &registers, known(tid))),
            // It was killed while it was stopped.
            Err(NoRegisters::Gone) => {}
            Err(NoRegisters::Compat) => threads.push(without_stack(tid, known(tid), "32-bit code")),
        }
    }
    for tid in seized.not_stopped() {
        threads.push(copier.not_stopped(tid, known(tid)));
    }
    let complete = seized.is_complete();
    let stopped = seized.release();
    let mut notes = Vec::new();
    if !complete {
        notes.push("the program creates threads too fast: some threads are missing".into());
    }
    if copier.left == 0 {
        notes.push(too_many_bytes());
    }
    Snapshot { threads, how: CopyTiming::Stopped(stopped), notes }
}

/// The note that the limit of all copies was reached.
pub(super) fn too_many_bytes() -> String {
    format!("the stacks exceed {} MiB in total: some are truncated", MAX_COPIED >> 20)
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn without_stack(tid: i32, known: Option<&ThreadBeforeStop>, why: &'static str) -> ThreadCopy {
    ThreadCopy {
        tid,
        name: known.map(|k| k.1.clone()).unwrap_or_default(),
        wait: known.map(|k| k.2.clone()),
        registers: Err(why),
        stack: Vec::new(),
        lock: None,
        standing: None,
    }
}

struct Copier<'a> {
    process: &'a Process,
    memory: &'a ProcessMemory,
    rows: &'a [MapRow],
    runtimes: &'a mut Runtimes,
    /// Bytes that may still be copied.
    left: usize,
}

impl Copier<'_> {
    /// Copies a stopped thread.
    fn stopped(
        &mut self,
        tid: i32,
        user: &UserRegisters,
        known: Option<&ThreadBeforeStop>,
    ) -> ThreadCopy {
        let mut registers = Registers::unknown(Arch::host());
        user.by_dwarf_number().for_each(|(number, value)| registers.set(number, value));
        // If it was stopped at another place than where it waited before, it has resumed since.
        let (pc, sp) = (user.pc(), user.sp());
        let same = |w: &&ThreadWait| w.call.is_none_or(|c| c.pc == pc && c.sp == sp);
        let wait = known.map(|k| &k.2).filter(same).cloned();
        let lock = wait.as_ref().and_then(|w| self.lock(w));
        let name = known.map(|k| k.1.clone()).unwrap_or_default();
        let Self { process, memory, .. } = *self;
        let thread_pointer = user.thread_pointer();
        let thread = OffCpuThread { process, memory, tid, sp, thread_pointer };
        let standing = Some(self.runtimes.read(&thread));
        let stack = self.stack(sp);
        ThreadCopy { tid, name, wait, registers: Ok(registers), stack, lock, standing }
    }

    /// Copies a thread that did not stop because it is in uninterruptible sleep. It does not change
    /// its stack either. `/proc` shows two of its registers.
    fn not_stopped(&mut self, tid: i32, known: Option<&ThreadBeforeStop>) -> ThreadCopy {
        let call = known.and_then(|k| k.2.call);
        let Some(call) = call else { return without_stack(tid, known, "could not be stopped") };
        let mut registers = Registers::unknown(Arch::host());
        registers.set_pc(call.pc);
        registers.set_sp(call.sp);
        let stack = self.stack(call.sp);
        ThreadCopy { registers: Ok(registers), stack, ..without_stack(tid, known, "") }
    }

    fn stack(&mut self, sp: Avma) -> Vec<u8> {
        let mut bytes = vec![0; stack_size(self.rows, sp).min(self.left)];
        let got = self.memory.read_upto(sp, &mut bytes).unwrap_or(0);
        bytes.truncate(got);
        self.left -= got;
        bytes
    }

    fn lock(&self, wait: &ThreadWait) -> Option<[u8; LOCK_BYTES]> {
        read_lock(self.memory, wait)
    }
}

/// The number of bytes to copy of the stack at `sp`.
pub(super) fn stack_size(rows: &[MapRow], sp: Avma) -> usize {
    let at = rows.partition_point(|r| r.end <= sp);
    let region = rows.get(at).filter(|r| r.start <= sp);
    let size = region.map_or(UNMAPPED_COPY, |r| usize::try_from(r.end.0 - sp.0).unwrap_or(0));
    size.min(MAX_STACK)
}

/// Reads the lock that a thread waits for in futex(2).
pub(super) fn read_lock(memory: &ProcessMemory, wait: &ThreadWait) -> Option<[u8; LOCK_BYTES]> {
    let call = wait.call.filter(|c| c.number == libc::SYS_futex)?;
    let mut bytes = [0; LOCK_BYTES];
    let got = memory.read_upto(Avma(call.arguments[0]), &mut bytes).ok()?;
    (got == LOCK_BYTES).then_some(bytes)
}
