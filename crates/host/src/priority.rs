//! Raises the scheduling priority of our threads that cannot wait for a CPU.

use std::marker::PhantomData;

use libc::{SCHED_OTHER, SCHED_RESET_ON_FORK, SCHED_RR};

/// The fallback where real-time scheduling is not permitted. A nice value changes the weight of the
/// whole group on this CPU. At -20 (weight 88,761 instead of 1024), 1% of a CPU used here would
/// cost the group, and so perhaps the target (in the same container), its share of the other CPUs.
/// Hence only -5.
const NICE: i32 = -5;

/// While this lives, the calling thread preempts ordinary threads. For short work that cannot wait
/// although the profiled program uses every CPU: rings overflow, counters of many threads must be read
/// at the same time, and stopped threads wait for us.
///
/// It is a real-time thread of the lowest priority, which does not count in the CPU shares of the
/// scheduler's groups (containers, services, terminals). Threads and processes that it creates are
/// ordinary ones.
#[derive(Debug)]
pub struct RealtimePriority {
    undo: Undo,
    /// The priority is a thread's.
    thread: PhantomData<*const ()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    RealTime,
    Nice,
}

impl RealtimePriority {
    /// Raises the priority. `None` without CAP_SYS_NICE, or where the user has chosen another priority
    /// than the default.
    #[must_use]
    pub fn raise() -> Option<Self> {
        if policy() != SCHED_OTHER || nice()? != 0 {
            return None;
        }
        let undo = if set_policy(SCHED_RR, 1) {
            Undo::RealTime
        } else if set_nice(NICE) {
            Undo::Nice
        } else {
            return None;
        };
        tracing::debug!(?undo, "priority raised");
        Some(Self { undo, thread: PhantomData })
    }
}

impl Drop for RealtimePriority {
    fn drop(&mut self) {
        // Lowering is always permitted, but dropping the flag is not.
        match self.undo {
            Undo::RealTime => set_policy(SCHED_OTHER, 0),
            Undo::Nice => set_nice(0),
        };
    }
}

/// The scheduling policy of this thread.
#[allow(unsafe_code)]
fn policy() -> i32 {
    // SAFETY: integers only; 0 is the calling thread.
    unsafe { libc::sched_getscheduler(0) & !SCHED_RESET_ON_FORK }
}

#[allow(unsafe_code)]
fn set_policy(policy: i32, sched_priority: i32) -> bool {
    let parameter = libc::sched_param { sched_priority };
    // SAFETY: a live parameter; 0 is the calling thread.
    unsafe { libc::sched_setscheduler(0, policy | SCHED_RESET_ON_FORK, &raw const parameter) == 0 }
}

/// The nice value of this thread.
#[allow(unsafe_code)]
fn nice() -> Option<i32> {
    nix::errno::Errno::clear();
    // SAFETY: integers only; PRIO_PROCESS with 0 is this thread alone (setpriority(2), notes).
    let value = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is also a nice value.
    (value != -1 || nix::errno::Errno::last_raw() == 0).then_some(value)
}

#[allow(unsafe_code)]
fn set_nice(value: i32) -> bool {
    // SAFETY: as above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) == 0 }
}

/// Has the kernel end sleeps of the calling thread on time, instead of 50 µs late to save power.
#[allow(unsafe_code)]
pub fn minimize_timer_slack() {
    // SAFETY: integers only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1u64) };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs on a thread of its own: tests share the others.
    fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_thread_has_priority_only_while_it_asks_for_it() {
        let usual = || (policy(), nice());
        on_thread(move || {
            set_nice(0);
            // Only root may lower it, if the tests are run with another one.
            let start = nice();
            let root = nix::unistd::geteuid().is_root();
            let raised = RealtimePriority::raise();
            assert_eq!(raised.is_some(), root, "root has CAP_SYS_NICE");
            assert!(RealtimePriority::raise().is_none(), "it is not the usual priority now");
            if let Some(priority) = &raised {
                let expected = match priority.undo {
                    Undo::RealTime => (SCHED_RR, start),
                    Undo::Nice => (SCHED_OTHER, Some(NICE)),
                };
                assert_eq!(usual(), expected);
                if priority.undo == Undo::RealTime {
                    assert_eq!(on_thread(usual), (SCHED_OTHER, start), "a thread that it creates");
                }
            }
            drop(raised);
            assert_eq!(usual(), (SCHED_OTHER, start));
            assert_eq!(RealtimePriority::raise().is_some(), root, "once more");
        });
    }

    #[test]
    fn what_the_user_chose_stays() {
        on_thread(|| {
            set_nice(5);
            let chosen = nice();
            assert!(chosen >= Some(5), "{chosen:?}");
            assert!(RealtimePriority::raise().is_none());
            assert_eq!((policy(), nice()), (SCHED_OTHER, chosen));
        });
    }
}
