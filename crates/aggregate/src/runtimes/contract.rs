//! Defines the [`Runtime`] trait: how a language runtime contributes stacks, frames, labels and
//! names to a recording, and when each method is called.
//!
//! ```text
//!   new mappings ─► attach            find the runtime in a process; what it does there (Roles)
//!   exec, exit   ─► detach            forget the process
//!   20 ms, threads ─► next_round, refresh, thread_created, thread_ended
//!   BPF          ─► load_program, then    what must be copied at the moment of a sample;
//!                                         program_refused if that is not possible
//!                   chain_layout          frames in the heap, followed by a shared program
//!   a sample     ─► captured          before unwinding: stacks and labels kept elsewhere
//!                   merge             after unwinding: replace native frames by its own
//!                   code_at           name one frame in memory without a file
//!   a stopped or
//!   sleeping thread ─► prepare_to_read, read    the same as captured, from memory
//!   the profile  ─► finish, functions, notes
//! ```
//!
//! An implementation itself stores what it knows about each process, by PID, and about each file.

use events::{ChainLayout, SampleProgram, StackCopy};
use image::{Avma, Memory, Unreadable};
use process::{Process, ProcessMemory};
use unwind::{End, Frame, GoStacks, Registers, Unwinder};

use super::chains::OwnedChain;
use crate::ids::{Function, ThreadId};
use crate::processes::{Processes, Tracked};
use crate::window::StackWindow;

/// A row of the table of runtimes, [`super::RUNTIMES`].
#[derive(Clone, Copy)]
pub struct Row {
    /// The name used in notes, such as `Python`.
    pub name: &'static str,
    /// The mapping that profiles show for frames without an address, such as `[python]`.
    pub mapping: &'static str,
    /// Creates the runtime's state for one recording.
    pub new: fn() -> Box<dyn Runtime>,
    /// Whether a mapped file with this name (without its directory) that is not an ELF file must be
    /// opened when it is mapped, for [`Runtime::attach`]: it may be gone later.
    pub keeps_file: Option<fn(&str) -> bool>,
}

/// Why a BPF program cannot run.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// What a runtime does for the stacks of a process. Only the methods of these roles are called for
/// the process, so samples of processes without the runtime cost nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    /// Threads keep stacks or labels in other places than the native stack:
    /// [`Runtime::captured`], [`Runtime::read`].
    pub stacks: bool,
    /// The runtime has frames of its own: [`Runtime::merge`].
    pub frames: bool,
    /// The runtime compiles code into memory: [`Runtime::code_at`].
    pub code: bool,
}

/// Whether a runtime was found in a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Not found in the current mappings.
    Absent,
    /// Found, but its state cannot be read yet; [`Runtime::attach`] is called again.
    NotReady,
    /// Found.
    Attached(Roles),
}

/// A sampled thread.
pub struct SampledThread<'a> {
    /// The thread.
    pub id: ThreadId,
    /// Its process.
    pub tracked: &'a Tracked,
    /// The time of the sample: CLOCK_MONOTONIC in nanoseconds.
    pub time: u64,
    /// The thread's user registers.
    pub registers: &'a Registers,
}

/// A thread that does not run because it is stopped or asleep. The caller makes sure that it does
/// not run meanwhile.
#[derive(Clone, Copy)]
pub struct OffCpuThread<'a> {
    /// Its process.
    pub process: &'a Process,
    /// The memory of the process.
    pub memory: &'a ProcessMemory,
    /// The thread ID in our PID namespace.
    pub tid: i32,
    /// The thread's stack pointer.
    pub sp: Avma,
    /// The thread pointer (address of its thread-local storage), if known.
    pub thread_pointer: Option<u64>,
}

/// Stacks and labels that a thread kept elsewhere when its stack was copied.
#[derive(Debug, Default)]
pub struct Captured {
    /// How its stacks continue on each other, if it has several.
    pub stacks: Option<GoStacks>,
    /// Copies of other stacks than the one that the thread was on.
    pub copies: [StackCopy; 2],
    /// Labels that the program has set for the work that the thread is doing.
    pub labels: Vec<(String, String)>,
}

impl Captured {
    /// Unwinds the copied stack, and from there the captured ones.
    pub(crate) fn unwind(
        &self,
        unwinder: &mut Unwinder,
        tracked: &Tracked,
        registers: &Registers,
        window: &StackWindow<'_>,
        frames: &mut Vec<Frame>,
    ) -> End {
        let memory = WithCopies { window, copies: &self.copies };
        match &self.stacks {
            Some(stacks) => unwinder.unwind_go(&tracked.space, registers, stacks, &memory, frames),
            None => unwinder.unwind(&tracked.space, registers, &memory, frames),
        }
    }
}

/// Memory made of the sample's own copy of the stack and the copies captured with it.
struct WithCopies<'a, 'w> {
    window: &'a StackWindow<'w>,
    copies: &'a [StackCopy; 2],
}

