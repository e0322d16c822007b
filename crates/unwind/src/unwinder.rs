//! The unwinder: find all frames of a stack, step by step.

use image::{AddressSpace, Avma, MappingId, Memory};

use crate::aarch64::Aarch64;
use crate::arch::Arch;
use crate::end::BreakReason;
use crate::go::GoState;
use crate::step::{Stepper, broken};
use crate::tables::{CacheStats, Tables};
use crate::x86_64::X86_64;
use crate::{End, GoStacks, Registers};

/// Default limit of frames; only runaway recursion is deeper.
const DEFAULT_MAX_FRAMES: usize = 2048;

/// What a frame's program counter is, which determines the address to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The thread was stopped here: `pc` is the next instruction.
    Leaf,
    /// A signal interrupted the code here: `pc` is the next instruction.
    Interrupted,
    /// Code that a signal handler returns to, which no call entered: `pc` is its first byte.
    Trampoline,
    /// The frame called the one before it: `pc` is the return address. The call is before it; after
    /// a call that never returns there may be another function, or nothing.
    Return,
}

impl FrameKind {
    /// Whether `pc` is the address of the instruction that is executed, not a return address.
    #[must_use]
    #[inline]
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::Return)
    }
}

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The program counter in the process, or the return address without its authentication code.
    pub pc: Avma,
    /// What `pc` is.
    pub kind: FrameKind,
    /// The mapping of [`Frame::lookup_address`].
    pub mapping: Option<MappingId>,
    /// The stack pointer: the frame's part of the stack is from here up to that of the next frame.
    pub sp: Avma,
}

impl Frame {
    /// The address by which to look up functions and lines: within the instruction that is
    /// executed.
    #[must_use]
    pub fn lookup_address(&self) -> Avma {
        self.pc.wrapping_sub(u64::from(!self.kind.is_exact()))
    }
}

/// A position on a stack from which unwinding can continue: the last complete frame.
#[derive(Debug, Clone)]
pub struct Cursor {
    pub(crate) registers: Registers,
    pub(crate) pc: Avma,
    pub(crate) kind: FrameKind,
    /// A lower bound of the frame's part of the stack.
    pub(crate) floor: Avma,
    /// Changes to lower stacks so far.
    pub(crate) switches: u8,
    /// How often code may still be searched far back, which takes microseconds.
    pub(crate) searches: u8,
    pub(crate) go: GoState,
    depth: usize,
}

impl Cursor {
    fn new(registers: &Registers, stacks: Option<&GoStacks>) -> Self {
        Self {
            go: GoState::new(stacks),
            registers: *registers,
            pc: registers.pc().unwrap_or_default(),
            kind: FrameKind::Leaf,
            floor: registers.sp().unwrap_or_default(),
            switches: 0,
            searches: u8::MAX,
            depth: 0,
        }
    }

    /// The registers that are known in this frame.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Whether the stack continues elsewhere, so that memory above this frame does not help: the
    /// frame is that of a Go function that changes stacks.
    #[must_use]
    pub fn leaves_stack(&self) -> bool {
        self.go.at_switch
    }

    /// The number of frames up to and including this one.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.depth
    }

    #[inline]
    pub(crate) fn lookup_address(&self) -> Avma {
        self.pc.wrapping_sub(u64::from(!self.kind.is_exact()))
    }

    #[inline]
    pub(crate) fn enter<A: Arch>(&mut self, pc: Avma, floor: u64, kind: FrameKind) {
        self.registers.set(A::PC, pc.0);
        self.switches = self.switches.saturating_add(u8::from(floor < self.floor.0));
        self.pc = pc;
        self.kind = kind;
        self.floor = Avma(floor);
    }

    /// Moves to the frame that a signal interrupted, on whatever stack that is.
    pub(crate) fn interrupt(&mut self, registers: Registers) -> Result<(), End> {
        let (Some(pc), Some(sp)) = (registers.pc(), registers.sp()) else {
            return broken(BreakReason::NoRegisters);
        };
        self.registers = registers;
        self.pc = pc;
        self.kind = FrameKind::Interrupted;
        self.floor = sp;
        Ok(())
    }
}

/// Unwinds stacks. One unwinder serves any number of processes: it caches tables and rules by
/// image.
pub struct Unwinder {
    arch: image::Arch,
    tables: Tables,
    max_frames: usize,
    pac_mask: u64,
    cursor: Cursor,
    c_frames_lost: u64,
}

