//! What differs between the instruction sets. `x86_64` and `aarch64` mirror each other.

use gopclntab::Function;
use image::{Avma, Memory, Svma, Unreadable};

use crate::Registers;
use crate::follow::{Flow, State, Value};
use crate::rule::Rule;

/// The architecture's part of unwinding, as constants and pure functions.
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
    /// The registers with a slot in a narrow rule, at most [`crate::rule::SLOTS`]: the return
    /// address first, then what the ABI lets a caller expect back.
    const SAVED: &'static [u16];
    /// DWARF number of a function's first argument.
    const ARGUMENT: u16;
    /// DWARF number of what a function returns.
    const RESULT: u16;
    /// Selects the DWARF vendor extensions.
    const VENDOR: gimli::Vendor;
    /// A return address that the CFI calls unchanged lies in the link register.
    const HAS_LINK_REGISTER: bool;

    /// Whether the instruction that ends where `before` ends is a call.
    fn ends_with_call(before: &[u8]) -> bool;

    /// The target of the call that ends `before`, relative to the address after it, if it is
    /// direct.
    fn direct_call_target(before: &[u8]) -> Option<i64>;

    /// Whether the code is the `rt_sigreturn` trampoline that signal handlers return to: `at`
    /// begins at the program counter, `before` ends there.
    fn is_sigreturn(before: &[u8], at: &[u8]) -> bool;

    /// Whether the code at once ends the thread by a system call: what a thread's start function
    /// returns to where there is no call frame information.
    fn ends_thread(at: &[u8]) -> bool;

    /// Whether the code `before` is a system call that gave 0: to the thread that `clone` has just
    /// made, on a stack that nobody has called on yet.
    fn begins_thread(before: &[u8], registers: &Registers) -> bool;

    /// The rule for a Go function, by Go's own table; `None` where that does not tell. `lookup` is
    /// the instruction that is executed.
    fn go_rule(function: &Function<'_>, lookup: Svma) -> Option<Rule>;

    /// Whether the function that `before` ends in has set up a frame record, as far as that much
    /// of its code shows.
    fn sets_up_frame(before: &[u8]) -> bool;

    /// How far below the frame record the last set-up of one in the code puts the stack pointer,
    /// in bytes; `None` where there is none, or where that is not told by instructions that this
    /// understands.
    fn frame_size(before: &[u8]) -> Option<u64>;

    /// Whether the code only takes the function's frame down and leaves: registers that were
    /// popped have their caller's values again, whatever the call frame information still says
    /// of slots below the stack pointer.
    fn is_epilogue(at: &[u8]) -> bool;

    /// Reads all registers from the signal frame that the kernel built at `sp`.
    fn read_signal_frame<M: Memory>(sp: Avma, memory: &M) -> Result<Registers, Unreadable>;

    /// The return address and the CFA of a function that has not yet touched its stack.
    fn frameless<M: Memory>(
        registers: &Registers,
        sp: Avma,
        memory: &M,
    ) -> Result<(u64, u64), Unreadable>;

    /// Executes the instruction that begins `code`, which lies at `at`, as far as it concerns
    /// frames, and says where it leads to.
    fn execute(code: &[u8], at: Svma, state: &mut State) -> Flow;

    /// The CFA and the return address of a function that returns, or jumps out of its frame, in this
    /// state.
    fn leave(state: &State) -> (Value, Value);

    /// How far a function is with its frame, where the instructions at the program counter show
    /// it beyond doubt.
    fn stage(before: &[u8], at: &[u8]) -> Stage;
}

/// How far a function is with setting up or tearing down its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing is pushed: the frame is as at the function's first instruction.
    Frameless,
    /// The caller's frame pointer is pushed, or about to be popped, and nothing else.
    Pushed,
    /// Nothing is known; inside of a body, the frame pointer holds.
    Body,
}
