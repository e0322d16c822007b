//! Samples CPU time with perf events: attaches, reads the ring buffers, detaches.

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
    /// The start time, in nanoseconds since the Unix epoch.
    pub time: i64,
    /// Facts that all kinds of recordings report.
    pub facts: RecordingFacts,
    /// Why the events could not be replaced after a change of the stack window or of BPF programs.
    pub reattach_failed: Option<String>,
}

/// With more threads than this, the processes' CPU clocks are not read at each poll.
const CLOCKS_WATCHED: usize = 256;
/// How often the size of the stack window is reviewed.
const REVIEW_INTERVAL: Duration = Duration::from_millis(200);

/// Perf events on all threads of the targets, and the samples read from them.
pub(crate) struct Sampling {
    reader: RingReader,
    attached: Attached,
    reattach_failed: Option<String>,
    /// When the size of the stack window was last reviewed, in nanoseconds of the monotonic clock.
    reviewed: u64,
}

impl Sampling {
    /// Attaches to every thread. Samples count only from [`Sampling::begin`] on.
    pub fn attach(family: &Family, options: &RecordOptions) -> Result<Self, AttachError> {
        match Self::attach_to(family, options) {
            // The descendants may need too many descriptors or belong to another user. A profile of
            // the targets alone is better than none.
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

    /// Searches new mappings for language runtimes, and attaches the BPF programs that they need to
    /// run with each sample.
    fn look_for_runtimes(&mut self) {
        let Recorder { runtimes, processes, .. } = &mut self.reader.recorder;
        runtimes.search_and_load_programs(processes);
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

    /// Starts the recording.
    pub fn begin(&mut self) {
        times::begin(&mut self.reader.recorder.processes, self.attached.user_only);
        // Reading the CPU times of thousands of threads takes a while. Records that are lost
        // meanwhile belong to the time before the recording.
        self.read_all();
        let lost = self.lost();
        self.reviewed = self.reader.begin(&self.attached.rings, Some(lost));
    }

    /// Reads new records. Call it several times in the time that fills a ring buffer.
    pub fn poll(&mut self) -> Progress {
        self.reader.read_settled(&mut self.attached.rings, &mut |recorder, e| recorder.event(e));
        // To read a process' clock, the kernel sums the times of all its threads.
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

    /// Ends the recording: nothing is sampled from here on.
    pub fn end(&mut self) {
        let _ = self.attached.sampler.disable();
        self.reader.end();
        times::end(&mut self.reader.recorder.processes, self.attached.user_only);
    }

    /// Whether a followed process is still alive.
    pub fn any_alive(&mut self) -> bool {
        let handle = &mut |recorder: &mut Recorder, e: &Event<'_>| recorder.event(e);
        self.reader.any_alive(&mut self.attached.rings, handle)
    }

    fn read_all(&mut self) {
        self.reader.read_all(&mut self.attached.rings, &mut |recorder, e| recorder.event(e));
    }

    /// Enlarges the window of copied stack if too many stacks do not fit.
    fn review_window(&mut self) {
        if !self.reader.recorder.window_is_too_small() {
            return;
        }
        let now = self.attached.sampler.stack_bytes();
        let wanted = now.saturating_mul(4).min(u32::from(u16::MAX) & !7);
        if wanted <= now || self.reattach_failed.is_some() {
            return;
        }
        tracing::info!(from = now, to = wanted, "enlarging the stack window");
        if let Err(e) = self.attached.regrow(wanted, &mut self.reader.recorder) {
            self.reattach_failed = Some(e.to_string());
        }
    }

    /// Records lost since the events were opened. The kernel's own count is complete, the lost
    /// records reported in the rings are not. Kernels without a count of their own leave only the
    /// latter.
    fn lost(&self) -> u64 {
        self.attached.sampler.lost().unwrap_or(0).max(self.attached.rings.losses().lost)
    }

    /// Takes the counts since the last call, for a recording that continues.
    pub fn take(&mut self) -> (&mut Recorder, Counts) {
        let counts = std::mem::take(&mut self.reader.recorder.counts);
        (&mut self.reader.recorder, counts)
    }

    /// Returns all that was recorded.
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
