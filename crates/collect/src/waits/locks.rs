//! Which waits for a futex are waits for a lock.
//!
//! The kernel cannot tell a lock from a condition variable, a semaphore or a parked thread: all
//! wait for a futex. The *waiter's* stack can: the C library exports `pthread_mutex_lock` and
//! `pthread_cond_wait` also where it is stripped, and Rust's standard library, parking_lot and
//! others have functions of their own for the slow path. The waker's stack cannot: to unlock is
//! often inlined.

use aggregate::ids::{NodeIndex, Place};
use aggregate::recorder::Recorder;
use assemble::conclude::Named;

/// What a wait for a futex is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Of a mutex or a read-write lock.
    Lock,
    /// Of a lock whose waiters wait for a condition variable of their own, which who unlocks it
    /// signals.
    LockByCondvar,
    /// Of anything else.
    Other,
    /// Of who knows what: the program asks the kernel itself, in code without names.
    Nameless,
}

/// Frames from the leaf on in which a wait is recognised.
const REACH: usize = 16;
/// So many frames above a lock's are looked at for a condition variable that takes its mutex.
const CONDVAR_REACH: usize = 4;

/// Whether the innermost function of a waker's stack tells that it lets go of no lock. Only where
/// the waiter's does not tell enough: to unlock is often inlined.
pub(super) fn unlocks_nothing(innermost: Option<&str>) -> bool {
    const POSTS: &[&str] = &["sem_post", "pthread_cond_", "barrier_wait", "pthread_exit"];
    innermost.is_some_and(|name| is_one_of(name, POSTS))
}

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
    // InnoDB of MariaDB, which asks the kernel itself
    "srw_mutex_impl::wait",
    "ssux_lock_impl::wr_wait",
    "ssux_lock_impl::rd_wait",
    "ssux_lock_impl::u_wait",
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

/// Locks whose waiters wait for a condition variable of their own: Java's monitors (HotSpot).
const LOCKS_BY_CONDVAR: &[&str] = &["ObjectMonitor::EnterI", "ObjectMonitor::enter"];
/// Where these are entered again after a wait for a condition.
const CONDITIONS: &[&str] = &["ObjectMonitor::wait"];

/// musl's own lock, all of its name.
const MUSL_LOCK: &str = "__lock";

/// Where all of musl's waits pass.
const MUSL_WAITS: &[&str] = &["__timedwait", "__syscall_cp"];
const MUSL_WAITERS: u32 = 1 << 31;

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
        let Some(name) = name.map(path) else { continue };
        if is_one_of(&name, OTHERS) {
            let above: Vec<_> = names.iter().skip(i + 1).flatten().map(|n| path(n)).collect();
            let any = |parts| above.iter().any(|n| is_one_of(n, parts));
            let lock = any(LOCKS_BY_CONDVAR) && !any(CONDITIONS);
            return if lock { Class::LockByCondvar } else { Class::Other };
        }
        if is_one_of(&name, LOCKS) || name == MUSL_LOCK {
            let above = names.iter().skip(i + 1).take(CONDVAR_REACH).flatten();
            let condvar = above.map(|n| path(n)).any(|n| is_condvar(&n));
            return if condvar { Class::Other } else { Class::Lock };
        }
    }
    // musl has no unwind tables: its stacks often end where it calls the kernel, and all its
    // waits look the same. The word of a lock holds its owner or readers, and this bit for those
    // that wait; that of a semaphore the bit alone (musl 1.2: src/thread/*.c).
    let in_musl = |name: &str| MUSL_WAITS.iter().any(|wait| name.starts_with(wait));
    if names.iter().flatten().any(|name| in_musl(name)) {
        let lock = futex.1 & MUSL_WAITERS != 0 && futex.1 != MUSL_WAITERS;
        return if lock { Class::Lock } else { Class::Other };
    }
    // A program without any names: what the futex itself tells.
    let nameless = names.iter().take(3).all(Option::is_none);
    if nameless && WAIT.contains(&futex.0) && futex.1 == CONTENDED {
        return Class::Lock;
    }
    // The words of InnoDB's latches look like a condition variable's.
    match &names[..] {
        [Some("syscall"), None, ..] => Class::Nameless,
        _ => Class::Other,
    }
}

/// What stands for functions of an interpreted program: what they are called says nothing of
/// locks.
const INTERPRETED: &str = "[interpreted]";

/// The functions of a user stack, innermost first, as far as [`classify`] looks.
pub(super) fn names<'a>(
    stack: NodeIndex,
    recorder: &Recorder,
    named: &'a Named,
) -> Vec<Option<&'a str>> {
    let mut names = Vec::new();
    for frame in recorder.tree.stack(stack).take(REACH + CONDVAR_REACH) {
        let resolved = &named.resolved[frame as usize];
        match recorder.tree.frames()[frame as usize].place {
            Place::Runtime { mapping: None, .. } => names.push(Some(INTERPRETED)),
            Place::Marker => names.push(None),
            _ if resolved.nameless || resolved.functions.is_empty() => names.push(None),
            _ => names.extend(resolved.functions.iter().map(|f| Some(&*f.name))),
        }
    }
    names
}

