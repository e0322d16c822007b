//! Opens the kernel's event sources (perf events and BPF programs) and reads what they record.
//!
//! [`Sampler`] opens perf events; [`RingSet::drain`] passes on what the kernel wrote, in time order
//! over all CPUs and without copying: an [`Event`] borrows from the ring. BPF programs add what
//! perf events cannot record: [`WaitSampler`] samples blocking, [`GoroutineCapture`] and [`Chains`]
//! copy the stacks of goroutines and interpreters with each sample, [`StackCopier`] copies the
//! stacks of threads without stopping them. What a record means for a profile is decided elsewhere.

#![deny(clippy::print_stderr, clippy::print_stdout)]

mod attr;
mod bpf;
mod chains;
mod creations;
mod goroutines;
mod online;
mod record;
mod ring;
mod ringset;
mod sample_program;
mod sampler;
mod stacks;
mod tracefs;
mod waits;

pub use attr::{ClockSource, SamplingOptions, USER_REGISTERS};
pub use bpf::{BpfError, BpfObstacle, BpfStep};
pub use chains::{Chain, ChainEnd, ChainFrame, ChainLayout, Chains};
pub use creations::{CreationError, CreationSampler, TracepointError, try_creations};
pub use goroutines::{
    Capture, CapturedLabels, FieldOffsets, GoThread, GoroutineCapture, Part, StackCopy,
};
pub use online::online_cpus;
pub use record::{Comm, Event, EventKind, Fork, MmapEvent, Sample, Words};
pub use ring::RingError;
pub use ringset::{Losses, RingSet};
pub use sample_program::SampleProgram;
pub use sampler::{OpenError, Opened, Sampler, Scope, try_open};
pub use stacks::{CopiedStack, CopyResult, StackCopier, ThreadReport};
pub use waits::{
    Fixed, WaitChains, WaitCounters, WaitError, WaitId, WaitKind, WaitOptions, WaitOutputs,
    WaitReason, WaitSample, WaitSampler, WaitWants, Waited, Waiting, Woke,
};
