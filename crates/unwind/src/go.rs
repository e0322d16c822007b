//! Go's stacks: a thread works for a goroutine on the goroutine's own stack, and on its system
//! stack wherever that is too small: in the runtime itself, in the vdso and in C.
//!
//! ```text
//!  goroutine's stack            system stack (g0)
//!  ┌─────────────────┐          ┌──────────────────┐
//!  │ main.work       │          │                  │
//!  │ cgocall         │ sched ─► │ asmcgocall       │ C frames, by call frame information
//!  │                 │          │ c_function       │
//!  │ cgocallback     │ ◄─ g0.   │ crosscall2       │
//!  │ main.callback   │   sched  │                  │
//!  │ systemstack     │ sched ─► │ runtime.mheap… ◄─ sp
//!  └─────────────────┘          └──────────────────┘
//! ```
//!
//! Where a stack was left is noted in `g.sched` by `gosave_systemstack_switch` (Go's
//! runtime/asm_amd64.s), whose program counter is a function that is never called,
//! `runtime.systemstack_switch`. The vdso's caller notes itself in `m.vdsoPC` and `m.vdsoSP`
//! (sys_linux_amd64.s). `cgocallback` saves what its call has overwritten: see there.

use gopclntab::Function;
use image::{Avma, Memory};

use crate::arch::Arch;
use crate::end::{BreakReason, RootReason};
use crate::step::{Stepper, broken, unreadable};
use crate::{Cursor, End, FrameKind, Registers};

/// Calls from C into Go, one within the other, that are followed back into C.
const MAX_CALLBACKS: usize = 64;

/// `asmcgocall`'s frame record lies this near, if it stays on its stack.
const NEAR: u64 = 256;

/// Where a thread of a Go program left its stacks, as of one sample.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GoStacks {
    /// Bounds of the goroutine's stack; null where the thread works for none.
    pub bounds: (Avma, Avma),
    /// `g.sched.pc` and `.sp`.
    pub sched: (Avma, Avma),
    /// `m.vdsoPC` and `.vdsoSP`; null outside of the vdso.
    pub vdso: (Avma, Avma),
    /// `m.g0.sched.sp`, in a program with C code.
    pub system_sp: Option<Avma>,
}

impl GoStacks {
    /// The thread works for no goroutine: it schedules, or has just begun.
    fn are_none(&self) -> bool {
        self.bounds.1.0 == 0
    }

    fn holds(&self, sp: u64) -> bool {
        (self.bounds.0.0..self.bounds.1.0).contains(&sp)
    }
}