impl Memory for WithCopies<'_, '_> {
    fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
        match self.copies.iter().find_map(|copy| within(copy, addr, buf.len())) {
            Some(bytes) => {
                buf.copy_from_slice(bytes);
                Ok(())
            }
            None => self.window.read(addr, buf),
        }
    }
}

fn within(copy: &StackCopy, addr: Avma, size: usize) -> Option<&[u8]> {
    let at = usize::try_from(addr.0.checked_sub(copy.start)?).ok()?;
    copy.bytes.get(at..at.checked_add(size)?)
}

/// An unwound native stack.
pub struct UnwoundStack<'a> {
    /// The PID of the process.
    pub pid: i32,
    /// The process.
    pub tracked: &'a Tracked,
    /// The native frames, leaf first.
    pub frames: &'a [Frame],
    /// Whether the frames reach the root of the thread.
    pub is_whole: bool,
    /// The copied part of the stack.
    pub memory: &'a dyn Memory,
    /// The chain of the runtime's frames at that time, for runtimes that have a
    /// [`Runtime::chain_layout`].
    pub chain: Option<&'a OwnedChain>,
}

/// A frame of a merged stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergedFrame {
    /// A native frame, as its index in [`UnwoundStack::frames`].
    Native(usize),
    /// A frame of the runtime, as the number to pass to [`Runtime::functions`].
    Own(u32),
}

/// An address of code in memory that does not belong to an image.
pub struct CodeAddress<'a> {
    /// The PID of the process.
    pub pid: i32,
    /// The process.
    pub tracked: &'a Tracked,
    /// The address to look up; return addresses are already decremented by 1.
    pub address: Avma,
    /// When the code was executed: CLOCK_MONOTONIC in nanoseconds.
    pub time: u64,
}

/// A language runtime, or another source of names and frames in the targets. The module's
/// documentation shows when each method is called.
pub trait Runtime: Send {
    /// Looks for the runtime in a process. Called when the process is followed, and again when its
    /// mappings have changed (even if it was attached before) or it was [`Presence::NotReady`].
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence;

    /// Forgets a process that has ended or executed another program.
    fn detach(&mut self, pid: i32);

    /// The functions of a frame, the innermost inlined call first. `index` comes from
    /// [`MergedFrame::Own`] or [`Runtime::code_at`].
    fn functions(&self, index: u32) -> Vec<Function>;

    /// Called before each round of reading events. A runtime must read what its BPF program has
    /// written now, before the samples that it belongs to.
    fn next_round(&mut self) {}

    /// Called after each search for runtimes, about every 20 ms, to find new threads.
    fn refresh(&mut self, _processes: &Processes) {}

    /// Called when an attached process has created a thread.
    fn thread_created(&mut self, _pid: i32) {}

    /// Called when a thread of an attached process has ended.
    fn thread_ended(&mut self, _id: ThreadId) {}

    /// Loads the BPF program that must run with each sample, if the runtime has one. Called once,
    /// when the first process has been attached and events are sampled.
    ///
    /// # Errors
    /// If the kernel rejects the program; [`Runtime::program_refused`] is called next.
    fn load_program(&mut self) -> Result<Option<SampleProgram>, Refused> {
        Ok(None)
    }

    /// Makes the runtime's own BPF program run `next` when it is done. An event can only have one
    /// program, so the programs of several runtimes call each other in the order of the table.
    ///
    /// # Errors
    /// If the kernel rejects the call.
    fn then(&mut self, _next: &SampleProgram) -> Result<(), Refused> {
        Err("its BPF program cannot call another one".into())
    }

    /// Called if the runtime's own BPF program cannot run.
    fn program_refused(&mut self, _why: &str) {}

    /// How a BPF program finds the frames that the runtime keeps in its heap, if they form a
    /// chain. Called right after the process was attached.
    fn chain_layout(&self, _pid: i32) -> Option<ChainLayout> {
        None
    }

    /// The stacks and labels that the thread kept elsewhere at the time of a sample.
    fn captured(&mut self, _thread: &SampledThread<'_>) -> Option<Captured> {
        None
    }

    /// Prepares for [`Runtime::read`] of a thread. No thread has been stopped for this call, so it
    /// is the time to read long lists.
    fn prepare_to_read(&mut self, _process: &Process, _memory: &ProcessMemory, _tid: i32) {}

    /// Like [`Runtime::captured`], for a thread that does not run. It may have been stopped for
    /// this call, so it must be quick.
    fn read(&mut self, _thread: &OffCpuThread<'_>) -> Option<Captured> {
        None
    }

    /// Writes the stack to `out`, leaf first, with native frames replaced by the runtime's own.
    /// Returns false to leave the stack unchanged.
    fn merge(&mut self, _stack: &UnwoundStack<'_>, _out: &mut Vec<MergedFrame>) -> bool {
        false
    }

    /// The number of the frame, for [`Runtime::functions`], of code that the runtime has compiled
    /// into memory.
    fn code_at(&mut self, _code: &CodeAddress<'_>) -> Option<u32> {
        None
    }

    /// Called once the recording is over, as the last chance to name frames.
    fn finish(&mut self) {}

    /// Notes on lost data, one line each, for the profile's comments.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
