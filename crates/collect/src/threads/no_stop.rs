//! Copies all threads of a process without stopping any: each at a moment when it is not running.
//!
//! ```text
//!   pass ─► a BPF program in the kernel visits all threads
//!     ├─ on no CPU before and after the copy, and no switch between ─► the copy is valid
//!     └─ running ─► try again at the next pass
//!   what the program cannot copy (deep stacks, an interpreter's frames) is read from memory,
//!   and is valid if the next pass finds that the thread has not run since
//! ```

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use aggregate::runtimes::{OffCpuThread, Runtimes};
use events::{CopiedStack, CopyResult, StackCopier, ThreadReport, USER_REGISTERS};
use image::{Arch, Avma};
use printable::Printable;
use process::{BlockedCall, MapRow, Process, ProcessMemory, SeizeError, ThreadWait};
use unwind::Registers;

use super::snapshot::{self, CopyTiming, MAX_COPIED, Snapshot, ThreadCopy};
use super::waiting;
use crate::outcome::RecordError;

/// How long to retry a thread that is running.
const PATIENCE: Duration = Duration::from_millis(250);
/// The pauses between passes. They are short at first, for threads that run only briefly.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(5);
/// The number of passes that may follow each other without a pause.
const QUICK_PASSES: u32 = 8;
/// The maximum number of threads without a stack that are listed by name.
const MAX_NAMES: usize = 8;

/// Why a thread that was running at every attempt has no stack.
const ALWAYS_RUNNING: &str = "running at every attempt";

/// The copy of a thread, and what remains to be read.
struct CopiedThread {
    copy: ThreadCopy,
    switches: u64,
    thread_pointer: u64,
    /// Bytes of the stack that were copied together with the registers.
    at_once: usize,
    /// That copy is full, so the stack may go on.
    is_full: bool,
    /// Data was read from memory since, and the next pass has not confirmed it yet.
    is_pending: bool,
}

#[derive(Default)]
struct Seen {
    captured: Option<CopiedThread>,
    /// The number of the last pass that listed the thread.
    pass: u32,
    /// At the last pass, it had not run since it was copied.
    unchanged: bool,
}

struct Passes<'a> {
    process: &'a Process,
    memory: ProcessMemory,
    rows: Vec<MapRow>,
    runtimes: &'a mut Runtimes,
    threads: BTreeMap<i32, Seen>,
    pass: u32,
    /// Bytes that may still be copied.
    left: usize,
}

