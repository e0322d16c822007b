//! Defines the options of a recording: what to record, and how.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use assemble::conclude::Targets;
use assemble::debugfiles::TargetFiles;
use process::Process;

use crate::kinds::options::KindOptions;

/// How samples are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Choose automatically.
    #[default]
    Auto,
    /// Use perf events only.
    Perf,
    /// Stop threads briefly for each sample, with ptrace.
    Ptrace,
}

/// The options of a recording.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// The length of the recording.
    pub duration: Duration,
    /// Samples per second for each thread that is running on a CPU.
    pub frequency: u32,
    /// Kernel frames: `Some(true)` records them and fails if that is not permitted, `Some(false)`
    /// records none, `None` records them if permitted.
    pub kernel: Option<bool>,
    /// Follow forked children.
    pub children: bool,
    /// With `children`: also record those that were forked before the recording.
    pub descendants: bool,
    /// Options that only some kinds have.
    pub own: KindOptions,
    /// How samples are taken.
    pub backend: Backend,
    /// Never stop a thread; fail if the profile requires it.
    pub no_stop: bool,
    /// The command that the recording starts, or empty. It identifies the program before exec.
    pub command: Vec<OsString>,
    /// The command line that requested the recording, for the profile's comments.
    pub command_line: String,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(30),
            frequency: 99,
            kernel: None,
            children: true,
            descendants: false,
            own: KindOptions::default(),
            backend: Backend::Auto,
            no_stop: false,
            command: Vec::new(),
            command_line: String::new(),
        }
    }
}

impl RecordOptions {
    /// The targets as profiles describe them. Debug files are searched for in the root directories
    /// of the `followed` processes, which are opened here.
    pub(crate) fn targets(&self, roots: &[Arc<Process>], followed: &[Arc<Process>]) -> Targets {
        Targets {
            roots: roots.to_vec(),
            files: TargetFiles::of(followed),
            children: self.children,
            command_line: self.command_line.clone(),
        }
    }

    /// The sampling period in nanoseconds.
    pub(crate) fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.frequency.max(1))
    }
}
