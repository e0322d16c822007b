//! Defines the frames of a stack, and the position from which unwinding continues.

use image::{Avma, MappingId};

use crate::arch::Arch;
use crate::end::{BreakReason, End, broken};
use crate::go::{GoStacks, GoState};
use crate::registers::Registers;

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
    pub(crate) depth: usize,
}

impl Cursor {
    pub(crate) fn new(registers: &Registers, stacks: Option<&GoStacks>) -> Self {
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
