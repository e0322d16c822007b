//! A session: several kinds of profiles of the same processes, recorded at the same time.

use std::cell::OnceCell;
use std::ffi::OsString;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use process::Process;

use crate::clock::monotonic_now;
use crate::family::Family;
use crate::kinds::Kind;
use crate::{Outcome, RecordError, native};

/// By what means samples are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Whatever suits.
    #[default]
    Auto,
    /// Perf events only.
    Perf,
    /// Threads are stopped for a moment each time.
    Ptrace,
}

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
    /// With `children`: record those, too, that were forked before.
    pub descendants: bool,
    /// Mean bytes between two heap samples, where sampling is turned on for the recording.
    pub heap_rate: u64,
    /// Go: read what the program has sampled of its heap itself, change nothing.
    pub heap_history: bool,
    /// Mean time between two samples of waiting, as Go's `SetBlockProfileRate`.
    pub block_rate: Duration,
    /// One in this many lock contentions is sampled, as Go's `SetMutexProfileFraction`.
    pub mutex_fraction: u32,
    /// Mutex: the waiting side instead of the unlocker.
    pub waiters: bool,
    /// By what means.
    pub backend: Backend,
    /// No thread is stopped, not for a moment: what cannot be had otherwise is refused.
    pub no_stop: bool,
    /// The command that a recording starts, where there is one: its program is told by it before
    /// it runs.
    pub command: Vec<OsString>,
    /// How the recording was asked for, for the profile's comments.
    pub command_line: String,
}

impl Default for RecordOptions {
    fn default() -> Self {
        Self {
            duration: Duration::from_secs(30),
            frequency: 99,
            kernel: None,
            children: true,
            descendants: false,
            heap_rate: 512 << 10,
            heap_history: false,
            block_rate: Duration::from_micros(10),
            mutex_fraction: 10,
            waiters: false,
            backend: Backend::Auto,
            no_stop: false,
            command: Vec::new(),
            command_line: String::new(),
        }
    }
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
    /// Its time was over, or nothing was left to wait for.
    Duration,
    /// The watcher asked for it.
    Stopped,
    /// No target is left.
    TargetsExited,
}

/// The recording of one kind. It is attached when it is made, and detaches when it is dropped:
/// whatever it changed in a target is undone then, at the latest.
///
/// The order of calls: `begin`, `poll` again and again, `end`, `finish`. With several kinds in a
/// session, all are attached before the first begins.
pub trait Collector {
    /// The recording begins.
    ///
    /// # Errors
    /// The kind cannot be recorded after all.
    fn begin(&mut self) -> Result<(), RecordError>;

    /// Reads what has come since. Called every 20 ms, and must not take much longer itself.
    fn poll(&mut self) -> Progress {
        Progress::default()
    }

    /// Whether waiting longer would add nothing: a snapshot is complete at once.
    fn is_complete(&self) -> bool {
        false
    }

    /// Whether it follows a living process other than the session's targets, which have all ended.
    fn someone_lives(&mut self) -> bool {
        false
    }

    /// The recording ends: nothing that happens from here on belongs to it.
    fn end(&mut self) {}

    /// Makes the profile.
    ///
    /// # Errors
    /// There is no profile.
    fn finish(self: Box<Self>, ended: Ended) -> Result<Outcome, RecordError>;
}

/// How often collectors read.
const READ_INTERVAL: Duration = Duration::from_millis(20);

/// What is recorded of whom.
pub struct Request<'a> {
    /// The processes.
    pub roots: &'a [Arc<Process>],
    /// How.
    pub options: &'a RecordOptions,
    /// The (first) target is a command that waits for its exec: it is not the program yet, and
    /// becomes it shortly after [`Watcher::attached`].
    pub before_exec: bool,
    /// What its kinds have in common.
    pub(crate) shared: Shared,
    family: OnceCell<Family>,
}

