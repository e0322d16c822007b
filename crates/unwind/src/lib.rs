//! Stack unwinding: registers, memory and modules in; the frames out, and why they ended.
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
