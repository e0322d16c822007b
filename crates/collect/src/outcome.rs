//! What comes of a recording.

use assemble::Stats;
use pprof::Profile;

use crate::perf::attach::AttachError;

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
    #[error("not permitted to read the memory of process {pid}: {reason}; fix: {remedy}")]
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
    #[error("cannot copy stacks without stopping threads: {0}, or run without --no-stop")]
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

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its time was over, or nothing was left to wait for.
    Duration,
    /// The watcher asked for it.
    Stopped,
    /// No target is left.
    TargetsExited,
}

/// A finished recording.
#[derive(Debug)]
pub struct Outcome {
    /// The profile.
    pub profile: Profile,
    /// What it is made of.
    pub stats: Stats,
    /// Why the recording ended.
    pub ended: Ended,
}

/// What came of one kind.
pub type KindOutcome = Result<Outcome, RecordError>;

/// What was seen, in three forms.
#[derive(Debug)]
pub struct Dump {
    /// The goroutine profile.
    pub profile: Profile,
    /// What it is made of.
    pub stats: Stats,
    /// One after the other, as Go's `debug=2` prints them.
    pub text: String,
    /// Equal stacks together, as Go's `debug=1` prints them.
    pub grouped: String,
}
