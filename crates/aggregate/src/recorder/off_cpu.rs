//! Unwinds the stacks of threads that do not run: blocked threads, and threads that were stopped
//! while their stacks were copied.

use events::USER_REGISTERS;
use image::{Arch, Avma, Memory, Unreadable};
use unwind::{End, Registers};

use super::Recorder;
use crate::clock::monotonic_now;
use crate::ids::{LabelsIndex, NodeIndex, ROOT, RuntimeIndex};
use crate::runtimes::{Native, OffCpuState, OwnedChain};
use crate::window::StackWindow;

/// How many bytes of a blocked thread's stack are read at once.
const LIVE_WINDOW: usize = 8 << 10;

/// A stack that was copied while its thread was stopped or asleep.
pub struct Copied<'a> {
    /// The thread's registers at that time.
    pub registers: &'a Registers,
    /// The copied bytes, from the stack pointer upwards.
    pub bytes: &'a [u8],
    /// What else was read from the thread at that time: see [`crate::runtimes::Runtimes::read`].
    pub standing: Option<&'a OffCpuState>,
}

impl Recorder {
    /// Reads the stack of a blocked thread from its memory and returns its node. The caller must
    /// check afterwards that the thread was still blocked. `None` if the process is not followed
    /// or its memory is not readable.
    pub fn waiting_stack(
        &mut self,
        pid: i32,
        registers: &[u64],
        thread_pointer: u64,
    ) -> Option<NodeIndex> {
        let registers = Registers::from_perf(Arch::host(), registers, USER_REGISTERS);
        let tracked = self.processes.get(pid)?;
        let memory = tracked.memory.as_ref()?;
        let sp = registers.sp()?;
        let mut bytes = vec![0; LIVE_WINDOW];
        let got = memory.read_upto(sp, &mut bytes).unwrap_or(0);
        let window = StackWindow::new(&registers, &bytes[..got]);
        let live = Live { window: &window, memory };
        self.frames.clear();
        let end = self.unwinder.unwind(&tracked.space, &registers, &live, &mut self.frames);
        let chain = self.runtimes.read_chain(pid, memory, thread_pointer);
        let merged = self.merge_chain(pid, &window, chain.as_ref(), end.is_root());
        let root = self.outermost(end);
        Some(self.intern_user_frames(pid, root, merged, monotonic_now()))
    }

    /// Like [`Recorder::copied_stack`], but returns `None` and counts nothing if the stack does not
    /// reach the root of the thread.
    pub fn whole_stack(&mut self, pid: i32, copy: &Copied<'_>) -> Option<(NodeIndex, LabelsIndex)> {
        let end = self.unwind_copied(pid, copy)?;
        end.is_root().then(|| {
            let merged = self.merge_copied(pid, copy, true);
            let node = self.intern_user_frames(pid, ROOT, merged, monotonic_now());
            (node, self.copied_labels(copy))
        })
    }

    /// The node of a stack that was copied while its thread did not run, and the labels that the
    /// program had set.
    pub fn copied_stack(&mut self, pid: i32, copy: &Copied<'_>) -> (NodeIndex, LabelsIndex) {
        let Some(end) = self.unwind_copied(pid, copy) else { return (ROOT, 0) };
        let merged = self.merge_copied(pid, copy, end.is_root());
        let root = self.outermost(end);
        let node = self.intern_user_frames(pid, root, merged, monotonic_now());
        (node, self.copied_labels(copy))
    }

    /// Unwinds into `self.frames`. `None` if the process is not followed.
    fn unwind_copied(&mut self, pid: i32, copy: &Copied<'_>) -> Option<End> {
        let tracked = self.processes.get(pid)?;
        let window = StackWindow::new(copy.registers, copy.bytes);
        self.frames.clear();
        let (unwinder, frames) = (&mut self.unwinder, &mut self.frames);
        Some(match copy.standing.and_then(|s| s.captured.as_ref()) {
            Some(c) => c.unwind(unwinder, tracked, copy.registers, &window, frames),
            None => unwinder.unwind(&tracked.space, copy.registers, &window, frames),
        })
    }

    fn copied_labels(&mut self, copy: &Copied<'_>) -> LabelsIndex {
        let captured = copy.standing.and_then(|s| s.captured.as_ref());
        captured.map_or(0, |c| self.labels.intern(c.labels.clone()))
    }

    fn merge_copied(
        &mut self,
        pid: i32,
        copy: &Copied<'_>,
        is_whole: bool,
    ) -> Option<RuntimeIndex> {
        let window = StackWindow::new(copy.registers, copy.bytes);
        let chain = copy.standing.and_then(|s| s.chain.as_ref());
        self.merge_chain(pid, &window, chain, is_whole)
    }

    /// Merges the frames of runtimes into `self.frames`, given the chain that was read.
    fn merge_chain(
        &mut self,
        pid: i32,
        memory: &dyn Memory,
        chain: Option<&OwnedChain>,
        is_whole: bool,
    ) -> Option<RuntimeIndex> {
        let at = self.runtimes.attached(pid);
        let tracked = self.processes.get(pid)?;
        let native = Native { pid, tracked, frames: &self.frames, is_whole, memory };
        self.runtimes.merge(at, &native, chain, &mut self.merged)
    }
}

/// The stack of a blocked thread: its innermost part was read at once, the rest is read on demand.
struct Live<'a> {
    window: &'a StackWindow<'a>,
    memory: &'a process::ProcessMemory,
}

impl Memory for Live<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.window.read(addr, buf).or_else(|_| self.memory.read(addr, buf))
    }
}
