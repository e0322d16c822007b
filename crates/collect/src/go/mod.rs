//! Profiles of Go programs, from the state that their runtime keeps.
//!
//! ```text
//!   Programs::find ─► Program {process, memory, runtime, mappings}
//!                        │
//!   GoCollector<K> ──────┤  K: GoKind = Goroutines | Threads | Heap | Contention
//!     begin/poll/end     │     attach ► read, read, … ► end
//!                        └─►  GoProfile ─► pprof
//! ```
//!
//! Nothing is stopped to read: what changes meanwhile is noticed and read again. Only goroutines
//! that run at that moment need their threads' registers, and only the heap's sampling, where it
//! has to be switched on, needs the program to stand still for a moment.

mod collector;
mod contention;
mod dump;
mod goroutine;
mod heap;
mod profile;
mod program;
mod rates;
mod threadcreate;

pub(crate) use collector::prepare;
pub(crate) use contention::{Block, LockWaits, Mutex};
pub(crate) use dump::dump;
pub(crate) use goroutine::Goroutines;
pub(crate) use heap::{Allocs, Heap};
pub(crate) use program::Program;
pub(crate) use threadcreate::Threads;
