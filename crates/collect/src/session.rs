//! One recording: attach, listen, detach.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use target::Process;

use crate::attach::{self, AttachError, AttachOptions, Attached};
use crate::clock::{monotonic_now, unix_now};
use crate::recorder::Recorder;
use crate::times;

/// What to record, and how.
#[derive(Debug, Clone)]
pub struct RecordOptions {
    /// How long.
    pub duration: Duration,
    /// Samples a second for each thread on a CPU.
    pub frequency: u32,
    /// Kernel frames: yes (an error where not permitted), no, or `None` for where permitted.
    pub kernel: Option<bool>,
    /// Follow forked children.
    pub children: bool,
    /// How the recording was asked for, for the profile's comments.
    pub command_line: String,
}

impl RecordOptions {
    /// The length of a sampling period in nanoseconds.
    pub(crate) fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.frequency.max(1))
    }
}

/// Where a recording stands.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Since its begin.
    pub elapsed: Duration,
    /// Samples so far.
    pub samples: u64,
    /// Records lost so far, as far as is known before the end.
    pub lost: u64,
}

/// Who waits for a recording.
pub trait Watcher {
    /// All threads are attached; the recording begins.
    fn attached(&mut self) {}
    /// Called several times a second.
    fn progress(&mut self, progress: Progress);
    /// Becomes readable when the recording shall end early.
    fn stop(&self) -> Option<BorrowedFd<'_>>;
}

/// Why a recording ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Its time was over.
    Duration,
    /// The watcher asked for it.
    Stopped,
    /// No target is left.
    TargetsExited,
}

/// A finished recording, before symbolization.
pub(crate) struct Recording {
    pub recorder: Recorder,
    pub attached: Attached,
    pub ended: Ended,
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
/// How often the rings are read: several times within what a ring holds.
const READ_INTERVAL: Duration = Duration::from_millis(20);
/// With more threads than this, the processes' clocks are not looked at each time.
const CLOCKS_WATCHED: usize = 256;
/// How often the size of the stack window is thought over.
const REVIEW_INTERVAL: Duration = Duration::from_millis(200);

/// Records the processes.
pub(crate) fn record(
    roots: &[Arc<Process>],
    options: &RecordOptions,
    watcher: &mut dyn Watcher,
) -> Result<Recording, AttachError> {
    let mut recorder = Recorder::new(options.children, options.period());
    for root in roots {
        recorder.processes.add_root(root.clone());
    }
    let attach_options = AttachOptions {
        frequency: options.frequency,
        kernel: options.kernel,
        children: options.children,
    };
    let attached = attach::attach(roots, &attach_options, &mut recorder)?;
    let mut session = Session { roots, recorder, attached, reattach_failed: None, lost_before: 0 };
    // Only now: whatever is mapped from here on is reported by an event.
    for process in session.recorder.processes.living() {
        session.recorder.processes.refresh_maps(&process, monotonic_now());
    }
    let modes = session.attached.user_only;
    times::begin(&mut session.recorder.processes, modes);
    // Reading the times of thousands of threads takes a while; what is lost in it is not missed.
    session.read(u64::MAX);
    session.lost_before = session.lost();
    let begin = monotonic_now();
    session.recorder.start = begin;
    let time = unix_now();
    watcher.attached();
    let ended = session.listen(begin, options.duration, watcher);
    let _ = session.attached.sampler.disable();
    let elapsed = Duration::from_nanos(monotonic_now() - begin);
    times::end(&mut session.recorder.processes, modes);
    Ok(session.finish(ended, time, elapsed))
}

struct Session<'a> {
    roots: &'a [Arc<Process>],
    recorder: Recorder,
    attached: Attached,
    reattach_failed: Option<String>,
    /// Records that were lost before the recording began.
    lost_before: u64,
}

impl Session<'_> {
    fn listen(&mut self, begin: u64, duration: Duration, watcher: &mut dyn Watcher) -> Ended {
        let mut reviewed = begin;
        loop {
            let elapsed = Duration::from_nanos(monotonic_now() - begin);
            if elapsed >= duration {
                return Ended::Duration;
            }
            match self.wait(READ_INTERVAL.min(duration - elapsed), watcher.stop()) {
                Some(Ended::TargetsExited) if self.someone_lives() => {}
                Some(ended) => return ended,
                None => {}
            }
            self.read(monotonic_now().saturating_sub(SETTLE_NS));
            // The kernel adds up all threads for it.
            if self.recorder.processes.thread_count() <= CLOCKS_WATCHED {
                times::look_at_clocks(&mut self.recorder.processes);
            }
            self.attached.drop_doubled(&mut self.recorder);
            watcher.progress(Progress {
                elapsed: Duration::from_nanos(monotonic_now() - begin),
                samples: self.recorder.stats.kept,
                lost: self.attached.rings.losses().lost.saturating_sub(self.lost_before),
            });
            if monotonic_now() - reviewed >= REVIEW_INTERVAL.as_nanos() as u64 {
                reviewed = monotonic_now();
                self.review_window();
            }
        }
    }

    /// Waits for the next time to read, unless something ends the recording before.
    fn wait(&self, timeout: Duration, stop: Option<BorrowedFd<'_>>) -> Option<Ended> {
        let alive: Vec<_> = self.roots.iter().filter(|p| p.is_alive()).collect();
        let mut fds: Vec<PollFd<'_>> =
            stop.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
        let watched = fds.len();
        fds.extend(alive.iter().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)));
        let timeout = PollTimeout::try_from(timeout.max(Duration::from_millis(1)))
            .unwrap_or(PollTimeout::ZERO);
        // An interrupted wait is only a shorter one.
        let _ = poll(&mut fds, timeout);
        let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
        if fds[..watched].iter().any(ready) {
            return Some(Ended::Stopped);
        }
        let exited = fds[watched..].iter().filter(|fd| ready(fd)).count();
        (exited == alive.len()).then_some(Ended::TargetsExited)
    }

    /// Whether a followed process other than the roots still runs.
    fn someone_lives(&mut self) -> bool {
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

    fn finish(mut self, ended: Ended, time: i64, elapsed: Duration) -> Recording {
        self.read(u64::MAX);
        let losses = self.attached.rings.losses();
        let lost = self.lost().saturating_sub(self.lost_before);
        Recording {
            recorder: self.recorder,
            attached: self.attached,
            ended,
            time,
            elapsed,
            lost,
            throttled: losses.throttled,
            malformed: losses.malformed,
            reattach_failed: self.reattach_failed,
        }
    }
}
