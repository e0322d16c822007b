//! Reaps seized threads when `PTRACE_SEIZE` deadlocks with an exec of the process.
//!
//! An exec waits until all other threads of the process are gone, and a traced thread is gone only
//! when its tracer has reaped it. The tracer may meanwhile wait in `PTRACE_SEIZE` of another thread
//! for the exec to finish (`cred_guard_mutex`), so that neither would ever continue. So another
//! thread watches, and reaps ended threads when a `PTRACE_SEIZE` does not return.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::sys;

/// How often the watching thread looks.
const INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Reaper {
    /// Odd during a call, and different for each call.
    call: AtomicU64,
    /// Seized threads but for leaders, whose end no exec waits for at first.
    seized: Mutex<Vec<i32>>,
}

impl Reaper {
    /// Makes a call that may wait for an exec, and that seizes the thread `seizes`.
    pub fn guarded<T>(&self, seizes: Option<i32>, call: impl FnOnce() -> T) -> T {
        self.call.fetch_add(1, Ordering::SeqCst);
        let result = call();
        self.call.fetch_add(1, Ordering::SeqCst);
        if let Some(tid) = seizes {
            self.seized.lock().unwrap_or_else(PoisonError::into_inner).push(tid);
        }
        result
    }

    /// Forgets all seized threads but these.
    pub fn keep_only(&self, tids: impl Iterator<Item = i32>) {
        let mut seized = self.seized.lock().unwrap_or_else(PoisonError::into_inner);
        seized.clear();
        seized.extend(tids);
    }

    /// Watches until the tracer is done.
    pub fn serve(&self, done: &Receiver<()>) {
        let mut last = 0;
        while done.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
            let call = self.call.load(Ordering::SeqCst);
            if call % 2 == 1 && call == last {
                let seized = self.seized.lock().unwrap_or_else(PoisonError::into_inner);
                seized.iter().for_each(|tid| sys::reap(*tid));
            }
            last = call;
        }
    }
}
