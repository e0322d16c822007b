//! Sampling by perf events: attach, read, detach.

use std::os::fd::OwnedFd;
use std::time::Duration;

use aggregate::clock::{monotonic_now, unix_now};
use aggregate::contexts::Counts;
use aggregate::family::Family;
use aggregate::recorder::Recorder;
use aggregate::times;
use events::BpfError;

use super::attach::{self, AttachError, Attached};
use crate::collector::Progress;
use crate::options::RecordOptions;

/// A finished recording, before symbolization.
pub(crate) struct Recording {
    pub recorder: Recorder,
    pub attached: Attached,
    /// Begin, nanoseconds since the Unix epoch.
    pub time: i64,
    pub elapsed: Duration,
    pub lost: u64,
    pub throttled: u64,
    pub malformed: u64,
    /// Threads that could not be attached after a change of the stack window.
    pub reattach_failed: Option<String>,
}

/// Records of different CPUs become visible within this time of their own time stamps.
const SETTLE_NS: u64 = 3_000_000;
/// With more threads than this, the processes' clocks are not looked at each time.
const CLOCKS_WATCHED: usize = 256;
/// How often the size of the stack window is thought over.
const REVIEW_INTERVAL: Duration = Duration::from_millis(200);

/// Events on all threads of the targets, and what came of them.
pub(crate) struct Sampling {
    recorder: Recorder,
    attached: Attached,
    reattach_failed: Option<String>,
    /// Records that were lost before the recording began.
    lost_before: u64,
    /// When it began: CLOCK_MONOTONIC, and since the Unix epoch.
    begin: u64,
    time: i64,
    /// When the size of the stack window was thought over last.
    reviewed: u64,
    elapsed: Duration,
}

impl Sampling {
    /// Attaches to every thread. Samples count from [`Sampling::begin`] on.
    pub fn attach(family: &Family, options: &RecordOptions) -> Result<Self, AttachError> {
        match Self::attach_to(family, options) {
            // Too many descriptors, or one of another user: the targets' own profile is worth more.
            Err(e) if family.has_descendants() => {
                Self::attach_to(&family.targets_only(&e.to_string()), options)
            }
            other => other,
        }
    }

    fn attach_to(family: &Family, options: &RecordOptions) -> Result<Self, AttachError> {
        let roots = &family.processes;
        let mut recorder = Recorder::new(options.children, options.period());
        recorder.processes.add_family(family);
        let attached = attach::attach(roots, options, &mut recorder)?;
        // Only now: whatever is mapped from here on is reported by an event.
        for process in recorder.processes.living() {
            recorder.processes.refresh_maps(&process, monotonic_now());
        }
        let mut sampling = Self {
            recorder,
            attached,
            reattach_failed: None,
            lost_before: 0,
            begin: 0,
            time: 0,
            reviewed: 0,
            elapsed: Duration::ZERO,
        };
        sampling.look_for_runtimes();
        Ok(sampling)
    }

    /// Searches what was mapped for runtimes, and runs the BPF programs that they need with each
    /// sample.
    fn look_for_runtimes(&mut self) {
        let Recorder { runtimes, processes, .. } = &mut self.recorder;
        runtimes.look_to_sample(processes);
        while let Some((owner, program)) = self.recorder.runtimes.program_for_events() {
            if let Err(e) = self.run_with_each_sample(program) {
                self.recorder.runtimes.refused(owner, &e);
            }
        }
    }

    fn run_with_each_sample(&mut self, program: OwnedFd) -> Result<(), BpfError> {
        if self.attached.sampler.run_with_each_sample(program)? {
            let same = self.attached.sampler.stack_bytes();
            if let Err(e) = self.attached.regrow(same, &mut self.recorder) {
                self.reattach_failed = Some(e.to_string());
            }
        }
        Ok(())
    }

    /// The recording begins.
    pub fn begin(&mut self) {
        times::begin(&mut self.recorder.processes, self.attached.user_only);
        // Reading the times of thousands of threads takes a while; what is lost in it is not missed.
        self.read(u64::MAX);
        self.lost_before = self.lost();
        self.begin = monotonic_now();
        self.reviewed = self.begin;
        self.recorder.start = self.begin;
        self.time = unix_now();
    }

    /// Reads what has come; to be called several times within what a ring holds.
    pub fn poll(&mut self) -> Progress {
        self.read(monotonic_now().saturating_sub(SETTLE_NS));
        // The kernel adds up all threads for it.
        if self.recorder.processes.thread_count() <= CLOCKS_WATCHED {
            times::look_at_clocks(&mut self.recorder.processes);
        }
        self.attached.drop_doubled(&mut self.recorder);
        self.look_for_runtimes();
        if monotonic_now() - self.reviewed >= REVIEW_INTERVAL.as_nanos() as u64 {
            self.reviewed = monotonic_now();
            self.review_window();
        }
        Progress {
            elapsed: Duration::ZERO,
            samples: self.recorder.stats.kept,
            lost: self.attached.rings.losses().lost.saturating_sub(self.lost_before),
        }
    }

    /// The recording ends: nothing is sampled from here on.
    pub fn end(&mut self) {
        let _ = self.attached.sampler.disable();
        self.elapsed = Duration::from_nanos(monotonic_now() - self.begin);
        times::end(&mut self.recorder.processes, self.attached.user_only);
    }

    /// Whether a followed process still runs.
    pub fn someone_lives(&mut self) -> bool {
        self.read(u64::MAX);
        self.recorder
            .processes
            .iter()
            .any(|(_, t)| t.process.as_ref().is_some_and(|p| p.is_alive()))
    }

    fn read(&mut self, until: u64) {
        let recorder = &mut self.recorder;
        recorder.next_round(monotonic_now());
        self.attached.rings.drain(until, |e| recorder.event(e));
    }

    /// Makes the window of copied stack larger where too many stacks do not fit.
    fn review_window(&mut self) {
        if !self.recorder.window_is_too_small() {
            return;
        }
        let now = self.attached.sampler.stack_bytes();
        let wanted = now.saturating_mul(4).min(u32::from(u16::MAX) & !7);
        if wanted <= now || self.reattach_failed.is_some() {
            return;
        }
        if let Err(e) = self.attached.regrow(wanted, &mut self.recorder) {
            self.reattach_failed = Some(e.to_string());
        }
    }

    /// Records lost since everything was opened. The kernel's own count is complete, the rings'
    /// reports are not; where it keeps none, they are what there is.
    fn lost(&self) -> u64 {
        self.attached.sampler.lost().unwrap_or(0).max(self.attached.rings.losses().lost)
    }

    /// What was counted since the last time, for who looks at a recording that goes on.
    pub fn take(&mut self) -> (&mut Recorder, Counts) {
        let counts = std::mem::take(&mut self.recorder.counts);
        (&mut self.recorder, counts)
    }

    /// What was recorded.
    pub fn finish(mut self) -> Recording {
        self.read(u64::MAX);
        let losses = self.attached.rings.losses();
        let lost = self.lost().saturating_sub(self.lost_before);
        Recording {
            recorder: self.recorder,
            attached: self.attached,
            time: self.time,
            elapsed: self.elapsed,
            lost,
            throttled: losses.throttled,
            malformed: losses.malformed,
            reattach_failed: self.reattach_failed,
        }
    }
}
