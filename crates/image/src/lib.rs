//! Executable images and the address spaces that they are mapped into.
//!
//! Three address spaces meet in a profiler, and mixing them up is its classic bug, so each has a
//! type of its own: [`Avma`] (an address in the running process), [`Svma`] (the address that an
//! ELF file states for itself) and [`FileOffset`]. A [`Bias`] takes one to the other:
//!
//! ```text
//!   file              ELF's own view            process
//!   0x0000 ┌──────┐   0x40_0000 ┌──────┐   0x7f12_3456_0000 ┌──────┐
//!          │ data │  ─────────► │ LOAD │  ── + bias ──────► │ r-xp │
//!          └──────┘   p_offset  └──────┘                    └──────┘
//!   FileOffset        → p_vaddr Svma                        Avma
//! ```
//!
//! Nothing here makes a system call beyond mapping the file that it is given.

mod addr;
mod elf;
mod memory;
mod sections;
mod space;

pub use addr::{Avma, Bias, FileOffset, Svma};
pub use elf::{Arch, ElfError, ElfImage, ElfKind, ImageBytes, Section, Segment};
pub use memory::{Memory, Part, Unreadable};
pub use sections::SectionReader;
pub use space::{AddressSpace, FileId, ImageAbsence, Mapping, MappingId, MappingKind, NewMapping};
