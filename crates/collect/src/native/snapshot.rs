//! All threads of a process at one moment: copied while they stand, looked at afterwards.

use std::time::Duration;

use image::{Arch, Avma};
use target::seize::{NoRegisters, UserRegisters};
use target::{MapRow, Process, ProcessMemory, SeizeError, Seized, ThreadWait, Threads, Tracer};
use unwind::Registers;

use crate::python::{OwnedChain, Python};

/// Most that is copied of one stack…
const MAX_STACK: usize = 1 << 20;
/// …and of all together: copying is what the stop lasts for.
const MAX_COPIED: usize = 64 << 20;
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
    /// The interpreter's frames.
    pub chain: Option<OwnedChain>,
}

/// All threads of a process.
pub(crate) struct Snapshot {
    pub threads: Vec<ThreadCopy>,
    /// How long the threads stood, from the first to the last.
    pub stopped: Duration,
    /// What a reader should know besides.
    pub notes: Vec<String>,
}

/// What happened to the processes that snapshots were taken of.
#[derive(Debug, Default)]
pub(crate) struct Stops {
    processes: usize,
    longest: Duration,
    total: Duration,
    notes: Vec<(String, String)>,
}

impl Stops {
    /// Adds a process.
    pub fn add(&mut self, process: &Process, snapshot: &Snapshot) {
        self.processes += 1;
        self.longest = self.longest.max(snapshot.stopped);
        self.total += snapshot.stopped;
        let who = format!("{} ({})", process.identity().comm, process.pid());
        self.notes.extend(snapshot.notes.iter().map(|note| (who.clone(), note.clone())));
    }

    /// Text for the reader: one line for all stops, and what is special about a process.
    pub fn notes(&self) -> Vec<String> {
        let (longest, total) = (millis(self.longest), millis(self.total));
        let stopped = match self.processes {
            0 => None,
            1 => Some(format!("all threads stood still for {longest:.1} ms")),
            n => Some(format!(
                "the threads of {n} processes stood still, one process after the other, for \
                 {longest:.1} ms at most and {total:.1} ms in all"
            )),
        };
        let several = self.processes > 1;
        let special = self.notes.iter();
        let special =
            special.map(|(who, n)| if several { format!("{who}: {n}") } else { n.clone() });
        stopped.into_iter().chain(special).collect()
    }
}

impl Snapshot {
    /// Stops all threads, copies, and lets them go.
    pub fn take(process: &Process, python: &Python) -> Result<Self, SeizeError> {
        let pid = process.pid();
        let system = |what| move |source| SeizeError::System { pid, what, source };
        let memory = process.memory().map_err(system("open the memory"))?;
        let rows = process.maps().map_err(system("read the mappings"))?.rows;
        let mut before: Vec<(i32, String, ThreadWait)> = Vec::new();
        for tid in process.threads().map_err(system("list the threads"))? {
            let wait = process.thread_wait(tid).unwrap_or_default();
            before.push((tid, process.thread_name(tid).unwrap_or_default(), wait));
        }
        before.sort_unstable_by_key(|(tid, ..)| *tid);
        let taken = Tracer::run(|tracer| {
            let seized = tracer.seize(process, Threads::All)?;
            let chain = |pointer| python.read_chain(pid, &memory, pointer);
            Ok(copy(seized, (&memory, &rows), &before, &chain))
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

fn copy(
    seized: Seized<'_>,
    (memory, rows): (&ProcessMemory, &[MapRow]),
    before: &[Before],
    chain: &dyn Fn(u64) -> Option<OwnedChain>,
) -> Snapshot {
    let mut copier = Copier { memory, rows, chain, left: MAX_COPIED };
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
        notes.push(format!("more than {} MiB of stacks: some are cut", MAX_COPIED >> 20));
    }
    Snapshot { threads, stopped, notes }
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
        chain: None,
    }
}

struct Copier<'a> {
    memory: &'a ProcessMemory,
    rows: &'a [MapRow],
    chain: &'a dyn Fn(u64) -> Option<OwnedChain>,
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
        let chain = user.thread_pointer().and_then(self.chain);
        ThreadCopy { tid, name, wait, registers: Ok(registers), stack: self.stack(sp), lock, chain }
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
        let at = self.rows.partition_point(|r| r.end <= sp);
        let region = self.rows.get(at).filter(|r| r.start <= sp);
        let size = region.map_or(BLIND_COPY, |r| usize::try_from(r.end.0 - sp.0).unwrap_or(0));
        let mut bytes = vec![0; size.min(MAX_STACK).min(self.left)];
        let got = self.memory.read_upto(sp, &mut bytes).unwrap_or(0);
        bytes.truncate(got);
        self.left -= got;
        bytes
    }

    fn lock(&self, wait: &ThreadWait) -> Option<[u8; LOCK_BYTES]> {
        let call = wait.call.filter(|c| c.number == libc::SYS_futex)?;
        let mut bytes = [0; LOCK_BYTES];
        let got = self.memory.read_upto(Avma(call.arguments[0]), &mut bytes).ok()?;
        (got == LOCK_BYTES).then_some(bytes)
    }
}
