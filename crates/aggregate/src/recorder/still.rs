//! Stacks of threads that stand still: they wait, or were stopped when they were copied.

use events::{Capture, USER_REGISTERS};
use image::{Arch, Avma, Memory, Unreadable};
use unwind::{End, Registers};

use super::Recorder;
use crate::clock::monotonic_now;
use crate::ids::{LabelsIndex, NodeIndex, ROOT};
use crate::runtimes::go::{self, GoMemory};
use crate::runtimes::python::OwnedChain;
use crate::window::StackWindow;

/// How much of the stack of a thread that waits is read at once.
const LIVE_WINDOW: usize = 8 << 10;

/// A stack that was copied while its thread stood or slept.
pub struct Copied<'a> {
    /// The registers at that time.
    pub registers: &'a Registers,
    /// From the stack pointer on.
    pub bytes: &'a [u8],
    /// The interpreter's frames at that time.
    pub chain: Option<&'a OwnedChain>,
    /// The stacks that a thread of Go's has left.
    pub go: Option<&'a Capture>,
}

impl Recorder {
    /// The node of the stack of a thread that waits, read from its memory: the caller sees to it
    /// that it still waited after this. `None` where its process is not followed or unreadable.
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
        let chain = self.python.read_chain(pid, memory, thread_pointer);
        let root = self.outermost(end);
        self.merge_chain(pid, chain.as_ref(), end.is_root());
        Some(self.intern_user_frames(pid, root, monotonic_now()))
    }

    /// As [`Recorder::copied_stack`], but `None` and nothing counted where the stack does not
    /// reach its root.
    pub fn whole_stack(&mut self, pid: i32, copy: &Copied<'_>) -> Option<(NodeIndex, LabelsIndex)> {
        let end = self.unwind_copied(pid, copy)?;
        end.is_root().then(|| {
            self.merge_chain(pid, copy.chain, true);
            let node = self.intern_user_frames(pid, ROOT, monotonic_now());
            (node, self.copied_labels(pid, copy))
        })
    }

    /// The node of a stack that was copied while its thread stood, and the labels of its goroutine.
    pub fn copied_stack(&mut self, pid: i32, copy: &Copied<'_>) -> (NodeIndex, LabelsIndex) {
        let Some(end) = self.unwind_copied(pid, copy) else { return (ROOT, 0) };
        let whole = end.is_root();
        let root = self.outermost(end);
        self.merge_chain(pid, copy.chain, whole);
        let node = self.intern_user_frames(pid, root, monotonic_now());
        (node, self.copied_labels(pid, copy))
    }

    /// `None` where the process is not followed.
    fn unwind_copied(&mut self, pid: i32, copy: &Copied<'_>) -> Option<End> {
        let tracked = self.processes.get(pid)?;
        let window = StackWindow::new(copy.registers, copy.bytes);
        self.frames.clear();
        let (space, frames) = (&tracked.space, &mut self.frames);
        Some(match copy.go {
            Some(capture) => {
                let (stacks, memory) = (go::stacks(capture), GoMemory { window: &window, capture });
                self.unwinder.unwind_go(space, copy.registers, &stacks, &memory, frames)
            }
            None => self.unwinder.unwind(space, copy.registers, &window, frames),
        })
    }

    fn copied_labels(&mut self, pid: i32, copy: &Copied<'_>) -> LabelsIndex {
        let tracked = self.processes.get(pid).zip(copy.go);
        tracked.map_or(0, |(tracked, capture)| self.go.labels(pid, tracked, capture))
    }

    /// As [`Recorder::merge_python`], with a chain that was read.
    fn merge_chain(&mut self, pid: i32, chain: Option<&OwnedChain>, whole: bool) {
        let (tracked, python) = (self.processes.get(pid), &mut self.python);
        let merged = tracked.zip(chain).is_some_and(|(tracked, chain)| {
            python.merge_chain(pid, chain, tracked, &self.frames, whole, &mut self.merged)
        });
        if !merged {
            self.take_native_frames();
        }
    }
}

/// A live stack that does not change: its beginning, read at once, and the rest.
struct Live<'a> {
    window: &'a StackWindow<'a>,
    memory: &'a process::ProcessMemory,
}

impl Memory for Live<'_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        self.window.read(addr, buf).or_else(|_| self.memory.read(addr, buf))
    }
}
