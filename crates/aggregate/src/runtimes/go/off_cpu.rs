//! Reads goroutine stacks and labels of stopped or sleeping threads. They do not change meanwhile,
//! so no BPF program is needed.

use events::{Capture, StackCopy};
use goruntime::SampleLayout;
use image::{Avma, Memory as _, Unreadable};
use process::{Process, ProcessMemory};
use rustc_hash::FxHashMap;

use super::{Captured, Go, MAX_REFRESHES, OffCpuThread, captured};

/// Maximum number of bytes copied from a stack that the thread has left. The thread may be stopped
/// meanwhile.
const MAX_STACK: u64 = 256 << 10;
/// Maximum number of threads remembered as threads of C code; a program may keep starting new ones.
const MAX_UNLISTED: usize = 16_384;
/// Maximum number of bytes copied from the outermost end of a stack that a signal interrupted; the
/// interrupted frames are within them.
const MAX_INTERRUPTED: u64 = 64 << 10;

/// The runtime's threads (`runtime.m`) in one program, as of the last read of its list.
#[derive(Default)]
pub(super) struct Threads {
    /// The address of each `m`, by TID in the PID namespace of the process.
    by_inner: FxHashMap<u64, Avma>,
    /// The round in which the list was last read.
    listed: u64,
    /// Threads that were not in the list, with how often it was read for them. Threads of C code
    /// are never in it.
    unlisted: FxHashMap<i32, u32>,
}

impl Go {
    /// Reads the runtime's list of threads if it is not known to contain this thread, at most once
    /// per round. Not called while threads are stopped.
    pub(super) fn list_threads_for(&mut self, process: &Process, memory: &ProcessMemory, tid: i32) {
        let Some(program) = self.programs.get_mut(&process.pid()) else { return };
        let Some(inner) = inner_id(process, tid) else { return };
        let threads = &mut program.threads;
        if threads.by_inner.contains_key(&inner) || threads.listed == self.round {
            return;
        }
        if threads.unlisted.len() >= MAX_UNLISTED {
            threads.unlisted.clear();
        }
        let misses = threads.unlisted.entry(tid).or_default();
        if *misses >= MAX_REFRESHES {
            return;
        }
        *misses += 1;
        threads.listed = self.round;
        // If the list changed while it was read, it is read again in the next round.
        if let Ok(all) = program.runtime.started_threads(memory) {
            threads.by_inner = all.into_iter().collect();
        }
    }

    /// Reads the stacks and labels of a stopped or sleeping thread. `None` if the Go runtime does
    /// not know the thread.
    pub(super) fn read_off_cpu(&mut self, thread: &OffCpuThread<'_>) -> Option<Captured> {
        let OffCpuThread { process, memory, tid, sp, .. } = *thread;
        let program = self.programs.get_mut(&process.pid())?;
        let inner = inner_id(process, tid)?;
        let m = *program.threads.by_inner.get(&inner)?;
        let layout = program.runtime.sample_layout();
        let read = Reader { memory, layout, has_cgo: program.has_cgo };
        match read.capture(m, inner, sp) {
            Ok(Some(capture)) => {
                let mut labels = Vec::new();
                if capture.labels_at != 0 {
                    let at = Avma(capture.labels_at);
                    let (read, incomplete) = program.runtime.labels_at(memory, at);
                    labels = self.count_labels(read, incomplete);
                }
                Some(captured(capture, labels))
            }
            // The thread has ended, and its `m` belongs to another one.
            Ok(None) | Err(_) => {
                program.threads.by_inner.remove(&inner);
                None
            }
        }
    }
}

/// The thread's TID in its own PID namespace, as the Go runtime knows it.
fn inner_id(process: &Process, tid: i32) -> Option<u64> {
    let nested = process.identity().ns_pids.len() > 1;
    let inner = if nested { process.inner_thread_id(tid).ok()? } else { tid };
    Some(u64::from(inner.cast_unsigned()))
}

struct Reader<'a> {
    memory: &'a ProcessMemory,
    layout: SampleLayout,
    has_cgo: bool,
}

impl Reader<'_> {
    /// Captures the same as `goroutine.bpf.c`. `None` if the `m` does not belong to the thread.
    fn capture(&self, m: Avma, procid: u64, sp: Avma) -> Result<Option<Capture>, Unreadable> {
        let l = self.layout;
        let of_m = |offset: u64| self.word(m.wrapping_add(offset));
        if of_m(l.m_procid)? != procid {
            return Ok(None);
        }
        let (g, g0) = (Avma(of_m(l.m_curg)?), Avma(of_m(l.m_g0)?));
        let mut c = Capture { g: g.0, sp: sp.0, ..Capture::default() };
        let of_g0 = |offset: u64| self.word(g0.wrapping_add(offset));
        let system = (of_g0(0)?, of_g0(8)?);
        c.system_sp = of_g0(l.g_sched_sp)?;
        let interrupts = self.on_signal_stack(Avma(of_m(l.m_gsignal)?), sp)?;
        if interrupts {
            // The signal interrupted a goroutine, the runtime on the thread's own stack, or the
            // scheduler, which has no goroutine.
            c.system_stack = self.outermost(system);
        }
        if g.0 == 0 {
            return Ok(Some(c));
        }
        let of_g = |offset: u64| self.word(g.wrapping_add(offset));
        c.stack_bounds = (of_g(0)?, of_g(8)?);
        c.goid = of_g(l.g_goid)?;
        c.sched = (of_g(l.g_sched_sp)?, of_g(l.g_sched_pc)?);
        c.vdso = (of_m(l.m_vdso_sp)?, of_m(l.m_vdso_pc)?);
        c.labels_at = of_g(l.g_labels)?;
        let (low, high) = c.stack_bounds;
        let within = |at: u64| at > low && at < high;
        let left = if within(c.vdso.0) { c.vdso.0 } else { c.sched.0 };
        if interrupts {
            c.stack = self.outermost((low, high));
        } else if !within(sp.0) && within(left) {
            c.stack = self.copy(left, high, MAX_STACK);
        }
        // The frames of C code that called back into Go are on the thread's system stack.
        if !interrupts && self.has_cgo && (system.0..system.1).contains(&c.system_sp) {
            c.system_stack = self.copy(c.system_sp, system.1, MAX_STACK);
        }
        Ok(Some(c))
    }

    fn word(&self, at: Avma) -> Result<u64, Unreadable> {
        self.memory.read_u64(at)
    }

    fn on_signal_stack(&self, gsignal: Avma, sp: Avma) -> Result<bool, Unreadable> {
        if gsignal.0 == 0 {
            return Ok(false);
        }
        let (low, high) = (self.word(gsignal)?, self.word(gsignal.wrapping_add(8))?);
        Ok((low..high).contains(&sp.0))
    }

    fn outermost(&self, (low, high): (u64, u64)) -> StackCopy {
        self.copy(low.max(high.saturating_sub(MAX_INTERRUPTED)), high, MAX_INTERRUPTED)
    }

    /// Copies at most `most` bytes of a stack, as far as it is readable.
    fn copy(&self, start: u64, end: u64, most: u64) -> StackCopy {
        let size = usize::try_from(end.saturating_sub(start).min(most)).unwrap_or(0);
        let mut bytes = vec![0; size];
        let got = self.memory.read_upto(Avma(start), &mut bytes).unwrap_or(0);
        bytes.truncate(got);
        StackCopy { start, bytes }
    }
}
