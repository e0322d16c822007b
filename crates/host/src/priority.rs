//! How soon this thread gets a CPU, next to the target's threads.

use std::marker::PhantomData;

use libc::{SCHED_OTHER, SCHED_RESET_ON_FORK, SCHED_RR};

/// Where real time is refused. The scheduler adds the weight of a nice value to that of its whole
/// group, on this CPU: with -20 (88,761, where 0 has 1024) a hundredth of a CPU takes away from the group's
/// other threads what it has on the other CPUs, and a target in the same container is in that
/// group. So a little it is.
const NICE: i32 = -5;

/// The calling thread comes before ordinary ones while this lives. For work that is little and
/// cannot wait: what samples wait in overflows, counters of many threads are to be read at the
/// same time, and threads stand until we let them go, on a machine of which the target has
/// every CPU.
///
/// It is a real-time thread of the lowest priority meanwhile, which weighs nothing in what the
/// scheduler's groups (containers, services, terminals) get of the CPUs. Threads and processes that it creates
/// are ordinary ones.
#[derive(Debug)]
pub struct RealtimePriority {
    undo: Undo,
    /// It is of one thread.
    thread: PhantomData<*const ()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    RealTime,
    Nice,
}

impl RealtimePriority {
    /// `None` where that is not permitted (it takes CAP_SYS_NICE), or where the user gave us another
    /// priority than the usual one.
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
        Some(Self { undo, thread: PhantomData })
    }
}

impl Drop for RealtimePriority {
    fn drop(&mut self) {
        // To go back is always permitted, but not to drop the flag.
        match self.undo {
            Undo::RealTime => set_policy(SCHED_OTHER, 0),
            Undo::Nice => set_nice(0),
        };
    }
}

/// How this thread is scheduled: `SCHED_OTHER` or another.
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

/// "Nice value" of this thread.
#[allow(unsafe_code)]
fn nice() -> Option<i32> {
    nix::errno::Errno::clear();
    // SAFETY: integers only; PRIO_PROCESS with 0 is this thread alone (setpriority(2), notes).
    let value = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    // -1 is a value, too.
    (value != -1 || nix::errno::Errno::last_raw() == 0).then_some(value)
}

#[allow(unsafe_code)]
fn set_nice(value: i32) -> bool {
    // SAFETY: as above.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, value) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a thread of its own, since tests share the others.
    fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
        std::thread::spawn(work).join().unwrap()
    }

    #[test]
    fn a_thread_is_ahead_only_while_it_says_so() {
        let usual = || (policy(), nice());
        apart(move || {
            set_nice(0);
            let root = nix::unistd::geteuid().is_root();
            let ahead = RealtimePriority::raise();
            assert_eq!(ahead.is_some(), root, "root has CAP_SYS_NICE");
            assert!(RealtimePriority::raise().is_none(), "it is not the usual priority now");
            if let Some(ahead) = &ahead {
                let expected = match ahead.undo {
                    Undo::RealTime => (SCHED_RR, Some(0)),
                    Undo::Nice => (SCHED_OTHER, Some(NICE)),
                };
                assert_eq!(usual(), expected);
                if ahead.undo == Undo::RealTime {
                    assert_eq!(apart(usual), (SCHED_OTHER, Some(0)), "a thread that it creates");
                }
            }
            drop(ahead);
            assert_eq!(usual(), (SCHED_OTHER, Some(0)));
            assert_eq!(RealtimePriority::raise().is_some(), root, "once more");
        });
    }

    #[test]
    fn what_the_user_chose_stays() {
        apart(|| {
            set_nice(5);
            assert!(RealtimePriority::raise().is_none());
            assert_eq!((policy(), nice()), (SCHED_OTHER, Some(5)));
        });
    }
}
