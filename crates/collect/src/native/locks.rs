//! Which waits for a futex are waits for a lock.
//!
//! The kernel cannot tell a lock from a condition variable, a semaphore or a parked thread: all
//! wait for a futex. The *waiter's* stack can: the C library exports `pthread_mutex_lock` and
//! `pthread_cond_wait` also where it is stripped, and Rust's standard library, parking_lot and
//! others have functions of their own for the slow path. The waker's stack cannot: to unlock is
//! often inlined.

/// What a wait for a futex is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Of a mutex or a read-write lock.
    Lock,
    /// Of anything else.
    Other,
}

/// Frames from the leaf on in which a wait is recognised.
const REACH: usize = 16;
/// So many frames above a lock's are looked at for a condition variable that takes its mutex.
const CONDVAR_REACH: usize = 4;

/// Slow paths of locks, as parts of function names.
const LOCKS: &[&str] = &[
    // glibc, musl
    "pthread_mutex_lock",
    "pthread_mutex_timedlock",
    "pthread_mutex_clocklock",
    "pthread_mutex_cond_lock",
    "lll_lock_wait",
    "lll_timedlock_wait",
    "pthread_rwlock_rdlock",
    "pthread_rwlock_wrlock",
    "pthread_rwlock_timedrdlock",
    "pthread_rwlock_timedwrlock",
    "pthread_rwlock_clockrdlock",
    "pthread_rwlock_clockwrlock",
    "mtx_lock",
    "mtx_timedlock",
    // Rust's standard library
    "Mutex::lock_contended",
    "RwLock::read_contended",
    "RwLock::write_contended",
    "queue::RwLock::lock_contended",
    // parking_lot
    "RawMutex::lock_slow",
    "lock_exclusive_slow",
    "lock_shared_slow",
    "lock_upgradable_slow",
    "RawRwLock::upgrade_slow",
    // absl, tcmalloc, Qt, folly
    "Mutex::LockSlow",
    "SpinLock::SlowLock",
    "QBasicMutex::lockInternal",
    "folly::SharedMutexImpl",
];

/// Other things that wait for a futex.
const OTHERS: &[&str] = &[
    "pthread_cond_",
    "cnd_wait",
    "cnd_timedwait",
    "condition_variable",
    "condvar::",
    "Condvar",
    "CondVar",
    "sem_wait",
    "sem_timedwait",
    "sem_clockwait",
    "new_sem_",
    "barrier_wait",
    "barrier::Barrier",
    "pthread_join",
    "timedjoin",
    "clockjoin",
    "pthread_once",
    "call_once",
    "once::futex",
    "thread_parking",
    "thread::park",
    "mpmc::",
    "mpsc::",
    "__platform_wait",
    "__atomic_wait",
    "__atomic_futex",
];

/// musl's own lock, all of its name.
const MUSL_LOCK: &str = "__lock";

/// `FUTEX_LOCK_PI` and `FUTEX_LOCK_PI2`.
const PI: [u32; 2] = [6, 13];
/// `FUTEX_WAIT` and `FUTEX_WAIT_BITSET`.
const WAIT: [u32; 2] = [0, 9];
/// The word of a lock that is held and waited for, in glibc and in Rust.
const CONTENDED: u32 = 2;

/// The class of a wait by the waiter's functions, innermost first (`None` where one has no name),
/// and by operation and expected value of its futex.
///
/// A condition variable's wait that takes its mutex again counts as the condition variable's.
pub(super) fn classify<'a>(
    functions: impl Iterator<Item = Option<&'a str>>,
    futex: (u32, u32),
) -> Class {
    if PI.contains(&futex.0) {
        return Class::Lock;
    }
    let names: Vec<Option<&str>> = functions.take(REACH + CONDVAR_REACH).collect();
    for (i, name) in names.iter().take(REACH).enumerate() {
        let Some(name) = name.map(without_parameters) else { continue };
        if is_one_of(name, OTHERS) {
            return Class::Other;
        }
        if is_one_of(name, LOCKS) || name == MUSL_LOCK {
            let above = names.iter().skip(i + 1).take(CONDVAR_REACH).flatten();
            let condvar = above.map(|n| without_parameters(n)).any(is_condvar);
            return if condvar { Class::Other } else { Class::Lock };
        }
    }
    // A program without any names: what the futex itself tells.
    let nameless = names.iter().take(3).all(Option::is_none);
    if nameless && WAIT.contains(&futex.0) && futex.1 == CONTENDED {
        return Class::Lock;
    }
    Class::Other
}

