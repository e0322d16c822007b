//! How soon this thread gets a CPU, next to the target's threads.

use std::marker::PhantomData;

/// The best that a thread which is not a real-time one can have.
const BEST: i32 = -20;

/// The calling thread comes before others while this lives, and the threads that it creates
/// meanwhile for good. For work that is short and cannot wait: what samples wait in overflows, and
/// counters of many threads are to be read at the same time, on a machine of which the target has
/// every CPU.
#[derive(Debug)]
pub struct Ahead {
    before: i32,
    /// It is of one thread.
    thread: PhantomData<*const ()>,
}

impl Ahead {
    /// `None` where that is not permitted (it takes CAP_SYS_NICE), or where the user gave us another
    /// priority than the usual one.
    #[must_use]
    pub fn of_others() -> Option<Self> {
        let before = priority()?;
        (before == 0 && set_priority(BEST)).then_some(Self { before, thread: PhantomData })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // Lowering it is always permitted.
        set_priority(self.before);
    }
}

/// "Nice value" of this thread.
#[allow(unsafe_code)]
fn priority() -> Option<i32> {
    nix::errno::Errno::clear();
    // SAFETY: integers only; PRIO_PROCESS with 0 is this thread alone (setpriority(2), notes).
    let value = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is a value, too.
    (value != -1 || nix::errno::Errno::last_raw() == 0).then_some(value)
}

#[allow(unsafe_code)]
fn set_priority(value: i32) -> bool {
    // SAFETY: as above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_ahead_only_while_it_says_so() {
        // In a thread of its own, since tests share the others.
        let work = || {
            set_priority(0);
            let root = nix::unistd::geteuid().is_root();
            let ahead = Ahead::of_others();
            assert_eq!(ahead.is_some(), root, "root has CAP_SYS_NICE");
            let during = priority();
            assert!(Ahead::of_others().is_none() || !root, "it is not the usual priority now");
            drop(ahead);
            (during, priority())
        };
        let (during, after) = std::thread::spawn(work).join().unwrap();
        assert_eq!(after, Some(0));
        if nix::unistd::geteuid().is_root() {
            assert_eq!(during, Some(BEST));
        }
    }
}
