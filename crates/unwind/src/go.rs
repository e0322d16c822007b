//! Unwinds across the stacks of a Go thread: from its system stack to that of its goroutine, and
//! back into C where C called Go.
//!
//! Goroutines' stacks are small. So the runtime itself, the vdso and C code run on the thread's
//! system stack:
//!
//! ```text
//!  goroutine's stack            system stack (g0)
//!  ┌─────────────────┐          ┌──────────────────┐
//!  │ main.work       │          │                  │
//!  │ cgocall         │ sched ─► │ asmcgocall       │ C frames, using call frame information
//!  │                 │          │ c_function       │
//!  │ cgocallback     │ ◄─ g0.   │ crosscall2       │
//!  │ main.callback   │   sched  │                  │
//!  │ systemstack     │ sched ─► │ runtime.mheap… ◄─ sp
//!  └─────────────────┘          └──────────────────┘
//! ```
//!
//! When Go leaves a stack, `gosave_systemstack_switch` (runtime/asm_amd64.s) saves the stack
//! pointer in `g.sched`, with the address of `runtime.systemstack_switch`, which is never called,
//! as program counter. Callers of the vdso save theirs in `m.vdsoPC` and `m.vdsoSP`
//! (sys_linux_amd64.s). `cgocallback` saves the values that it overwrites: see there.

use gopclntab::Function;
use image::{Avma, Memory};

use crate::arch::Arch;
use crate::end::{BreakReason, RootReason, broken, unreadable};
use crate::frame::{Cursor, FrameKind};
use crate::step::Stepper;
use crate::{End, Registers};

/// Limit of nested calls from C into Go that are followed back into C.
const MAX_CALLBACKS: usize = 64;

/// If `asmcgocall` does not change stacks, its frame record is within this many bytes.
const NEAR: u64 = 256;

/// Where a Go thread left its stacks, at the time of a sample. Addresses are in the process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GoStacks {
    /// Bounds of the goroutine's stack (`g.stack`); null if the thread runs no goroutine.
    pub bounds: (Avma, Avma),
    /// `g.sched.pc` and `.sp`.
    pub sched: (Avma, Avma),
    /// `m.vdsoPC` and `.vdsoSP`; null outside of the vdso.
    pub vdso: (Avma, Avma),
    /// `m.g0.sched.sp`, in a program with C code.
    pub system_sp: Option<Avma>,
}

impl GoStacks {
    /// Whether the thread runs no goroutine: it is in the scheduler, or has just started.
    fn has_no_goroutine(&self) -> bool {
        self.bounds.1.0 == 0
    }

    fn holds(&self, sp: u64) -> bool {
        (self.bounds.0.0..self.bounds.1.0).contains(&sp)
    }
}

/// A cursor's knowledge of Go stacks.
#[derive(Debug, Clone, Default)]
pub(crate) struct GoState {
    stacks: Option<GoStacks>,
    /// Where the goroutine's stack continues (pc, sp) after the C frames, outermost first.
    pending: Vec<(Avma, Avma)>,
    /// The system stack pointer at the next outer callback.
    system_sp: Option<Avma>,
    /// The frame at the cursor changes stacks.
    pub(crate) at_switch: bool,
}

impl GoState {
    pub(crate) fn new(stacks: Option<&GoStacks>) -> Self {
        let system_sp = stacks.and_then(|s| s.system_sp);
        Self { stacks: stacks.copied(), system_sp, ..Self::default() }
    }
}

