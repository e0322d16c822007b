//! Defines the results of a recording: a profile, a dump, or an error.

use std::sync::Arc;

use assemble::Stats;
use pprof::Profile;
use process::Process;

use crate::perf::attach::AttachError;

/// Why there is no profile.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The recording could not start.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The kind cannot be recorded for these targets; the text says why.
    #[error("{0}")]
    NotApplicable(String),
    /// Thread creations cannot be sampled.
    #[error(transparent)]
    Creations(#[from] events::CreationError),
    /// BPF programs cannot sample waits.
    #[error("cannot sample waits: {0}")]
    Waits(#[from] events::WaitError),
    /// The target's memory or state cannot be read.
    #[error("cannot read process {pid}: {error}")]
    Memory {
        /// The process.
        pid: i32,
        /// The system's error.
        error: std::io::Error,
    },
    /// We are not permitted to read the memory of this process.
    #[error("not permitted to read the memory of process {pid}: {reason}; fix: {fix}")]
    NotPermitted {
        /// The process.
        pid: i32,
        /// Why.
        reason: String,
        /// The fix.
        fix: String,
    },
    /// The state of a Go runtime cannot be read.
    #[error("process {pid}: {error}")]
    GoRuntime {
        /// The process.
        pid: i32,
        /// Why.
        error: goruntime::ReadError,
    },
    /// The target's threads cannot be stopped.
    #[error(transparent)]
    Seize(#[from] process::SeizeError),
    /// Stopping threads was forbidden, and their stacks cannot be copied otherwise.
    #[error("cannot copy stacks without stopping threads (--no-stop): {0}")]
    NotWithoutStop(host::rights::Obstacle),
    /// Copying stacks without stopping threads failed midway.
    #[error("cannot copy stacks of process {pid}: {source}")]
    Stacks {
        /// The process.
        pid: i32,
        /// Why.
        source: events::BpfError,
    },
    /// The target's memory could not be changed as the recording requires.
    #[error(transparent)]
    Write(#[from] process::WriteError),
    /// All targets exited before the profile could be recorded.
    #[error("process {pid} exited before it could be recorded")]
    Exited {
        /// The (first) target.
        pid: i32,
    },
    /// The profile exceeds what its format can hold.
    #[error("cannot build the profile: {0}")]
    Build(#[from] pprof::BuildError),
}

impl RecordError {
    /// Whether there is no profile because the targets have exited.
    #[must_use]
    pub fn is_exit(&self) -> bool {
        matches!(
            self,
            Self::Exited { .. }
                | Self::Seize(process::SeizeError::Gone { .. })
                | Self::Attach(AttachError::Exited { .. })
        )
    }

    /// The error with its true cause: a system call that fails because the targets have exited says
    /// something else.
    pub(crate) fn after_exit(self, roots: &[Arc<Process>]) -> Self {
        let may_come_of_exit = matches!(
            self,
            Self::Attach(_)
                | Self::Memory { .. }
                | Self::GoRuntime { .. }
                | Self::Seize(_)
                | Self::Stacks { .. }
                | Self::Write(_)
        );
        match roots.first() {
            Some(root) if may_come_of_exit && !roots.iter().any(|r| r.is_alive()) => {
                Self::Exited { pid: root.pid() }
            }
            _ => self,
        }
    }
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its duration was over, or there was nothing more to record.
    Duration,
    /// The watcher stopped it.
    Stopped,
    /// All targets have exited.
    TargetsExited,
}

/// A finished recording.
#[derive(Debug)]
pub struct Outcome {
    /// The profile.
    pub profile: Profile,
    /// Counts of samples and losses, and notes.
    pub stats: Stats,
    /// Why the recording ended.
    pub ended: Ended,
}

/// The result for one kind.
pub type KindOutcome = Result<Outcome, RecordError>;

/// The stacks of all threads or goroutines, as a profile and in two text forms.
#[derive(Debug)]
pub struct Dump {
    /// The goroutine profile.
    pub profile: Profile,
    /// Counts of samples and losses, and notes.
    pub stats: Stats,
    /// Each stack separately, as Go's `debug=2` prints them.
    pub text: String,
    /// Equal stacks grouped, as Go's `debug=1` prints them.
    pub grouped: String,
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn the_exit_of_the_target_is_told_apart_from_a_refusal() {
        let mut child = Command::new("sleep").arg("100").spawn().unwrap();
        let pid = child.id().cast_signed();
        let roots = [Arc::new(Process::open(pid).unwrap())];
        let refused = || {
            let source = std::io::Error::from_raw_os_error(1);
            RecordError::from(process::SeizeError::Blocked { pid, source })
        };
        let error = refused().after_exit(&roots);
        assert!(!error.is_exit() && error.to_string().contains("seccomp"), "{error}");
        child.kill().unwrap();
        // As a zombie and after it.
        while roots[0].is_alive() {
            std::thread::yield_now();
        }
        for _ in 0..2 {
            let error = refused().after_exit(&roots);
            assert!(error.is_exit(), "{error}");
            assert_eq!(
                error.to_string(),
                format!("process {pid} exited before it could be recorded")
            );
            let _ = child.wait();
        }
        // What the targets' exit does not cause stays.
        let other = RecordError::NotApplicable("why".into()).after_exit(&roots);
        assert!(!other.is_exit(), "{other}");
    }
}
