//! Defines the trait for what differs between instruction sets; `x86_64` and `aarch64` implement
//! it.

use gopclntab::Function;
use image::{Avma, Memory, Svma, Unreadable};

use crate::Registers;
use crate::follow::state::{Flow, State, Value};
use crate::rule::Rule;

/// The architecture-specific part of unwinding: constants and pure functions.
pub(crate) trait Arch {
    /// The instruction set.
    const ARCH: image::Arch;
    /// DWARF number of the stack pointer.
    const SP: u16;
    /// DWARF number of the frame pointer.
    const FP: u16;
    /// DWARF number of the program counter.
    const PC: u16;
    /// DWARF number of the column that holds the return address.
    const RA: u16;
    /// The registers with a slot in a narrow rule, at most [`crate::rule::SLOTS`]: first the return
    /// address, then the callee-saved registers of the ABI.
    const SAVED: &'static [u16];
    /// DWARF number of a function's first argument.
    const ARGUMENT: u16;
    /// DWARF number of the register that holds a function's result.
    const RESULT: u16;
    /// Which vendor extensions of DWARF apply.
    const VENDOR: gimli::Vendor;
    /// Whether calls put the return address into a register. Where the CFI says that the return
    /// address is unchanged, it is still there.
    const HAS_LINK_REGISTER: bool;

    /// Whether the instruction that ends where `before` ends is a call.
    fn ends_with_call(before: &[u8]) -> bool;

    /// If `before` ends with a direct call, the call's target relative to the address after it.
    fn direct_call_target(before: &[u8]) -> Option<i64>;

    /// Whether the code is the `rt_sigreturn` trampoline that signal handlers return to. `before`
    /// is the code up to the program counter, `at` the code from there.
    fn is_sigreturn(before: &[u8], at: &[u8]) -> bool;

    /// Whether the code does nothing but end the thread by a system call. Threads' start functions
    /// return to such code; in musl it has no call frame information.
    fn ends_thread(at: &[u8]) -> bool;

    /// Whether `before` ends with a system call that returned 0. That is how `clone` returns in a
    /// new thread, whose stack holds no frames yet.
    fn begins_thread(before: &[u8], registers: &Registers) -> bool;

    /// The rule for a Go function according to its line table, at the instruction `lookup`. `None`
    /// if the table has no stack depth for it.
    fn go_rule(function: &Function<'_>, lookup: Svma) -> Option<Rule>;

    /// Whether the function that `before` ends in has set up a frame record, as far as can be seen
    /// in that much code.
    fn sets_up_frame(before: &[u8]) -> bool;

    /// The distance in bytes from the stack pointer up to the frame record, as the last prologue in
    /// the code sets it up. `None` if there is no prologue, or none of a known form.
    fn frame_size(before: &[u8]) -> Option<u64>;

    /// Whether the code is the rest of an epilogue. Registers that it has popped hold the caller's
    /// values again, even if the call frame information still names their slots, which are below
    /// the stack pointer by now.
    fn is_epilogue(at: &[u8]) -> bool;

    /// Reads all registers from the signal frame that the kernel built at `sp`.
    fn read_signal_frame<M: Memory>(sp: Avma, memory: &M) -> Result<Registers, Unreadable>;

    /// The return address and the CFA of a function that has not yet changed the stack.
    fn frameless<M: Memory>(
        registers: &Registers,
        sp: Avma,
        memory: &M,
    ) -> Result<(u64, u64), Unreadable>;

    /// Applies the effect on frames of the first instruction of `code`, whose address is `at`, and
    /// returns where control goes next.
    fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow;

    /// The CFA and the return address of a function that returns in this state, or leaves its frame
    /// by a jump.
    fn leave(state: &State) -> (Value, Value);

    /// How much of its frame a function has set up, if the instructions at the program counter
    /// leave no doubt.
    fn stage(before: &[u8], at: &[u8]) -> Stage;
}

/// How much of its frame a function has set up, or not yet torn down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing is pushed: the stack is as at the function's first instruction.
    Frameless,
    /// Only the caller's frame pointer is pushed.
    Pushed,
    /// Nothing is known. Within the body of a function, the frame pointer is valid.
    Body,
}
