//! All threads of a process at one moment: copied while they stand, looked at afterwards.

use std::time::Duration;

use aggregate::runtimes::{Runtimes, Standing, StandingThread};
use events::StackCopier;
use host::rights::{Obstacle, Rights};
use image::{Arch, Avma};
use process::seize::{NoRegisters, UserRegisters};
use process::{MapRow, Process, ProcessMemory, SeizeError, Seized, ThreadWait, Threads, Tracer};
use unwind::Registers;

use super::looks;
use crate::outcome::RecordError;

/// Most that is copied of one stack…
pub(super) const MAX_STACK: usize = 1 << 20;
/// …and of all together: copying is what the stop lasts for.
pub(super) const MAX_COPIED: usize = 64 << 20;
/// What is copied where the stack's mapping is not known.
const BLIND_COPY: usize = 64 << 10;
/// The lock that a thread may wait for: as much of it as tells the owner.
pub(super) const LOCK_BYTES: usize = 16;

/// One thread.
pub(crate) struct ThreadCopy {
    pub tid: i32,
    pub name: String,
    /// What it did before it was stopped; `None` where it moved on before that, or ran.
    pub wait: Option<ThreadWait>,
    /// Its registers, or as many as the kernel tells of a thread that cannot be stopped.
    pub registers: Result<Registers, &'static str>,
    /// The stack from its stack pointer on.
    pub stack: Vec<u8>,
    /// What is at the address that it waits at, if it waits in futex(2).
    pub lock: Option<[u8; LOCK_BYTES]>,
    /// What language runtimes keep elsewhere.
    pub standing: Option<Standing>,
}

/// All threads of a process.
pub(crate) struct Snapshot {
    pub threads: Vec<ThreadCopy>,
    pub how: How,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// How threads were copied.
#[derive(Debug, Clone, Copy)]
pub(crate) enum How {
    /// While all stood still: for so long, from the first to the last.
    Stopped(Duration),
    /// Each at a moment at which it did not run, all of them within this time.
    Looked(Duration),
}

/// What copies threads.
pub(crate) enum Means {
    /// Stopping all of them for a moment.
    Stop,
    /// Looking at them again and again, until each was found standing.
    Look(Box<StackCopier>),
}

impl Means {
    /// What was asked for, if it can be had.
    pub fn new(no_stop: bool) -> Result<Self, RecordError> {
        if !no_stop {
            return Ok(Self::Stop);
        }
        let copier = copier().map_err(RecordError::NotWithoutStop)?;
        Ok(Self::Look(Box::new(copier)))
    }

    /// For the profile.
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
            Self::Look(copier) => looks::take(copier, process, runtimes),
        }
    }
}

/// What looks at threads, or what stands in the way.
pub(super) fn copier() -> Result<StackCopier, Obstacle> {
    if let Ok(rights) = Rights::read() {
        rights.bpf()?;
    }
    StackCopier::open().map_err(|e| Obstacle {
        reason: e.to_string(),
        remedy: "boot Linux 5.18 or later with CONFIG_DEBUG_INFO_BTF=y".into(),
    })
}

/// Whether stacks of threads can be copied without stopping them.
pub(crate) fn can_look() -> Result<(), Obstacle> {
    copier().map(drop)
}

/// What happened to the processes that snapshots were taken of.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    /// How long each stood still…
    stopped: Vec<Duration>,
    /// …or was looked at.
    looked: Vec<Duration>,
    notes: Vec<(String, String)>,
}

impl Stops {
    /// Adds a process.
    pub fn add(&mut self, process: &Process, snapshot: &Snapshot) {
        match snapshot.how {
            How::Stopped(time) => self.stopped.push(time),
            How::Looked(time) => self.looked.push(time),
        }
        let who = format!("{} ({})", process.identity().comm, process.pid());
        self.notes.extend(snapshot.notes.iter().map(|note| (who.clone(), note.clone())));
    }

