//! Samples threads that create threads, using the tracepoint `task:task_newtask`, which the
//! creating thread hits.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use perf_event_open_sys as sys;

use crate::attr::{self, TRACEPOINT_SAMPLE_TYPE};
use crate::record::Layout;
use crate::ring::RingError;
use crate::ringset::RingSet;
use crate::sampler::{MIN_RING_BYTES, disable_event, map_rings, open_event};
use crate::tracefs;
pub use crate::tracefs::TracepointError;

const TRACEPOINT: &str = "task/task_newtask";
/// `CLONE_THREAD` (linux/sched.h): a thread, not a process.
const ONLY_THREADS: &std::ffi::CStr = c"clone_flags & 0x10000";

/// Why thread creations cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// The tracepoint's number cannot be read.
    #[error("{why}; fix: {fix}", why = .0, fix = .0.fix())]
    NoTracepoint(#[from] TracepointError),
    /// The event of a CPU.
    #[error("perf_event_open failed for the tracepoint task:task_newtask on CPU {cpu}: {source}")]
    Event {
        /// The CPU.
        cpu: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The ring of a CPU.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// Checks whether we can find the tracepoint of thread creations. What was found is remembered, so
/// that [`CreationSampler::open`] no longer needs tracefs.
///
/// # Errors
/// [`TracepointError`].
pub fn try_creations() -> Result<(), TracepointError> {
    tracefs::tracepoint(TRACEPOINT).map(drop)
}

/// One event per CPU. The reader skips the samples of other processes.
pub struct CreationSampler {
    events: Vec<OwnedFd>,
}

impl CreationSampler {
    /// Opens the events, which sample from then on, and maps their rings of `ring_bytes` each:
    /// less, down to 32 KiB, where the locked-memory limit is smaller.
    ///
    /// # Errors
    /// [`CreationError`].
    pub fn open(
        cpus: &[u32],
        stack_bytes: u32,
        ring_bytes: usize,
    ) -> Result<(Self, RingSet), CreationError> {
        let id = tracefs::tracepoint(TRACEPOINT)?;
        let mut events = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            let mut attr = attr::build_tracepoint(id, stack_bytes);
            let event = open_event(&mut attr, -1, cpu)
                .and_then(|fd| set_filter(fd.as_fd(), ONLY_THREADS).map(|()| fd));
            events.push(event.map_err(|source| CreationError::Event { cpu, source })?);
        }
        let mut ring_bytes = ring_bytes.next_power_of_two().max(MIN_RING_BYTES);
        let rings = map_rings(&events, &mut ring_bytes)?;
        let layout = Layout::new(TRACEPOINT_SAMPLE_TYPE, stack_bytes);
        tracing::debug!(tracepoint = TRACEPOINT, id, events = events.len(), "perf events opened");
        Ok((Self { events }, RingSet::new(rings, layout)))
    }

    /// Stops sampling.
    pub fn disable(&self) {
        for event in &self.events {
            // If this fails, closing the events disables them.
            let _ = disable_event(event.as_raw_fd());
        }
    }
}

#[allow(unsafe_code)]
fn set_filter(event: BorrowedFd<'_>, filter: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: a live descriptor; the kernel reads the C string, and does not write to it.
    let rc = unsafe { sys::ioctls::SET_FILTER(event.as_raw_fd(), filter.as_ptr().cast_mut()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
