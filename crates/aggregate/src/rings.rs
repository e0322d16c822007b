//! Reads the ring buffers of a recording in rounds, each event once and ordered by time.
//!
//! Each way of sampling opens its own events and BPF programs. A [`RingReader`] is the part that
//! they share: the recorder that receives the events, when the records of all CPUs are complete,
//! which losses belong to the recording, and the facts reported at its end.

use std::time::Duration;

use events::{Event, Losses, RingSet};

use crate::clock::{monotonic_now, unix_now};
use crate::family::Family;
use crate::recorder::{Recorder, SampleStats};

/// A record becomes visible to us at most this long after its own time stamp, in nanoseconds, on
/// whichever CPU it was written.
const SETTLE_NS: u64 = 3_000_000;

/// A source of events: the ring buffers of all CPUs, or a recorded list in tests.
pub trait EventSource {
    /// Passes each event from before `until` (CLOCK_MONOTONIC, nanoseconds) to `sink`, ordered by
    /// time.
    fn drain(&mut self, until: u64, sink: &mut dyn FnMut(&Event<'_>));

    /// What has been lost so far.
    fn losses(&self) -> Losses;
}

impl EventSource for RingSet {
    fn drain(&mut self, until: u64, sink: &mut dyn FnMut(&Event<'_>)) {
        Self::drain(self, until, sink);
    }

    fn losses(&self) -> Losses {
        Self::losses(self)
    }
}

/// Which threads are added to the recorder before the recording starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KnownThreads {
    /// Only those that the caller attaches, one by one.
    Attached,
    /// All threads of the targets.
    All,
}

/// The facts about a recording that every kind of recording reports.
#[derive(Debug, Clone, Default)]
pub struct RecordingFacts {
    /// Statistics of the samples.
    pub samples: SampleStats,
    /// Records lost because a buffer was full.
    pub lost: u64,
    /// How often the kernel throttled sampling on a CPU.
    pub throttled: u64,
    /// Records that could not be parsed.
    pub malformed: u64,
    /// Mappings that could not be read or parsed, from `/proc/PID/maps` or events.
    pub unreadable_maps: u64,
    /// Reads of the targets' files that returned zeros because the file was truncated meanwhile.
    pub file_faults: u64,
    /// How long the recording took.
    pub elapsed: Duration,
}

impl RecordingFacts {
    /// The facts of a recording that reads no rings.
    #[must_use]
    pub fn of(recorder: &Recorder, elapsed: Duration) -> Self {
        Self {
            samples: recorder.stats.clone(),
            unreadable_maps: recorder.processes.unreadable_maps as u64,
            file_faults: host::sigbus::faults(),
            elapsed,
            ..Self::default()
        }
    }
}

/// Reads events into a recorder and keeps the start and end of the recording.
pub struct RingReader {
    /// The recorder that receives the events.
    pub recorder: Recorder,
    /// When the recording began, in nanoseconds since the Unix epoch.
    pub time: i64,
    begin: u64,
    end: u64,
    lost_before: u64,
    /// The part of `lost_before` that the rings reported.
    reported_before: u64,
}

impl RingReader {
    /// Opens the events with `attach`, then reads the targets' mappings. In this order no mapping
    /// is missed, as the open events report each new one.
    ///
    /// # Errors
    /// The error of `attach`.
    pub fn attach<T, E>(
        family: &Family,
        follow_children: bool,
        period: u64,
        threads: KnownThreads,
        attach: impl FnOnce(&mut Recorder) -> Result<T, E>,
    ) -> Result<(Self, T), E> {
        let mut recorder = Recorder::new(follow_children, period);
        recorder.processes.add_family(family);
        let attached = attach(&mut recorder)?;
        for process in recorder.processes.alive() {
            recorder.processes.refresh_maps(&process, monotonic_now());
            if threads == KnownThreads::All {
                for tid in process.threads().unwrap_or_default() {
                    recorder.processes.add_thread(process.pid(), tid, 0);
                }
            }
        }
        Ok((Self::new(recorder), attached))
    }

    fn new(recorder: Recorder) -> Self {
        Self { recorder, time: 0, begin: 0, end: 0, lost_before: 0, reported_before: 0 }
    }

    /// Starts the recording: earlier losses do not count. `lost` is the kernel's count of lost
    /// records so far; `None` if only the rings report them. Returns the time (CLOCK_MONOTONIC,
    /// nanoseconds).
    pub fn begin(&mut self, source: &dyn EventSource, lost: Option<u64>) -> u64 {
        self.reported_before = source.losses().lost;
        self.lost_before = lost.unwrap_or(self.reported_before);
        self.begin = monotonic_now();
        self.end = self.begin;
        self.time = unix_now();
        self.recorder.start = self.begin;
        self.begin
    }

    /// Ends the recording now.
    pub fn end(&mut self) {
        self.end_at(monotonic_now());
    }

    /// Ends the recording as of `end` (CLOCK_MONOTONIC, nanoseconds).
    pub fn end_at(&mut self, end: u64) {
        self.end = end;
    }

    /// When the recording ended (CLOCK_MONOTONIC, nanoseconds).
    #[must_use]
    pub fn ended_at(&self) -> u64 {
        self.end
    }

    /// How long the recording took.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.end.saturating_sub(self.begin))
    }

    /// Reads the events that are old enough for the records of all CPUs to be visible. Later events
    /// stay in the buffers for the next call.
    pub fn read_settled(
        &mut self,
        source: &mut dyn EventSource,
        handle: &mut dyn FnMut(&mut Recorder, &Event<'_>),
    ) {
        self.read(source, monotonic_now().saturating_sub(SETTLE_NS), handle);
    }

    /// Reads all available events. Use it once the events are disabled, or when seeing the newest
    /// events matters more than their order.
    pub fn read_all(
        &mut self,
        source: &mut dyn EventSource,
        handle: &mut dyn FnMut(&mut Recorder, &Event<'_>),
    ) {
        self.read(source, u64::MAX, handle);
    }

    fn read(
        &mut self,
        source: &mut dyn EventSource,
        until: u64,
        handle: &mut dyn FnMut(&mut Recorder, &Event<'_>),
    ) {
        let recorder = &mut self.recorder;
        recorder.next_round(monotonic_now());
        source.drain(until, &mut |e| handle(recorder, e));
    }

    /// Whether a followed process is still alive. Reads all events first: a fork that has not been
    /// read yet may be the only living process.
    pub fn any_alive(
        &mut self,
        source: &mut dyn EventSource,
        handle: &mut dyn FnMut(&mut Recorder, &Event<'_>),
    ) -> bool {
        self.read_all(source, handle);
        let mut all = self.recorder.processes.iter();
        all.any(|(_, t)| t.process.as_ref().is_some_and(|p| p.is_alive()))
    }

    /// The number of records lost during the recording itself, given the number lost since the
    /// events were opened.
    #[must_use]
    pub fn lost(&self, since_opened: u64) -> u64 {
        since_opened.saturating_sub(self.lost_before)
    }

    /// The losses during the recording that its rings have reported so far. Cheaper than the
    /// kernel's count, which may be larger.
    #[must_use]
    pub fn lost_as_reported(&self, source: &dyn EventSource) -> u64 {
        source.losses().lost.saturating_sub(self.reported_before)
    }

    /// The facts to report about the recording. `lost` counts the losses during the recording
    /// itself: see [`RingReader::lost`].
    #[must_use]
    pub fn facts(&self, losses: Losses, lost: u64) -> RecordingFacts {
        RecordingFacts {
            lost,
            throttled: losses.throttled,
            malformed: losses.malformed,
            ..RecordingFacts::of(&self.recorder, self.elapsed())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use events::EventKind;

    use super::*;
    use crate::ids::Function;
    use crate::processes::Tracked;
    use crate::runtimes::{Presence, Row, Runtime};

    static ROUNDS: AtomicU32 = AtomicU32::new(0);

    /// Counts the rounds of reading.
    struct Counter;

    impl Runtime for Counter {
        fn attach(&mut self, _: i32, _: &Tracked) -> Presence {
            Presence::Absent
        }

        fn detach(&mut self, _: i32) {}

        fn functions(&self, _: u32) -> Vec<Function> {
            Vec::new()
        }

        fn next_round(&mut self) {
            ROUNDS.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Events at these times, each of which reports one lost record.
    struct RecordedEvents(Vec<u64>, u64);

    impl EventSource for RecordedEvents {
        fn drain(&mut self, until: u64, sink: &mut dyn FnMut(&Event<'_>)) {
            let due = self.0.partition_point(|time| *time < until);
            for time in self.0.drain(..due) {
                self.1 += 1;
                sink(&Event { time, pid: 1, tid: 1, kind: EventKind::Lost { count: 1 } });
            }
        }

        fn losses(&self) -> Losses {
            Losses { lost: self.1, throttled: 2, malformed: 3 }
        }
    }

    fn reader() -> RingReader {
        let row = Row {
            name: "counter",
            mapping: "[counter]",
            new: || Box::new(Counter),
            keeps_file: None,
        };
        RingReader::new(Recorder::with_runtimes(false, 1, &[row]))
    }

    #[test]
    fn each_read_is_one_round_and_recent_records_wait() {
        let mut reader = reader();
        let now = monotonic_now();
        let mut source =
            RecordedEvents(vec![now - 10 * SETTLE_NS, now - 5 * SETTLE_NS, now + (1 << 40)], 0);
        let mut seen = Vec::new();
        let before = ROUNDS.load(Ordering::Relaxed);
        reader.read_settled(&mut source, &mut |_, e| seen.push(e.time));
        assert_eq!(seen, [now - 10 * SETTLE_NS, now - 5 * SETTLE_NS]);
        assert_eq!(ROUNDS.load(Ordering::Relaxed), before + 1);
        reader.read_all(&mut source, &mut |_, e| seen.push(e.time));
        assert_eq!(seen.last(), Some(&(now + (1 << 40))));
        assert_eq!(ROUNDS.load(Ordering::Relaxed), before + 2);
    }

    #[test]
    fn losses_shown_meanwhile_are_measured_against_the_rings_own_start_value() {
        let mut reader = reader();
        let mut source = RecordedEvents(vec![1, 2, 3], 0);
        source.drain(2, &mut |_| {});
        // The kernel had counted 5 losses; the rings had reported one of them.
        reader.begin(&source, Some(5));
        assert_eq!(reader.lost_as_reported(&source), 0);
        source.drain(u64::MAX, &mut |_| {});
        assert_eq!(reader.lost_as_reported(&source), 2);
        assert_eq!(reader.lost(7), 2);
    }

    #[test]
    fn losses_before_the_recording_do_not_count() {
        let mut reader = reader();
        let mut source = RecordedEvents(vec![1, 2, 3], 0);
        source.drain(3, &mut |_| {});
        let began = reader.begin(&source, None);
        assert_eq!(reader.recorder.start, began);
        source.drain(u64::MAX, &mut |_| {});
        reader.end_at(began + 5_000);
        let facts = reader.facts(source.losses(), reader.lost(source.losses().lost));
        assert_eq!((facts.lost, facts.throttled, facts.malformed), (1, 2, 3));
        assert_eq!(facts.elapsed, Duration::from_micros(5));
    }
}
