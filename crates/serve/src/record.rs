//! Runs recordings and shares them: a request for a running recording waits for that one.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use axum::body::Bytes;
use collect::kinds;
use collect::kinds::options::{KindOptions, OptionValue};
use collect::{Ended, Progress, RecordError, RecordOptions, Request, Watcher};
use nix::sys::eventfd::{EfdFlags, EventFd};
use process::Process;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::budget::{Budget, BudgetGuard, Exceeded};

/// What to record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordingSpec {
    /// The kind's name.
    pub kind: &'static str,
    /// How long.
    pub duration: Duration,
    /// Samples a second.
    pub frequency: u32,
    /// Only what the program has sampled itself.
    pub history: bool,
    /// Without stopping threads.
    pub no_stop: bool,
    /// Also the processes that it forks. They may execute set-uid programs.
    pub children: bool,
}

/// A finished recording.
pub struct FinishedRecording {
    /// The profile.
    pub profile: pprof::Profile,
    /// Why it ended.
    pub ended: Ended,
    /// How long it took.
    pub elapsed: Duration,
    compressed: OnceLock<Bytes>,
}

impl FinishedRecording {
    /// A profile that is ready to be sent.
    pub fn new(profile: pprof::Profile, ended: Ended, elapsed: Duration) -> Self {
        Self { profile, ended, elapsed, compressed: OnceLock::new() }
    }

    /// The file; compressed once for all who wait for it. This takes CPU time.
    pub fn compressed(&self) -> Bytes {
        let encode = || {
            let mut bytes = Vec::new();
            // Writing to a `Vec` cannot fail.
            let _ = pprof::write_gz(&self.profile, &mut bytes);
            bytes.into()
        };
        self.compressed.get_or_init(encode).clone()
    }
}

/// Why there is no recording.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The collector says why.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// All slots are taken.
    #[error("too many recordings are running (the limit is {0}, --max-recordings)")]
    Full(usize),
    /// Recordings take too much memory.
    #[error(
        "recordings use {} MiB of memory, more than the limit of {} MiB (--max-memory)",
        .0.used, .0.limit
    )]
    Memory(Exceeded),
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
    /// One of our threads failed.
    #[error("the recording failed with an internal error: {0}")]
    Internal(String),
}

/// The result of a recording, for all requests that wait for it.
pub type Answer = Result<Arc<FinishedRecording>, Arc<RecordingError>>;

/// A recording of one process: pid and start time, and what is recorded.
type Key = (i32, u64, RecordingSpec);
/// What only one recording at a time may change in a process.
type Lane = (i32, u64, &'static str);

struct Running {
    /// Readable when the recording should end.
    stop: EventFd,
    answer: watch::Sender<Option<Answer>>,
}

struct SharedEntry {
    running: Arc<Running>,
    waiters: usize,
}

#[derive(Default)]
struct Inner {
    shared: HashMap<Key, SharedEntry>,
    stopping: bool,
}

/// One lock per process and lane: recordings in the same lane run one at a time.
#[derive(Default)]
pub struct Lanes(Mutex<HashMap<Lane, Weak<LaneLock>>>);

type LaneLock = tokio::sync::Mutex<()>;

impl Lanes {
    fn turn(&self, lane: Lane) -> Arc<LaneLock> {
        // Never left half changed.
        let mut lanes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|_, turn| turn.strong_count() > 0);
        let place = lanes.entry(lane).or_default();
        let turn = place.upgrade().unwrap_or_default();
        *place = Arc::downgrade(&turn);
        turn
    }
}

/// Recordings, a limited number at a time.
pub struct RecordingPool {
    lanes: Arc<Lanes>,
    inner: Mutex<Inner>,
    slots: Arc<Semaphore>,
    limit: usize,
    budget: Arc<Budget>,
}

