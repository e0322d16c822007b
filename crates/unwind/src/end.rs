//! Defines why unwinding stopped: the root was reached, memory was missing, or the stack is broken.

use std::fmt;

use image::Avma;

/// Why unwinding stopped. The stack is complete only with [`End::Root`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The last frame is the outermost one of the thread.
    Root(RootReason),
    /// Memory that is needed could not be read. The cursor is at the last complete frame;
    /// [`crate::Unwinder::resume`] continues there with other memory.
    Truncated {
        /// The stack pointer of the last complete frame.
        sp: Avma,
        /// The address that could not be read.
        unreadable: Avma,
    },
    /// The stack continues, but its next frame cannot be found.
    Broken(BreakReason),
}

/// How the outermost frame was recognized.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RootReason {
    /// The call frame information says that there is no return address: `_start`, `clone`.
    Undefined,
    /// The return address is null, as at the start of threads and coroutines.
    NullReturn,
    /// The entry point of the executable or the dynamic linker, which has no call frame
    /// information.
    EntryPoint,
    /// The return address is the first byte of a function and follows no call: `makecontext` and
    /// similar functions put it there to start a context.
    ContextStart,
    /// The code does nothing but end the thread, and has no call frame information.
    ThreadExit,
    /// The thread was just created and its stack is still empty. (glibc's `clone3` has no call
    /// frame information where its system call returns.)
    ThreadBegin,
    /// The saved frame pointer is null, which marks the outermost frame in both psABIs.
    FrameChainEnd,
    /// The system stack of a Go thread that runs no goroutine. Stack traces of the Go runtime end
    /// there, too.
    NoGoroutine,
}

/// Why the next frame could not be found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BreakReason {
    /// The program counter or the stack pointer is not among the given registers.
    NoRegisters,
    /// The interrupted program counter is in no executable mapping.
    NoMapping,
    /// The code has no unwind information, and its instructions confirmed no frame.
    NoUnwindInfo,
    /// The call frame information cannot be parsed or executed, or is implausibly large.
    BadCfi,
    /// A DWARF expression fails, or needs data that is not available.
    BadExpression,
    /// A rule needs this register (DWARF number), whose value is unknown in the frame.
    UnknownRegister(u16),
    /// The caller's frame would be below the frame that it called.
    CfaBelowSp,
    /// The address of the caller's frame is misaligned or in the null page.
    BadCfa,
    /// The return address is in no executable mapping.
    ReturnAddressNotCode,
    /// The caller would be the same frame again.
    Loop,
    /// The limit of frames was reached, and the stack continues.
    TooDeep,
}

impl End {
    /// Whether the stack is complete: its last frame is the outermost one.
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
            Self::Undefined => "no return address in its unwind information",
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

/// Size of the null page, which holds no frames.
pub(crate) const NULL_PAGE: u64 = 4096;

pub(crate) fn broken<T>(reason: BreakReason) -> Result<T, End> {
    Err(End::Broken(reason))
}

/// Why a stack ends if memory could not be read while the frame at `sp` was unwound.
pub(crate) fn unreadable(sp: Avma, unreadable: Avma) -> End {
    if unreadable.0 < NULL_PAGE {
        return End::Broken(BreakReason::BadCfa);
    }
    End::Truncated { sp, unreadable }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_root_makes_a_stack_complete() {
        assert!(End::Root(RootReason::Undefined).is_root());
        assert!(!End::Broken(BreakReason::Loop).is_root());
        let sp = Avma(0x7000);
        assert_eq!(unreadable(sp, Avma(NULL_PAGE - 1)), End::Broken(BreakReason::BadCfa));
        let truncated = End::Truncated { sp, unreadable: Avma(NULL_PAGE) };
        assert_eq!(unreadable(sp, Avma(NULL_PAGE)), truncated);
        assert!(!truncated.is_root());
    }

    #[test]
    fn ends_are_described() {
        assert_eq!(End::Root(RootReason::ThreadExit).to_string(), "root: thread start");
        assert_eq!(End::Broken(BreakReason::TooDeep).to_string(), "broken: too many frames");
        let end = End::Truncated { sp: Avma(0x7000), unreadable: Avma(0x8000) };
        assert_eq!(end.to_string(), "truncated at sp 0x7000: 0x8000 was not captured");
    }
}
