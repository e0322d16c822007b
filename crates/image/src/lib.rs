//! Reads ELF images, and models the address spaces into which they are mapped.
//!
//! ```
//! use image::{Avma, ElfImage, FileOffset};
//!
//! let program = ElfImage::open(&std::fs::File::open("/proc/self/exe")?)?;
//! println!("{:?}, build ID {}", program.arch(), program.build_id_hex());
//!
//! // A row of /proc/PID/maps says where a part of the file is mapped; from it follows the bias.
//! let text = program.segments().iter().find(|s| s.executable).expect("code");
//! let (start, offset) = (Avma(0x7f12_3456_0000), FileOffset(text.offset.0 & !0xfff));
//! let bias = program.bias_of_mapping(start, offset, 0x1000).expect("a mapped segment");
//! let entry = bias.to_avma(program.entry());
//! assert_eq!(bias.to_svma(entry), program.entry());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A profiler deals with three address spaces, and confusing them is a classic bug. So each has its
//! own type: [`Avma`] (actual virtual memory address: in the running process), [`Svma`] (stated
//! virtual memory address: in the ELF file) and [`FileOffset`]. A [`Bias`] converts between the
//! first two:
//!
//! ```text
//!   file              ELF's own view            process
//!   0x0000 ┌──────┐   0x40_0000 ┌──────┐   0x7f12_3456_0000 ┌──────┐
//!          │ data │  ─────────► │ LOAD │  ── + bias ──────► │ r-xp │
//!          └──────┘   p_offset  └──────┘                    └──────┘
//!   FileOffset        → p_vaddr Svma                        Avma
//! ```
//!
//! The only system calls of this crate map files that are given to it.

#![deny(clippy::print_stderr, clippy::print_stdout)]
// Numbers come from files that anybody can write.
#![cfg_attr(
    not(test),
    warn(
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::indexing_slicing
    )
)]

mod addr;
mod budget;
mod elf;
mod memory;
mod sections;
mod space;
mod struct_copy;
mod symbols;

pub use addr::{Avma, Bias, FileOffset, Svma};
pub use budget::{DecompressError, DecompressionBudget};
pub use elf::{Arch, ElfError, ElfImage, ElfKind, ImageBytes, Section, Segment};
pub use memory::{Memory, ReadRequest, Unreadable};
pub use sections::SectionReader;
pub use space::{AddressSpace, FileId, ImageAbsence, Mapping, MappingId, MappingKind, NewMapping};
pub use struct_copy::StructCopy;
pub use symbols::Symbol;