impl RecordingPool {
    /// At most `limit` recordings at a time, within the memory that is there for all.
    pub fn new(limit: usize, lanes: Arc<Lanes>, budget: Arc<Budget>) -> Self {
        let slots = Arc::new(Semaphore::new(limit));
        Self { lanes, inner: Mutex::default(), slots, limit, budget }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Never left half changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a recording or begins it. Recordings in the same `lane` of a process run one at a
    /// time.
    pub fn join(
        self: &Arc<Self>,
        process: &Arc<Process>,
        lane: &'static str,
        wanted: &RecordingSpec,
    ) -> Result<Ticket, RecordingError> {
        let key = (process.pid(), process.start_time(), wanted.clone());
        let mut inner = self.lock();
        if inner.stopping {
            return Err(RecordingError::Stopping);
        }
        if let Some(shared) = inner.shared.get_mut(&key) {
            shared.waiters += 1;
            return Ok(self.ticket(key, &shared.running.clone()));
        }
        let slot =
            self.slots.clone().try_acquire_owned().map_err(|_| RecordingError::Full(self.limit))?;
        let counted = self.budget.begin().map_err(RecordingError::Memory)?;
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let stop = EventFd::from_value_and_flags(0, flags)
            .map_err(|e| RecordingError::Internal(format!("no eventfd: {e}")))?;
        let running = Arc::new(Running { stop, answer: watch::Sender::new(None) });
        let turn = self.lanes.turn((key.0, key.1, lane));
        inner.shared.insert(key.clone(), SharedEntry { running: running.clone(), waiters: 1 });
        drop(inner);
        let task = Task { recorder: self.clone(), key: key.clone(), running: running.clone() };
        tokio::spawn(task.run(process.clone(), turn, (slot, counted)));
        Ok(self.ticket(key, &running))
    }

    fn ticket(self: &Arc<Self>, key: Key, running: &Arc<Running>) -> Ticket {
        let answer = running.answer.subscribe();
        Ticket { recorder: self.clone(), key, running: running.clone(), answer }
    }

    /// Ends all recordings early, to be delivered, and begins no more.
    pub fn stop(&self) {
        self.lock().stopping = true;
        self.end_all();
    }

    /// Ends all recordings early, to be delivered.
    pub fn end_all(&self) {
        for shared in self.lock().shared.values() {
            shared.running.end();
        }
    }

    /// Whether any request still waits for the recording.
    fn is_wanted(&self, key: &Key, running: &Arc<Running>) -> bool {
        self.lock().shared.get(key).is_some_and(|s| Arc::ptr_eq(&s.running, running))
    }

    /// Takes a recording off the table, unless another one is there under the same key.
    fn remove(&self, key: &Key, running: &Arc<Running>) {
        let mut inner = self.lock();
        if inner.shared.get(key).is_some_and(|s| Arc::ptr_eq(&s.running, running)) {
            inner.shared.remove(key);
        }
    }
}

impl Running {
    fn end(&self) {
        // Fails only if the counter is at its limit, and then the descriptor is readable.
        let _ = self.stop.write(1);
    }
}

/// A request's share in a recording. When the last one is dropped, the recording ends.
pub struct Ticket {
    recorder: Arc<RecordingPool>,
    key: Key,
    running: Arc<Running>,
    answer: watch::Receiver<Option<Answer>>,
}

impl Ticket {
    /// Waits until the recording has ended.
    pub async fn answer(mut self) -> Answer {
        let lost = || Err(Arc::new(RecordingError::Internal("its result was lost".into())));
        match self.answer.wait_for(Option::is_some).await {
            Ok(answer) => answer.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut inner = self.recorder.lock();
        let Some(shared) = inner.shared.get_mut(&self.key) else { return };
        if !Arc::ptr_eq(&shared.running, &self.running) {
            return;
        }
        shared.waiters -= 1;
        if shared.waiters == 0 {
            // No request may join a recording that is about to end.
            inner.shared.remove(&self.key);
            self.running.end();
        }
    }
}

/// A recording's share of the limits on recordings and memory.
type Slot = (OwnedSemaphorePermit, BudgetGuard);

struct Task {
    recorder: Arc<RecordingPool>,
    key: Key,
    running: Arc<Running>,
}

impl Task {
    async fn run(self, process: Arc<Process>, turn: Arc<LaneLock>, slot: Slot) {
        let turn = turn.lock_owned().await;
        if !self.recorder.is_wanted(&self.key, &self.running) {
            return;
        }
        let (wanted, running) = (self.key.2.clone(), self.running.clone());
        let work = move || {
            // Keep the slot and the lane's lock until the recording has ended and its changes are
            // undone, even if the task is dropped.
            let _held = (slot, turn);
            record_process(&process, &wanted, &running.stop)
        };
        let answer = match tokio::task::spawn_blocking(work).await {
            Ok(Ok(recorded)) => Ok(Arc::new(recorded)),
            Ok(Err(e)) => Err(Arc::new(e.into())),
            Err(e) => Err(Arc::new(RecordingError::Internal(e.to_string()))),
        };
        self.recorder.remove(&self.key, &self.running);
        self.running.answer.send_replace(Some(answer));
    }
}

/// A watcher that shows nothing.
struct SilentWatcher<'a>(&'a EventFd);

impl Watcher for SilentWatcher<'_> {
    fn progress(&mut self, _: Progress) {}

    fn stop(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

/// Records on this thread.
pub fn record_process(
    process: &Arc<Process>,
    wanted: &RecordingSpec,
    stop: &EventFd,
) -> Result<FinishedRecording, RecordError> {
    let unknown = || RecordError::NotApplicable(format!("unknown profile type {:?}", wanted.kind));
    let kind = kinds::find(wanted.kind).ok_or_else(unknown)?;
    let mut own = KindOptions::default();
    if let Some(history) = &kind.endpoint.history {
        own.set(history, OptionValue::Flag(wanted.history));
    }
    let options = RecordOptions {
        duration: wanted.duration,
        frequency: wanted.frequency,
        own,
        no_stop: wanted.no_stop,
        children: wanted.children,
        command_line: format!("exoprof serve: {} for {:?}", wanted.kind, wanted.duration),
        ..RecordOptions::default()
    };
    let roots = [process.clone()];
    let request = Request::new(&roots, &options);
    tracing::info!(pid = process.pid(), kind = wanted.kind, duration = ?wanted.duration, "recording");
    let mut outcomes = collect::record(&[kind], &request, &mut SilentWatcher(stop));
    let outcome = outcomes.pop().ok_or_else(unknown)?.inspect_err(|error| {
        tracing::info!(pid = process.pid(), kind = wanted.kind, %error, "recording failed");
    })?;
    let (samples, lost) = (outcome.stats.samples.kept, outcome.stats.lost);
    tracing::info!(pid = process.pid(), kind = wanted.kind, samples, lost, "recorded");
    Ok(FinishedRecording::new(outcome.profile, outcome.ended, outcome.stats.elapsed))
}
