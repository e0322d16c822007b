//! Attaching to every thread of a process tree, without stopping it.

use std::sync::Arc;

use aggregate::clock::monotonic_now;
use aggregate::recorder::Recorder;
use events::{ClockSource, OpenError, Opened, RingSet, Sampler, SamplingOptions, Scope};
use host::rights::{Obstacle, Rights, TargetRights};
use process::Process;

use crate::options::RecordOptions;

/// Above this many events the way over whole CPUs is taken in any case: opening and the kernel's
/// memory (about 2 KiB an event) would cost more than reading past other processes' samples.
const MAX_THREAD_EVENTS: usize = 2048;
/// Up to this rate the samples of a whole CPU cost other processes less than half a percent.
const MAX_WHOLE_CPU_HZ: u32 = 1500;
/// Descriptors left for everything else: images, /proc files, the output.
const SPARE_DESCRIPTORS: u64 = 512;
/// The rings of all CPUs together are no larger than about this.
const ALL_RINGS_BYTES: usize = 64 << 20;
/// Stack copied at a switch: they can be many.
const SWITCH_STACK_BYTES: u32 = 8 << 10;
/// A program that creates threads faster than we attach to them is given up on after this; how
/// many threads are left out then is counted.
const MAX_RESCANS: usize = 64;

/// Why a recording could not begin.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A right is missing, and this gives it.
    #[error("{0}")]
    NotPermitted(Obstacle),
    /// The system refuses, and our rights do not explain it.
    #[error(
        "perf_event_open is blocked ({source}), although the rights suffice: a seccomp filter, as \
         container runtimes install it, forbids it{}; run exoprof outside of the container, or \
         with --security-opt seccomp=unconfined and --cap-add PERFMON", 
        if *.filtered { " (this process runs under one)" } else { "" }
    )]
    Blocked {
        /// The system's answer.
        source: std::io::Error,
        /// `/proc/self/status` says that a filter is in force.
        filtered: bool,
    },
    /// Every target ended before anything was recorded.
    #[error("process {pid} exited before the recording began")]
    Exited {
        /// The (first) target.
        pid: i32,
    },
    /// Opening events or rings failed otherwise.
    #[error(transparent)]
    Open(OpenError),
    /// The system did not tell something that is needed.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Its answer.
        source: std::io::Error,
    },
}

/// Events on all threads.
pub(crate) struct Attached {
    pub sampler: Sampler,
    pub rings: RingSet,
    pub kernel: bool,
    pub user_only: bool,
    /// Threads that were still without events when a program that creates threads faster than
    /// they are attached was given up on.
    pub uncovered: usize,
}

/// Bytes of a ring that holds a third of a second of its CPU's samples: what the reader may be
/// kept waiting while it looks at thousands of threads, or has to wait for a CPU itself.
fn ring_bytes(frequency: u32, stack_bytes: u32, cpus: usize) -> usize {
    let record = stack_bytes as usize + 1024;
    let wanted = (frequency as usize / 3).max(1) * record;
    let most = (ALL_RINGS_BYTES / cpus.max(1)).clamp(512 << 10, 8 << 20);
    wanted.next_power_of_two().clamp(512 << 10, most.next_power_of_two())
}

/// The first window: generous where samples are rare, since each costs little then.
pub(crate) fn first_stack_bytes(frequency: u32) -> u32 {
    match frequency {
        0..=250 => 32 << 10,
        251..=1500 => 16 << 10,
        _ => 4 << 10,
    }
}

