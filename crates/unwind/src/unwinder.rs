//! Finds all frames of a stack, step by step.

use image::{AddressSpace, Memory};

use crate::aarch64::Aarch64;
use crate::arch::Arch;
use crate::end::BreakReason;
use crate::frame::{Cursor, Frame};
use crate::step::Stepper;
use crate::tables::{CacheStats, Tables};
use crate::x86_64::X86_64;
use crate::{End, GoStacks, Registers};

/// Default limit of frames; only runaway recursion is deeper.
const DEFAULT_MAX_FRAMES: usize = 2048;

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
