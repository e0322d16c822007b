//! Opens the perf events of a recording and keeps them open.
//!
//! Two scopes give the samples of one process tree:
//!
//! * [`Scope::Threads`]: one event per thread and CPU, with `inherit`, all events of a CPU
//!   writing into one ring. Nothing of other processes is recorded, and no permissions are required
//!   beyond those for the process. It costs threads × CPUs descriptors. (An event per thread on
//!   *any* CPU would cost fewer, but the kernel denies a ring to those with `inherit`.)
//! * [`Scope::Cpus`]: one event per CPU for everything that runs; the reader filters. It costs CPUs
//!   descriptors, however many threads there are, but requires CAP_PERFMON or
//!   perf_event_paranoid ≤ 0.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use perf_event_open_sys::{self as sys, bindings as b};

use crate::attr::{self, ClockSource, Features, SamplingOptions};
use crate::bpf::{BpfError, BpfStep};
use crate::record::Layout;
use crate::ring::{Ring, RingError, page_size};
use crate::ringset::RingSet;

/// A smaller ring holds too few samples to be useful.
pub(crate) const MIN_RING_BYTES: usize = 32 << 10;

/// What the events are attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Each thread on each CPU, inherited by the threads that it creates.
    Threads,
    /// Each CPU as a whole.
    Cpus,
}

/// Why an event could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// EPERM or EACCES: missing capabilities, or a seccomp filter; the kernel does not say which.
    #[error("perf_event_open is not permitted: {0}")]
    Refused(io::Error),
    /// ENOSYS: a kernel without perf events, or a seccomp filter.
    #[error("perf_event_open is not available: {0}")]
    Missing(io::Error),
    /// EMFILE or ENFILE: RLIMIT_NOFILE or the system's limit.
    #[error("cannot open more than {open} perf events ({source}); fix: ulimit -n 65536")]
    Descriptors {
        /// How many are open.
        open: usize,
        /// Which limit: EMFILE or ENFILE.
        source: io::Error,
    },
    /// All threads have exited.
    #[error("all threads have exited; there is nothing to attach to")]
    NoThread,
    /// Anything else.
    #[error("perf_event_open failed for thread {tid} on CPU {cpu}: {source}")]
    Other {
        /// -1: every thread.
        tid: i32,
        /// The CPU.
        cpu: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// The ring of a CPU.
    #[error(transparent)]
    Ring(#[from] RingError),
}

/// Whether a thread was attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opened {
    /// Its samples are recorded.
    Attached,
    /// It has exited.
    Gone,
}

struct ThreadEvents(Vec<OwnedFd>);

/// The events of a recording and their rings.
pub struct Sampler {
    scope: Scope,
    source: ClockSource,
    features: Features,
    options: SamplingOptions,
    cpus: Vec<u32>,
    /// The event of each CPU that owns its ring. It stays open after its thread has exited.
    leaders: Vec<OwnedFd>,
    threads: BTreeMap<i32, ThreadEvents>,
    /// Losses that closed events had counted.
    retired_lost: u64,
    ring_bytes: usize,
    /// The BPF program that runs with each sample.
    program: Option<OwnedFd>,
}

impl Sampler {
    /// Opens the events of the first thread (or of the CPUs) and maps their rings of `ring_bytes`
    /// each: less, down to 32 KiB, where the locked-memory limit is smaller.
    ///
    /// Events count as soon as they are open. They cannot be opened disabled: a disabled event
    /// reports no FORK, so that we would not know which threads inherited it.
    ///
    /// Cycles are tried first, then the CPU clock: most virtual machines have no counters.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::NoThread`] when the thread is gone.
    pub fn open(
        scope: Scope,
        first_tid: i32,
        cpus: &[u32],
        options: &SamplingOptions,
        ring_bytes: usize,
    ) -> Result<(Self, RingSet), OpenError> {
        let mut sampler = Self {
            scope,
            source: options.switches.map_or(ClockSource::Cycles, |_| ClockSource::Switches),
            features: Features { format_lost: true, inherit_thread: true },
            options: options.clone(),
            cpus: cpus.to_vec(),
            leaders: Vec::new(),
            threads: BTreeMap::new(),
            retired_lost: 0,
            ring_bytes: ring_bytes.next_power_of_two().max(MIN_RING_BYTES),
            program: None,
        };
        let tid = if scope == Scope::Cpus { -1 } else { first_tid };
        sampler.negotiate(tid)?;
        sampler.leaders = sampler.open_on_all_cpus(tid)?.ok_or(OpenError::NoThread)?;
        let rings = map_rings(&sampler.leaders, &mut sampler.ring_bytes)?;
        let sample_type = attr::sample_type(sampler.source, options.kernel_callchain);
        let layout = Layout::new(sample_type, options.stack_bytes);
        if scope == Scope::Threads {
            sampler.threads.insert(first_tid, ThreadEvents(Vec::new()));
        }
        let Self { source, features, .. } = &sampler;
        tracing::debug!(
            ?scope,
            ?source,
            frequency = options.frequency,
            kernel = options.kernel_callchain,
            stack_bytes = options.stack_bytes,
            ?features,
            "perf events opened"
        );
        Ok((sampler, RingSet::new(rings, layout)))
    }

