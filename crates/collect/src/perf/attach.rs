//! Attaches perf events to every thread of a process tree without stopping it.

use std::sync::Arc;

use aggregate::clock::monotonic_now;
use aggregate::recorder::Recorder;
use events::{ClockSource, OpenError, Opened, RingSet, Sampler, SamplingOptions, Scope};
use host::rights::{Obstacle, Rights, TargetRights};
use process::Process;

use crate::options::RecordOptions;

/// The maximum number of per-thread events. If more are needed, we open one event per CPU instead:
/// opening more events, and the kernel's memory for them (about 2 KiB each), would cost more than
/// skipping the samples of other processes.
const MAX_THREAD_EVENTS: usize = 2048;
/// Up to this rate, sampling a whole CPU costs other processes less than 0.5% of their time.
const MAX_WHOLE_CPU_HZ: u32 = 1500;
/// File descriptors reserved for everything else: images, `/proc` files, the output.
const SPARE_DESCRIPTORS: u64 = 512;
/// The approximate limit of the total size of all CPUs' ring buffers.
const ALL_RINGS_BYTES: usize = 64 << 20;
/// Bytes of stack copied at a context switch. It is small because there can be many switches.
const SWITCH_STACK_BYTES: u32 = 8 << 10;
/// How often we look for new threads before we give up on a program that creates threads faster
/// than we attach to them. The remaining threads are counted.
const MAX_RESCANS: usize = 64;

/// Why a recording could not start.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// We lack a right; the obstacle names the fix.
    #[error("{0}")]
    NotPermitted(Obstacle),
    /// The kernel refuses although our rights suffice.
    #[error(
        "perf_event_open is blocked ({source}) although the rights suffice: a seccomp filter, such \
         as a container runtime's, forbids it{}; fix: run exoprof outside the container, or the \
         container with --security-opt seccomp=unconfined --cap-add PERFMON",
        if *.filtered { " (this process runs under one)" } else { "" }
    )]
    Blocked {
        /// The system's error.
        source: std::io::Error,
        /// `/proc/self/status` reports an active seccomp filter.
        filtered: bool,
    },
    /// All targets exited before anything was recorded.
    #[error("process {pid} exited before the recording started")]
    Exited {
        /// The (first) target.
        pid: i32,
    },
    /// Opening the events or ring buffers failed for another reason.
    #[error(transparent)]
    Open(OpenError),
    /// A system call failed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried, as in "cannot list the CPUs".
        what: &'static str,
        /// The system's error.
        source: std::io::Error,
    },
}

/// Perf events attached to all threads.
pub(crate) struct Attached {
    pub sampler: Sampler,
    pub rings: RingSet,
    pub kernel: bool,
    pub user_only: bool,
    /// The number of threads that still had no events when we gave up on a program that creates
    /// threads faster than we attach to them.
    pub uncovered: usize,
}

/// The size in bytes of a ring buffer that holds a third of a second of its CPU's samples. The
/// reader may be delayed that long while it handles thousands of threads or waits for a CPU.
fn ring_bytes(frequency: u32, stack_bytes: u32, cpus: usize) -> usize {
    let record = stack_bytes as usize + 1024;
    let wanted = (frequency as usize / 3).max(1) * record;
    let most = (ALL_RINGS_BYTES / cpus.max(1)).clamp(512 << 10, 8 << 20);
    wanted.next_power_of_two().clamp(512 << 10, most.next_power_of_two())
}

/// The initial size in bytes of the copied stack. It is large at low rates, where the few samples
/// cost little in total.
pub(crate) fn first_stack_bytes(frequency: u32) -> u32 {
    match frequency {
        0..=250 => 32 << 10,
        251..=1500 => 16 << 10,
        _ => 4 << 10,
    }
}

/// Attaches to all threads of the processes, including those created while we attach.
pub(crate) fn attach(
    roots: &[Arc<Process>],
    options: &RecordOptions,
    recorder: &mut Recorder,
) -> Result<Attached, AttachError> {
    let cpus = events::online_cpus()
        .map_err(|source| AttachError::System { what: "list the CPUs", source })?;
    let threads = list_threads(roots);
    let scope = choose_scope(threads.len(), cpus.len(), options.frequency)?;
    let stack_bytes = first_stack_bytes(options.frequency);
    let ring = ring_bytes(options.frequency, stack_bytes, cpus.len());
    let sampling = SamplingOptions {
        frequency: options.frequency,
        kernel_callchain: options.kernel != Some(false),
        exclude_kernel: false,
        stack_bytes,
        children: options.children,
        switches: None,
    };
    open(roots, (scope, &cpus, ring), sampling, options.kernel, recorder)
}

