//! Recording sessions: from a process to a finished profile.
//!
//! A session attaches to every thread of its targets ([`attach`](crate::AttachError)), listens
//! for a while, and detaches. Samples are unwound and counted as they come, against the mappings
//! of their own time; names are looked up once at the end, for the addresses that occurred.

mod allocs;
mod assemble;
mod attach;
mod block;
mod clock;
mod comments;
mod conclude;
mod counts;
mod cpu;
mod cputime;
mod debugfiles;
pub mod debuginfod;
mod deep;
pub mod doctor;
pub mod dump;
mod family;
mod go;
mod gocpu;
mod goroutine;
mod heap;
mod jit;
pub mod kinds;
mod live;
mod mutex;
mod names;
mod native;
mod processes;
mod python;
mod recorder;
mod sampling;
mod session;
mod stacks;
mod symbols;
mod threadcreate;
mod times;
mod wall;

use std::sync::Arc;
use std::time::Duration;

pub use attach::AttachError;
pub use counts::{stack_count, thread_count};
pub use live::{Interval, Live};
pub use names::{function_names, function_starts};
pub use recorder::SampleStats;
pub use session::{
    Backend, Collector, Ended, KindOutcome, Progress, RecordOptions, Request, Watcher, record,
};

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The recording could not begin.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kind does not fit these targets, and why.
    #[error("{0}")]
    NotApplicable(String),
    /// The creation of threads cannot be sampled.
    #[error(transparent)]
    Creations(#[from] events::CreationError),
    /// BPF programs cannot sample waiting.
    #[error("cannot sample waiting: {0}")]
    Waits(#[from] events::WaitError),
    /// The target's memory or state cannot be read.
    #[error("cannot read process {pid}: {error}")]
    Memory {
        /// The process.
        pid: i32,
        /// The system's error.
        error: std::io::Error,
    },
    /// We may not do that to this process.
    #[error("not permitted to read the memory of process {pid}: {reason}; to mend it: {remedy}")]
    NotPermitted {
        /// The process.
        pid: i32,
        /// Why.
        reason: String,
        /// What helps.
        remedy: String,
    },
    /// The state of a Go runtime cannot be read.
    #[error("process {pid}: {error}")]
    GoRuntime {
        /// The process.
        pid: i32,
        /// Why.
        error: goruntime::ReadError,
    },
    /// Its threads cannot be stopped.
    #[error(transparent)]
    Seize(#[from] process::SeizeError),
    /// Threads were not to be stopped, and cannot be looked at otherwise.
    #[error(
        "stacks cannot be copied without stopping the threads: {}; to mend it: {}, or let them be \
         stopped for a moment",
        .0.reason, .0.remedy
    )]
    NotWithoutStop(host::rights::Obstacle),
    /// Looking at threads without stopping them failed on the way.
    #[error("cannot copy stacks of process {pid}: {source}")]
    Stacks {
        /// The process.
        pid: i32,
        /// Why.
        source: events::BpfError,
    },
    /// The target could not be changed as the recording needs.
    #[error(transparent)]
    Write(#[from] process::WriteError),
    /// The profile exceeds what its format can hold.
    #[error("cannot build the profile: {0}")]
    Build(#[from] pprof::BuildError),
}

/// What a recording is made of, and what is missing from it.
#[derive(Debug, Clone, Default)]
pub struct Stats {
    /// How samples were taken.
    pub backend: String,
    /// What became of the samples.
    pub samples: SampleStats,
    /// Records that the kernel had no room for.
    pub lost: u64,
    /// Times the kernel throttled a CPU.
    pub throttled: u64,
    /// Records that could not be understood.
    pub malformed: u64,
    /// Rows or events of mappings that could not be read.
    pub unreadable_maps: u64,
    /// Addresses that their images have no name for.
    pub nameless_frames: u64,
    /// Files with sampled code that could not be read, and why.
    pub unread_images: Vec<String>,
    /// Images whose debug information is damaged.
    pub damaged_images: Vec<Arc<str>>,
    /// Why kernel frames have no names, and how many of them where some have.
    pub kernel_names: Option<String>,
    /// Why sampling could not go on after the stack window was made larger.
    pub reattach_failed: Option<String>,
    /// Reads of the targets' files that met zeros, because a file was cut short under us.
    pub file_faults: u64,
    /// How long the recording took.
    pub elapsed: Duration,
    /// What else a reader of the profile should know, one line each: it goes into the profile's
    /// comments, and is shown.
    pub notes: Vec<String>,
}

/// A finished recording.
#[derive(Debug)]
pub struct Outcome {
    /// The profile.
    pub profile: pprof::Profile,
    /// What it is made of.
    pub stats: Stats,
    /// Why the recording ended.
    pub ended: Ended,
}
