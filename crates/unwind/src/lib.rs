//! Unwind native stacks: given registers, memory and modules, find the frames and why they end.
//!
//! ```
//! use std::sync::Arc;
//!
//! use image::{AddressSpace, Avma, ElfImage, FileOffset, MappingId, MappingKind, NewMapping};
//! use image::{Memory, Unreadable};
//! use unwind::{Registers, Unwinder};
//!
//! /// A copied piece of stack, as perf_event_open delivers it.
//! struct Window(u64, Vec<u8>);
//!
//! impl Memory for Window {
//!     fn read(&self, addr: Avma, buf: &mut [u8]) -> Result<(), Unreadable> {
//!         let at = usize::try_from(addr.0.wrapping_sub(self.0)).map_err(|_| Unreadable(addr))?;
//!         let bytes = self.1.get(at..).and_then(|rest| rest.get(..buf.len()));
//!         buf.copy_from_slice(bytes.ok_or(Unreadable(addr))?);
//!         Ok(())
//!     }
//! }
//!
//! #[inline(never)]
//! fn callee() {
//!     std::hint::black_box(());
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # callee();
//! // The executable mappings of a process, here of this one.
//! let mut space = AddressSpace::default();
//! let image = Arc::new(ElfImage::open(&std::fs::File::open("/proc/self/exe")?)?);
//! let exe = std::fs::read_link("/proc/self/exe")?;
//! for (id, row) in std::fs::read_to_string("/proc/self/maps")?.lines().enumerate() {
//!     let words: Vec<&str> = row.split_whitespace().collect();
//!     if !words[1].contains('x') || words.get(5).map(std::path::Path::new) != Some(&exe) {
//!         continue;
//!     }
//!     let (start, end) = words[0].split_once('-').expect("a range");
//!     let (start, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
//!     let offset = FileOffset(u64::from_str_radix(words[2], 16)?);
//!     let bias = image.bias_of_mapping(Avma(start), offset, end - start).expect("a segment");
//!     space.insert(MappingId(id as u32), NewMapping {
//!         start: Avma(start),
//!         end: Avma(end),
//!         offset,
//!         name: words[5].into(),
//!         file: None,
//!         kind: MappingKind::File,
//!         image: Ok((image.clone(), bias)),
//!     });
//! }
//!
//! // A thread that was stopped at the first instruction of `callee`.
//! let (pc, sp) = (callee as *const () as u64, 0x7fff_0000);
//! let mut registers = Registers::unknown(image.arch());
//! registers.set_pc(Avma(pc));
//! registers.set_sp(Avma(sp));
//! let stack = Window(sp, vec![0; 64]); // on x86-64 the return address: 0, the root of a stack
//!
//! let mut frames = Vec::new();
//! let end = Unwinder::new(image.arch()).unwind(&space, &registers, &stack, &mut frames);
//! assert_eq!(frames[0].pc, Avma(pc));
//! println!("{} frames, {end}", frames.len());
//! # Ok(())
//! # }
//! ```
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

mod aarch64;
mod arch;
mod cfi;
mod end;
mod expression;
mod fallback;
mod follow;
mod go;
mod modules;
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