/// Copies all threads of a process.
pub(super) fn take(
    copier: &mut StackCopier,
    process: &Process,
    runtimes: &mut Runtimes,
) -> Result<Snapshot, RecordError> {
    let pid = process.pid();
    let system = |what| move |source| SeizeError::System { pid, what, source };
    let memory = process.memory().map_err(system("open the memory"))?;
    let rows = process.maps().map_err(system("read the mappings"))?.rows;
    for tid in process.threads().unwrap_or_default() {
        runtimes.prepare_to_read(process, &memory, tid);
    }
    let (threads, left) = (BTreeMap::new(), MAX_COPIED);
    let mut passes = Passes { process, memory, rows, runtimes, threads, pass: 0, left };
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        passes.again(copier)?;
        let complete = passes.is_complete();
        let within = began.elapsed();
        if !complete {
            passes.read_rest();
        }
        if complete || within >= PATIENCE {
            return passes.conclude(copier, within);
        }
        // If data is to be confirmed, start the next pass at once, before its thread runs. Pause
        // nevertheless after several passes that confirmed nothing.
        if !passes.is_pending() || passes.pass > QUICK_PASSES {
            std::thread::sleep(pause);
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

impl Passes<'_> {
    fn again(&mut self, copier: &mut StackCopier) -> Result<(), RecordError> {
        self.pass += 1;
        let pid = self.process.pid();
        let copied = copier.look(pid, |report| self.add(report));
        copied.map_err(|source| RecordError::Stacks { pid, source })?;
        // Drop threads that have exited. If all have, so has the process.
        let (threads, now) = (&mut self.threads, self.pass);
        threads.retain(|_, seen| seen.pass == now);
        if threads.is_empty() || !self.process.is_alive() {
            return Err(SeizeError::Gone { pid }.into());
        }
        Ok(())
    }

    fn add(&mut self, report: &ThreadReport<'_>) {
        let seen = self.threads.entry(report.tid).or_default();
        seen.pass = self.pass;
        let unchanged = |c: &CopiedThread| c.switches == report.switches;
        seen.unchanged =
            report.what != CopyResult::Runs && seen.captured.as_ref().is_some_and(unchanged);
        if let (true, Some(captured)) = (seen.unchanged, &mut seen.captured) {
            captured.is_pending = false;
        }
        let wanted = seen.captured.as_ref().is_none_or(|c| c.is_pending);
        if let (true, CopyResult::Copied(copy)) = (wanted, report.what) {
            let kept = copy.stack.len().min(self.left);
            self.left -= kept;
            let captured = capture(report, &copy, kept);
            let pid = self.process.pid();
            let in_runtimes = self.runtimes.read_threads_of(pid, captured.pointer());
            let is_pending = captured.needs_more(in_runtimes);
            seen.captured = Some(CopiedThread { is_pending, ..captured });
            seen.unchanged = true;
        }
    }

    fn is_complete(&self) -> bool {
        self.threads.values().all(|t| t.captured.as_ref().is_some_and(|c| !c.is_pending))
    }

    fn is_pending(&self) -> bool {
        self.threads.values().any(|t| t.captured.as_ref().is_some_and(|c| c.is_pending))
    }

    /// Reads what the BPF program could not copy of the threads that are not complete yet.
    fn read_rest(&mut self) {
        let pid = self.process.pid();
        for captured in self.threads.values_mut().filter_map(|t| t.captured.as_mut()) {
            if !captured.is_pending {
                continue;
            }
            let thread_pointer = captured.pointer();
            let copy = &mut captured.copy;
            if let (true, Ok(registers)) = (captured.is_full, &copy.registers)
                && let Some(sp) = registers.sp()
            {
                let wanted = snapshot::stack_size(&self.rows, sp).saturating_sub(captured.at_once);
                let mut bytes = vec![0; wanted.min(self.left)];
                let from = sp.wrapping_add(captured.at_once as u64);
                let got = self.memory.read_upto(from, &mut bytes).unwrap_or(0);
                copy.stack.truncate(captured.at_once);
                copy.stack.extend_from_slice(&bytes[..got]);
                self.left -= got;
            }
            if let Some(wait) = &mut copy.wait
                && waiting::shows_kernel_function(wait)
            {
                let now = self.process.thread_wait(copy.tid).unwrap_or_default();
                wait.kernel_function = now.kernel_function;
            }
            if let Ok(registers) = &copy.registers
                && self.runtimes.read_threads_of(pid, thread_pointer)
            {
                let (process, memory, tid) = (self.process, &self.memory, copy.tid);
                let sp = registers.sp().unwrap_or_default();
                let thread = OffCpuThread { process, memory, tid, sp, thread_pointer };
                copy.standing = Some(self.runtimes.read(&thread));
            }
        }
    }

    /// Reads the locks that threads wait for, then makes one more pass. A thread that has not run until
    /// this last pass has been waiting since before any lock was read. So threads that are reported
    /// as waiting for each other did so at the same time.
    fn conclude(
        mut self,
        copier: &mut StackCopier,
        within: Duration,
    ) -> Result<Snapshot, RecordError> {
        for captured in self.threads.values_mut().filter_map(|t| t.captured.as_mut()) {
            let wait = captured.copy.wait.as_ref();
            captured.copy.lock = wait.and_then(|w| snapshot::read_lock(&self.memory, w));
        }
        self.again(copier)?;
        let (mut threads, mut ran, mut unread) = (Vec::new(), Vec::new(), 0);
        for (tid, seen) in std::mem::take(&mut self.threads) {
            let name = self.process.thread_name(tid).unwrap_or_default();
            let Some(captured) = seen.captured else {
                ran.push(format!("{} ({tid})", Printable(&name)));
                let wait = Some(ThreadWait { state: 'R', ..ThreadWait::default() });
                threads.push(ThreadCopy { name, ..blank(tid, wait, Err(ALWAYS_RUNNING)) });
                continue;
            };
            unread += u64::from(captured.is_pending);
            let mut copy = captured.confirmed();
            copy.lock = copy.lock.filter(|_| seen.unchanged);
            threads.push(ThreadCopy { name, ..copy });
        }
        let pid = self.process.pid();
        threads.sort_unstable_by_key(|t| (t.tid != pid, t.tid));
        let notes = self.notes(&ran, unread, within);
        Ok(Snapshot { threads, how: CopyTiming::NotStopped(within), notes })
    }

    fn notes(&self, ran: &[String], unread: u64, within: Duration) -> Vec<String> {
        let mut notes = Vec::new();
        if !ran.is_empty() {
            let mut names = ran[..ran.len().min(MAX_NAMES)].join(", ");
            if ran.len() > MAX_NAMES {
                names += &format!(" and {} more", ran.len() - MAX_NAMES);
            }
            let who = match ran.len() {
                1 => "1 thread was".into(),
                n => format!("{n} threads were"),
            };
            notes.push(format!(
                "{who} running at each of {} attempts within {} ms to copy the stack: {names}; \
                 record a cpu profile to see where",
                self.pass,
                within.as_millis()
            ));
        }
        if unread > 0 {
            let threads = if unread == 1 { "thread" } else { "threads" };
            notes.push(format!(
                "{unread} {threads} resumed before the whole stack, or all of the interpreter's \
                 frames, could be read"
            ));
        }
        if self.left == 0 {
            notes.push(snapshot::too_many_bytes());
        }
        notes
    }
}

impl CopiedThread {
    fn pointer(&self) -> Option<u64> {
        Some(self.thread_pointer).filter(|at| *at != 0)
    }

    /// Whether there is more to read than the BPF program copied.
    fn needs_more(&self, in_runtimes: bool) -> bool {
        self.is_full
            || in_runtimes
            || self.copy.wait.as_ref().is_some_and(waiting::shows_kernel_function)
    }

    /// The data that is confirmed to be valid.
    fn confirmed(self) -> ThreadCopy {
        let mut copy = self.copy;
        if self.is_pending {
            copy.stack.truncate(self.at_once);
            copy.standing = None;
            if let Some(wait) = &mut copy.wait {
                wait.kernel_function = None;
            }
        }
        copy
    }
}

fn blank(
    tid: i32,
    wait: Option<ThreadWait>,
    registers: Result<Registers, &'static str>,
) -> ThreadCopy {
    let name = String::new();
    ThreadCopy { tid, name, wait, registers, stack: Vec::new(), lock: None, standing: None }
}

fn capture(report: &ThreadReport<'_>, copy: &CopiedStack<'_>, kept: usize) -> CopiedThread {
    let words: Vec<u64> = copy.registers.iter().collect();
    let registers = Registers::from_perf(Arch::host(), &words, USER_REGISTERS);
    let (sp, pc) = (registers.sp(), registers.pc());
    let wait = wait(report.state, copy.call, (sp.unwrap_or_default(), pc.unwrap_or_default()));
    let registers = match sp {
        _ if copy.is_32_bit => Err("32-bit code"),
        // Threads that the kernel creates in a process, such as io_uring's, have no user stack.
        None | Some(Avma(0)) => Err("kernel worker thread"),
        Some(_) => Ok(registers),
    };
    // On aarch64 we don't know how to find the interpreter's thread state from it.
    let thread_pointer = if cfg!(target_arch = "x86_64") { copy.thread_pointer } else { 0 };
    let mut thread = blank(report.tid, Some(wait), registers);
    thread.stack.extend_from_slice(&copy.stack[..kept]);
    CopiedThread {
        copy: thread,
        switches: report.switches,
        thread_pointer,
        at_once: kept,
        is_full: copy.is_full,
        is_pending: false,
    }
}

/// Translates a task state of the kernel (linux/sched.h) into what a thread waits for.
fn wait(state: u32, call: Option<(u32, [u64; 6])>, (sp, pc): (Avma, Avma)) -> ThreadWait {
    const LETTERS: &[(u32, char)] = &[(1, 'S'), (2, 'D'), (4, 'T'), (8, 't')];
    let letter = LETTERS.iter().find(|(bit, _)| state & bit != 0).map(|(_, letter)| *letter);
    let letter = if state == 0 { 'R' } else { letter.unwrap_or('S') };
    let (number, arguments) = call.map_or((-1, [0; 6]), |(n, a)| (i64::from(n), a));
    let call = (letter != 'R').then_some(BlockedCall { number, arguments, sp, pc });
    ThreadWait { state: letter, call, kernel_function: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states() {
        let at = (Avma(1), Avma(2));
        let letter = |state| wait(state, None, at).state;
        // Some with flags besides the state, such as TASK_FREEZABLE.
        assert_eq!([0, 1, 0x2001, 2, 0x102, 4, 8].map(letter), ['R', 'S', 'S', 'D', 'D', 'T', 't']);
        assert_eq!(wait(0, Some((202, [1; 6])), at).call, None);
        let call = wait(1, Some((202, [1; 6])), at).call.unwrap();
        assert_eq!((call.number, call.arguments, call.sp, call.pc), (202, [1; 6], at.0, at.1));
        assert_eq!(wait(2, None, at).call.unwrap().number, -1);
    }
}
