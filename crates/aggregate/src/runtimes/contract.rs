//! What a language runtime contributes to a recording, and when it is asked.
//!
//! ```text
//!   new mappings ─► attach            which process runs it, and what it does there (Roles)
//!   BPF          ─► load_program, then    what must be copied in the moment of a sample
//!                   chain_layout          frames in the heap, which a shared program follows
//!   a sample     ─► captured          before unwinding: stacks and labels kept elsewhere
//!                   merge             after it: own frames in place of native ones
//!                   code_at           one frame in memory without a file
//!   a thread that stands still ─► prepare_to_read, read    the same, from memory
//!   the profile  ─► finish, functions, notes
//! ```
//!
//! An implementation keeps what it knows per file and per process itself, by process id.

use events::{ChainLayout, SampleProgram, StackCopy};
use image::{Avma, Memory, Unreadable};
use process::{Process, ProcessMemory};
use unwind::{End, Frame, GoStacks, Registers, Unwinder};

use super::chains::OwnedChain;
use crate::ids::{Function, ThreadId};
use crate::processes::{Processes, Tracked};
use crate::window::StackWindow;

/// A row of the table of runtimes.
#[derive(Clone, Copy)]
pub struct Row {
    /// Its name in notes: `Python`.
    pub name: &'static str,
    /// The mapping in profiles of frames that lie at no address: `[python]`.
    pub mapping: &'static str,
    /// Makes one for a recording.
    pub new: fn() -> Box<dyn Runtime>,
}

/// Why a BPF program cannot run.
pub type Refused = Box<dyn std::error::Error + Send + Sync>;

/// What a runtime does for the stacks of a process. It is asked for nothing else there, so that
/// samples of all other processes cost nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Roles {
    /// Its threads leave stacks or labels elsewhere: [`Runtime::captured`], [`Runtime::read`].
    pub stacks: bool,
    /// It has frames of its own: [`Runtime::merge`].
    pub frames: bool,
    /// It compiles code into memory: [`Runtime::code_at`].
    pub code: bool,
}

/// Whether a process runs the runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// It does not, as far as its mappings show.
    Absent,
    /// It does, but its state cannot be read yet; ask again.
    NotReady,
    /// It does.
    Attached(Roles),
}

/// A thread as it was sampled.
pub struct SampledThread<'a> {
    /// The thread.
    pub id: ThreadId,
    /// Its process.
    pub tracked: &'a Tracked,
    /// When, by CLOCK_MONOTONIC in nanoseconds.
    pub time: u64,
    /// Its user registers.
    pub registers: &'a Registers,
}

/// A thread that stands still: stopped, or asleep. The caller makes sure that it does not run
/// meanwhile.
#[derive(Clone, Copy)]
pub struct StandingThread<'a> {
    /// Its process.
    pub process: &'a Process,
    /// The process' memory.
    pub memory: &'a ProcessMemory,
    /// The thread, as we number it.
    pub tid: i32,
    /// Its stack pointer.
    pub sp: Avma,
    /// Its thread pointer, where that is known.
    pub thread_pointer: Option<u64>,
}

/// What a thread had left elsewhere when its stack was copied.
#[derive(Debug, Default)]
pub struct Captured {
    /// Where its stacks go on in each other, if it has several.
    pub stacks: Option<GoStacks>,
    /// Copied memory besides the stack that it was on.
    pub copies: [StackCopy; 2],
    /// Labels that the program has set for what the thread does.
    pub labels: Vec<(String, String)>,
}

impl Captured {
    /// Unwinds from the copied stack through what was captured.
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

/// The sample's own copy, and what was captured with it.
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

/// A native stack that was unwound.
pub struct UnwoundStack<'a> {
    /// The process.
    pub pid: i32,
    /// The process.
    pub tracked: &'a Tracked,
    /// Its frames, leaf first.
    pub frames: &'a [Frame],
    /// Whether they reach the root of the thread.
    pub is_whole: bool,
    /// The copied part of the stack.
    pub memory: &'a dyn Memory,
    /// The chain of the runtime's frames at that time, for runtimes that have a
    /// [`Runtime::chain_layout`].
    pub chain: Option<&'a OwnedChain>,
}