/// Attaches to all threads of the processes, and to those that they create meanwhile.
pub(crate) fn attach(
    roots: &[Arc<Process>],
    options: &RecordOptions,
    recorder: &mut Recorder,
) -> Result<Attached, AttachError> {
    let cpus = events::online_cpus()
        .map_err(|source| AttachError::System { what: "list the cpus", source })?;
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

/// Attaches to all threads, for a sample each time that one has been switched out `period` times.
pub(crate) fn attach_to_switches(
    roots: &[Arc<Process>],
    options: &RecordOptions,
    period: u64,
    recorder: &mut Recorder,
) -> Result<Attached, AttachError> {
    let cpus = events::online_cpus()
        .map_err(|source| AttachError::System { what: "list the cpus", source })?;
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
    // A thread that only waits is in the kernel all of that time: there is nothing in user mode.
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

/// Process and thread ids of all threads, as `/proc` lists them now.
fn list_threads(processes: &[Arc<Process>]) -> Vec<(i32, i32)> {
    let of = |p: &Arc<Process>| (p.pid(), p.threads().unwrap_or_default());
    let all = processes.iter().map(of);
    all.flat_map(|(pid, tids)| tids.into_iter().map(move |tid| (pid, tid))).collect()
}

/// Whole CPUs where we may: their clock hits every thread in proportion to its time, also the
/// thousand that run for a millisecond each, which an event per thread never hits, since each of
/// those counts a full period of its own first. Nothing is paid at a context switch, and
/// attaching takes no time. But every other process on the CPU is sampled too, and that is only
/// as good as free at moderate rates.
fn choose_scope(threads: usize, cpus: usize, frequency: u32) -> Result<Scope, AttachError> {
    let limit = host::raise_nofile()
        .map_err(|source| AttachError::System { what: "raise RLIMIT_NOFILE", source })?;
    let needed = threads.saturating_mul(cpus);
    // Room for threads that come later and have no events to inherit.
    let fits = (needed + needed / 4) as u64 + SPARE_DESCRIPTORS <= limit;
    let whole_cpus = Rights::read().is_ok_and(|r| r.perfmon());
    let moderate = frequency <= MAX_WHOLE_CPU_HZ;
    if whole_cpus && (moderate || needed > MAX_THREAD_EVENTS || !fits) {
        return Ok(Scope::Cpus);
    }
    Ok(Scope::Threads)
}

/// Finds the reason behind a refusal.
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
    /// Attaches to every thread that is not covered yet, until a look at `/proc` finds no more.
    ///
    /// A thread may be new and covered at the same time: it inherited the events of its creator.
    /// The FORK record tells; it can come a moment after the thread shows in `/proc`.
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
        let mut look = |recorder: &mut Recorder| -> Vec<(i32, i32)> {
            let listed = list_threads(roots);
            self.rings.drain(u64::MAX, |e| recorder.event(e));
            listed.into_iter().filter(|(pid, tid)| !recorder.covers(*pid, *tid)).collect()
        };
        let first = look(recorder);
        if first.is_empty() {
            return first;
        }
        // Their FORK records may be on their way: only who is unknown twice is really unknown.
        let second = look(recorder);
        second.into_iter().filter(|t| first.contains(t)).collect()
    }

    /// Replaces all events by ones that copy more of the stack.
    pub fn regrow(&mut self, stack_bytes: u32, recorder: &mut Recorder) -> Result<(), AttachError> {
        let living: Vec<Arc<Process>> = recorder.processes.living();
        let tids: Vec<i32> = living.iter().flat_map(|p| p.threads().unwrap_or_default()).collect();
        recorder.reattach();
        self.sampler.grow_stack(&mut self.rings, stack_bytes, &tids).map_err(AttachError::Open)?;
        let now = monotonic_now();
        tids.iter().for_each(|tid| recorder.attached(*tid, now));
        self.cover(&living, recorder)
    }

    /// Takes back the own events of threads that turned out to have inherited some.
    pub fn drop_doubled(&mut self, recorder: &mut Recorder) {
        for tid in recorder.doubled.drain(..) {
            self.sampler.remove_thread(tid);
        }
    }

    /// Text for the profile: how the samples were taken.
    pub fn backend(&self) -> String {
        let source = match self.sampler.source() {
            ClockSource::Cycles => "cycles",
            ClockSource::CpuClock => "cpu-clock",
            ClockSource::Switches => "context-switches",
        };
        let scope = match self.sampler.scope() {
            Scope::Threads => "per thread",
            Scope::Cpus => "whole cpus, filtered",
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