/// Attaches to all threads, to sample each thread at every `period`-th time it is switched out.
pub(crate) fn attach_to_switches(
    roots: &[Arc<Process>],
    options: &RecordOptions,
    period: u64,
    recorder: &mut Recorder,
) -> Result<Attached, AttachError> {
    let cpus = events::online_cpus()
        .map_err(|source| AttachError::System { what: "list the CPUs", source })?;
    host::raise_nofile()
        .map_err(|source| AttachError::System { what: "raise RLIMIT_NOFILE", source })?;
    let sampling = SamplingOptions {
        frequency: 1,
        kernel_callchain: true,
        exclude_kernel: false,
        stack_bytes: SWITCH_STACK_BYTES,
        children: options.children,
        switches: Some(period),
    };
    let most = (ALL_RINGS_BYTES / cpus.len().max(1)).clamp(512 << 10, 8 << 20);
    let ring = most.next_power_of_two();
    // A thread that is switched out is always in the kernel, so a user-mode event would never fire.
    open(roots, (Scope::Threads, &cpus, ring), sampling, Some(true), recorder)
}

fn open(
    roots: &[Arc<Process>],
    (scope, cpus, ring): (Scope, &[u32], usize),
    mut sampling: SamplingOptions,
    wanted_kernel: Option<bool>,
    recorder: &mut Recorder,
) -> Result<Attached, AttachError> {
    let threads = list_threads(roots);
    let mut candidates = threads.iter().copied();
    loop {
        let Some((pid, tid)) = candidates.next() else {
            return Err(AttachError::Exited { pid: roots.first().map_or(0, |p| p.pid()) });
        };
        match Sampler::open(scope, tid, cpus, &sampling, ring) {
            Ok((sampler, rings)) => {
                recorder.attached(tid, monotonic_now());
                let kernel = sampling.kernel_callchain;
                let user_only = sampling.exclude_kernel;
                let mut attached = Attached { sampler, rings, kernel, user_only, uncovered: 0 };
                attached.cover(roots, recorder)?;
                return Ok(attached);
            }
            Err(OpenError::NoThread) => {}
            Err(OpenError::Refused(_))
                if wanted_kernel != Some(true) && !sampling.exclude_kernel =>
            {
                sampling.kernel_callchain = false;
                sampling.exclude_kernel = true;
                candidates = threads.iter().copied();
            }
            Err(e) => return Err(explain(e, pid, wanted_kernel)),
        }
    }
}

/// The process and thread IDs of all threads that `/proc` lists now.
fn list_threads(processes: &[Arc<Process>]) -> Vec<(i32, i32)> {
    let of = |p: &Arc<Process>| (p.pid(), p.threads().unwrap_or_default());
    let all = processes.iter().map(of);
    all.flat_map(|(pid, tids)| tids.into_iter().map(move |tid| (pid, tid))).collect()
}

/// Chooses one event per CPU where we are permitted to. It samples every thread in proportion to
/// its CPU time, even a thousand threads that run for 1 ms each. An event per thread would never
/// sample those, since each event first counts a full period of its own thread. Events per CPU also
/// cost nothing at a context switch, and attaching takes no time. However, they also sample all
/// other processes on the CPU, which costs next to nothing only at moderate rates.
fn choose_scope(threads: usize, cpus: usize, frequency: u32) -> Result<Scope, AttachError> {
    let limit = host::raise_nofile()
        .map_err(|source| AttachError::System { what: "raise RLIMIT_NOFILE", source })?;
    let needed = threads.saturating_mul(cpus);
    // Leave room for threads that appear later and have no events to inherit.
    let fits = (needed + needed / 4) as u64 + SPARE_DESCRIPTORS <= limit;
    let whole_cpus = Rights::read().is_ok_and(|r| r.perfmon());
    let moderate = frequency <= MAX_WHOLE_CPU_HZ;
    if whole_cpus && (moderate || needed > MAX_THREAD_EVENTS || !fits) {
        return Ok(Scope::Cpus);
    }
    Ok(Scope::Threads)
}