impl<M: Memory> Stepper<'_, M> {
    /// Steps out of a Go function that changes stacks. `None` if it is unknown where the stacks
    /// were left.
    pub(crate) fn leave_stack<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        f: &StackSwitch,
    ) -> Option<Result<(), End>> {
        let sp = cursor.registers.get(A::SP)?;
        if f.is_cgocallback {
            return Some(self.leave_cgocallback::<A>(cursor, f, sp));
        }
        let stacks = cursor.go.stacks?;
        // The goroutine that called `mcall` or `morestack` is parked or on another thread by now.
        if stacks.has_no_goroutine() {
            let calls_on = f.calls_vdso || f.is_asmcgocall;
            return (!calls_on).then_some(Err(End::Root(RootReason::NoGoroutine)));
        }
        if stacks.holds(sp) {
            return None;
        }
        let vdso = stacks.vdso;
        if f.calls_vdso && vdso.1.0 != 0 {
            return Some(self.continue_at::<A>(cursor, vdso));
        }
        // `asmcgocall` does not change stacks if it is called on the system stack, as to create a
        // thread. (For other functions the frame pointer does not tell: goroutines' stacks move.)
        let near = |fp: u64| fp.checked_sub(cursor.floor.0).is_some_and(|n| n < NEAR);
        let stays = cursor.registers.get(A::FP).is_some_and(|fp| near(fp) && !stacks.holds(fp));
        if f.is_asmcgocall && cursor.go.pending.is_empty() && stays {
            return None;
        }
        let to = cursor.go.pending.pop().unwrap_or(stacks.sched);
        Some(if stacks.holds(to.1.0) {
            self.continue_at::<A>(cursor, to)
        } else {
            broken(BreakReason::CfaBelowSp)
        })
    }

    /// Steps from `cgocallback`'s frame on the goroutine's stack to its other frame, on the system
    /// stack, which C called. Both have the same size. The return address in the former is where
    /// the goroutine's stack was left for C. The word at the system stack pointer is that of the
    /// callback before.
    fn leave_cgocallback<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        f: &StackSwitch,
        sp: u64,
    ) -> Result<(), End> {
        let Some(depth) = f.depth else { return broken(BreakReason::NoUnwindInfo) };
        let cfa = Avma(sp).wrapping_add(u64::from(depth) + 8);
        let left = (Avma(self.word(cursor, cfa.wrapping_sub(8))?), cfa);
        let system = cursor.go.system_sp.filter(|_| cursor.go.pending.len() < MAX_CALLBACKS);
        let Some(system) = system else { return self.continue_at::<A>(cursor, left) };
        let above = system.wrapping_add(u64::from(depth) + 8);
        let (Ok(outer), Ok(caller)) =
            (self.memory.read_u64(system), self.memory.read_u64(above.wrapping_sub(8)))
        else {
            return self.continue_at::<A>(cursor, left);
        };
        if self.module::<A>(Avma(caller).wrapping_sub(1)).is_none() {
            return self.continue_at::<A>(cursor, left);
        }
        cursor.go.system_sp = Some(Avma(outer));
        cursor.go.pending.push(left);
        move_to::<A>(cursor, Avma(caller), above);
        Ok(())
    }

    /// Moves to the frame at (pc, sp) of the goroutine's stack, or if that is `systemstack_switch`,
    /// to its caller: the function that called `systemstack` or `asmcgocall`.
    fn continue_at<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        (pc, sp): (Avma, Avma),
    ) -> Result<(), End> {
        let module = self.module::<A>(pc);
        let at = module.and_then(|p| p.svma(pc));
        let Some((image, svma)) = at else { return broken(BreakReason::ReturnAddressNotCode) };
        let go = self.tables.cfi(image).and_then(|cfi| cfi.go_function(svma));
        let Some(f) = go else { return broken(BreakReason::ReturnAddressNotCode) };
        let (mut pc, mut sp) = (pc, sp);
        if f.name() == "runtime.systemstack_switch" {
            sp = sp.wrapping_add(u64::from(f.sp_delta(svma).unwrap_or(0)) + 8);
            let at = sp.wrapping_sub(8);
            pc = Avma(self.memory.read_u64(at).map_err(|_| unreadable(cursor.floor, at))?);
            if self.module::<A>(pc.wrapping_sub(1)).is_none() {
                return broken(BreakReason::ReturnAddressNotCode);
            }
        }
        move_to::<A>(cursor, pc, sp);
        Ok(())
    }

    /// Skips C frames that cannot be unwound and continues with the goroutine's stack below them.
    /// Returns whether there is one.
    pub(crate) fn skip_c_frames<A: Arch>(&mut self, cursor: &mut Cursor) -> bool {
        let Some(left) = cursor.go.pending.pop() else { return false };
        self.continue_at::<A>(cursor, left).is_ok()
    }
}