    /// What triggers the samples.
    #[must_use]
    pub fn source(&self) -> ClockSource {
        self.source
    }

    /// What the events are attached to.
    #[must_use]
    pub fn scope(&self) -> Scope {
        self.scope
    }

    /// Bytes of stack copied with each sample.
    #[must_use]
    pub fn stack_bytes(&self) -> u32 {
        self.options.stack_bytes
    }

    /// Runs a BPF program with each sample, right before it is written. Returns whether some events
    /// will only run it once [`Sampler::grow_stack`] replaces them: inherited ones, and all if
    /// another program ran before, since an event keeps its program.
    ///
    /// # Errors
    /// [`BpfError`]; the events then sample as before.
    pub fn run_with_each_sample(&mut self, program: OwnedFd) -> Result<bool, BpfError> {
        let replaced = self.program.is_some();
        if !replaced {
            self.all_events()
                .try_for_each(|fd| set_program(fd, program.as_fd()))
                .map_err(|e| BpfError::new("perf event", "4.9", BpfStep::Attach("sampling"), &e))?;
        }
        self.program = Some(program);
        Ok(replaced || self.scope == Scope::Threads)
    }

    /// Attaches one more thread.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn add_thread(&mut self, tid: i32) -> Result<Opened, OpenError> {
        if self.scope == Scope::Cpus || self.threads.contains_key(&tid) {
            return Ok(Opened::Attached);
        }
        let Some(fds) = self.open_on_all_cpus(tid)? else { return Ok(Opened::Gone) };
        self.join_rings(&fds)?;
        tracing::trace!(tid, events = fds.len(), "thread attached");
        self.threads.insert(tid, ThreadEvents(fds));
        Ok(Opened::Attached)
    }

    /// Closes a thread's own events: it has inherited some.
    pub fn remove_thread(&mut self, tid: i32) {
        if let Some(events) = self.threads.remove(&tid) {
            self.retired_lost += events.0.iter().map(|fd| self.lost_of(fd.as_fd())).sum::<u64>();
        }
    }

    /// Disables all events, inherited ones too.
    ///
    /// # Errors
    /// The error of the ioctl.
    pub fn disable(&self) -> io::Result<()> {
        self.all_events().try_for_each(disable_event)
    }

    /// Replaces every event with one that copies `stack_bytes` of stack, into the same rings.
    /// Between the old and new events is one system call per thread and CPU; what runs meanwhile is
    /// not sampled.
    ///
    /// Threads that had inherited their events get their own. `tids` lists those that are alive;
    /// the caller looks for newer ones afterwards.
    ///
    /// # Errors
    /// [`OpenError`]; the old events are closed even then.
    pub fn grow_stack(
        &mut self,
        rings: &mut RingSet,
        stack_bytes: u32,
        tids: &[i32],
    ) -> Result<(), OpenError> {
        self.options.stack_bytes = stack_bytes.min(attr::MAX_STACK_BYTES) & !7;
        rings.set_stack_bytes(self.options.stack_bytes);
        let _ = self.disable();
        let retired = std::mem::take(&mut self.threads);
        self.retired_lost +=
            retired.values().flat_map(|t| &t.0).map(|fd| self.lost_of(fd.as_fd())).sum::<u64>();
        self.threads = self
            .open_generation(tids)?
            .into_iter()
            .map(|(tid, fds)| (tid, ThreadEvents(fds)))
            .collect();
        let events = self.threads.len() * self.cpus.len();
        tracing::debug!(events, stack_bytes = self.options.stack_bytes, "perf events replaced");
        Ok(())
    }

    fn open_generation(&self, tids: &[i32]) -> Result<Vec<(i32, Vec<OwnedFd>)>, OpenError> {
        let all = [-1];
        let tids = if self.scope == Scope::Cpus { &all[..] } else { tids };
        let mut fresh = Vec::with_capacity(tids.len());
        for &tid in tids {
            if let Some(fds) = self.open_on_all_cpus(tid)? {
                self.join_rings(&fds)?;
                fresh.push((tid, fds));
            }
        }
        Ok(fresh)
    }

    /// Records lost so far by the kernel's own count (Linux 6.0 and later): the last losses of a
    /// ring are never reported in it, as it has no space for the report.
    #[must_use]
    pub fn lost(&self) -> Option<u64> {
        if !self.features.format_lost {
            return None;
        }
        let own = self.threads.values().flat_map(|t| &t.0).chain(&self.leaders);
        Some(self.retired_lost + own.map(|fd| self.lost_of(fd.as_fd())).sum::<u64>())
    }

    fn all_events(&self) -> impl Iterator<Item = RawFd> + '_ {
        let own = self.threads.values().flat_map(|t| &t.0);
        self.leaders.iter().chain(own).map(AsRawFd::as_raw_fd)
    }

    /// `read_format` is PERF_FORMAT_LOST alone, or nothing: value[, lost].
    fn lost_of(&self, fd: BorrowedFd<'_>) -> u64 {
        let mut words = [0u8; 16];
        let whole = read(fd, &mut words).is_ok_and(|n| n >= 16);
        if whole { u64::from_le_bytes(words[8..].try_into().unwrap_or_default()) } else { 0 }
    }

    /// Finds the clock and the features that this kernel supports, on the first CPU.
    fn negotiate(&mut self, tid: i32) -> Result<(), OpenError> {
        loop {
            let cpu = *self.cpus.first().ok_or(OpenError::NoThread)?;
            let e = match self.open_one(tid, cpu) {
                Ok(_probe) => return Ok(()),
                Err(e) => e,
            };
            match e.raw_os_error() {
                Some(libc::ENOENT | libc::ENODEV | libc::EOPNOTSUPP)
                    if self.source == ClockSource::Cycles =>
                {
                    self.source = ClockSource::CpuClock;
                }
                Some(libc::EINVAL | libc::E2BIG) if self.features.format_lost => {
                    self.features.format_lost = false;
                }
                Some(libc::EINVAL | libc::E2BIG) if self.features.inherit_thread => {
                    self.features.inherit_thread = false;
                }
                _ => return Err(self.classify(tid, cpu, e)),
            }
        }
    }

    fn join_rings(&self, fds: &[OwnedFd]) -> Result<(), OpenError> {
        for ((fd, leader), &cpu) in fds.iter().zip(&self.leaders).zip(&self.cpus) {
            redirect(fd.as_fd(), leader.as_fd()).map_err(|source| OpenError::Other {
                tid: -1,
                cpu,
                source,
            })?;
        }
        Ok(())
    }

    /// One event per CPU, or `None` if the thread is gone.
    fn open_on_all_cpus(&self, tid: i32) -> Result<Option<Vec<OwnedFd>>, OpenError> {
        let mut fds = Vec::with_capacity(self.cpus.len());
        for &cpu in &self.cpus {
            match self.open_one(tid, cpu) {
                Ok(fd) => fds.push(fd),
                Err(e) if e.raw_os_error() == Some(libc::ESRCH) => return Ok(None),
                Err(e) => return Err(self.classify(tid, cpu, e)),
            }
        }
        Ok(Some(fds))
    }

    fn classify(&self, tid: i32, cpu: u32, source: io::Error) -> OpenError {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::Refused(source),
            Some(libc::ENOSYS) => OpenError::Missing(source),
            Some(libc::ESRCH) => OpenError::NoThread,
            Some(libc::EMFILE | libc::ENFILE) => {
                OpenError::Descriptors { open: self.threads.len() * self.cpus.len(), source }
            }
            _ => OpenError::Other { tid, cpu, source },
        }
    }

    fn open_one(&self, tid: i32, cpu: u32) -> io::Result<OwnedFd> {
        let inherit = self.scope == Scope::Threads;
        let mut attr = attr::build(&self.options, self.source, self.features, inherit);
        let fd = open_event(&mut attr, tid, cpu)?;
        if let Some(program) = &self.program {
            set_program(fd.as_raw_fd(), program.as_fd())?;
        }
        Ok(fd)
    }
}