/// Finds out why the kernel refused to open an event.
fn explain(e: OpenError, pid: i32, kernel: Option<bool>) -> AttachError {
    let (OpenError::Refused(source) | OpenError::Missing(source)) = e else {
        return AttachError::Open(e);
    };
    let obstacle = || {
        let rights = Rights::read().ok()?;
        let target = TargetRights::read(pid).ok()?;
        rights
            .sample_user(&target)
            .err()
            .or_else(|| if kernel == Some(true) { rights.sample_kernel().err() } else { None })
    };
    match obstacle() {
        Some(obstacle) => AttachError::NotPermitted(obstacle),
        None => {
            AttachError::Blocked { source, filtered: Rights::read().is_ok_and(|r| r.filtered()) }
        }
    }
}

impl Attached {
    /// Attaches to every thread that is not covered yet, until `/proc` lists no more of them.
    ///
    /// A new thread may already be covered, by the events that it inherited from its creator. Its
    /// FORK record says so, but may arrive shortly after the thread appears in `/proc`.
    pub fn cover(
        &mut self,
        roots: &[Arc<Process>],
        recorder: &mut Recorder,
    ) -> Result<(), AttachError> {
        if self.sampler.scope() == Scope::Cpus {
            return Ok(());
        }
        for _ in 0..MAX_RESCANS {
            let unknown = self.without_events(roots, recorder);
            if unknown.is_empty() {
                return Ok(());
            }
            for (pid, tid) in unknown {
                if recorder.covers(pid, tid) {
                    continue;
                }
                match self.sampler.add_thread(tid) {
                    Ok(Opened::Attached) => recorder.attached(tid, monotonic_now()),
                    Ok(Opened::Gone) => {}
                    Err(e) => return Err(explain(e, pid, None)),
                }
            }
            self.drop_doubled(recorder);
        }
        self.uncovered = self.without_events(roots, recorder).len();
        Ok(())
    }

    fn without_events(
        &mut self,
        roots: &[Arc<Process>],
        recorder: &mut Recorder,
    ) -> Vec<(i32, i32)> {
        let mut scan = |recorder: &mut Recorder| -> Vec<(i32, i32)> {
            let listed = list_threads(roots);
            self.rings.drain(u64::MAX, |e| recorder.event(e));
            listed.into_iter().filter(|(pid, tid)| !recorder.covers(*pid, *tid)).collect()
        };
        let first = scan(recorder);
        if first.is_empty() {
            return first;
        }
        // Their FORK records may not have arrived yet, so only threads that are unknown in both
        // scans count.
        let second = scan(recorder);
        second.into_iter().filter(|t| first.contains(t)).collect()
    }

    /// Replaces all events with events that copy `stack_bytes` of the stack.
    pub fn regrow(&mut self, stack_bytes: u32, recorder: &mut Recorder) -> Result<(), AttachError> {
        let living: Vec<Arc<Process>> = recorder.processes.alive();
        let tids: Vec<i32> = living.iter().flat_map(|p| p.threads().unwrap_or_default()).collect();
        recorder.reattach();
        self.sampler.grow_stack(&mut self.rings, stack_bytes, &tids).map_err(AttachError::Open)?;
        let now = monotonic_now();
        tids.iter().for_each(|tid| recorder.attached(*tid, now));
        self.cover(&living, recorder)
    }

    /// Closes the events that we opened for threads that had in fact inherited events.
    pub fn drop_doubled(&mut self, recorder: &mut Recorder) {
        for tid in recorder.doubled.drain(..) {
            self.sampler.remove_thread(tid);
        }
    }

    /// Describes in the profile how the samples were taken.
    pub fn backend(&self) -> String {
        let source = match self.sampler.source() {
            ClockSource::Cycles => "cycles",
            ClockSource::CpuClock => "cpu-clock",
            ClockSource::Switches => "context-switches",
        };
        let scope = match self.sampler.scope() {
            Scope::Threads => "per thread",
            Scope::Cpus => "per CPU, filtered",
        };
        let kernel = match (self.kernel, self.user_only) {
            (true, _) => "kernel stacks",
            (false, false) => "no kernel stacks",
            (false, true) => "user mode only",
        };
        format!("perf_event {source}, {scope}, {kernel}, {} KiB of stack", self.stack_kib())
    }

    fn stack_kib(&self) -> u32 {
        self.sampler.stack_bytes().div_ceil(1024)
    }
}
