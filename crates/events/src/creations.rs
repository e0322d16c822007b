//! Samples of threads that create threads: the tracepoint `task:task_newtask`, which is passed in
//! the context of the creator.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use perf_event_open_sys as sys;

use crate::attr::{self, TRACEPOINT_SAMPLE_TYPE, USER_REGISTERS};
use crate::record::Layout;
use crate::ring::RingError;
use crate::ringset::RingSet;
use crate::sampler::{MIN_RING_BYTES, map_rings, open_event};
use crate::tracefs;

const TRACEPOINT: &str = "task/task_newtask";
/// `CLONE_THREAD` (linux/sched.h): a thread, not a process.
const ONLY_THREADS: &std::ffi::CStr = c"clone_flags & 0x10000";

/// Why the creation of threads cannot be sampled.
#[derive(Debug, thiserror::Error)]
pub enum CreationError {
    /// The number of the tracepoint is not to be had.
    #[error(
        "the tracepoint task:task_newtask, which root only can find, is not to be had: {0}; to \
         mend it: sudo exoprof record threadcreate …"
    )]
    NoTracepoint(io::Error),
    /// The event of a CPU.
    #[error("perf_event_open for task:task_newtask on cpu {cpu}: {source}")]
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

/// Tries whether the creation of threads is known to the kernel, and shown to us.
///
/// # Errors
/// The system's.
pub fn try_creations() -> io::Result<()> {
    tracefs::tracepoint(TRACEPOINT).map(drop)
}

/// One event per CPU. Whoever reads the ring passes over other processes' samples.
pub struct CreationSampler {
    events: Vec<OwnedFd>,
}

impl CreationSampler {
    /// Opens the events, which sample from then on, and their rings of `ring_bytes` each, or less
    /// where the locked-memory allowance is smaller.
    ///
    /// # Errors
    /// [`CreationError`].
    pub fn open(
        cpus: &[u32],
        stack_bytes: u32,
        ring_bytes: usize,
    ) -> Result<(Self, RingSet), CreationError> {
        let id = tracefs::tracepoint(TRACEPOINT).map_err(CreationError::NoTracepoint)?;
        let mut events = Vec::with_capacity(cpus.len());
        for &cpu in cpus {
            let mut attr = attr::build_tracepoint(id, stack_bytes);
            let event = open_event(&mut attr, -1, cpu)
                .and_then(|fd| set_filter(fd.as_fd(), ONLY_THREADS).map(|()| fd));
            events.push(event.map_err(|source| CreationError::Event { cpu, source })?);
        }
        let mut ring_bytes = ring_bytes.next_power_of_two().max(MIN_RING_BYTES);
        let rings = map_rings(&events, &mut ring_bytes)?;
        let layout = Layout {
            sample_type: TRACEPOINT_SAMPLE_TYPE,
            registers: USER_REGISTERS.count_ones() as usize,
            stack_bytes,
        };
        Ok((Self { events }, RingSet::new(rings, layout)))
    }

    /// Samples nothing more.
    pub fn disable(&self) {
        for event in &self.events {
            disable(event);
        }
    }
}

#[allow(unsafe_code)]
fn disable(event: &OwnedFd) {
    // SAFETY: a plain ioctl without a pointer argument, on a perf event's descriptor.
    let _ = unsafe { sys::ioctls::DISABLE(event.as_raw_fd(), 0) };
}

#[allow(unsafe_code)]
fn set_filter(event: BorrowedFd<'_>, filter: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: a live descriptor; the kernel reads the C string, and does not write to it.
    let rc = unsafe { sys::ioctls::SET_FILTER(event.as_raw_fd(), filter.as_ptr().cast_mut()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
