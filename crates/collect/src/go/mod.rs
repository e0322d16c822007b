//! Records profiles of Go programs by reading their runtime's own records from memory.
//!
//! ```text
//!   Programs::find ─► Program {process, memory, runtime, mappings}
//!                        │
//!   GoCollector<K> ──────┤  K: GoKind = Goroutines | Threads | Heap | Allocs | Block | Mutex | …
//!     begin/poll/end     │     attach ► read, read, … ► end
//!                        └─►  GoProfile ─► pprof
//! ```
//!
//! Reading stops no thread: data that changes in the meantime is noticed and read again. There are
//! two exceptions. The threads of running goroutines are stopped briefly for their registers, and
//! the whole program is stopped briefly if heap sampling has to be switched on.

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
pub(crate) use contention::{BLOCK_RATE, Block, LockWaits, MUTEX_FRACTION, Mutex};
pub(crate) use dump::dump;
pub(crate) use goroutine::Goroutines;
pub(crate) use heap::{Allocs, HEAP_HISTORY, HEAP_RATE, Heap};
pub(crate) use program::Program;
pub(crate) use threadcreate::Threads;