impl<'a> Request<'a> {
    /// A recording of processes that run.
    #[must_use]
    pub fn new(roots: &'a [Arc<Process>], options: &'a RecordOptions) -> Self {
        Self {
            roots,
            options,
            before_exec: false,
            shared: Shared::default(),
            family: OnceCell::new(),
        }
    }

    /// The targets, and the processes that they have forked before where those are wanted.
    pub(crate) fn family(&self) -> &Family {
        let wanted = self.options.children && self.options.descendants && !self.before_exec;
        self.family.get_or_init(|| Family::of(self.roots, wanted))
    }
}

/// What the kinds of a session share, so that it is attached once for all of them.
#[derive(Default)]
pub(crate) struct Shared {
    /// The recording of waiting.
    pub waits: native::joint::Slot,
}

/// What came of one kind.
pub type KindOutcome = Result<Outcome, RecordError>;

/// Records several kinds at the same time. The outcomes are in the order of `kinds`; one kind
/// that fails does not end the others.
pub fn record(
    kinds: &[&Kind],
    request: &Request<'_>,
    watcher: &mut dyn Watcher,
) -> Vec<KindOutcome> {
    // Where the target has every CPU we would read its counters seconds apart, and rings too late.
    // It is little work; the rest of ours, from the end on, takes its turn.
    let ahead = host::RealtimePriority::raise();
    let mut running: Vec<Result<Box<dyn Collector>, RecordError>> =
        kinds.iter().map(|k| (k.prepare)(request)).collect();
    for slot in &mut running {
        let Ok(collector) = slot else { continue };
        if let Err(e) = collector.begin() {
            *slot = Err(e);
        }
    }
    let ended = if running.iter().any(Result::is_ok) {
        watcher.attached();
        listen(&mut running, request, watcher)
    } else {
        Ended::Stopped
    };
    for collector in running.iter_mut().flatten() {
        collector.end();
    }
    drop(ahead);
    running.into_iter().map(|slot| slot.and_then(|c| c.finish(ended))).collect()
}

fn listen(
    running: &mut [Result<Box<dyn Collector>, RecordError>],
    request: &Request<'_>,
    watcher: &mut dyn Watcher,
) -> Ended {
    let begin = monotonic_now();
    let duration = request.options.duration;
    loop {
        let mut collectors = running.iter().flatten();
        let elapsed = Duration::from_nanos(monotonic_now() - begin);
        if elapsed >= duration || collectors.all(|c| c.is_complete()) {
            return Ended::Duration;
        }
        match wait(request.roots, READ_INTERVAL.min(duration - elapsed), watcher.stop()) {
            Some(Ended::TargetsExited)
                if running.iter_mut().flatten().any(|c| c.someone_lives()) => {}
            Some(ended) => return ended,
            None => {}
        }
        let mut sum = Progress::default();
        for collector in running.iter_mut().flatten() {
            let p = collector.poll();
            sum.samples += p.samples;
            sum.lost += p.lost;
        }
        sum.elapsed = Duration::from_nanos(monotonic_now() - begin);
        watcher.progress(sum);
    }
}

/// Waits for the next time to read, unless something ends the recording before.
fn wait(roots: &[Arc<Process>], timeout: Duration, stop: Option<BorrowedFd<'_>>) -> Option<Ended> {
    let alive: Vec<_> = roots.iter().filter(|p| p.is_alive()).collect();
    let mut fds: Vec<PollFd<'_>> =
        stop.into_iter().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let watched = fds.len();
    fds.extend(alive.iter().map(|p| PollFd::new(p.as_fd(), PollFlags::POLLIN)));
    let timeout =
        PollTimeout::try_from(timeout.max(Duration::from_millis(1))).unwrap_or(PollTimeout::ZERO);
    // An interrupted wait is only a shorter one.
    let _ = poll(&mut fds, timeout);
    let ready = |fd: &PollFd<'_>| fd.any().unwrap_or(false);
    if fds[..watched].iter().any(ready) {
        return Some(Ended::Stopped);
    }
    let exited = fds[watched..].iter().filter(|fd| ready(fd)).count();
    (exited == alive.len()).then_some(Ended::TargetsExited)
}