impl Unwinder {
    /// An unwinder for targets of that architecture.
    #[must_use]
    pub fn new(arch: image::Arch) -> Self {
        Self {
            arch,
            tables: Tables::new(),
            max_frames: DEFAULT_MAX_FRAMES,
            pac_mask: 0,
            cursor: Cursor::new(&Registers::unknown(arch), None),
            c_frames_lost: 0,
        }
    }

    /// Sets the limit of frames per stack, at least 1. The default is 2048. A deeper stack ends
    /// with [`BreakReason::TooDeep`].
    pub fn set_max_frames(&mut self, frames: usize) {
        self.max_frames = frames.max(1);
    }

    /// Sets the bits of a return address that hold its authentication code (aarch64:
    /// `NT_ARM_PAC_MASK`'s `insn_mask`). The default is none.
    pub fn set_pac_mask(&mut self, mask: u64) {
        self.pac_mask = mask;
    }

    /// Statistics of the cache of rules.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.tables.stats
    }

    /// The last complete frame of the last stack, from which [`Unwinder::resume`] can continue.
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// The number of Go stacks with C frames that could not be unwound and were skipped.
    #[must_use]
    pub fn c_frames_lost(&self) -> u64 {
        self.c_frames_lost
    }

    /// Appends the frames of a stack to `out`, leaf first, and returns why they end.
    pub fn unwind<M: Memory>(
        &mut self,
        space: &AddressSpace,
        registers: &Registers,
        memory: &M,
        out: &mut Vec<Frame>,
    ) -> End {
        self.unwind_from(space, Cursor::new(registers, None), memory, out)
    }

    /// As [`Unwinder::unwind`], for a thread of a Go program. `stacks` says where its stacks
    /// continue in each other; `memory` must hold the used parts of all of them.
    pub fn unwind_go<M: Memory>(
        &mut self,
        space: &AddressSpace,
        registers: &Registers,
        stacks: &GoStacks,
        memory: &M,
        out: &mut Vec<Frame>,
    ) -> End {
        self.unwind_from(space, Cursor::new(registers, Some(stacks)), memory, out)
    }

    fn unwind_from<M: Memory>(
        &mut self,
        space: &AddressSpace,
        cursor: Cursor,
        memory: &M,
        out: &mut Vec<Frame>,
    ) -> End {
        let registers = cursor.registers;
        self.cursor = cursor;
        if registers.arch() != self.arch || registers.pc().is_none() || registers.sp().is_none() {
            return End::Broken(BreakReason::NoRegisters);
        }
        match self.arch {
            image::Arch::X86_64 => self.run::<X86_64, M>(space, memory, out, true),
            image::Arch::Aarch64 => self.run::<Aarch64, M>(space, memory, out, true),
        }
    }

    /// Continues a stack from the cursor at which it ended, with other memory, and appends the
    /// frames after the cursor's. The caller must ensure that the memory holds the same stack.
    pub fn resume<M: Memory>(
        &mut self,
        space: &AddressSpace,
        cursor: &Cursor,
        memory: &M,
        out: &mut Vec<Frame>,
    ) -> End {
        self.cursor = cursor.clone();
        if cursor.registers.arch() != self.arch || cursor.depth == 0 {
            return End::Broken(BreakReason::NoRegisters);
        }
        match self.arch {
            image::Arch::X86_64 => self.run::<X86_64, M>(space, memory, out, false),
            image::Arch::Aarch64 => self.run::<Aarch64, M>(space, memory, out, false),
        }
    }

    fn run<A: Arch, M: Memory>(
        &mut self,
        space: &AddressSpace,
        memory: &M,
        out: &mut Vec<Frame>,
        from_leaf: bool,
    ) -> End {
        self.tables.trim();
        let cursor = &mut self.cursor;
        let mut stepper = Stepper::new(&mut self.tables, space, memory, self.pac_mask);
        let mut push = from_leaf;
        loop {
            if push {
                let mapping = stepper.current_module::<A>(cursor).map(|module| module.id);
                out.push(Frame { pc: cursor.pc, kind: cursor.kind, mapping, sp: cursor.floor });
                cursor.depth += 1;
            }
            if cursor.depth >= self.max_frames {
                // Check whether there is another frame, without moving to it.
                return stepper
                    .advance::<A>(&mut cursor.clone())
                    .map_or_else(|end| end, |()| End::Broken(BreakReason::TooDeep));
            }
            match stepper.advance::<A>(cursor) {
                Ok(()) => push = true,
                Err(end) if !end.is_root() && stepper.skip_c_frames::<A>(cursor) => {
                    self.c_frames_lost += 1;
                    push = true;
                }
                Err(end) => return end,
            }
        }
    }
}
