//! Keeps an exec of the target from waiting for us while we wait for it.
//!
//! A thread that executes a program waits until all others of its process are gone, and a traced
//! one is gone only when its tracer has taken note of its end. The tracer meanwhile may be inside
//! `PTRACE_SEIZE` of the next thread, which the kernel makes wait for the exec to be over
//! (`cred_guard_mutex`): neither would ever go on. So another thread watches, and takes note of
//! ended threads in the tracer's place when a `PTRACE_SEIZE` does not return.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::sys;

/// How often the watching thread looks.
const INTERVAL: Duration = Duration::from_millis(10);

#[derive(Debug, Default)]
pub(super) struct Reaper {
    /// Odd while a call is under way; each call has numbers of its own.
    call: AtomicU64,
    /// Threads that are seized. Leaders are none of them at first: no exec waits for their end.
    seized: Mutex<Vec<i32>>,
}

impl Reaper {
    /// Makes the call that may wait for an exec. `seizes` is seized by it.
    pub fn guarded<T>(&self, seizes: Option<i32>, call: impl FnOnce() -> T) -> T {
        self.call.fetch_add(1, Ordering::SeqCst);
        let result = call();
        self.call.fetch_add(1, Ordering::SeqCst);
        if let Some(tid) = seizes {
            self.seized.lock().unwrap_or_else(PoisonError::into_inner).push(tid);
        }
        result
    }

    /// Only these are seized still.
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