/// What a cursor knows of the stacks that it came by.
#[derive(Debug, Clone, Default)]
pub(crate) struct GoState {
    stacks: Option<GoStacks>,
    /// The goroutine's stack goes on here (pc, sp) once the C frames are done.
    pending: Vec<(Avma, Avma)>,
    /// Where the next outer callback left the system stack.
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
    /// The step out of a Go function that sets the stack pointer by itself. `None` where nothing
    /// is known of where the stacks were left.
    pub(crate) fn leave_stack<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        f: &Switching,
    ) -> Option<Result<(), End>> {
        let sp = cursor.registers.get(A::SP)?;
        if f.is_cgocallback {
            return Some(self.call_back::<A>(cursor, f, sp));
        }
        let stacks = cursor.go.stacks?;
        // Whom `mcall` or `morestack` came from is somebody else's by now, or parked.
        if stacks.are_none() {
            let calls_on = f.calls_vdso || f.is_asmcgocall;
            return (!calls_on).then_some(Err(End::Root(RootReason::NoGoroutine)));
        }
        if stacks.holds(sp) {
            return None;
        }
        let vdso = stacks.vdso;
        if f.calls_vdso && vdso.1.0 != 0 {
            return Some(self.go_on_at::<A>(cursor, vdso));
        }
        // Called on the system stack already, as to create a thread, it changes nothing. (The
        // register cannot tell that of others: stacks of goroutines move.)
        let near = |fp: u64| fp.checked_sub(cursor.floor.0).is_some_and(|n| n < NEAR);
        let stays = cursor.registers.get(A::FP).is_some_and(|fp| near(fp) && !stacks.holds(fp));
        if f.is_asmcgocall && cursor.go.pending.is_empty() && stays {
            return None;
        }
        let to = cursor.go.pending.pop().unwrap_or(stacks.sched);
        Some(if stacks.holds(to.1.0) {
            self.go_on_at::<A>(cursor, to)
        } else {
            broken(BreakReason::CfaBelowSp)
        })
    }

    /// From `cgocallback` on the goroutine's stack to its other frame, on the system stack, which
    /// C called. Both are of one size, and the return address in the goroutine's is where that
    /// stack was left for C; the one before it on the system stack, at its stack pointer.
    fn call_back<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        f: &Switching,
        sp: u64,
    ) -> Result<(), End> {
        let Some(depth) = f.depth else { return broken(BreakReason::NoUnwindInfo) };
        let cfa = Avma(sp).wrapping_add(u64::from(depth) + 8);
        let left = (Avma(self.word(cursor, cfa.wrapping_sub(8))?), cfa);
        let system = cursor.go.system_sp.filter(|_| cursor.go.pending.len() < MAX_CALLBACKS);
        let Some(system) = system else { return self.go_on_at::<A>(cursor, left) };
        let above = system.wrapping_add(u64::from(depth) + 8);
        let (Ok(outer), Ok(caller)) =
            (self.memory.read_u64(system), self.memory.read_u64(above.wrapping_sub(8)))
        else {
            return self.go_on_at::<A>(cursor, left);
        };
        if self.place::<A>(Avma(caller).wrapping_sub(1)).is_none() {
            return self.go_on_at::<A>(cursor, left);
        }
        cursor.go.system_sp = Some(Avma(outer));
        cursor.go.pending.push(left);
        stand_at::<A>(cursor, Avma(caller), above);
        Ok(())
    }

    /// Moves to the frame at (pc, sp) of the goroutine's stack. `systemstack_switch` only stands
    /// for the function that called `systemstack` or `asmcgocall`.
    fn go_on_at<A: Arch>(
        &mut self,
        cursor: &mut Cursor,
        (pc, sp): (Avma, Avma),
    ) -> Result<(), End> {
        let place = self.place::<A>(pc);
        let at = place.and_then(|p| p.svma(pc));
        let Some((image, svma)) = at else { return broken(BreakReason::ReturnAddressNotCode) };
        let go = self.tables.cfi(image).and_then(|cfi| cfi.go_function(svma));
        let Some(f) = go else { return broken(BreakReason::ReturnAddressNotCode) };
        let (mut pc, mut sp) = (pc, sp);
        if f.name() == "runtime.systemstack_switch" {
            sp = sp.wrapping_add(u64::from(f.sp_delta(svma).unwrap_or(0)) + 8);
            let at = sp.wrapping_sub(8);
            pc = Avma(self.memory.read_u64(at).map_err(|_| unreadable(cursor.floor, at))?);
            if self.place::<A>(pc.wrapping_sub(1)).is_none() {
                return broken(BreakReason::ReturnAddressNotCode);
            }
        }
        stand_at::<A>(cursor, pc, sp);
        Ok(())
    }

    /// Where C frames could not be followed to their end, the goroutine's stack goes on all the
    /// same. Gives whether there is one.
    pub(crate) fn skip_c_frames<A: Arch>(&mut self, cursor: &mut Cursor) -> bool {
        let Some(left) = cursor.go.pending.pop() else { return false };
        self.go_on_at::<A>(cursor, left).is_ok()
    }
}

/// A Go function that changes stacks, as far as it matters here.
pub(crate) struct Switching {
    is_cgocallback: bool,
    is_asmcgocall: bool,
    calls_vdso: bool,
    /// Of its frame, at this instruction.
    pub(crate) depth: Option<u32>,
}

impl Switching {
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

/// Nothing but the place is known after a change of stacks.
fn stand_at<A: Arch>(cursor: &mut Cursor, pc: Avma, sp: Avma) {
    let mut registers = Registers::unknown(A::ARCH);
    registers.set(A::SP, sp.0);
    registers.set(A::PC, pc.0);
    cursor.registers = registers;
    cursor.pc = pc;
    cursor.kind = FrameKind::Return;
    cursor.floor = sp;
}
