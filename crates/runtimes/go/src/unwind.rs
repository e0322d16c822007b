//! Goroutine stacks, unwound by the line table's stack depths.
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
//! On arm64 the return address lies at sp instead, and in the link register before that.

use image::{Arch, Avma, Memory};

use crate::Runtime;

/// Deeper stacks are cut; a Go stack of 1 GiB has room for 30 million frames.
pub(crate) const MAX_FRAMES: usize = 100_000;
/// Stacks are read in pieces that grow from the first to the second size, in bytes.
const FIRST_CHUNK: u64 = 4 << 10;
const LAST_CHUNK: u64 = 256 << 10;

/// Why a stack has no more frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StackEnd {
    /// At a function that is the first of every stack: nothing is missing.
    Complete,
    /// At a return address that is not in Go code.
    NotGo(Avma),
    /// At a function that changes SP in ways that are not recorded.
    WritesSp,
    /// At a function without recorded stack depths, such as C code of the race detector.
    NoDepth,
    /// The stack pointer left the stack.
    OffStack,
    /// The stack cannot be read.
    Unreadable,
    /// The limit of frames was reached.
    TooDeep,
}

/// One call on a stack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhysicalFrame {
    /// Where it will go on, or was interrupted.
    pub pc: Avma,
    /// Its stack pointer.
    pub sp: Avma,
    /// Its caller's stack pointer, as it was before the call.
    pub cfa: Avma,
    /// `pc` follows a call: the position is that of the instruction before. Not so where a
    /// signal or a fault interrupted the function, and at its entry.
    pub after_call: bool,
    /// The arguments as Go prints them, where asked for: `0xc000012345, 0x5`.
    pub arguments: Option<Box<str>>,
}

impl PhysicalFrame {
    /// The instruction whose position it is (`symPC` in runtime/traceback.go).
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
    /// Why there are no more.
    pub end: StackEnd,
}

/// Where to begin.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start {
    pub pc: Avma,
    pub sp: Avma,
    /// From a thread that was stopped, not from saved words: `pc` is exact.
    pub interrupted: bool,
    /// From `g.syscallpc`: saved before the function changed SP.
    pub syscall: bool,
    /// The link register, on arm64, of a thread that was stopped.
    pub link: Option<Avma>,
}

/// The used part of a stack, read piece by piece.
pub(crate) struct StackWords<'a> {
    memory: &'a dyn Memory,
    low: u64,
    high: u64,
    start: u64,
    bytes: Vec<u8>,
    chunk: u64,
    /// Only what was copied may be looked at.
    copied: bool,
    /// More was asked for than was copied.
    pub(crate) fell_short: bool,
}

impl<'a> StackWords<'a> {
    pub(crate) fn new(memory: &'a dyn Memory, low: Avma, high: Avma) -> Self {
        let (low, high) = (low.0, high.0);
        let (start, bytes, chunk) = (0, Vec::new(), FIRST_CHUNK);
        Self { memory, low, high, start, bytes, chunk, copied: false, fell_short: false }
    }

    /// A stack of which the part from `start` on was copied before. Nothing else of it is read.
    pub(crate) fn copied(
        memory: &'a dyn Memory,
        low: Avma,
        high: Avma,
        start: Avma,
        bytes: Vec<u8>,
    ) -> Self {
        Self { start: start.0, bytes, copied: true, ..Self::new(memory, low, high) }
    }

    fn contains(&self, at: u64) -> bool {
        at >= self.low && at < self.high
    }

    /// The word at an address of the stack.
    pub(crate) fn word(&mut self, at: Avma) -> Option<u64> {
        if !self.contains(at.0) || self.high - at.0 < 8 {
            return None;
        }
        let inside = at.0 >= self.start && at.0 - self.start + 8 <= self.bytes.len() as u64;
        if !inside && self.copied {
            self.fell_short = true;
            return None;
        }
        if !inside {
            // Unwinding goes up, arguments lie a little further: read from here on.
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

/// Where the caller is.
enum Caller {
    At { pc: Avma, sp: Avma },
    None(StackEnd),
}

impl Runtime {
    /// Unwinds from `start` to the stack's end, or to `most` frames. `arguments`: also read those.
    pub(crate) fn unwind(
        &self,
        stack: &mut StackWords<'_>,
        start: Start,
        arguments: bool,
        most: usize,
    ) -> Stack {
        let mut frames = Vec::new();
        let (mut pc, mut sp) = (start.pc, start.sp);
        let mut exact = start.interrupted;
        let mut link = start.link;
        if pc.0 == 0 {
            // A call of a nil function: begin in the caller, as the runtime does.
            match stack.word(sp) {
                Some(word) => (pc, sp, exact) = (Avma(word), sp.wrapping_add(8), false),
                None => return Stack { frames, end: StackEnd::Unreadable },
            }
        }
        let end = loop {
            if frames.len() >= most {
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
                // No progress.
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

    /// `resolveInternal`: the caller of the frame at (pc, sp), and its CFA.
    fn caller(
        &self,
        stack: &mut StackWords<'_>,
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
        // cgocallback keeps both stacks in a state that can be unwound through; a system call
        // saved its state before it touched SP.
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
            // The bottom of a stack that nothing marks.
            Some(0) => Caller::None(StackEnd::Complete),
            Some(pc) => Caller::At { pc: Avma(pc), sp: cfa },
        };
        (caller, cfa)
    }
}
