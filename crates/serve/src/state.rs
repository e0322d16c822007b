//! Holds the state that all requests share.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinError;

use crate::answer::Failure;
use crate::budget::Budget;
use crate::record::{Lanes, RecordingPool};
use crate::targets::Targets;

/// Maximum number of concurrent lookups (lists of processes, symbols): each reads much of `/proc`
/// or of an image.
const LOOKUPS: usize = 2;

/// How often the memory of recordings is checked.
const MEMORY_CHECK: Duration = Duration::from_millis(250);

/// The server.
pub struct Server {
    /// The processes.
    pub targets: Targets,
    /// The recordings.
    pub recorder: Arc<RecordingPool>,
    /// The pushed recordings, which do not count towards the limit for requests.
    pub pushed: Arc<RecordingPool>,
    /// Samples per second if a request names no rate.
    pub frequency: u32,
    /// How long kinds other than cpu are recorded if a request has no `seconds`.
    pub window: Duration,
    /// The longest recording that a request may ask for.
    pub max_duration: Duration,
    /// Threads must not be stopped.
    pub no_stop: bool,
    /// Each lookup takes a permit.
    lookups: Semaphore,
    budget: Arc<Budget>,
    stop: watch::Sender<bool>,
}

/// How requests are answered.
pub struct Settings {
    /// As [`Server::frequency`].
    pub frequency: u32,
    /// As [`Server::window`].
    pub window: Duration,
    /// As [`Server::max_duration`].
    pub max_duration: Duration,
    /// Recordings at a time for requests.
    pub max_recordings: usize,
    /// Recordings at a time for pushing.
    pub max_pushed: usize,
    /// The memory of all recordings, in bytes.
    pub max_memory: u64,
    /// As [`Server::no_stop`].
    pub no_stop: bool,
}

impl Server {
    /// Creates a server of these processes.
    pub fn new(targets: Targets, settings: &Settings) -> Self {
        let lanes = Arc::new(Lanes::default());
        let budget = Arc::new(Budget::new(settings.max_memory));
        let recorder = |limit| RecordingPool::new(limit, lanes.clone(), budget.clone());
        Self {
            targets,
            recorder: Arc::new(recorder(settings.max_recordings)),
            pushed: Arc::new(recorder(settings.max_pushed)),
            frequency: settings.frequency,
            window: settings.window,
            max_duration: settings.max_duration,
            no_stop: settings.no_stop,
            lookups: Semaphore::new(LOOKUPS),
            budget,
            stop: watch::Sender::new(false),
        }
    }

    /// Ends recordings early, delivers them, and starts no new ones.
    pub fn stop(&self) {
        self.stop.send_replace(true);
        self.recorder.stop();
        self.pushed.stop();
    }

    /// Ends recordings early if they take too much memory. Never returns.
    pub async fn watch_memory(self: Arc<Self>) {
        let mut tick = tokio::time::interval(MEMORY_CHECK);
        loop {
            tick.tick().await;
            if self.budget.check().is_err() {
                self.recorder.end_all();
                self.pushed.end_all();
            }
        }
    }

    /// Whether the server is stopping.
    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Runs a lookup on a thread where it may block; at most [`LOOKUPS`] at a time.
    pub async fn look_up<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let closed = |_| Failure::busy("the server is stopping");
        let _permit = self.lookups.acquire().await.map_err(closed)?;
        blocking(work).await
    }

    /// Waits until the server stops.
    pub async fn stopping(&self) {
        // The sender lives as long as we do.
        let _ = self.stop.subscribe().wait_for(|stop| *stop).await;
    }
}

/// Runs work that blocks on a thread of its own.
pub async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let failed = |e: JoinError| {
        Failure::new(StatusCode::INTERNAL_SERVER_ERROR, format!("exoprof failed: {e}"))
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
