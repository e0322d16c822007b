//! Wraps a BPF program that runs with each sample of an event.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use aya::programs::ProgramFd;

/// A loaded BPF program for sampling events. An event takes one; further programs are reached from
/// that by tail calls.
#[derive(Debug)]
pub struct SampleProgram(ProgramFd);

impl SampleProgram {
    pub(crate) fn of(program: &ProgramFd) -> io::Result<Self> {
        program.try_clone().map(Self)
    }

    pub(crate) fn loaded(&self) -> &ProgramFd {
        &self.0
    }

    /// A descriptor of it, for [`crate::Sampler::run_with_each_sample`].
    ///
    /// # Errors
    /// File descriptors ran out.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}
