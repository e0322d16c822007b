//! Why a stack ended.

use std::fmt;

use image::Avma;

/// Why unwinding stopped. Everything but [`End::Root`] leaves a stack without its root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The outermost frame of the thread.
    Root(RootReason),
    /// The memory that was given ended before the stack did. The cursor stands at the last frame
    /// that is complete; other memory can take it further ([`crate::Unwinder::resume`]).
    Truncated {
        /// The stack pointer of the last complete frame.
        sp: Avma,
        /// The word that could not be read.
        unreadable: Avma,
    },
    /// The stack goes on, but not in a way that can be followed.
    Broken(BreakReason),
}

/// How the outermost frame was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootReason {
    /// Call frame information states that there is no return address: `_start`, `clone`.
    Undefined,
    /// The return address is null, as thread and coroutine starts leave it.
    NullReturn,
    /// The entry point of the executable or the dynamic linker, without call frame information.
    EntryPoint,
    /// The return address is a function's first byte and comes after no call: `makecontext` and
    /// its like put it there to begin a context.
    ContextStart,
    /// The code does nothing but end the thread, without call frame information.
    ThreadExit,
    /// The thread has just been made, and nothing was called on its stack yet (glibc's `clone3` has
    /// no call frame information where its system call returns).
    ThreadBegin,
    /// The chain of frame pointers ends with null, as both psABIs say the outermost frame does.
    FrameChainEnd,
    /// The system stack of a thread of a Go program that has let go of its goroutine: Go's own
    /// stacks end there, too.
    NoGoroutine,
}

/// What was wrong where the stack broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakReason {
    /// The registers that were given lack the program counter or the stack pointer.
    NoRegisters,
    /// The interrupted program counter lies in no executable mapping.
    NoMapping,
    /// Nothing says how to unwind this code, and no check confirmed a simpler way.
    NoUnwindInfo,
    /// Call frame information that cannot be parsed or executed, or is larger than any
    /// compiler's.
    BadCfi,
    /// A DWARF expression that fails, or needs what a profiler does not have.
    BadExpression,
    /// A rule needs a register whose value is not known in this frame.
    UnknownRegister(u16),
    /// The frame would lie below the one that it called.
    CfaBelowSp,
    /// The frame's address is misaligned or in the null page.
    BadCfa,
    /// The return address lies in no executable mapping.
    ReturnAddressNotCode,
    /// Neither program counter nor stack advanced.
    Loop,
    /// The limit of frames was reached; the stack goes on.
    TooDeep,
}

impl End {
    /// Whether the stack is complete.
    #[must_use]
    pub const fn is_root(self) -> bool {
        matches!(self, Self::Root(_))
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root(reason) => write!(f, "root: {reason}"),
            Self::Truncated { sp, unreadable } => {
                write!(f, "truncated at sp {sp}: {unreadable} was not captured")
            }
            Self::Broken(reason) => write!(f, "broken: {reason}"),
        }
    }
}

impl fmt::Display for RootReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Undefined => "no return address by its unwind information",
            Self::NullReturn => "null return address",
            Self::EntryPoint => "entry point",
            Self::ContextStart => "context start",
            Self::ThreadExit | Self::ThreadBegin => "thread start",
            Self::FrameChainEnd => "end of the frame pointer chain",
            Self::NoGoroutine => "system stack of a thread without a goroutine",
        })
    }
}

impl fmt::Display for BreakReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::UnknownRegister(n) => return write!(f, "register {n} is not known"),
            Self::NoRegisters => "no program counter or stack pointer",
            Self::NoMapping => "program counter outside of executable mappings",
            Self::NoUnwindInfo => "no unwind information",
            Self::BadCfi => "malformed unwind information",
            Self::BadExpression => "unwind expression cannot be evaluated",
            Self::CfaBelowSp => "frame below its callee",
            Self::BadCfa => "implausible frame address",
            Self::ReturnAddressNotCode => "return address outside of executable mappings",
            Self::Loop => "no progress",
            Self::TooDeep => "too many frames",
        };
        f.write_str(text)
    }
}