fn is_one_of(name: &str, parts: &[&str]) -> bool {
    parts.iter().any(|part| name.contains(part))
}

fn is_condvar(name: &str) -> bool {
    let parts = ["pthread_cond_", "cnd_wait", "cnd_timedwait", "condition_variable", "ondvar::"];
    is_one_of(name, &parts)
}

/// The function's own path: without parameters and type arguments, which name other things than
/// what it does. `<a::Lock<T> as b::Raw>::lock::<U>(x)` is `a::Lock::lock::`.
fn path(name: &str) -> String {
    let mut path = String::with_capacity(name.len());
    let mut depth = 0_u32;
    let name = match name.split_once('(') {
        Some((before, _)) if !before.is_empty() => before,
        _ => name,
    };
    let (qualified, mut in_type) = match name.strip_prefix('<') {
        Some(rest) => (rest, true),
        None => (name, false),
    };
    let mut skipped = false;
    for (i, c) in qualified.char_indices() {
        match c {
            '<' => depth += 1,
            '>' if depth > 0 => depth -= 1,
            '>' if in_type => (in_type, skipped) = (false, false),
            ' ' if in_type && depth == 0 && qualified[i..].starts_with(" as ") => skipped = true,
            _ if depth == 0 && !skipped => path.push(c),
            _ => {}
        }
    }
    path
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
                "<parking_lot_core::thread_parker::imp::ThreadParker as ThreadParkerT>::park",
                "parking_lot_core::parking_lot::park",
                "parking_lot::raw_mutex::RawMutex::lock_slow",
            ],
        );
        check(
            Class::Lock,
            &["__syscall", "__timedwait_cp", "__timedwait", "pthread_mutex_timedlock"],
        );
        check(Class::Lock, &["__wait", "__lock", "free"]);
        check(
            Class::Lock,
            &["syscall", "<std::sys::sync::rwlock::futex::RwLock>::read_contended", "work"],
        );
    }

    #[test]
    fn latches() {
        check(Class::Lock, &["syscall", "srw_mutex_impl<true>::wait(unsigned int)", "mtr_commit"]);
        check(Class::Lock, &["syscall", "ssux_lock_impl<false>::rd_wait()", "buf_page_get"]);
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
    fn monitors_of_java() {
        let park =
            ["__futex_abstimed_wait_common", "pthread_cond_wait", "os::PlatformEvent::park()"];
        let with = |above: &[&'static str]| [&park[..], above].concat();
        let enter = ["ObjectMonitor::EnterI(JavaThread*)", "ObjectMonitor::enter(JavaThread*)"];
        check(Class::LockByCondvar, &with(&enter));
        check(Class::Other, &with(&["ObjectMonitor::wait(long, bool, JavaThread*)"]));
        check(Class::Other, &with(&[enter[0], enter[1], "ObjectMonitor::wait(long, bool)"]));
        check(Class::Other, &with(&["Parker::park(bool, long)", "Unsafe_Park"]));
    }

    #[test]
    fn parameters_do_not_matter() {
        check(Class::Lock, &["pthread_mutex_lock", "work(std::condition_variable&)"]);
        check(Class::Lock, &["pthread_mutex_lock", "f<std::condition_variable>", "g::<Condvar>"]);
    }

    #[test]
    fn paths() {
        for (name, want) in [
            ("main", "main"),
            ("f(std::mutex&)", "f"),
            (
                "<std::sys::sync::mutex::futex::Mutex>::lock_contended",
                "std::sys::sync::mutex::futex::Mutex::lock_contended",
            ),
            ("<a::Lock<T> as b::Raw>::lock::<U<V>>", "a::Lock::lock::"),
            ("void f<std::pair<int, int> >(int)", "void f"),
            ("", ""),
            ("<", ""),
            ("a>b", "a>b"),
        ] {
            assert_eq!(path(name), want, "{name}");
        }
    }

    #[test]
    fn musl_without_its_callers() {
        let class = |value| {
            classify([Some("__syscall_cp_c"), Some("__timedwait_cp")].into_iter(), (0, value))
        };
        // A mutex that 77 holds; a read-write lock; a semaphore; a condition variable.
        assert_eq!(class(1 << 31 | 77), Class::Lock);
        assert_eq!(class(u32::MAX), Class::Lock);
        assert_eq!(class(1 << 31), Class::Other);
        assert_eq!(class(2), Class::Other);
    }

    #[test]
    fn without_names_the_futex_tells() {
        let nameless = || [None; 5].into_iter();
        assert_eq!(classify(nameless(), (0, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (9, 2)), Class::Lock);
        assert_eq!(classify(nameless(), (6, 0)), Class::Lock);
        assert_eq!(classify(nameless(), (0, 0)), Class::Other);
        assert_eq!(classify([Some("f"), None].into_iter(), (0, 2)), Class::Other);
        assert_eq!(classify([Some("syscall"), None].into_iter(), (0, 5)), Class::Nameless);
    }
}
