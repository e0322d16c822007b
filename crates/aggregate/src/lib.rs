//! From events to counted calling contexts: who is followed, what is mapped where, which stack a
//! sample has, and how often it was seen.
//!
//! ```text
//!   rings ──► recorder ─┬─► processes   who is followed, what is mapped where
//!                       ├─► unwind, runtimes/, live_stack   the frames of a sample
//!                       └─► contexts    calling contexts, and counts on them
//! ```

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
