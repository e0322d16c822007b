//! Aggregates events into counted calling contexts: tracks the followed processes and their
//! mappings, unwinds the stack of each sample, and counts how often each stack was seen.
//!
//! ```text
//!   rings ──► recorder ─┬─► processes   followed processes, their mappings and threads
//!                       ├─► unwind, runtimes/, live_stack   the frames of a sample
//!                       └─► contexts    calling contexts and their counts
//! ```

#![deny(clippy::print_stderr, clippy::print_stdout)]

pub mod clock;
pub mod contexts;
pub mod cputime;
pub mod family;
pub mod ids;
pub mod labels;
mod live_stack;
pub mod processes;
pub mod recorder;
pub mod rings;
pub mod runtimes;
pub mod times;
mod window;