/// A frame of a merged stack, leaf first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MergedFrame {
    /// A native frame, by its index.
    Native(usize),
    /// A frame of the runtime's, by the number that [`Runtime::functions`] names.
    Own(u32),
}

/// An address of code in memory that is no image's.
pub struct CodeAddress<'a> {
    /// The process.
    pub pid: i32,
    /// The process.
    pub tracked: &'a Tracked,
    /// The address to look up: a return address is already one less.
    pub address: Avma,
    /// When it was executed, by CLOCK_MONOTONIC in nanoseconds.
    pub time: u64,
}

/// A language runtime, or another source of names and frames in the targets. See the module.
pub trait Runtime: Send {
    /// Looks for the runtime in a process: when the process is followed, and again when its
    /// mappings have changed (also where it was attached before) or it was [`Presence::NotReady`].
    fn attach(&mut self, pid: i32, tracked: &Tracked) -> Presence;

    /// The process has ended or executed another program: forget it.
    fn detach(&mut self, pid: i32);

    /// The functions of a frame, the innermost inlined call first. `index` is from
    /// [`MergedFrame::Own`] or [`Runtime::code_at`].
    fn functions(&self, index: u32) -> Vec<Function>;

    /// A new reading of events begins. What BPF programs have written is to be read before the
    /// samples that it belongs to.
    fn next_round(&mut self) {}

    /// After each search for runtimes, every 20 ms or so: learns of new threads.
    fn refresh(&mut self, _processes: &Processes) {}

    /// An attached process has created a thread.
    fn thread_created(&mut self, _pid: i32) {}

    /// A thread of an attached process has ended.
    fn thread_ended(&mut self, _id: ThreadId) {}

    /// Loads the BPF program that has to run with each sample, if there is one: called once, when
    /// the first process was attached and events are sampled.
    ///
    /// # Errors
    /// The kernel refuses it; [`Runtime::program_refused`] follows.
    fn load_program(&mut self) -> Result<Option<SampleProgram>, Refused> {
        Ok(None)
    }

    /// Runs `next` right after the own BPF program. An event takes one program; those of several
    /// runtimes call each other in the order of the table.
    ///
    /// # Errors
    /// The kernel refuses it.
    fn then(&mut self, _next: &SampleProgram) -> Result<(), Refused> {
        Err("its BPF program calls no other".into())
    }

    /// The own BPF program does not run.
    fn program_refused(&mut self, _why: &str) {}

    /// How a BPF program finds the frames that the runtime keeps in its heap, where they form a
    /// chain. Asked right after the process was attached.
    fn chain_layout(&self, _pid: i32) -> Option<ChainLayout> {
        None
    }

    /// What the thread had left elsewhere at the time of a sample.
    fn captured(&mut self, _thread: &SampledThread<'_>) -> Option<Captured> {
        None
    }

    /// A thread is about to be read. Unlike during [`Runtime::read`] nothing stands still for it,
    /// so this is the time to read lists.
    fn prepare_to_read(&mut self, _process: &Process, _memory: &ProcessMemory, _tid: i32) {}

    /// As [`Runtime::captured`], of a thread that stands still. Be quick: it may have been stopped.
    fn read(&mut self, _thread: &StandingThread<'_>) -> Option<Captured> {
        None
    }

    /// Writes the native frames with the runtime's own in their places to `out`. False to leave the
    /// stack as it is.
    fn merge(&mut self, _stack: &UnwoundStack<'_>, _out: &mut Vec<MergedFrame>) -> bool {
        false
    }

    /// The number of the frame for code that the runtime has compiled into memory.
    fn code_at(&mut self, _code: &CodeAddress<'_>) -> Option<u32> {
        None
    }

    /// The recording is over: a last chance to name frames.
    fn finish(&mut self) {}

    /// What was lost, one line each, for the profile's comments.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }
}
