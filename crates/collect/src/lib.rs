//! Records profiles of running processes.
//!
//! A session attaches to every thread of its targets, records for a given time, and detaches. Each
//! method of collecting has its own directory:
//!
//! ```text
//!   kinds/    the table of profile kinds: each chooses a method to suit the targets
//!   perf/     samples CPU time and thread creations with perf events
//!   waits/    samples waits with BPF programs or perf events
//!   ptrace/   samples threads at regular times, stopping them briefly
//!   threads/  copies the stacks of all threads of a native program
//!   go/       reads the records of a program's Go runtime
//! ```
//!
//! Samples are unwound and counted as they arrive ([`aggregate`]) and symbolized at the end
//! ([`assemble`]).

#![deny(clippy::print_stderr, clippy::print_stdout)]

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
mod plural;
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
pub use self::perf::creations::look_up_tracepoint;
pub use self::perf::live::{Interval, Live};
pub use self::session::record;
