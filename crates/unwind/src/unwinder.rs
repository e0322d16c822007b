//! The unwinder: frames until the stack ends.

use image::{AddressSpace, Avma, MappingId, Memory};

use crate::aarch64::Aarch64;
use crate::arch::Arch;
use crate::end::BreakReason;
use crate::go::GoState;
use crate::step::{Stepper, broken};
use crate::tables::{CacheStats, Tables};
use crate::x86_64::X86_64;
use crate::{End, GoStacks, Registers};

/// Deep enough for all but runaway recursion.
const DEFAULT_MAX_FRAMES: usize = 2048;

/// How a frame's program counter came about, which decides what address to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FrameKind {
    /// The thread was stopped here: `pc` is the next instruction.
    Leaf,
    /// A signal interrupted the code here: `pc` is the next instruction.
    Interrupted,
    /// The code that a signal handler returns to, entered by no call: `pc` is where it begins.
    Trampoline,
    /// A call is under way, and `pc` is where it returns to. The call itself lies before, and
    /// after a call that never returns there may be another function, or nothing.
    Return,
}

impl FrameKind {
    /// Whether `pc` is itself the address that is being executed.
    #[must_use]
    #[inline]
    pub const fn is_exact(self) -> bool {
        !matches!(self, Self::Return)
    }
}

/// One frame of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// The program counter, or the return address without its authentication code.
    pub pc: Avma,
    /// Which of them.
    pub kind: FrameKind,
    /// The mapping of [`Frame::lookup_address`].
    pub mapping: Option<MappingId>,
    /// The stack pointer in it: what it keeps on the stack lies from here up to the next frame's.
    pub sp: Avma,
}

impl Frame {
    /// The address to look up functions and lines by: within the instruction that is executed.
    #[must_use]
    pub fn lookup_address(&self) -> Avma {
        self.pc.wrapping_sub(u64::from(!self.kind.is_exact()))
    }
}

/// A place on a stack that unwinding can go on from: the last frame that is complete.
#[derive(Debug, Clone)]
pub struct Cursor {
    pub(crate) registers: Registers,
    pub(crate) pc: Avma,
    pub(crate) kind: FrameKind,
    /// The frame's own part of the stack begins here or above.
    pub(crate) floor: Avma,
    /// Jumps to lower stacks so far.
    pub(crate) switches: u8,
    /// How often code may still be searched far back: it takes microseconds.
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

    /// The registers in this frame, as far as they are known.
    #[must_use]
    pub fn registers(&self) -> &Registers {
        &self.registers
    }

    /// Whether the stack goes on at quite another place, which memory above this frame tells
    /// nothing of: in a Go function that changes stacks.
    #[must_use]
    pub fn leaves_stack(&self) -> bool {
        self.go.at_switch
    }

    /// How many frames there are up to this one, itself included.
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

/// Unwinds the stacks of one process, or of several with the same images: tables and rules are
/// cached by image.
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

    /// Sets the limit of frames per stack (2048 at first, never less than 1). A deeper stack ends
    /// with [`BreakReason::TooDeep`].
    pub fn set_max_frames(&mut self, frames: usize) {
        self.max_frames = frames.max(1);
    }

    /// Sets the bits of a return address that hold its authentication code (aarch64:
    /// `NT_ARM_PAC_MASK`'s `insn_mask`). They are none at first.
    pub fn set_pac_mask(&mut self, mask: u64) {
        self.pac_mask = mask;
    }

    /// How well the cache of rules serves.
    #[must_use]
    pub fn cache_stats(&self) -> CacheStats {
        self.tables.stats
    }

    /// The last complete frame of the last stack, to go on from with [`Unwinder::resume`].
    #[must_use]
    pub fn cursor(&self) -> &Cursor {
        &self.cursor
    }

    /// How many stacks of Go programs went on in Go although C frames between could not be
    /// followed to their end.
    #[must_use]
    pub fn c_frames_lost(&self) -> u64 {
        self.c_frames_lost
    }

    /// Appends the frames to `out`, leaf first, and says why they end.
    pub fn unwind<M: Memory>(
        &mut self,
        space: &AddressSpace,
        registers: &Registers,
        memory: &M,
        out: &mut Vec<Frame>,
    ) -> End {
        self.unwind_from(space, Cursor::new(registers, None), memory, out)
    }

    /// As [`Unwinder::unwind`] for a thread of a Go program: `stacks` tells where its stacks go
    /// on in each other; `memory` holds the used parts of all of them.
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

    /// Goes on from a cursor that an earlier stack ended at, with other memory, and appends the
    /// frames after the cursor's. The caller vouches that the memory still holds the same stack.
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
                let mapping = stepper.stand::<A>(cursor).map(|place| place.id);
                out.push(Frame { pc: cursor.pc, kind: cursor.kind, mapping, sp: cursor.floor });
                cursor.depth += 1;
            }
            if cursor.depth >= self.max_frames {
                // Look whether there is a frame more, without going there.
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
