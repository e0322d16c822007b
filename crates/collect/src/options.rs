//! What to record, and how.

use std::ffi::OsString;
use std::time::Duration;

use crate::kinds::options::KindOptions;

/// By what means samples are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Whatever suits.
    #[default]
    Auto,
    /// Perf events only.
    Perf,
    /// Threads are stopped for a moment each time.
    Ptrace,
}

/// What to record, and how.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// How long.
    pub duration: Duration,
    /// Samples a second for each thread on a CPU.
    pub frequency: u32,
    /// Kernel frames: yes (an error where not permitted), no, or `None` for where permitted.
    pub kernel: Option<bool>,
    /// Follow forked children.
    pub children: bool,
    /// With `children`: record those, too, that were forked before.
    pub descendants: bool,
    /// Options that only some kinds have.
    pub own: KindOptions,
    /// By what means.
    pub backend: Backend,
    /// No thread is stopped, not for a moment: what cannot be had otherwise is refused.
    pub no_stop: bool,
    /// The command that a recording starts, where there is one: its program is told by it before
    /// it runs.
    pub command: Vec<OsString>,
    /// How the recording was asked for, for the profile's comments.
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
    /// The length of a sampling period in nanoseconds.
    pub(crate) fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.frequency.max(1))
    }
}