fn is_one_of(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

fn is_condvar(name: &str) -> bool {
    let parts = ["pthread_cond_", "cnd_wait", "cnd_timedwait", "condition_variable", "ondvar::"];
    is_one_of(name, &parts)
}

/// The type of a parameter is not what a function does.
fn without_parameters(name: &str) -> &str {
    match name.split_once('(') {
        Some((before, _)) if !before.is_empty() => before,
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(class: Class, names: &[&str]) {
        let functions = names.iter().map(|n| (!n.is_empty()).then_some(*n));
        assert_eq!(classify(functions, (0, 1)), class, "{names:?}");
    }

    #[test]
    fn locks() {
        check(Class::Lock, &["__lll_lock_wait", "pthread_mutex_lock", "work"]);
        // Stripped: only what is exported has a name.
        check(Class::Lock, &["", "pthread_mutex_lock", "std::mutex::lock()", "work"]);
        check(Class::Lock, &["", "", "pthread_rwlock_wrlock", "work"]);
        check(
            Class::Lock,
            &["syscall", "std::sys::sync::mutex::futex::Mutex::lock_contended", "app::work"],
        );
        check(
            Class::Lock,
            &[
                "syscall",
                "<parking_lot_core::thread_parker::imp::ThreadParker>::park",
                "parking_lot_core::parking_lot::park",
                "parking_lot::raw_mutex::RawMutex::lock_slow",
            ],
        );
        check(
            Class::Lock,
            &["__syscall", "__timedwait_cp", "__timedwait", "pthread_mutex_timedlock"],
        );
        check(Class::Lock, &["__wait", "__lock", "free"]);
    }

    #[test]
    fn no_locks() {
        check(Class::Other, &["__futex_abstimed_wait_common", "pthread_cond_wait", "work"]);
        check(Class::Other, &["", "pthread_cond_wait", "work"]);
        check(Class::Other, &["", "sem_wait"]);
        check(Class::Other, &["", "pthread_barrier_wait"]);
        check(Class::Other, &["", "", "pthread_join"]);
        check(Class::Other, &["syscall", "std::sys::sync::condvar::futex::Condvar::wait", "f"]);
        check(Class::Other, &["syscall", "std::sys::sync::thread_parking::futex::Parker::park"]);
        check(Class::Other, &["syscall", "std::sys::sync::once::futex::Once::call"]);
        check(Class::Other, &["syscall", "my_own_lock"]);
    }

    #[test]
    fn a_condition_variable_that_takes_its_mutex_is_no_lock() {
        check(Class::Other, &["__lll_lock_wait", "__pthread_mutex_cond_lock", "pthread_cond_wait"]);
        check(
            Class::Other,
            &[
                "syscall",
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
                "std::sys::sync::mutex::futex::Mutex::lock",
                "std::sys::sync::condvar::futex::Condvar::wait",
            ],
        );
        // One far above is another matter.
        check(Class::Lock, &["pthread_mutex_lock", "a", "b", "c", "d", "pthread_cond_wait"]);
    }

    #[test]
    fn parameters_do_not_matter() {
        check(Class::Lock, &["pthread_mutex_lock", "work(std::condition_variable&)"]);
    }

    #[test]
    fn without_names_the_futex_tells() {
        let nameless = || [None; 5].into_iter();
        assert_eq!(classify(nameless(), (0, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (9, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (6, 0)), Class::Lock);
        assert_eq!(classify(nameless(), (0, 0)), Class::Other);
        assert_eq!(classify([Some("f"), None].into_iter(), (0, 2)), Class::Other);
    }
}
