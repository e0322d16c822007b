//! Recording sessions: from a process to a finished profile.
//!
//! A session attaches to every thread of its targets, listens for a while, and detaches. There is
//! a folder for each way of collecting:
//!
//! ```text
//!   kinds/    the table of kinds: each chooses a way by what the targets are
//!   perf/     samples and events of threads, by perf events
//!   waits/    waits, by BPF programs or perf events
//!   ptrace/   samples by the clock, of threads stopped for a moment
//!   threads/  all threads at one moment
//!   go/       what a Go runtime keeps of its program
//! ```
//!
//! Samples are unwound and counted as they come ([`aggregate`]), and named at the end
//! ([`assemble`]).

mod checks;
mod collector;
mod counts;
pub mod doctor;
pub mod dump;
mod go;
pub mod kinds;
mod names;
mod options;
mod outcome;
mod perf;
mod ptrace;
mod session;
mod threads;
mod waits;

pub use aggregate::recorder::SampleStats;
pub use assemble::{Stats, debuginfod};

pub use self::collector::{Collector, Progress, Request, Watcher};
pub use self::counts::{stack_count, thread_count};
pub use self::names::{function_names, function_starts};
pub use self::options::{Backend, RecordOptions};
pub use self::outcome::{Dump, Ended, KindOutcome, Outcome, RecordError};
pub use self::perf::attach::AttachError;
pub use self::perf::live::{Interval, Live};
pub use self::session::record;
