//! Unwinds goroutine stacks with the line table's stack depths.
//!
//! Follows `unwinder` in Go's runtime/traceback.go (with `unwindSilentErrors`). x86-64:
//!
//! ```text
//!   stack.hi ┌──────────────┐
//!            │ …            │
//!            │ return addr. │ ◄─ sp + pcsp(pc): the caller's sp is 8 above
//!            │ locals       │    pcsp(pc) bytes
//!       sp ─►│              │
//!   stack.lo └──────────────┘
//! ```
//!
//! On arm64 the return address is at sp instead, and in the link register until it is saved there.

use image::{Arch, Avma, Memory};

use crate::Runtime;

/// Frames per stack. A Go stack of 1 GiB has room for 30 million.
pub(crate) const MAX_FRAMES: usize = 100_000;
/// Bytes of the first and of the largest read of a stack; each read doubles the size.
const FIRST_CHUNK: u64 = 4 << 10;
const LAST_CHUNK: u64 = 256 << 10;

/// Why unwinding stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StackEnd {
    /// At a top frame, such as `runtime.goexit`: no frame is missing.
    Complete,
    /// At this return address, which is not in Go code.
    NotGo(Avma),
    /// At a function that changes SP in ways that the line table does not describe.
    WritesSp,
    /// At a function without stack depths, such as C code of the race detector.
    NoDepth,
    /// The stack pointer left the stack.
    OffStack,
    /// The stack cannot be read.
    Unreadable,
    /// The stack has more frames than the limit.
    TooDeep,
}

/// One call on a stack; inlined calls share it (see [`crate::LogicalFrame`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalFrame {
    /// The return address, or the instruction where the function was interrupted.
    pub pc: Avma,
    /// The stack pointer in this frame.
    pub sp: Avma,
    /// The caller's stack pointer before the call.
    pub cfa: Avma,
    /// Whether `pc` follows a call, so that the frame's position is that of the instruction before.
    /// False if a signal or fault interrupted the function, and at its entry.
    pub after_call: bool,
    /// The arguments as Go prints them (`0xc000012345, 0x5`), if they were requested.
    pub arguments: Option<Box<str>>,
}

impl PhysicalFrame {
    /// The address to look the frame's position up by (`symPC` in runtime/traceback.go).
    #[must_use]
    pub fn call_pc(&self) -> Avma {
        if self.after_call { self.pc.wrapping_sub(1) } else { self.pc }
    }
}

/// A goroutine's stack, innermost frame first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stack {
    /// The frames.
    pub frames: Vec<PhysicalFrame>,
    /// Why unwinding stopped.
    pub end: StackEnd,
}

/// The registers to start from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub pc: Avma,
    pub sp: Avma,
    /// Whether these are a stopped thread's registers, so that `pc` is not a return address.
    pub interrupted: bool,
    /// Whether they come from `g.syscallpc`, which is saved before the function changes SP.
    pub syscall: bool,
    /// The link register of a stopped thread on arm64.
    pub link: Option<Avma>,
}

/// Reads words of a stack in growing chunks.
pub(crate) struct StackReader<'a> {
    memory: &'a dyn Memory,
    low: u64,
    high: u64,
    start: u64,
    bytes: Vec<u8>,
    chunk: u64,
    /// Whether reads are limited to the bytes that were copied before.
    is_copy: bool,
    /// Whether a word outside the copied bytes was requested.
    pub(crate) left_copy: bool,
}

impl<'a> StackReader<'a> {
    pub(crate) fn new(memory: &'a dyn Memory, low: Avma, high: Avma) -> Self {
        let (low, high) = (low.0, high.0);
        let (start, bytes, chunk) = (0, Vec::new(), FIRST_CHUNK);
        Self { memory, low, high, start, bytes, chunk, is_copy: false, left_copy: false }
    }

    /// A stack whose part from `start` on was copied before. No other part is read.
    pub(crate) fn of_copy(
        memory: &'a dyn Memory,
        low: Avma,
        high: Avma,
        start: Avma,
        bytes: Vec<u8>,
    ) -> Self {
        Self { start: start.0, bytes, is_copy: true, ..Self::new(memory, low, high) }
    }

    fn contains(&self, at: u64) -> bool {
        at >= self.low && at < self.high
    }

