//! Symbolizes addresses: finds the function, inlined calls, file and line of an address in an ELF
//! image, in JIT-compiled code, or in the kernel (`/proc/kallsyms`).
//!
//! Addresses come in batches, one per image, since a profile is symbolized once, at its end:
//!
//! ```text
//!             .debug_aranges / root DIEs        .debug_info         .debug_line
//!   Svma[] ──► units that hold them ──► one walk per unit ──► one run per unit ─┐
//!      │                                 functions, inlines       lines          ├─► Frame[]
//!      └─────► .symtab, .dynsym: one pass, no sorting; then PLT stubs ──────────┘
//! ```
//!
//! The images and their debug files belong to the target and may be hostile. This is why this crate
//! walks DIEs itself, with gimli, and uses addr2line only as an oracle in tests: addr2line recurses
//! once per nested inlined call (a crafted file overflows the stack), keeps every range of every
//! function (a shared range list multiplies), gives up the whole file for one broken unit, and does
//! not return the line where a function is declared. Here every DIE, range and row costs fuel,
//! which limits the work, and memory is in proportion to the addresses that are asked for.
//!
//! ```
//! use std::fs::File;
//! use std::sync::Arc;
//!
//! use image::{ElfImage, Svma};
//! use symbolize::{ImageSymbols, RootedFiles, find_debug_file};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let path = std::env::current_exe()?;
//! let image = Arc::new(ElfImage::open(&File::open(&path)?)?);
//! let debug_file = find_debug_file(&image, &path, &RootedFiles::new("/"));
//! let symbols = ImageSymbols::new(Arc::clone(&image), &debug_file);
//! let batch = symbols.resolve(&[image.entry(), Svma(u64::MAX)]);
//! let start = batch.symbols[0].clone()?;
//! assert_eq!(start.frames[0].name.as_ref(), "_start");
//! assert!(batch.symbols[1].is_err());
//! # Ok(())
//! # }
//! ```

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod compose;
mod demangle;
mod dwarf;
mod extent;
mod files;
mod golang;
mod intern;
pub mod jit;
pub mod kernel;
mod minidebug;
mod plt;
mod sections;
mod symtab;

pub use compose::{Batch, Frame, ImageSymbols, Losses, NameSource, NoSymbol, Symbolized};
pub use demangle::demangle;
pub use files::{
    DebugFile, DebugFiles, DebugSearch, DebugSource, RejectedFile, Rejection, RootedFiles,
    find_debug_file,
};
