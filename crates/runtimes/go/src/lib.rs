//! Reads the state of the Go runtime in another process: goroutines and their stacks, the heap,
//! block, mutex and thread profiles that it keeps, and its sampling rates.
//!
//! ```text
//!  image ─► Go version, line table, moduledata ─┐
//!  symbol table ─► addresses of variables ──────┤
//!  code of known functions ─► the same, again ──┼─► Runtime ─► goroutines, buckets, threads, rates
//!  offsets of fields, per version ──────────────┘      │
//!                                                      └─► Patch: what to write, and where
//! ```
//!
//! This crate makes no system calls and never writes. It reads through [`image::Memory`], and a
//! [`Patch`] only describes what the caller may write. The target keeps running: state that
//! changed while it was read is detected and read again.
//!
//! Layouts and formulas name the file and version of the Go sources that they come from. To add a
//! Go version, see docs/new-go-version.md.

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod buckets;
mod code;
mod contention;
mod disjoint;
mod dwarf;
mod find;
mod frames;
mod goroutine;
mod heap;
mod labels;
mod list;
mod offsets;
mod permit;
mod rates;
mod raw;
mod recorded;
mod sampling;
mod symbols;
mod text;
mod threads;
mod traceback;
mod unwind;

pub use contention::{Contention, ContentionReader, ContentionRecord, TicksClock};
pub use find::{FindError, LayoutSource, Runtime};
pub use frames::LogicalFrame;
pub use goroutine::{Goroutine, StackAbsence, Status, ThreadRef};
pub use heap::{HeapProfile, HeapReader, HeapReading, HeapRecord, HeapView, scale_heap_sample};
pub use list::{GoroutineList, GoroutineReader, ThreadContext};
pub use offsets::Layout;
pub use permit::{Evidence, Patch, Refusal, Source, WritePermit};
pub use rates::{Rates, Reset};
pub use recorded::RecordedStacks;
pub use sampling::SampleLayout;
pub use symbols::Variable;
pub use text::{format_goroutines, format_goroutines_grouped};
pub use threads::ThreadCreation;
pub use unwind::{PhysicalFrame, Stack, StackEnd};

use image::Unreadable;

/// Why the runtime's state could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Memory that the runtime requires cannot be read.
    #[error("cannot read the state of the Go runtime: {0}")]
    Unreadable(#[from] Unreadable),
    /// A variable was not found: the program is stripped and its code does not match a known
    /// pattern.
    #[error("the address of {0} is unknown")]
    NoAddress(Variable),
    /// The state is inconsistent, most likely because the layout is wrong.
    #[error("unexpected data in the Go runtime: {0}")]
    Implausible(&'static str),
    /// The state changed during every attempt to read it.
    #[error("the state of the Go runtime changed during every attempt to read it: {0}")]
    Unsettled(&'static str),
}
