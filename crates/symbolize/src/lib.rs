//! From an address in an ELF image to functions, inlined calls, files and lines; and from kernel
//! addresses to the names in `/proc/kallsyms`.
//!
//! Addresses come in batches, one per image, because a session asks once, at its end:
//!
//! ```text
//!             .debug_aranges / root DIEs        .debug_info         .debug_line
//!   Svma[] ──► units that hold them ──► one walk per unit ──► one run per unit ─┐
//!      │                                 functions, inlines       lines          ├─► Frame[]
//!      └─────► .symtab, .dynsym: one pass, no sorting; then PLT stubs ──────────┘
//! ```
//!
//! The images and their debug files belong to the target and may lie in every field. This is why
//! the walk over the DIEs is our own, on gimli, and addr2line is the oracle of the tests instead
//! of the engine: addr2line recurses once per nested inlined call (a crafted file overflows the
//! stack), keeps every range of every function (a shared range list multiplies), gives up the
//! whole file for one broken unit, and does not tell where a function is declared. Here work is
//! bounded by a fuel that every DIE, range and row costs, and memory by what is asked.

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
    Attempt, DebugFile, DebugFiles, DebugSearch, DebugSource, Rejection, RootedFiles,
    find_debug_file,
};