/// A Go function that changes stacks.
pub(crate) struct StackSwitch {
    is_cgocallback: bool,
    is_asmcgocall: bool,
    calls_vdso: bool,
    /// The size of its frame at this instruction, in bytes.
    pub(crate) depth: Option<u32>,
}

impl StackSwitch {
    pub(crate) fn of(f: &Function<'_>, lookup: image::Svma) -> Option<Self> {
        f.flags().writes_sp().then(|| {
            let name = f.name();
            Self {
                is_cgocallback: name == "runtime.cgocallback",
                is_asmcgocall: name == "runtime.asmcgocall",
                calls_vdso: ["runtime.nanotime1", "runtime.walltime", "time.now"].contains(&&*name),
                depth: f.sp_delta(lookup),
            }
        })
    }
}

/// Moves the cursor to another stack, after which only program counter and stack pointer are known.
fn move_to<A: Arch>(cursor: &mut Cursor, pc: Avma, sp: Avma) {
    let mut registers = Registers::unknown(A::ARCH);
    registers.set(A::SP, sp.0);
    registers.set(A::PC, pc.0);
    cursor.registers = registers;
    cursor.pc = pc;
    cursor.kind = FrameKind::Return;
    cursor.floor = sp;
}

#[cfg(test)]
mod tests {
    use image::{AddressSpace, Unreadable};

    use super::*;
    use crate::tables::Tables;
    use crate::x86_64::X86_64;

    struct Nothing;

    impl Memory for Nothing {
        fn read(&self, addr: Avma, _: &mut [u8]) -> Result<(), Unreadable> {
            Err(Unreadable(addr))
        }
    }

    const OTHER: StackSwitch =
        StackSwitch { is_cgocallback: false, is_asmcgocall: false, calls_vdso: false, depth: None };

    /// Leaves the stack in a function that changes stacks, with this stack pointer.
    fn leave(f: StackSwitch, stacks: Option<&GoStacks>, sp: u64) -> Option<Result<(), End>> {
        let mut registers = Registers::unknown(image::Arch::X86_64);
        registers.set(X86_64::SP, sp);
        let mut cursor = Cursor::new(&registers, stacks);
        let (space, mut tables) = (AddressSpace::default(), Tables::new());
        Stepper::new(&mut tables, &space, &Nothing, 0).leave_stack::<X86_64>(&mut cursor, &f)
    }

    #[test]
    fn a_thread_without_a_goroutine_ends_unless_the_function_is_called_on_the_system_stack() {
        let none = GoStacks::default();
        assert_eq!(leave(OTHER, Some(&none), 8), Some(Err(End::Root(RootReason::NoGoroutine))));
        assert_eq!(leave(StackSwitch { calls_vdso: true, ..OTHER }, Some(&none), 8), None);
        assert_eq!(leave(StackSwitch { is_asmcgocall: true, ..OTHER }, Some(&none), 8), None);
        assert_eq!(leave(OTHER, None, 8), None, "where it left its stacks is unknown");
    }

    #[test]
    fn a_thread_on_its_goroutines_stack_does_not_leave_it() {
        let bounds = (Avma(0x1000), Avma(0x2000));
        let outside = GoStacks { bounds, sched: (Avma(1), Avma(0x2000)), ..GoStacks::default() };
        let inside = GoStacks { sched: (Avma(1), Avma(0x1800)), ..outside };
        for sp in [0x1000, 0x1fff] {
            assert_eq!(leave(OTHER, Some(&inside), sp), None);
        }
        for sp in [0xfff, 0x2000] {
            let no_code = Some(broken(BreakReason::ReturnAddressNotCode));
            assert_eq!(leave(OTHER, Some(&inside), sp), no_code, "there is no code at address 1");
            let below = Some(broken(BreakReason::CfaBelowSp));
            assert_eq!(leave(OTHER, Some(&outside), sp), below, "not on the goroutine's stack");
        }
    }
}
