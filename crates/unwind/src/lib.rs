//! Unwinds native stacks: given registers, memory and modules, finds the frames and why they end.
//!
//! One step goes from a frame to the one that called it:
//!
//! ```text
//!   pc ──► mapping ──► image, svma ──► rule (cached) ──► CFA, return address, saved registers
//!                                        │ no entry
//!                                        └──► analysis of the code (see `fallback`)
//! ```
//!
//! Rules come from `.eh_frame`, or from `.debug_frame` where that has no entry. All registers that
//! a rule may need are tracked, and a register whose value is lost stays unknown. The unwinder
//! never guesses: where nothing says how a frame was built, the stack ends with a reason ([`End`]).
//!
//! The crate makes no system calls, so that it works live and offline. Memory, tables and registers
//! belong to the target and may be hostile: all loops, tables and caches are bounded.
//!
//! ```
//! use image::{AddressSpace, Arch, Avma, Memory, Unreadable};
//! use unwind::{BreakReason, End, Registers, Unwinder};
//!
//! /// A copy of the top of the stack.
//! struct Window { start: u64, bytes: Vec<u8> }
//!
//! impl Memory for Window {
//!     fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
//!         let at = addr.0.checked_sub(self.start).and_then(|n| usize::try_from(n).ok());
//!         let bytes = at.and_then(|at| self.bytes.get(at..)?.get(..buf.len()));
//!         buf.copy_from_slice(bytes.ok_or(Unreadable(addr))?);
//!         Ok(())
//!     }
//! }
//!
//! // Add the executable mappings of the process here: `/proc/PID/maps` and their ELF images.
//! let space = AddressSpace::default();
//! let mut registers = Registers::unknown(Arch::X86_64);
//! registers.set_pc(Avma(0x40_1000));
//! registers.set_sp(Avma(0x7ff0));
//! let memory = Window { start: 0x7ff0, bytes: vec![0; 16] };
//!
//! let mut frames = Vec::new();
//! let end = Unwinder::new(Arch::X86_64).unwind(&space, &registers, &memory, &mut frames);
//! assert_eq!(end, End::Broken(BreakReason::NoMapping));
//! assert_eq!(frames[0].pc, Avma(0x40_1000));
//! ```

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod aarch64;
mod arch;
mod cfi;
mod code;
mod end;
mod expression;
mod fallback;
mod follow;
mod frame;
mod go;
mod modules;
mod numbers;
mod registers;
mod rule;
mod step;
mod tables;
mod unwinder;
mod x86_64;

pub use cfi::function_starts;
pub use end::{BreakReason, End, RootReason};
pub use frame::{Cursor, Frame, FrameKind};
pub use go::GoStacks;
pub use registers::Registers;
pub use tables::CacheStats;
pub use unwinder::Unwinder;