/// Maps the rings of all CPUs with the same size: they share the locked-memory limit, and a large
/// ring of the first CPU would leave nothing for the last.
pub(crate) fn map_rings(leaders: &[OwnedFd], bytes: &mut usize) -> Result<Vec<Ring>, RingError> {
    loop {
        let size = (*bytes).max(page_size());
        let kib = size >> 10;
        let rings: io::Result<Vec<Ring>> =
            leaders.iter().map(|fd| Ring::map(fd.as_fd(), size)).collect();
        match rings {
            Ok(rings) => {
                tracing::debug!(rings = rings.len(), kib, "perf rings mapped");
                return Ok(rings);
            }
            Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOMEM)) => {
                let smaller = *bytes / 2;
                if smaller < MIN_RING_BYTES.max(page_size()) {
                    return Err(RingError::Locked { kib });
                }
                *bytes = smaller;
            }
            Err(source) => return Err(RingError::Map { kib, source }),
        }
    }
}

/// Checks whether we may use perf_event_open at all, on ourselves and in user mode.
///
/// # Errors
/// The error of perf_event_open(2).
pub fn try_open() -> io::Result<()> {
    let options = SamplingOptions {
        frequency: 1,
        kernel_callchain: false,
        exclude_kernel: true,
        stack_bytes: 0,
        children: false,
        switches: None,
    };
    let features = Features { format_lost: false, inherit_thread: false };
    let mut attr = attr::build(&options, ClockSource::CpuClock, features, false);
    // 0: this thread; u32::MAX: any CPU.
    open_event(&mut attr, 0, u32::MAX).map(drop)
}

