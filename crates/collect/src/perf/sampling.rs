//! Sampling by perf events: attach, read, detach.

use std::os::fd::OwnedFd;
use std::time::Duration;

use aggregate::clock::monotonic_now;
use aggregate::contexts::Counts;
use aggregate::family::Family;
use aggregate::recorder::Recorder;
use aggregate::rings::{KnownThreads, RecordingFacts, RingReader};
use aggregate::times;
use events::{BpfError, Event};

use super::attach::{self, AttachError, Attached};
use crate::collector::Progress;
use crate::options::RecordOptions;

/// A finished recording, before symbolization.
pub(crate) struct Recording {
    pub recorder: Recorder,
    pub attached: Attached,
    /// Begin, nanoseconds since the Unix epoch.
    pub time: i64,
    /// What it has in common with all recordings.
    pub facts: RecordingFacts,
    /// Threads that could not be attached after a change of the stack window.
    pub reattach_failed: Option<String>,
}

/// With more threads than this, the processes' clocks are not looked at each time.
const CLOCKS_WATCHED: usize = 256;
/// How often the size of the stack window is thought over.
const REVIEW_INTERVAL: Duration = Duration::from_millis(200);

/// Events on all threads of the targets, and what came of them.
pub(crate) struct Sampling {
    reader: RingReader,
    attached: Attached,
    reattach_failed: Option<String>,
    /// When the size of the stack window was reviewed last.
    reviewed: u64,
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
        let (children, period) = (options.children, options.period());
        let (reader, attached) =
            RingReader::attach(family, children, period, KnownThreads::Attached, |recorder| {
                attach::attach(&family.processes, options, recorder)
            })?;
        let mut sampling = Self { reader, attached, reattach_failed: None, reviewed: 0 };
        sampling.look_for_runtimes();
        Ok(sampling)
    }

    /// Searches what was mapped for runtimes, and runs the BPF programs that they need with each
    /// sample.
    fn look_for_runtimes(&mut self) {
        let Recorder { runtimes, processes, .. } = &mut self.reader.recorder;
        runtimes.look_to_sample(processes);
        while let Some((owner, program)) = self.reader.recorder.runtimes.program_for_events() {
            if let Err(e) = self.run_with_each_sample(program) {
                self.reader.recorder.runtimes.refused(owner, &e);
            }
        }
    }

    fn run_with_each_sample(&mut self, program: OwnedFd) -> Result<(), BpfError> {
        if self.attached.sampler.run_with_each_sample(program)? {
            let same = self.attached.sampler.stack_bytes();
            if let Err(e) = self.attached.regrow(same, &mut self.reader.recorder) {
                self.reattach_failed = Some(e.to_string());
            }
        }
        Ok(())
    }

    /// The recording begins.
    pub fn begin(&mut self) {
        times::begin(&mut self.reader.recorder.processes, self.attached.user_only);
        // Reading the times of thousands of threads takes a while; what is lost in it is not missed.
        self.read_all();
        let lost = self.lost();
        self.reviewed = self.reader.begin(&self.attached.rings, Some(lost));
    }

    /// Reads what has come; to be called several times within what a ring holds.
    pub fn poll(&mut self) -> Progress {
        self.reader.read_settled(&mut self.attached.rings, &mut |recorder, e| recorder.event(e));
        // The kernel adds up all threads for it.
        if self.reader.recorder.processes.thread_count() <= CLOCKS_WATCHED {
            times::look_at_clocks(&mut self.reader.recorder.processes);
        }
        self.attached.drop_doubled(&mut self.reader.recorder);
        self.look_for_runtimes();
        if monotonic_now() - self.reviewed >= REVIEW_INTERVAL.as_nanos() as u64 {
            self.reviewed = monotonic_now();
            self.review_window();
        }
        Progress {
            elapsed: Duration::ZERO,
            samples: self.reader.recorder.stats.kept,
            lost: self.reader.lost_as_reported(&self.attached.rings),
        }
    }

    /// The recording ends: nothing is sampled from here on.
    pub fn end(&mut self) {
        let _ = self.attached.sampler.disable();
        self.reader.end();
        times::end(&mut self.reader.recorder.processes, self.attached.user_only);
    }

    /// Whether a followed process still runs.
    pub fn someone_lives(&mut self) -> bool {
        let handle = &mut |recorder: &mut Recorder, e: &Event<'_>| recorder.event(e);
        self.reader.someone_lives(&mut self.attached.rings, handle)
    }

    fn read_all(&mut self) {
        self.reader.read_all(&mut self.attached.rings, &mut |recorder, e| recorder.event(e));
    }

    /// Makes the window of copied stack larger where too many stacks do not fit.
    fn review_window(&mut self) {
        if !self.reader.recorder.window_is_too_small() {
            return;
        }
        let now = self.attached.sampler.stack_bytes();
        let wanted = now.saturating_mul(4).min(u32::from(u16::MAX) & !7);
        if wanted <= now || self.reattach_failed.is_some() {
            return;
        }
        tracing::info!(from = now, to = wanted, "stack window grows");
        if let Err(e) = self.attached.regrow(wanted, &mut self.reader.recorder) {
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
        let counts = std::mem::take(&mut self.reader.recorder.counts);
        (&mut self.reader.recorder, counts)
    }

    /// What was recorded.
    pub fn finish(mut self) -> Recording {
        self.read_all();
        let facts = self.reader.facts(self.attached.rings.losses(), self.reader.lost(self.lost()));
        Recording {
            recorder: self.reader.recorder,
            attached: self.attached,
            time: self.reader.time,
            facts,
            reattach_failed: self.reattach_failed,
        }
    }
}