    /// The word at an address of the stack. `None` outside the stack or if it cannot be read.
    pub(crate) fn word(&mut self, at: Avma) -> Option<u64> {
        if !self.contains(at.0) || self.high - at.0 < 8 {
            return None;
        }
        let inside = at.0 >= self.start && at.0 - self.start + 8 <= self.bytes.len() as u64;
        if !inside && self.is_copy {
            self.left_copy = true;
            return None;
        }
        if !inside {
            // Unwinding moves to higher addresses, and so do the arguments: read from here on.
            let size = (self.high - at.0).min(self.chunk);
            self.bytes.resize(usize::try_from(size).ok()?, 0);
            self.start = at.0;
            if self.memory.read(at, &mut self.bytes).is_err() {
                self.bytes.clear();
                return None;
            }
            self.chunk = (self.chunk * 2).min(LAST_CHUNK);
        }
        let offset = usize::try_from(at.0 - self.start).ok()?;
        Some(u64::from_le_bytes(self.bytes.get(offset..offset + 8)?.try_into().ok()?))
    }
}

/// The caller of a frame, or why it has none.
enum Caller {
    At { pc: Avma, sp: Avma },
    None(StackEnd),
}

impl Runtime {
    /// Unwinds from `start`, at most `max` frames, and formats the arguments of calls if
    /// `arguments` is set.
    pub(crate) fn unwind(
        &self,
        stack: &mut StackReader<'_>,
        start: Start,
        arguments: bool,
        max: usize,
    ) -> Stack {
        let mut frames = Vec::new();
        let (mut pc, mut sp) = (start.pc, start.sp);
        let mut exact = start.interrupted;
        let mut link = start.link;
        if pc.0 == 0 {
            // A call of a nil function: start in the caller, as the runtime does.
            match stack.word(sp) {
                Some(word) => (pc, sp, exact) = (Avma(word), sp.wrapping_add(8), false),
                None => return Stack { frames, end: StackEnd::Unreadable },
            }
        }
        let end = loop {
            if frames.len() >= max {
                break StackEnd::TooDeep;
            }
            let Some(f) = self.table.function_at(self.bias.to_svma(pc)) else {
                break StackEnd::NotGo(pc);
            };
            let innermost = frames.is_empty();
            let (caller, cfa) =
                self.caller(stack, &f, (pc, sp), innermost, start.syscall, link.take());
            let after_call = !exact && pc > self.bias.to_avma(f.entry());
            let mut frame = PhysicalFrame { pc, sp, cfa, after_call, arguments: None };
            if arguments {
                frame.arguments = self.arguments(stack, &f, &frame);
            }
            frames.push(frame);
            exact = self.table.special().is_injected_call(f.id());
            match caller {
                Caller::None(end) => break end,
                // A hostile stack could loop forever.
                Caller::At { pc: p, sp: s } if s <= sp && p == pc => break StackEnd::OffStack,
                Caller::At { pc: p, sp: s } if exact && self.image.arch() == Arch::Aarch64 => {
                    // The signal handler saved the link register in a frame of 16 bytes.
                    link = stack.word(s).map(Avma);
                    (pc, sp) = (p, s.wrapping_add(16));
                }
                Caller::At { pc: p, sp: s } => (pc, sp) = (p, s),
            }
        };
        Stack { frames, end }
    }

    /// The caller of the frame at (pc, sp), and the frame's CFA (`resolveInternal` in
    /// runtime/traceback.go).
    fn caller(
        &self,
        stack: &mut StackReader<'_>,
        f: &gopclntab::Function<'_>,
        (pc, sp): (Avma, Avma),
        innermost: bool,
        syscall: bool,
        link: Option<Avma>,
    ) -> (Caller, Avma) {
        if !f.has_sp_table() {
            return (Caller::None(StackEnd::NoDepth), sp);
        }
        let Some(delta) = f.sp_delta(self.bias.to_svma(pc)) else {
            return (Caller::None(StackEnd::NoDepth), sp);
        };
        let on_x86 = self.image.arch() == Arch::X86_64;
        let above = u64::from(delta) + if on_x86 { 8 } else { 0 };
        let cfa = sp.wrapping_add(above);
        let flags = f.flags();
        if flags.is_top_frame() {
            return (Caller::None(StackEnd::Complete), cfa);
        }
        // cgocallback keeps both stacks unwindable, and a system call saves its state before it
        // changes SP.
        let harmless = self.table.special().cgocallback == Some(f.id()) || (innermost && syscall);
        if flags.writes_sp() && !harmless {
            return (Caller::None(StackEnd::WritesSp), cfa);
        }
        if !stack.contains(sp.0) || cfa.0 > stack.high {
            return (Caller::None(StackEnd::OffStack), cfa);
        }
        let saved = match link {
            Some(link) if delta == 0 => Some(link.0),
            _ if on_x86 => stack.word(cfa.wrapping_sub(8)),
            _ => stack.word(sp),
        };
        let caller = match saved {
            None => Caller::None(StackEnd::Unreadable),
            // The end of a stack without a top frame.
            Some(0) => Caller::None(StackEnd::Complete),
            Some(pc) => Caller::At { pc: Avma(pc), sp: cfa },
        };
        (caller, cfa)
    }
}
