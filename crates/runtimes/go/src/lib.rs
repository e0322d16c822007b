//! The state of a Go runtime in another address space: goroutines with their stacks, what it
//! sampled of heap, locks and threads, and where the rates of that sampling lie.
//!
//! ```text
//!  image ─► Go version, line table, moduledata ─┐
//!  symbol table ─► addresses of variables ──────┤
//!  code of known functions ─► the same, again ──┼─► Runtime ─► goroutines, buckets, threads, rates
//!  offsets of fields, per version ──────────────┘      │
//!                                                      └─► Patch: what to write, and where
//! ```
//!
//! Nothing here makes a system call or writes: reading goes through [`image::Memory`], and a
//! [`Patch`] only says what somebody else may write. Reading needs no stop of the target: what
//! changed while it was read is noticed and read again.
//!
//! Sources of layouts and formulas are named by file and version of the Go sources. How a new Go
//! version is added: docs/new-go-version.md.

mod buckets;
mod code;
mod contention;
mod dwarf;
mod find;
mod frames;
mod goroutine;
mod heap;
mod labels;
mod leaf;
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
pub use leaf::LeafRepair;
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
    /// Memory that the runtime must have is not there.
    #[error("the Go runtime's state: {0}")]
    Unreadable(#[from] Unreadable),
    /// A variable could not be located: the program is stripped and its code was not understood.
    #[error("the address of {0} is not known")]
    NoAddress(Variable),
    /// The state contradicts itself; more often a wrong layout than damage.
    #[error("the Go runtime's state is implausible: {0}")]
    Implausible(&'static str),
    /// It changed at each attempt to read it.
    #[error("the Go runtime's state changed at every attempt: {0}")]
    Unsettled(&'static str),
}
