//! Stack unwinding: registers, memory and modules in; the frames out, and why they ended.
//!
//! One step takes a frame to the one that called it:
//!
//! ```text
//!   pc ──► mapping ──► image, svma ──► rule (cached) ──► CFA, return address, saved registers
//!                                        │ no entry
//!                                        └──► what the code itself confirms (see `fallback`)
//! ```
//!
//! Rules come from `.eh_frame`, or `.debug_frame` where that has no entry. Every register that
//! the rules of a frame may need is tracked, and one whose value is lost stays lost. What cannot
//! be known is never guessed: the stack ends there, with a named reason ([`End`]).
//!
//! Nothing here makes a system call. Memory, tables and registers belong to the target and may be
//! hostile: all loops, tables and caches are bounded.

mod aarch64;
mod arch;
mod cfi;
mod end;
mod expression;
mod fallback;
mod follow;
mod go;
mod places;
mod registers;
mod rule;
mod step;
mod tables;
mod unwinder;
mod x86_64;

pub use cfi::function_starts;
pub use end::{BreakReason, End, RootReason};
pub use go::GoStacks;
pub use registers::Registers;
pub use tables::CacheStats;
pub use unwinder::{Cursor, Frame, FrameKind, Unwinder};