    /// Text for the reader: one line for all processes, and what is special about one.
    pub fn notes(&self) -> Vec<String> {
        let longest = |times: &[Duration]| millis(times.iter().max().copied().unwrap_or_default());
        let (stood, within) = (longest(&self.stopped), longest(&self.looked));
        let stopped = match &self.stopped[..] {
            [] => None,
            [_] => Some(format!("all threads stood still for {stood:.1} ms")),
            all => Some(format!(
                "the threads of {} processes stood still, one process after the other, for \
                 {stood:.1} ms at most and {:.1} ms in all",
                all.len(),
                millis(all.iter().sum())
            )),
        };
        let looked = (!self.looked.is_empty()).then(|| {
            format!(
                "no thread was stopped: each stack is of a moment of its own, all of a process \
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
    /// Stops all threads, copies, and lets them go.
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

type Before = (i32, String, ThreadWait);

fn copy(seized: Seized<'_>, before: &[Before], mut copier: Copier<'_>) -> Snapshot {
    let mut threads = Vec::new();
    let known = |tid: i32| {
        let at = before.binary_search_by_key(&tid, |(tid, ..)| *tid).ok()?;
        Some(&before[at])
    };
    for (tid, _) in seized.stopped() {
        match seized.registers(tid) {
            Ok(registers) => threads.push(copier.standing(tid, &registers, known(tid))),
            // Killed while it stood.
            Err(NoRegisters::Gone) => {}
            Err(NoRegisters::Compat) => threads.push(without(tid, known(tid), "32-bit code")),
        }
    }
    for tid in seized.not_stopped() {
        threads.push(copier.asleep(tid, known(tid)));
    }
    let complete = seized.is_complete();
    let stopped = seized.release();
    let mut notes = Vec::new();
    if !complete {
        notes.push("the program creates threads too fast: some are missing".into());
    }
    if copier.left == 0 {
        notes.push(too_much());
    }
    Snapshot { threads, how: How::Stopped(stopped), notes }
}

/// That the limit of all copies was reached.
pub(super) fn too_much() -> String {
    format!("more than {} MiB of stacks: some are cut", MAX_COPIED >> 20)
}

fn millis(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

fn without(tid: i32, known: Option<&Before>, why: &'static str) -> ThreadCopy {
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
    /// Bytes that may yet be copied.
    left: usize,
}

impl Copier<'_> {
    fn standing(&mut self, tid: i32, user: &UserRegisters, known: Option<&Before>) -> ThreadCopy {
        let mut registers = Registers::unknown(Arch::host());
        user.by_dwarf_number().for_each(|(number, value)| registers.set(number, value));
        // Where it waited before and where it was stopped: the same place, or it moved on.
        let (pc, sp) = (user.pc(), user.sp());
        let same = |w: &&ThreadWait| w.call.is_none_or(|c| c.pc == pc && c.sp == sp);
        let wait = known.map(|k| &k.2).filter(same).cloned();
        let lock = wait.as_ref().and_then(|w| self.lock(w));
        let name = known.map(|k| k.1.clone()).unwrap_or_default();
        let Self { process, memory, .. } = *self;
        let thread_pointer = user.thread_pointer();
        let thread = StandingThread { process, memory, tid, sp, thread_pointer };
        let standing = Some(self.runtimes.read(&thread));
        let stack = self.stack(sp);
        ThreadCopy { tid, name, wait, registers: Ok(registers), stack, lock, standing }
    }

    /// A thread that the kernel holds so that it cannot be stopped does not touch its stack
    /// either. Of its registers the kernel tells two.
    fn asleep(&mut self, tid: i32, known: Option<&Before>) -> ThreadCopy {
        let call = known.and_then(|k| k.2.call);
        let Some(call) = call else { return without(tid, known, "not stopped") };
        let mut registers = Registers::unknown(Arch::host());
        registers.set_pc(call.pc);
        registers.set_sp(call.sp);
        let stack = self.stack(call.sp);
        ThreadCopy { registers: Ok(registers), stack, ..without(tid, known, "") }
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

/// How much of a stack there is to copy.
pub(super) fn stack_size(rows: &[MapRow], sp: Avma) -> usize {
    let at = rows.partition_point(|r| r.end <= sp);
    let region = rows.get(at).filter(|r| r.start <= sp);
    let size = region.map_or(BLIND_COPY, |r| usize::try_from(r.end.0 - sp.0).unwrap_or(0));
    size.min(MAX_STACK)
}

/// What is at the address that a thread waits at.
pub(super) fn read_lock(memory: &ProcessMemory, wait: &ThreadWait) -> Option<[u8; LOCK_BYTES]> {
    let call = wait.call.filter(|c| c.number == libc::SYS_futex)?;
    let mut bytes = [0; LOCK_BYTES];
    let got = memory.read_upto(Avma(call.arguments[0]), &mut bytes).ok()?;
    (got == LOCK_BYTES).then_some(bytes)
}