/// Opens an event of a thread (-1: of all) on a CPU.
#[allow(unsafe_code)]
pub(crate) fn open_event(attr: &mut b::perf_event_attr, tid: i32, cpu: u32) -> io::Result<OwnedFd> {
    let flags = libc::c_ulong::from(b::PERF_FLAG_FD_CLOEXEC);
    // SAFETY: `attr` is initialized and its `size` is its own; the call opens a descriptor.
    let fd = unsafe {
        sys::perf_event_open(std::ptr::from_mut(attr), tid, cpu.cast_signed(), -1, flags)
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor that the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[allow(unsafe_code)]
pub(crate) fn disable_event(fd: RawFd) -> io::Result<()> {
    // SAFETY: a plain ioctl without a pointer argument, on a perf event's descriptor.
    let rc = unsafe { sys::ioctls::DISABLE(fd, 0) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn set_program(fd: RawFd, program: BorrowedFd<'_>) -> io::Result<()> {
    // PERF_EVENT_IOC_SET_BPF takes the descriptor by value (linux/perf_event.h).
    const SET_BPF: libc::c_ulong = 0x4004_2408;
    // SAFETY: an ioctl on a perf event's descriptor whose argument is a number.
    let rc = unsafe { libc::ioctl(fd, SET_BPF, program.as_raw_fd()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
pub(crate) fn redirect(fd: BorrowedFd<'_>, leader: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both are perf events' descriptors, alive for the call.
    let rc = unsafe { sys::ioctls::SET_OUTPUT(fd.as_raw_fd(), leader.as_raw_fd()) };
    if rc < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[allow(unsafe_code)]
fn read(fd: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is valid for writes of its length.
    let n = unsafe { libc::read(fd.as_raw_fd(), buf.as_mut_ptr().cast(), buf.len()) };
    usize::try_from(n).map_err(|_| io::Error::last_os_error())
}
